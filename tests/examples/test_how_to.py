"""The Python blocks of docs/how-to.md, one after the other as a reader would run them, with fewer steps."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hf_frameseg.data.synthetic import write_dataset
from hf_frameseg.losses import LOSSES

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to.md"
BLOCK = re.compile(r"^## (?P<title>[^\n]+)$|^```python\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE)
SHORTER = {"max_steps=300": "max_steps=2, use_cpu=True, disable_tqdm=True", "logging_steps=10": "logging_steps=1"}


def blocks() -> list[tuple[str, str]]:
    """Return (recipe, code) of every block that is no doctest; doctests are run where they stand."""
    found, title = [], ""
    for match in BLOCK.finditer(PAGE.read_text("utf-8")):
        title = match["title"] or title
        if match["code"] and ">>>" not in match["code"]:
            found.append((title, match["code"]))
    return found


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model: Any, tiny_processor: Any) -> Iterator[Path]:
    """A working folder with data/, video.mp4 and a random model in the place of the tiny base."""
    write_dataset(tmp_path / "data", progress=False, num_train_videos=1, num_val_videos=2, num_test_videos=0, fps=1)
    shutil.copy(next((tmp_path / "data" / "videos").iterdir()), tmp_path / "video.mp4")
    tiny_model.save_pretrained(tmp_path / "base")
    tiny_processor.save_pretrained(tmp_path / "base")
    monkeypatch.setattr("hf_frameseg.TINY_BASE", tmp_path / "base", raising=False)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    losses = dict(LOSSES)
    yield tmp_path
    LOSSES.clear()
    LOSSES.update(losses)


def test_the_blocks_run_as_printed(place: Path) -> None:
    names: dict[str, Any] = {}
    for title, code in blocks():
        for long, short in SHORTER.items():
            code = code.replace(long, short)
        exec(compile(code, f"how-to.md, {title}", "exec"), names)
    assert names["prediction"].query == "a red circle"
    assert (place / "prediction.png").is_file()
    assert (place / "curves.png").is_file()
    assert "focal" in names["args"].frame_losses()
    assert names["trainer"].state.global_step == 2


def test_every_recipe_has_a_block_or_a_doctest() -> None:
    sections = re.split(r"^## ", PAGE.read_text("utf-8"), flags=re.MULTILINE)[1:]
    assert len(sections) == 11
    assert [section.splitlines()[0] for section in sections if "```python\n" not in section] == []
