from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from hf_frameseg.data.annotations import (
    AnnotationError,
    find_annotations,
    find_videos,
    read_annotations,
)

FIELDS = {"qid", "query", "duration", "vid", "relevant_windows", "relevant_clip_ids", "saliency_scores"}


@pytest.fixture
def file(tmp_path):
    return tmp_path / "highlight_val_release.jsonl"


def test_rows_come_in_file_order_with_the_official_fields_and_values(file, annotation, write_annotations):
    rows = [annotation(qid=7, extra="dropped"), annotation(qid=3, duration=10.0)]
    write_annotations(file, rows)
    read = read_annotations(file)
    assert [row["qid"] for row in read] == [7, 3]
    assert set(read[0]) == FIELDS
    assert read[0] == {name: value for name, value in rows[0].items() if name in FIELDS}


def test_blank_lines_a_byte_order_mark_and_windows_line_ends_do_no_harm(file, annotation):
    file.write_bytes(b"\xef\xbb\xbf" + json.dumps(annotation()).encode() + b"\r\n\r\n  \n")
    assert len(read_annotations(file)) == 1


def test_labels_may_be_absent_only_where_that_is_said(file, annotation, write_annotations):
    row = {name: value for name, value in annotation().items() if name in ("qid", "query", "duration", "vid")}
    write_annotations(file, [row])
    assert read_annotations(file, require_labels=False) == [
        {**row, "relevant_windows": [], "relevant_clip_ids": [], "saliency_scores": []}
    ]
    with pytest.raises(AnnotationError, match="lacks relevant_windows, relevant_clip_ids, saliency_scores"):
        read_annotations(file)


def test_half_a_set_of_labels_is_refused_in_any_case(file, annotation, write_annotations):
    row = annotation()
    del row["saliency_scores"]
    write_annotations(file, [row])
    with pytest.raises(AnnotationError, match="lacks saliency_scores"):
        read_annotations(file, require_labels=False)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"qid": "1"}, "qid to be a 64-bit integer, got '1'"),
        ({"qid": True}, "qid to be a 64-bit integer"),
        ({"qid": 2**63}, "qid to be a 64-bit integer"),
        ({"query": " "}, "query to be a non-empty text"),
        ({"vid": None}, "vid to be a non-empty text, got None"),
        ({"duration": 0}, "duration to be a number of seconds above 0, got 0"),
        ({"duration": float("nan")}, "duration to be a number of seconds above 0"),
        ({"duration": True}, "duration to be a number of seconds above 0"),
        ({"duration": 10**400}, "duration to be a number of seconds above 0"),
        ({"relevant_windows": {}}, "relevant_windows to be a list"),
        ({"relevant_windows": [[6, 2]]}, "expected start < end"),
        ({"relevant_windows": [[4, 4]]}, "expected start < end"),
        ({"relevant_windows": [[8, 12]]}, "outside the video"),
        ({"relevant_windows": [[-2, 2]]}, "outside the video"),
        ({"relevant_windows": [[2]]}, r"expected \[start, end\]"),
        ({"relevant_clip_ids": [1, 5]}, "clip id 5 is no 2-second clip of a 10 s video"),
        ({"relevant_clip_ids": [-1, 1]}, "clip id -1"),
        ({"relevant_clip_ids": [1.0, 2]}, "clip id 1.0"),
        ({"relevant_clip_ids": [1]}, r"one saliency entry per relevant clip \(1\), got 2"),
        ({"saliency_scores": [[1, 2, 3], [1, 2]]}, r"expected 3 saliency scores from 0 to 4, got \[1, 2\]"),
        ({"saliency_scores": [[1, 2, 3], [1, 2, 5]]}, "from 0 to 4"),
        ({"saliency_scores": [[1, 2, 3], 4]}, "from 0 to 4, got 4"),
    ],
)
def test_a_wrong_value_is_named_with_file_and_line(file, annotation, write_annotations, fields, message):
    write_annotations(file, [annotation(qid=100), annotation(**{"vid": "other", **fields})])
    with pytest.raises(AnnotationError, match=rf"^highlight_val_release\.jsonl:2: [^\n]*{message}[^\n]*$"):
        read_annotations(file)


@pytest.mark.parametrize("name", sorted(FIELDS))
def test_a_lacking_field_is_named(file, annotation, write_annotations, name):
    row = annotation()
    del row[name]
    write_annotations(file, [row])
    with pytest.raises(AnnotationError, match=rf":1: lacks {name};"):
        read_annotations(file)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"qid: 1", "not JSON"),
        (b'{"qid": 1', "not JSON"),
        (b"\xff\xfe{}", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[1, 2]", "expected a JSON object .* got list"),
        (b"null", "expected a JSON object .* got NoneType"),
    ],
)
def test_a_line_that_is_no_object_is_named(file, annotation, line, message):
    file.write_bytes(json.dumps(annotation()).encode() + b"\n" + line + b"\n")
    with pytest.raises(AnnotationError, match=rf"^highlight_val_release\.jsonl:2: {message}[^\n]*$"):
        read_annotations(file)


def test_duplicate_qids_name_both_lines(file, annotation, write_annotations):
    write_annotations(file, [annotation(qid=5), annotation(qid=6), annotation(qid=5)])
    with pytest.raises(AnnotationError, match=r":3: qid 5 is also on line 1"):
        read_annotations(file)


def test_one_video_has_one_duration(file, annotation, write_annotations):
    write_annotations(file, [annotation(qid=5), annotation(qid=6, duration=12)])
    with pytest.raises(AnnotationError, match=r":2: vid v0 lasts 12 s here and 10 s on an earlier line"):
        read_annotations(file)


def test_an_empty_or_missing_file_is_named(file):
    with pytest.raises(FileNotFoundError, match=r"no annotation file at .*highlight_val_release\.jsonl"):
        read_annotations(file)
    file.write_text("\n")
    with pytest.raises(AnnotationError, match=r"highlight_val_release\.jsonl: .* empty file"):
        read_annotations(file)


def test_damaged_lines_are_read_or_refused_and_nothing_else(file, annotation):
    good = json.dumps(annotation()).encode()
    rng = random.Random(0)
    messages = []
    for _ in range(500):
        line = bytearray(good)
        for _ in range(rng.randint(1, 4)):
            line[rng.randrange(len(line))] = rng.randrange(256)
        file.write_bytes(bytes(line))
        try:
            read_annotations(file)
        except AnnotationError as error:
            messages.append(str(error))
    assert 0 < len(messages) < 500
    assert not [message for message in messages if "\n" in message]


def test_the_file_with_test_labels_is_preferred(tmp_path):
    for name in ("highlight_test_release.jsonl", "highlight_test_with_gt.jsonl"):
        (tmp_path / name).touch()
        assert find_annotations(tmp_path, "test").name == name


def test_finding_annotations_says_what_is_missing(tmp_path):
    with pytest.raises(ValueError, match=r"split to be one of \['train', 'val', 'test'\], got 'validation'"):
        find_annotations(tmp_path, "validation")
    with pytest.raises(FileNotFoundError, match="no such data folder: .*nowhere"):
        find_annotations(tmp_path / "nowhere", "val")
    with pytest.raises(FileNotFoundError, match="no annotations for val in .*; expected highlight_val_release.jsonl"):
        find_annotations(tmp_path, "val")


def test_finding_videos(tmp_path):
    with pytest.raises(FileNotFoundError, match="no video folder"):
        find_videos(tmp_path / "videos")
    for name in ("a_0.0_10.0.mp4", "b.webm", "b.mkv", "c.MOV", "d.txt", "e.avi.part"):
        (tmp_path / name).touch()
    found = {vid: path.name for vid, path in find_videos(tmp_path).items()}
    assert found == {"a_0.0_10.0": "a_0.0_10.0.mp4", "b": "b.mkv", "c": "c.MOV"}


@pytest.mark.parametrize(
    ("name", "num_queries"),
    [("highlight_val_release.jsonl", 1550), ("highlight_test_with_gt.jsonl", 1542)],
)
def test_the_official_files_pass(shared_dir: Path, name, num_queries):
    assert len(read_annotations(shared_dir / "qvhighlights" / name)) == num_queries


def test_the_official_test_file_without_labels_passes(shared_dir: Path):
    rows = read_annotations(shared_dir / "qvhighlights" / "highlight_test_release.jsonl", require_labels=False)
    assert len(rows) == 1542
    assert rows[0]["relevant_windows"] == []
