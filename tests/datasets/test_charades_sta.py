"""Charades-STA: its own two formats, read or refused with file and line. All lines here are made up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hf_frameseg.batches.collator import FrameSegmentationCollator
from hf_frameseg.datasets.load import load_rows
from hf_frameseg.digits import BinaryLabels
from hf_frameseg.masks import mask_to_moments
from hf_frameseg.metrics import evaluate_submission, headline
from hf_frameseg.prepared import config as preparation
from hf_frameseg.sample import Sample
from hf_frameseg.video.settings import FrameSettings

LENGTHS = {"AB1CD": 30.96, "X9YZ0": 24.0}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "charades_sta_test.txt"


# With videos


@pytest.fixture
def folder(tmp_path: Path, write_video: Callable[..., Path]) -> Path:
    """Two videos of 10 frames per second whose pictures state their number, three queries."""
    (tmp_path / "videos").mkdir()
    write_video(tmp_path / "videos" / "AB1CD.mp4", np.arange(80) * 100)
    write_video(tmp_path / "videos" / "X9YZ0.mp4", np.arange(60) * 100)
    (tmp_path / "charades_sta_test.txt").write_text(
        "X9YZ0 3.0 6.3##someone sits down.\nAB1CD 0.0 4.0##a person opens a door.\nAB1CD 2.0 8.0##a person cooks.\n"
    )
    (tmp_path / "Charades_v1_test.csv").write_text("id,length\nAB1CD,8.0\nX9YZ0,6.0\n")
    return tmp_path


def load(folder: Path, **options: Any) -> Any:
    return load_rows(
        "charades-sta",
        folder,
        "test",
        FrameSettings(num_frames=4, frame_size=64),
        frame_format="raw",
        cache_dir=folder / "cache",
        **options,
    )


def test_from_files_to_a_batch_and_a_score(
    folder: Path, read_number: Callable[[np.ndarray], int], tiny_processor: Any
) -> None:
    rows = load(folder)
    assert rows["query"] == ["someone sits down.", "a person opens a door.", "a person cooks."]
    assert rows["relevant_windows"] == [[[3.0, 6.0]], [[0.0, 4.0]], [[2.0, 8.0]]]
    assert rows["saliency_source"] == ["window"] * 3
    assert [read_number(picture) for picture in Sample.of(rows[1]).pictures()] == [10, 30, 50, 70]

    labels = BinaryLabels.from_tokenizer(tiny_processor.tokenizer)
    collator = FrameSegmentationCollator(processor=tiny_processor, labels=labels, prompt="timestamps", train=False)
    batch = collator([rows[index] for index in range(3)])
    assert batch["targets"]["frame_targets"].tolist() == [[0, 0, 1, 1], [1, 1, 0, 0], [0, 1, 1, 1]]
    visible = batch["input_ids"][1][batch["attention_mask"][1].bool()]
    assert "Frame 3 at 7.0 s: " in tiny_processor.tokenizer.decode(visible)

    submission = [
        {
            "qid": row["qid"],
            "pred_relevant_windows": [
                [moment.start, moment.end, moment.score]
                for moment in mask_to_moments(target.numpy() == 1, Sample.of(row).grid)
            ],
        }
        for row, target in zip(rows, batch["targets"]["frame_targets"], strict=True)
    ]
    truth = [{**row, "duration": row["duration_seconds"]} for row in rows.remove_columns("frames")]
    scores = headline(evaluate_submission(submission, truth))
    assert (scores["R1@0.7"], scores["mAP"], scores["HL-mAP"]) == (100.0, 100.0, None)


def test_another_grid_goes_all_the_way(
    folder: Path, read_number: Callable[[np.ndarray], int], tiny_processor: Any
) -> None:
    row = load(folder, grid_kind="uniform")[1]
    assert [read_number(picture) for picture in Sample.of(row).pictures()] == [0, 26, 53, 79]
    assert Sample.of(row).grid.times.tolist() == [0.0, 8 / 3, 16 / 3, 8.0]
    assert [times[1] for times in row["frame_times_seconds"]] == pytest.approx([0.0, 2.6, 5.3, 7.9])
    labels = BinaryLabels.from_tokenizer(tiny_processor.tokenizer)
    collator = FrameSegmentationCollator(processor=tiny_processor, labels=labels, prompt="timestamps", train=False)
    assert collator([row])["targets"]["frame_targets"].tolist() == [[1, 1, 0, 0]]
    shifted = load(folder, grid_phase=0.25, variant_offset_seconds=0.2)[1]
    assert [read_number(picture) for picture in Sample.of(shifted).pictures()] == [15, 35, 55, 75]
    assert [read_number(picture) for picture in Sample.of(shifted).pictures([0, 2, 0, 2])] == [13, 37, 53, 77]


def test_without_the_csv_the_videos_are_asked(folder: Path) -> None:
    (folder / "Charades_v1_test.csv").unlink()
    rows = load(folder)
    assert rows["duration_seconds"] == pytest.approx([6.0, 8.0, 8.0], abs=1e-3)
    assert rows["relevant_windows"][0] == [pytest.approx([3.0, 6.0], abs=1e-3)]


def test_queries_of_a_missing_video_are_reported_and_left_out(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "Charades_v1_test.csv").unlink()
    (folder / "videos" / "AB1CD.mp4").unlink()
    with pytest.raises(FileNotFoundError, match="AB1CD"):
        load(folder)
    rows = load(folder, on_error="skip")
    assert rows["vid"] == ["X9YZ0"]
    assert "missing or unreadable videos: 1 (2 queries)" in caplog.text


def test_missing_files_are_named(folder: Path) -> None:
    for split, error, message in (
        ("val", ValueError, r"split to be one of \['train', 'test'\], got 'val'"),
        ("train", FileNotFoundError, "no annotations for train in .*; expected charades_sta_train.txt"),
    ):
        with pytest.raises(error, match=message):
            load_rows("charades-sta", folder, split, cache_dir=folder / "cache")
    with pytest.raises(FileNotFoundError, match="no such data folder"):
        load_rows("charades-sta", folder / "nowhere", "test", cache_dir=folder / "cache")


def test_without_the_csv_the_videos_are_asked_once(tmp_path, monkeypatch, write_video):
    """Their lengths are remembered beside the cache, until a file changes."""
    asked = []
    original = preparation.probe_duration

    def spy(path, **kwargs):
        asked.append(path.stem)
        return original(path, **kwargs)

    monkeypatch.setattr(preparation, "probe_duration", spy)
    folder = tmp_path / "data"
    (folder / "videos").mkdir(parents=True)
    for vid in ("AAAAA", "BBBBB"):
        write_video(folder / "videos" / f"{vid}.mp4", np.arange(0, 2000, 100))
    lines = ["AAAAA 0.0 1.0##a person sits.", "BBBBB 0.5 1.5##a person stands."]
    (folder / "charades_sta_test.txt").write_text("\n".join(lines))
    options = {"num_frames": 2, "frame_size": 16, "cache_dir": tmp_path / "cache", "timeout_seconds": None}
    first = load_rows("charades-sta", folder, "test", **options)
    assert sorted(asked) == ["AAAAA", "BBBBB"]
    again = load_rows("charades-sta", folder, "test", **options)
    assert again["duration_seconds"][:] == first["duration_seconds"][:] == [2.0, 2.0]
    assert len(asked) == 2
    assert again.cache_files == first.cache_files
    write_video(folder / "videos" / "BBBBB.mp4", np.arange(0, 3000, 100))
    assert load_rows("charades-sta", folder, "test", **options)["duration_seconds"][:] == [2.0, 3.0]
    assert asked[2:] == ["BBBBB"]
