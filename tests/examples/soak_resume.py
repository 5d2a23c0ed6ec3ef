"""Kill trainings of the example script at random moments and resume each with the same command.

    python tests/examples/soak_resume.py --kills 50 --seed 0

Half of the kills come at a random time of the training, half while a checkpoint is being written: before a file, with a
random part of it on the disk, or behind it. Each training is resumed by the same command; its losses and its weights
must be those of the training that nobody disturbed, to the last bit. The processes are forked from this one, which has
imported all and computed nothing, so that a start takes seconds.
"""

from __future__ import annotations

import argparse
import faulthandler
import importlib.util
import itertools
import json
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}

import torch
from transformers import TrainerState

from hf_frameseg.datasets.synthetic import write_dataset
from hf_frameseg.training.checkpoints import last_whole_checkpoint

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "run_qvh.py"
STEPS = 5  # three in an epoch
ADAPTERS = {"lora": ["--lora_r=4"], "pissa": ["--lora_r=4", "--lora_init=pissa_niter_4"]}
FILES = ("adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state", "trainer_state.json")
TIME = "seconds"
HANGS_AFTER_SECONDS = 900


@dataclass(frozen=True)
class Kill:
    """A moment: seconds of CPU time after the training has begun, or a share of a file of the checkpoint of a step."""

    seconds: float | None = None
    step: int = 0
    file: str = ""
    share: float = 0.0

    def __str__(self) -> str:
        where = f"{self.share:.0%} of {self.file} of checkpoint-{self.step}"
        return where if self.seconds is None else f"{self.seconds:.2f} s of training"


# ---- In the training process -----------------------------------------------------------------------------------------


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def plant(kill: Kill) -> None:
    """Let the process die when it writes the file."""

    def dying(write: Callable[..., Any], path_of: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            path = Path(str(path_of(*args, **kwargs)))
            if path.parent.name != f"checkpoint-{kill.step}" or not path.name.startswith(kill.file):
                return write(*args, **kwargs)
            if kill.share == 0:
                die()
            result = write(*args, **kwargs)
            if kill.share < 1:
                os.truncate(path, int(kill.share * path.stat().st_size))
            die()
            return result

        return wrapped

    torch.save = dying(torch.save, lambda obj, f, *args, **kwargs: getattr(f, "name", f))
    TrainerState.save_to_json = dying(TrainerState.save_to_json, lambda self, path: path)
    for name, module in list(sys.modules.items()):
        if name.startswith("peft") and getattr(module, "safe_save_file", None) is not None:
            module.safe_save_file = dying(module.safe_save_file, lambda tensors, path, **kwargs: path)


def train(words: list[str], rank: int, world_size: int, port: int, log: Path, kill: Kill | None) -> None:
    """Be one process of a training; never returns."""
    status = 1
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        faulthandler.dump_traceback_later(HANGS_AFTER_SECONDS, exit=True)
        torch.set_num_threads(1)
        if world_size > 1:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size)}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
            os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        script = sys.modules["run_qvh"]
        learn = script.SegmentationSeq2SeqTrainer.train

        def timed(self: Any, *args: Any, **kwargs: Any) -> Any:
            begun = time.process_time()
            if kill is not None and kill.seconds is not None:
                signal.setitimer(signal.ITIMER_PROF, kill.seconds)  # the kernel ends the process then, as SIGKILL does
            result = learn(self, *args, **kwargs)
            (Path(self.args.output_dir) / TIME).write_text(str(time.process_time() - begun))
            return result

        script.SegmentationSeq2SeqTrainer.train = timed
        if kill is not None and kill.seconds is None:
            plant(kill)
        script.main(words)
        status = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


# ---- In this process -------------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def launch(words: list[str], world_size: int, output: Path, kill: Kill | None = None, victim: int = 0) -> bool:
    """Run a training to its end or its kill; tell whether it ended by itself.

    Raises:
        SystemExit: If it fails though nobody killed it.
    """
    output.mkdir(parents=True, exist_ok=True)
    port, pids = free_port(), []
    for rank in range(world_size):
        pid = os.fork()
        if pid == 0:
            train(words, rank, world_size, port, output.with_suffix(".log"), kill if rank == victim else None)
        pids.append(pid)
    done: dict[int, int] = {}
    while len(done) < world_size:  # as torchrun: when one is gone, the others are ended
        pid, status = os.wait()
        done[pid] = status
        if status != 0:
            for other in set(pids) - done.keys():
                os.kill(other, signal.SIGKILL)
    if kill is None and any(done.values()):
        raise SystemExit(f"a training failed:\n{output.with_suffix('.log').read_text()[-5000:]}")
    return not any(done.values())


def losses(output: Path) -> list[dict[str, Any]]:
    """Return the log of every step."""
    state = json.loads((output / f"checkpoint-{STEPS}" / "trainer_state.json").read_text())
    return [line for line in state["log_history"] if "loss" in line]


def weights(output: Path) -> dict[str, bytes]:
    """Return the bytes of the weights of the last checkpoint and of the saved adapter."""
    files = [output / f"checkpoint-{STEPS}" / FILES[0], output / "model" / FILES[0]]
    return {str(file.relative_to(output)): file.read_bytes() for file in files}


def random_kill(draw: random.Random, seconds: float, in_time: float) -> Kill:
    """Draw a moment: with the probability `in_time` at any time, else in the writing of a checkpoint."""
    if draw.random() < in_time:
        return Kill(seconds=draw.uniform(0, seconds))
    share = draw.choice([0.0, draw.random(), 1.0])
    return Kill(step=draw.randint(1, STEPS), file=draw.choice(FILES), share=share)


def arguments(folder: Path, adapter: str, world_size: int, output: Path) -> list[str]:
    """Return the one command of a training, the first and every further time."""
    options = {"data_dir": folder / "data", "cache_dir": folder / "cache", "output_dir": output}
    options |= {"use_cpu": "true", "report_to": "none", "disable_tqdm": "true", "frame_format": "raw"}
    options |= {"max_steps": STEPS, "save_steps": 1, "logging_steps": 1, "lora_dropout": 0.2, "do_eval": "false"}
    options |= {"per_device_train_batch_size": 4 // world_size, "learning_rate": 1e-3}
    words = [f"--{name}={value}" for name, value in options.items()]
    return [*words, *ADAPTERS[adapter], "--resume_from_checkpoint=true"]


def soak(folder: Path, kills: int, seed: int, in_time: float, kinds: list[tuple[int, str]]) -> dict[str, int]:
    """Kill and resume; return how often what was seen.

    Raises:
        SystemExit: At the first training that does not end as the undisturbed one.
    """
    draw = random.Random(seed)
    undisturbed: dict[tuple[int, str], tuple[Any, Any, float]] = {}
    counts = dict.fromkeys(
        ["kills", "ended before the kill", "broken checkpoints skipped", "resumed from a checkpoint"], 0
    )
    for number, kind in enumerate(itertools.cycle(kinds)):
        if counts["kills"] == kills:
            break
        world_size, adapter = kind
        if kind not in undisturbed:
            output = folder / f"whole-{world_size}-{adapter}"
            words = arguments(folder, adapter, world_size, output)
            launch(words, world_size, output)
            undisturbed[kind] = losses(output), weights(output), float((output / TIME).read_text())
        expected, whole, seconds = undisturbed[kind]
        output = folder / f"cut-{number}"
        words, kill = arguments(folder, adapter, world_size, output), random_kill(draw, seconds, in_time)
        words += draw.choice([[], ["--save_total_limit=1"]])  # the checkpoint before is deleted, too
        victim = draw.randrange(world_size) if kill.file in ("", "rng_state") else 0  # who writes the file
        ended = launch(words, world_size, output, kill, victim)
        found, skipped = last_whole_checkpoint(output, world_size)
        counts["kills"] += not ended
        counts["ended before the kill"] += ended
        counts["broken checkpoints skipped"] += len(skipped)
        counts["resumed from a checkpoint"] += found is not None
        launch(words, world_size, output)
        if losses(output) != expected or weights(output) != whole:
            raise SystemExit(f"{world_size} process(es), {adapter}: another training after {kill}, kept in {output}")
        if ended:
            print(f"{number}: ended before {kill}", flush=True)
            shutil.rmtree(output)
            continue
        print(f"{number}: {world_size} process(es), {adapter}, {kill}: the same", flush=True)
        shutil.rmtree(output)
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--in-time", type=float, default=0.5, help="share of the kills that go by the clock")
    parser.add_argument(
        "--kinds", nargs="+", default=["1:lora", "2:lora", "1:pissa", "2:pissa"], help="processes:adapter"
    )
    parser.add_argument("--folder", type=Path, help="where to work; default: a temporary folder, removed at the end")
    options = parser.parse_args()
    spec = importlib.util.spec_from_file_location("run_qvh", SCRIPT)
    sys.modules["run_qvh"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["run_qvh"])
    folder = options.folder or Path(tempfile.mkdtemp(prefix="soak-resume-"))
    if os.fork() == 0:  # computing here would make threads, which no fork survives
        counts = {"num_train_videos": 4, "num_val_videos": 1, "num_test_videos": 0}
        write_dataset(folder / "data", progress=False, size_pixels=64, fps=1, **counts)
        os._exit(0)
    os.wait()
    kinds = [(int(world_size), adapter) for world_size, adapter in (kind.split(":") for kind in options.kinds)]
    print(json.dumps(soak(folder, options.kills, options.seed, options.in_time, kinds)))
    if options.folder is None:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
