"""Where a page is rehearsed: its folder, the commands that lie first on PATH, the stand-ins for what is downloaded."""

from __future__ import annotations

import gzip
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pages import ROOT, Block

from hf_frameseg.datasets.synthetic import write_dataset
from hf_frameseg.sharing.config import FrameSegmentationConfig

HERE = Path(__file__).parent
TIMEOUT_SECONDS = 1200  # the machine may be busy; nothing waits for it
QWEN, XGENMM = "Qwen/Qwen2-VL-2B-Instruct", "Salesforce/xgen-mm-phi3-mini-instruct-interleave-r-v1.5"


@dataclass
class World:
    """What all pages share: the commands, a small data set, tiny models."""

    folder: Path
    environment: dict[str, str]

    @property
    def data(self) -> Path:
        """Return the folder of a data set of the shape of QVHighlights."""
        return self.folder / "data"


@dataclass
class Stage:
    """The working folder of one page."""

    folder: Path
    world: World
    printed: dict[str, str] = field(default_factory=dict)  # what each block printed, by its first line

    def stand_in(self, name: str, script: str) -> Path:
        """Put a command first on PATH; what it was called with is kept, see `calls`."""
        path = self.folder / "bin" / name
        path.parent.mkdir(exist_ok=True)
        log = shlex.quote(str(self.folder / f"{name}.calls"))
        path.write_text(f"#!/bin/bash -e\nprintf '%q ' \"$@\" >> {log}; echo >> {log}\n{script}\n")
        path.chmod(0o755)
        return path

    def calls(self, name: str) -> list[list[str]]:
        """Return the words of each call of a stand-in."""
        log = self.folder / f"{name}.calls"
        return [shlex.split(line) for line in log.read_text("utf-8").splitlines()] if log.exists() else []

    def link(self, *names: str) -> None:
        """Show parts of the repository, whose root is where the commands of the page are given."""
        for name in names:
            (self.folder / name).symlink_to(ROOT / name)

    def copy_data(self, name: str = "QVH") -> Path:
        """Put the data set where the page says that it is."""
        return shutil.copytree(self.world.data, self.folder / name)

    def shell(self, script: str, name: str) -> str:
        """Run lines in a shell that ends with the first that fails; return what they print."""
        return self._run(["bash", "-euo", "pipefail", "-c", script], name)

    def python(self, blocks: list[Block], code: list[str], given: str = "") -> str:
        """Run the blocks of a page as one script, whose line numbers are those of the page."""
        lines = [f"exec({given!r})"] if given else []
        for block, text in zip(blocks, code, strict=True):
            lines += [""] * (block.line - 1 - len(lines)) + text.splitlines()
        script = self.folder / f"{Path(blocks[0].page).stem}_page.py"
        script.write_text("\n".join(lines) + "\n", "utf-8")
        return self._run(["python", str(script)], blocks[0].page)

    def _run(self, words: list[str], name: str) -> str:
        path = os.pathsep.join([str(self.folder / "bin"), str(self.world.folder / "bin"), os.environ["PATH"]])
        ended = subprocess.run(
            ["/usr/bin/env", *words],
            cwd=self.folder,
            env={**self.world.environment, "PATH": path},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT_SECONDS,
        )
        assert ended.returncode == 0, f"{name} ended with {ended.returncode}:\n{words[-1]}\n{ended.stdout[-6000:]}"
        return ended.stdout


@contextmanager
def commands(folder: Path, environment: dict[str, str]) -> Iterator[None]:
    """Start the server of `frameseg`, `accelerate` and `python`, and put them into `folder/bin`."""
    (folder / "bin").mkdir()
    for name in ("frameseg", "accelerate", "python"):
        words = shlex.join([sys.executable, "-IS", str(HERE / "command_client.py"), name])
        command = folder / "bin" / name
        command.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
        command.chmod(0o755)
    address = environment["HF_FRAMESEG_TEST_COMMANDS"]
    server = subprocess.Popen(
        [sys.executable, str(HERE / "command_server.py"), address, str(folder / "bin" / "python")],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout.readline() == "ready\n"
        yield
    finally:
        server.communicate()  # the end of its input is the end of the server


def surroundings(folder: Path, hub_url: str, token: str) -> dict[str, str]:
    """Return the environment of all commands: their own home, the Hub on loopback, and nothing else on the network."""
    dropped = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_FRAMESEG_CACHE", "XDG_CACHE_HOME", "PYTEST_ADDOPTS")
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    hub = {"HF_ENDPOINT": hub_url, "HF_TOKEN": token, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    return {
        **kept,
        **nowhere,
        "NO_PROXY": "127.0.0.1,localhost",
        **hub,
        "HOME": str(folder / "home"),
        "HF_HOME": str(folder / "home" / "huggingface"),
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]),
        "HF_FRAMESEG_TEST_COMMANDS": f"hf_frameseg-docs-{os.getpid()}",
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "MPLBACKEND": "Agg",
    }


def write_data(folder: Path) -> None:
    """Write a data set of the shape of QVHighlights, with the names of its files."""
    write_dataset(
        folder, progress=False, num_train_videos=3, num_val_videos=2, num_test_videos=2, size_pixels=64, fps=1
    )
    (folder / "highlight_test_release.jsonl").rename(folder / "highlight_test_with_gt.jsonl")


def save_model(folder: Path, model: object, processor: object, config: FrameSegmentationConfig | None = None) -> None:
    """Save a tiny model as a repository of the Hub holds it."""
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    if config is not None:
        config.save(folder)


def first_line(path: Path) -> dict:
    """Return the first row of a file of JSON lines."""
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as lines:
        return json.loads(next(lines))


Prepare = Callable[[Stage], None]
