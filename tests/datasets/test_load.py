"""One loader for every data set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hf_frameseg.datasets.load import DATASETS, builder_of, check_videos, load_rows
from hf_frameseg.datasets.qvhighlights import QVHighlights
from hf_frameseg.datasets.synthetic import write_dataset
from hf_frameseg.prepared.builder import FrameDatasetBuilder
from hf_frameseg.video.settings import FrameSettings


@pytest.mark.parametrize("name", DATASETS)
def test_every_name_is_a_builder(name: str) -> None:
    assert issubclass(builder_of(name), FrameDatasetBuilder)


def test_an_unknown_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected a data set of \['qvhighlights', .*\] or a class of a builder, got"):
        load_rows("qvh", tmp_path)


@pytest.mark.parametrize("dataset", ["qvhighlights", QVHighlights])
def test_what_the_builder_gets(dataset: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fields of the frames may be given by name, over an object of settings; the rest goes to the config."""
    seen: list[Any] = []

    def init(self: Any, **options: Any) -> None:
        seen.append(options)

    def load(self: Any, *arguments: Any, **options: Any) -> str:
        seen.append((arguments, options))
        return "rows"

    monkeypatch.setattr(QVHighlights, "__init__", init)
    monkeypatch.setattr(QVHighlights, "load", load)
    frames = FrameSettings(num_frames=4, frame_size=16)
    more = {"short_side": 24, "on_error": "skip", "cache_dir": tmp_path / "cache", "num_proc": 2, "check": True}
    assert load_rows(dataset, tmp_path, "val", frames, **more) == "rows"
    options, call = seen
    assert options == {
        "cache_dir": str(tmp_path / "cache"),
        "data_dir": str(tmp_path),
        "splits": ("val",),
        "frames": FrameSettings(num_frames=4, short_side=24),
        "frame_format": "jpeg",
        "on_error": "skip",
    }
    assert call == (("val", 2), {"check": True})


def test_missing_videos_are_found_before_any_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = {"num_train_videos": 2, "num_val_videos": 2, "num_test_videos": 0}
    data = write_dataset(tmp_path / "data", progress=False, size_pixels=32, fps=1, **counts)
    options = {"num_frames": 2, "frame_size": 16, "cache_dir": tmp_path / "cache"}
    check_videos("qvhighlights", data, ("train", "val"), **options)
    load_rows("qvhighlights", data, "train", **options)
    monkeypatch.setattr(FrameDatasetBuilder, "load", lambda *args, **more: pytest.fail("videos were read"))
    first = json.loads((data / "highlight_val_release.jsonl").read_text().splitlines()[0])
    (data / "videos" / f"{first['vid']}.mp4").unlink()
    check_videos("qvhighlights", data, ("train",), **options)
    with pytest.raises(FileNotFoundError, match=f"no video {first['vid']}"):
        check_videos("qvhighlights", data, ("train", "val"), **options)
    check_videos("qvhighlights", data, ("train", "val"), on_error="skip", **options)


@pytest.mark.parametrize("dataset", [None, 3, ["table"], dict])
def test_what_is_no_data_set_is_refused(dataset: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected a data set of .* or a class of a builder, got"):
        load_rows(dataset, tmp_path)


def test_frames_are_settings_and_no_number(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected frames to be FrameSettings.*, got 25; pass num_frames= by its name"):
        load_rows("qvhighlights", tmp_path, "val", 25)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("num_frame", "did you mean num_frames"),
        ("frames_format", "did you mean frame_format"),
        ("splits", "did you mean split"),
        ("on_bad_window", "there are .*'on_error'"),
        ("_annotations", "there are"),
    ],
)
def test_an_unknown_option_is_named_with_what_was_meant(name: str, meant: str, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=f"^QVHighlights has no option '{name}'; {meant}"):
        load_rows("qvhighlights", tmp_path, **{name: 1})


@pytest.mark.parametrize("split", ["two words", "../up", "val[:3]", None, ("val",), ""])
@pytest.mark.parametrize("dataset", ["qvhighlights", "table"])
def test_a_split_that_no_file_can_be_named_after_is_refused_at_once(dataset: str, split: Any, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("video,query,start,end\nv,a dog,0,2\n")
    with pytest.raises(ValueError, match="expected splits to be names such as"):
        load_rows(dataset, tmp_path / "table.csv", split, cache_dir=tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*/*"))


def test_letters_are_not_taken_for_splits(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected splits to be names such as .*, got 'val'"):
        QVHighlights(data_dir=str(tmp_path), splits="val", cache_dir=str(tmp_path / "cache"))
