"""Tables of queries from files to rows with frames."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hf_frameseg.annotations.forms import read_annotation_file
from hf_frameseg.annotations.ratings import RatingScale
from hf_frameseg.datasets.load import load_rows
from hf_frameseg.datasets.table import MomentTableConfig
from hf_frameseg.moments import FrameGrid
from hf_frameseg.targets import clip_saliency_targets, frame_mask
from hf_frameseg.video.read import probe_duration

LINE = {"video": "a dog.mp4", "query": "a dog runs", "windows": [[2, 6], [8.5, 9]], "duration": 10}


def write_jsonl(path: Path, *lines: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_loading_a_table_asks_the_videos_for_what_it_does_not_state(
    tmp_path: Path, write_video: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "videos" / "nested").mkdir(parents=True)
    write_video(tmp_path / "videos" / "nested" / "b.mkv", np.arange(60) * 100)
    write_video(tmp_path / "videos" / "a dog.mp4", np.arange(100) * 100)
    undated = {"video": "nested/b.mkv", "query": "a cat", "windows": [[1, 3]], "saliency": [0, 4, 2]}
    gone = {"video": "../gone.mp4", "query": "a bird", "windows": [[1, 3], [5, 7]]}
    table = write_jsonl(tmp_path / "mine.jsonl", undated, gone, LINE)
    options = {"num_frames": 5, "frame_size": 32, "cache_dir": tmp_path / "cache", "on_error": "skip"}
    rows = load_rows("table", table, "val", **options)
    assert rows["vid"] == ["b", "a dog"]
    assert rows["duration_seconds"] == [probe_duration(tmp_path / "videos" / "nested" / "b.mkv"), 10.0]
    assert 5.9 < rows["duration_seconds"][0] < 6  # two complete clips
    assert rows["saliency_source"] == ["annotators", "window"]
    assert rows["relevant_clip_ids"] == [[0, 1], [1, 2, 4]]
    assert "missing or unreadable videos: 1 (1 queries)" in caplog.text
    elsewhere = load_rows("table", table, video_dir=str(tmp_path / "videos" / "nested"), **options)
    assert elsewhere["vid"] == ["b"]


def test_videos_that_go_on_after_their_annotated_end_are_counted(
    tmp_path: Path, write_video: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "videos").mkdir()
    write_video(tmp_path / "videos" / "a.mp4", np.arange(200) * 100)  # 20 s
    write_video(tmp_path / "videos" / "b.mp4", np.arange(100) * 100)  # 10 s
    lines = [("a", 8, [[1, 3]]), ("a", 8, [[2, 4]]), ("b", 8.5, [[1, 3]])]  # b is within the tolerance
    rows = [{"video": vid, "query": "q", "duration": seconds, "windows": windows} for vid, seconds, windows in lines]
    table = write_jsonl(tmp_path / "mine.jsonl", *rows)
    dataset = load_rows("table", table, num_frames=2, frame_size=32, cache_dir=tmp_path / "cache")
    assert (
        "1 of 2 videos (2 queries) last much longer than annotated, for example a: 20.0 s, annotated 8 s" in caplog.text
    )
    assert "file_seconds" not in dataset.column_names


def test_highlights_without_windows_are_loaded(tmp_path: Path, write_video: Callable[..., Path]) -> None:
    (tmp_path / "videos").mkdir()
    write_video(tmp_path / "videos" / "a.mp4", np.arange(40) * 100)
    ratings = [[1, 3], [4, 3], [5, 4], [5, 4]]
    table = write_jsonl(tmp_path / "tvsum.jsonl", {"video": "a", "query": "q", "duration": 4, "saliency": ratings})
    options = {"rating_scale": (1, 5), "clip_seconds": 1, "num_raters": 2, "cache_dir": tmp_path / "cache"}
    (row,) = load_rows("table", table, num_frames=2, frame_size=32, frame_format="raw", **options)
    assert row["saliency_scores"] == [[1.5, 2.0], [4.0, 3.0]]
    assert (row["relevant_windows"], row["saliency_source"]) == ([], "scaled")
    clips = clip_saliency_targets(row["relevant_clip_ids"], row["saliency_scores"], num_clips=2)
    assert frame_mask([], FrameGrid.middle(4, 2), "saliency>0.5", saliency=clips).tolist() == [False, True]


def test_a_table_needs_a_file(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    with pytest.raises(FileNotFoundError, match="no annotation file at .*mine.csv"):
        load_rows("table", tmp_path / "mine.csv", cache_dir=tmp_path / "cache")


def test_a_scale_makes_ratings_fractional(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ratings = [[1.0, 3], [5, 3], [5, 4], [5, 4]]
    path = write_jsonl(tmp_path / "tvsum.jsonl", {"video": "a", "query": "a train", "duration": 4, "saliency": ratings})
    config = MomentTableConfig(data_dir=str(path), rating_scale=(1, 5), clip_seconds=1)
    assert config.annotations("train") == read_annotation_file(path, {}, scale=RatingScale(1, 5, clip_seconds=1))
    assert config.has_fractional_ratings()
    assert "1 of 1 queries have no windows, so the label rule `window` makes masks of zeros only" in caplog.text


@pytest.mark.parametrize(
    "options",
    [{"rating_scale": 5}, {"rating_scale": (5, 1)}, {"rating_scale": (1, float("inf"))}, {"clip_seconds": 1}]
    + [{"rating_scale": (1, 5), **more} for more in ({"clip_seconds": 0}, {"clip_seconds": 1e9}, {"num_raters": 0})],
)
def test_a_wrong_scale_is_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="rating_scale|rating scale|clip_seconds|num_raters"):
        MomentTableConfig(data_dir=str(tmp_path / "a.jsonl"), **options)
