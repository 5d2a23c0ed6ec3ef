"""Tables of queries as JSON lines, CSV and TSV."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path
from typing import Any

import pytest

from hf_frameseg.annotations.forms import read_annotation_file
from hf_frameseg.annotations.schema import AnnotationError

LINE = {"video": "a dog.mp4", "query": "a dog runs", "windows": [[2, 6], [8.5, 9]], "duration": 10}


def write_jsonl(path: Path, *lines: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def read_table(path: Path, durations: dict[str, float] | None = None, **options: Any) -> list[dict[str, Any]]:
    """Read as the loader of tables does, which looks up what the file does not state."""
    return read_annotation_file(path, durations or {}, **options)


def test_json_lines(tmp_path: Path) -> None:
    rows = read_table(write_jsonl(tmp_path / "mine.jsonl", LINE, {**LINE, "query": "a cat", "note": 3}))
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
    first, second = read_table(path)
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
    first, second = read_table(path)
    assert (first["qid"], first["vid"], first["relevant_windows"]) == (7, "v", [[0.5, 4.0]])
    assert (second["qid"], second["duration"]) == (9, 10.0)  # one video, one duration


def test_durations_can_come_from_elsewhere(tmp_path: Path) -> None:
    line = {key: value for key, value in LINE.items() if key != "duration"}
    path = write_jsonl(tmp_path / "mine.jsonl", {**line, "duration": None}, {**line, "video": "b"})
    with pytest.raises(AnnotationError, match=r"^mine\.jsonl:1: the duration of video 'a dog' is not known"):
        read_table(path)
    durations = [row["duration"] for row in read_table(path, {"a dog": 10.5, "b": 20})]
    assert durations == [10.5, 20.0]
    # What the file states counts, wherever it is stated.
    path = write_jsonl(tmp_path / "mine.jsonl", line, {**line, "duration": 11})
    assert [row["duration"] for row in read_table(path, {"a dog": 10.5})] == [11.0, 11.0]


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
        read_table(path)


def test_qids_are_for_all_lines_or_none(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "mine.jsonl", {**LINE, "qid": 4}, LINE)
    with pytest.raises(AnnotationError, match=r"mine\.jsonl:2: expected a qid on every line or on none"):
        read_table(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"video": 1', ":1: not JSON"),
        ("a.jsonl", b"\n[1]\n", ":2: expected one JSON object per line, got list"),
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
        read_table(tmp_path / name)


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
            read_table(path)
        except AnnotationError as error:
            messages.append(str(error))
    assert 0 < len(messages) < 500
    assert not [message for message in messages if "\n" in message]


def test_ids_in_a_table_are_numbers_if_all_look_so(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("qid,vid,query,start,end,duration\n7,v,a,0,1,9\n8,v,b,0,1,9\n")
    assert [row["qid"] for row in read_annotation_file(path)] == [7, 8]
    path.write_text("qid,vid,query,start,end,duration\n7,v,a,0,1,9\n8b,v,b,0,1,9\n")
    assert [row["qid"] for row in read_annotation_file(path)] == ["7", "8b"]


def test_table_with_two_columns_of_one_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "twice.csv"
    path.write_text('video,query,windows,windows,duration\na,b,"[[0, 4]]","[[1, 4]]",10\n')
    with pytest.raises(AnnotationError, match=r"^twice.csv:1: expected every column once, got 'windows' twice; rename"):
        read_annotation_file(path)


def test_table_with_another_delimiter_names_the_expected_one(tmp_path: Path) -> None:
    path = tmp_path / "excel.csv"
    path.write_text('video;query;windows;duration\na;b;"[[0, 4]]";10\n')
    with pytest.raises(AnnotationError, match=r"^excel.csv:1: expected columns between ','.*got 'video;query;windows"):
        read_annotation_file(path)
