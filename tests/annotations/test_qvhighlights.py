from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest

from hf_frameseg.annotations.qvhighlights import read_annotations
from hf_frameseg.annotations.schema import AnnotationError
from hf_frameseg.metrics import evaluate_submission, validate_submission

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


def test_qids_may_be_texts(file, annotation, write_annotations):
    write_annotations(file, [annotation(qid="s34-d28_0"), annotation(qid="7")])
    assert [row["qid"] for row in read_annotations(file)] == ["s34-d28_0", "7"]


@pytest.mark.parametrize(("duration", "clip_id", "valid"), [(1.0, 0, True), (7.5, 2, True), (7.5, 3, False)])
def test_loader_and_scorer_count_the_same_clips(file, annotation, write_annotations, duration, clip_id, valid):
    row = annotation(
        duration=duration, relevant_windows=[[0, 1]], relevant_clip_ids=[clip_id], saliency_scores=[[4, 3, 2]]
    )
    write_annotations(file, [row])
    submission = {"qid": row["qid"], "pred_saliency_scores": [0.0] * (clip_id if valid else 2) + [0.5]}
    if not valid:
        with pytest.raises(AnnotationError, match="clip id 3 is no 2-second clip of a 7.5 s video; .* from 0 to 2"):
            read_annotations(file)
        with pytest.raises(ValueError, match=r"ids of 2-second clips in the video"):
            evaluate_submission([submission], [row])
        return
    assert read_annotations(file) == [row]
    assert not validate_submission([submission], [row])
    assert evaluate_submission([submission], [row])["brief"]["HL-min-VeryGood-Hit1"] == 100.0


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
        ({"qid": "1"}, "qids of one kind, got '1' after 100; write all of them as whole numbers, or all as texts"),
        ({"qid": " "}, "qid to be a non-empty text"),
        ({"qid": "a\ud800"}, "qid to be a text of whole characters"),
        ({"qid": "x" * 201}, "qid to have up to 200 characters, got 201"),
        ({"qid": True}, "qid to be a 64-bit integer or a text"),
        ({"qid": 2**63}, "qid to be a 64-bit integer or a text"),
        ({"query": " "}, "query to be a non-empty text"),
        ({"vid": None}, "vid to be a non-empty text, got None"),
        ({"query": "a\ud800"}, "query to be a text of whole characters, got 'a.ud800'"),
        ({"duration": 0}, "duration to be a number of seconds from 0.001 to 14400, got 0"),
        ({"duration": float("nan")}, "duration to be a number of seconds from 0.001"),
        ({"duration": True}, "duration to be a number of seconds from 0.001"),
        ({"duration": 1e-300}, "duration to be a number of seconds from 0.001"),
        ({"duration": 1e300}, "duration to be a number of seconds from 0.001"),
        ({"duration": 10**400}, "duration to be a number of seconds from 0.001"),
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
        (b"[1, 2]", "expected one JSON object per line, got list"),
        (b"null", "expected one JSON object per line, got NoneType"),
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
    with pytest.raises(AnnotationError, match=r"^highlight_val_release\.jsonl: is empty; expected annotations"):
        read_annotations(file)


def test_a_thousand_damaged_lines_are_read_or_named(file, annotation):
    """Bytes replaced, removed, repeated and moved; fields swapped, dropped and given values of every kind."""
    rng = random.Random(0)
    good = json.dumps(annotation(qid=100, vid="other")).encode()
    messages, num_read = [], 0
    for number in range(1000):
        line = _damaged_bytes(good, rng) if number % 2 else _damaged_fields(json.loads(good), rng)
        file.write_bytes(json.dumps(annotation()).encode() + b"\n" + line + b"\n")
        try:
            rows = read_annotations(file)
        except AnnotationError as error:
            messages.append(str(error))
        else:
            num_read += 1
            assert all(set(row) - {"saliency_source"} == FIELDS for row in rows)
            assert all(0 <= start < end <= row["duration"] for row in rows for start, end in row["relevant_windows"])
    assert len(messages) > 500
    assert num_read > 50
    assert not [message for message in messages if not re.match(r"highlight_val_release\.jsonl:[23]: .+$", message)]
    assert not [message for message in messages if "\n" in message or len(message) > 500]


def _damaged_bytes(line: bytes, rng: random.Random) -> bytes:
    """Damage a line as a bad disk or editor does; a newline makes two of it."""
    damaged = bytearray(line)
    for _ in range(rng.randint(1, 2)):
        at, length = rng.randrange(len(damaged)), rng.randint(1, 20)
        piece = bytes(damaged[at : at + length])
        kind = rng.randrange(4)
        if kind == 0:
            damaged[at] = rng.randrange(256)
        elif kind == 1:
            del damaged[at : at + length]
        elif kind == 2:
            damaged[at:at] = piece
        else:
            damaged[at : at + length] = piece[::-1]
        if not damaged:
            damaged = bytearray(b"{")
    return bytes(damaged)


def _damaged_fields(row: dict, rng: random.Random) -> bytes:
    """Damage the values of a line that stays JSON."""
    values = [None, True, -1, 0, 1, 2**63, 1e308, 0.5, float("nan"), float("inf"), "", " ", "1", "\ud800", "x" * 10**4]
    values += [
        [],
        [[]],
        [[0, 0]],
        [[1, 2, 3]],
        [[2, 6], [2, 6]],
        [["a", "b"]],
        [[0, 10]],
        [[-0.0, 1e-300]],
        {},
        {"a": 1},
    ]
    for _ in range(rng.randint(1, 2)):
        names = list(row) or ["qid"]
        name = rng.choice(names)
        kind = rng.randrange(3)
        if kind == 0:
            row[name] = rng.choice(values)
        elif kind == 1 and rng.random() < 0.3:
            row.pop(name, None)
        else:
            other = rng.choice(names)
            row[name], row[other] = row.get(other), row.get(name)
    return json.dumps(row).encode()


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
