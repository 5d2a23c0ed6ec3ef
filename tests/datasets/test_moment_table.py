"""Tables of queries as JSON lines, CSV and TSV, and the rules that all data sets without ratings share."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_frameseg.annotations.moment_rows import MomentEntry, to_rows
from hf_frameseg.annotations.qvhighlights import AnnotationError, read_annotations, window_clips
from hf_frameseg.datasets.moment_table import load_moments, read_moment_table
from hf_frameseg.moments import FrameGrid, num_clips
from hf_frameseg.targets import clip_saliency_targets, frame_mask
from hf_frameseg.video.read import probe_duration

LINE = {"video": "a dog.mp4", "query": "a dog runs", "windows": [[2, 6], [8.5, 9]], "duration": 10}


def write_jsonl(path: Path, *lines: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


# Formats


def test_json_lines(tmp_path: Path) -> None:
    rows = read_moment_table(write_jsonl(tmp_path / "mine.jsonl", LINE, {**LINE, "query": "a cat", "note": 3}))
    assert rows[0] == {
        "qid": 0,
        "query": "a dog runs",
        "duration": 10.0,
        "vid": "a dog",
        "relevant_windows": [[2.0, 6.0], [8.5, 9.0]],
        "relevant_clip_ids": [1, 2, 4],  # the second window holds no clip centre: the clip at its middle
        "saliency_scores": [[4, 4, 4]] * 3,
        "saliency_source": "window",
    }
    assert [row["qid"] for row in rows] == [0, 1]


def test_csv_with_windows_as_json(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, ["video", "query", "windows", "duration", "saliency"])
        writer.writeheader()
        writer.writerow({**LINE, "query": 'a "dog", that\nruns', "windows": json.dumps(LINE["windows"])})
        writer.writerow({**LINE, "windows": "[[0, 4]]", "saliency": "[0, 4, 1, [1, 2, 3], 0]"})
    first, second = read_moment_table(path)
    assert first["query"] == 'a "dog", that\nruns'
    assert (first["relevant_windows"], first["saliency_source"]) == ([[2.0, 6.0], [8.5, 9.0]], "window")
    assert second["relevant_clip_ids"] == [0, 1, 2, 3]  # in the window, or rated above 0
    assert second["saliency_scores"] == [[0, 0, 0], [4, 4, 4], [1, 1, 1], [1, 2, 3]]
    assert second["saliency_source"] == "annotators"


@pytest.mark.parametrize(("suffix", "mark"), [(".csv", ","), (".tsv", "\t")])
def test_tables_with_start_and_end(tmp_path: Path, suffix: str, mark: str) -> None:
    path = tmp_path / f"mine{suffix}"
    lines = [["qid", "video", "query", "start", "end", "duration"], ["7", "v.mkv", "a dog", ".5", "04", "10"]]
    path.write_text("".join(mark.join(line) + "\r\n" for line in [*lines, ["9", "v", "a cat", "1", "2.5", ""]]))
    first, second = read_moment_table(path)
    assert (first["qid"], first["vid"], first["relevant_windows"]) == (7, "v", [[0.5, 4.0]])
    assert (second["qid"], second["duration"]) == (9, 10.0)  # one video, one duration


def test_durations_can_come_from_elsewhere(tmp_path: Path) -> None:
    line = {key: value for key, value in LINE.items() if key != "duration"}
    path = write_jsonl(tmp_path / "mine.jsonl", {**line, "duration": None}, {**line, "video": "b"})
    with pytest.raises(AnnotationError, match=r"^mine\.jsonl:1: the duration of video 'a dog' is not known"):
        read_moment_table(path)
    durations = [row["duration"] for row in read_moment_table(path, {"a dog": 10.5, "b": 20})]
    assert durations == [10.5, 20.0]
    # What the file states counts, wherever it is stated.
    path = write_jsonl(tmp_path / "mine.jsonl", line, {**line, "duration": 11})
    assert [row["duration"] for row in read_moment_table(path, {"a dog": 10.5})] == [11.0, 11.0]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"video": None}, "lacks video;"),
        ({"query": ""}, "lacks query;"),
        ({"query": 3}, "query to be a non-empty text, got 3"),
        ({"video": ["a"]}, "video to be a non-empty text"),
        ({"windows": None, "start": 3}, "lacks windows;"),
        ({"windows": []}, r"windows to be a list of \[start, end\]"),
        ({"windows": "0-3"}, r"windows to be a list of \[start, end\]"),
        ({"windows": [3, 4]}, r"expected a window \[start, end\] in seconds, got 3"),
        ({"windows": [[0, "3"]]}, "expected a window"),
        ({"windows": [[4, 3]]}, "expected a window with 0 <= start < end <= 10 seconds, got"),
        ({"windows": [[0, 10.01]]}, "pass on_bad_window='repair'"),
        ({"windows": None, "start": 4, "end": 4}, "expected a window with 0 <= start < end"),
        ({"duration": -3}, "duration to be a number of seconds from 0.001"),
        ({"duration": 9, "video": "v.mp4"}, "video v lasts 9 s here and 10 s before; correct one of them"),
        ({"qid": "3"}, "expected qids of one kind, got '3' after 1"),
        ({"qid": 1.5}, "expected qid to be a 64-bit integer or a text, got 1.5"),
        ({"qid": 1}, r"qid 1 is also at mine\.jsonl:1"),
        ({"saliency": [1, 2]}, "saliency to be a list of 5 ratings, one per 2-second clip"),
        ({"saliency": "01234"}, "saliency to be a list of 5 ratings"),
        ({"saliency": [0, 1, 2, 3, 5]}, "whole number from 0 to 4, or 3 of them, got 5"),
        ({"saliency": [0, 1, 2, 3, [1, 2]]}, r"whole number from 0 to 4, or 3 of them, got \[1, 2\]"),
        ({"saliency": [0, 1, 2, 3, 0.5]}, "whole number from 0 to 4, or 3 of them, got 0.5"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    first = {**LINE, "video": "v", "qid": 1}
    path = write_jsonl(tmp_path / "mine.jsonl", first, {**LINE, "qid": 2, **fields})
    with pytest.raises(AnnotationError, match=rf"^mine\.jsonl:2: [^\n]*{message}[^\n]*$"):
        read_moment_table(path)


def test_qids_are_for_all_lines_or_none(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "mine.jsonl", {**LINE, "qid": 4}, LINE)
    with pytest.raises(AnnotationError, match=r"mine\.jsonl:2: expected a qid on every line or on none"):
        read_moment_table(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"video": 1', ":1: not JSON"),
        ("a.jsonl", b"\n[1]\n", ":2: expected one JSON object per query, got list"),
        ("a.jsonl", b"[" * 100_000, ":1: not JSON"),
        ("a.jsonl", b"\n", ": is empty"),
        ("a.csv", b"video,query,windows\n", ": expected at least one query"),
        ("a.csv", b"", ": is empty"),
        ("a.csv", b"video,query,start,end\n", ": expected at least one query"),
        ("a.csv", b"video;query;windows\nv;q;w\n", ":1: expected columns between ',', got 'video;query;windows'"),
        ("a.csv", b"video,query,windows\nv,q,[[0, 3]]\n", ":2: expected 3 cells"),
        ("a.csv", b"video,query,windows\nv,q\n", ":2: expected 3 cells"),
        ("a.csv", b'video,query,windows\nv,q,"[[0, 3"\n', ":2: expected windows to be JSON such as"),
        ("a.csv", b"video,query,start,end\nv,q,one,3\n", ":2: expected start to be a number of seconds, got 'one'"),
        ("a.csv", b'video,query\n"v,q\n', ":2: not a table"),
        ("a.csv", b"video,query\nv,\xff\n", ": not UTF-8"),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(AnnotationError, match=rf"^{name}{message}[^\n]*$"):
        read_moment_table(tmp_path / name)


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_damaged_files_are_read_or_refused_and_nothing_else(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"mine{suffix}"
    good = json.dumps(LINE).encode()
    if suffix == ".csv":
        good = b'video,query,windows,duration,saliency\na.mp4,a dog,"[[2, 6]]",10,"[0, 1, 2, 3, 4]"\n'
    rng = random.Random(0)
    messages = []
    for _ in range(500):
        content = bytearray(good)
        for _ in range(rng.randint(1, 4)):
            content[rng.randrange(len(content))] = rng.randrange(256)
        path.write_bytes(bytes(content))
        try:
            read_moment_table(path)
        except AnnotationError as error:
            messages.append(str(error))
    assert 0 < len(messages) < 500
    assert not [message for message in messages if "\n" in message]


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
    rows = load_moments(table, split="val", **options)
    assert rows["vid"] == ["b", "a dog"]
    assert rows["duration_seconds"] == [probe_duration(tmp_path / "videos" / "nested" / "b.mkv"), 10.0]
    assert 5.9 < rows["duration_seconds"][0] < 6  # two complete clips
    assert rows["saliency_source"] == ["annotators", "window"]
    assert rows["relevant_clip_ids"] == [[0, 1], [1, 2, 4]]
    assert "missing or unreadable videos: 1 (1 queries)" in caplog.text
    elsewhere = load_moments(table, tmp_path / "videos" / "nested", **options)
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
    dataset = load_moments(table, num_frames=2, frame_size=32, cache_dir=tmp_path / "cache")
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
    (row,) = load_moments(table, num_frames=2, frame_size=32, frame_format="raw", **options)
    assert row["saliency_scores"] == [[1.5, 2.0], [4.0, 3.0]]
    assert (row["relevant_windows"], row["saliency_source"]) == ([], "scaled")
    clips = clip_saliency_targets(row["relevant_clip_ids"], row["saliency_scores"], num_clips=2)
    assert frame_mask([], FrameGrid(4, 2), "saliency>0.5", saliency=clips).tolist() == [False, True]


def test_a_table_needs_a_file(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    with pytest.raises(FileNotFoundError, match="no annotation file at .*mine.csv"):
        load_moments(tmp_path / "mine.csv", cache_dir=tmp_path / "cache")


# Rules of all data sets


@pytest.mark.parametrize(("duration", "ratings"), [(6.0, [0, 4, 2]), (5.999, [0, 4]), (5.999, [0, 4, 2]), (1.0, [3])])
def test_an_incomplete_last_clip_may_be_rated_and_does_not_count(duration: float, ratings: list[int]) -> None:
    (row,) = to_rows([MomentEntry("a:1", "v", "q", [[0, 1]], duration, clip_ratings=ratings)], "a")
    spread = [0] * num_clips(duration)
    for clip, three in zip(row["relevant_clip_ids"], row["saliency_scores"], strict=True):
        spread[clip] = three[0]
    assert spread == ratings[: num_clips(duration)]
    with pytest.raises(AnnotationError, match="a:1: expected saliency to be a list"):
        to_rows([MomentEntry("a:1", "v", "q", [[0, 1]], duration, clip_ratings=[*ratings, 0, 0])], "a")


@pytest.mark.parametrize(
    ("windows", "duration", "clips"),
    [
        ([[0, 2]], 30, [0]),
        ([[1, 3]], 30, [0]),  # half-open: the centre 1 is inside, 3 is not
        ([[1.01, 3.01]], 30, [1]),
        ([[0, 31]], 31, list(range(15))),  # the incomplete last clip has no number
        ([[30.2, 31]], 31, [14]),  # so a window in it takes the last that has one
        ([[0.2, 0.6]], 30, [0]),
        ([[1.5, 2.5]], 30, [1]),
        ([[0, 1.5]], 1.5, [0]),
        ([[4, 6], [0, 2], [5, 9]], 10, [0, 2, 3]),
    ],
)
def test_clips_of_windows_by_hand(windows: list[list[float]], duration: float, clips: list[int]) -> None:
    assert window_clips(windows, duration) == clips


@settings(deadline=None, derandomize=True)
@given(
    duration=st.floats(0.1, 300),
    shares=st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=4),
)
def test_clips_of_windows_equal_the_rule_spelt_out(duration: float, shares: list[tuple[float, float]]) -> None:
    windows = [sorted((a * duration, b * duration)) for a, b in shares]
    count = num_clips(duration)
    expected = set()
    for start, end in windows:
        held = {clip for clip in range(count) if start <= 2 * clip + 1 < end}
        expected |= held or {min(int((start + end) / 4), count - 1)}
    assert window_clips(windows, duration) == sorted(expected)


@settings(deadline=None, derandomize=True, max_examples=50)
@given(
    duration=st.floats(0.1, 300),
    windows=st.lists(st.tuples(st.floats(-50, 350), st.floats(-50, 350)), min_size=1, max_size=4),
)
def test_repaired_rows_are_rows_of_the_official_schema(
    tmp_path_factory: pytest.TempPathFactory, duration: float, windows: list[tuple[float, float]]
) -> None:
    fine = MomentEntry("a:1", "v", "a dog", [[0, duration]], duration)
    rows = to_rows([fine, MomentEntry("a:2", "v", "a cat", windows, duration)], "a")
    file = tmp_path_factory.mktemp("official") / "rows.jsonl"
    official = [{name: value for name, value in row.items() if name != "saliency_source"} for row in rows]
    assert read_annotations(write_jsonl(file, *official)) == official


def test_an_unknown_rule_is_refused() -> None:
    with pytest.raises(ValueError, match=r"on_bad_window to be one of \['repair', 'raise'\], got 'drop'"):
        to_rows([MomentEntry("a:1", "v", "q", [[0, 1]], 3)], "a", on_bad_window="drop")
