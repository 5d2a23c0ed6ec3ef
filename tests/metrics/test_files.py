"""Submission files as people have them, and one line for what is none."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
from pathlib import Path

import pytest

from hf_frameseg.metrics import read_ground_truth, read_submission

ROWS = [{"qid": 1, "text": "a é"}, {"qid": 2}, {"qid": 3}]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()


def read(data: bytes) -> tuple[list, list, list]:
    parsed = read_submission(io.BytesIO(data))
    return parsed.rows, parsed.line_numbers, [(found.line, found.code) for found in parsed.violations]


@pytest.mark.parametrize(
    ("data", "line_numbers"),
    [
        (LINES, [1, 2, 3]),
        (LINES.rstrip(), [1, 2, 3]),
        (b"\xef\xbb\xbf" + LINES, [1, 2, 3]),
        (b"\n  \n" + LINES.replace(b"\n", b"\r\n\r\n"), [3, 5, 7]),
        (gzip.compress(LINES), [1, 2, 3]),
        (json.dumps(ROWS).encode(), [1, 1, 1]),
        (json.dumps(ROWS, indent=2).encode(), [2, 6, 9]),
        (b"\n[\n" + b",\n".join(LINES.splitlines()) + b"]\n\n", [3, 4, 5]),
        (b"\n".join(json.dumps(row, indent=2).encode() for row in ROWS), [1, 5, 8]),
        (LINES.replace(b"\n", b" "), [1, 1, 1]),
    ],
)
def test_all_forms_give_the_same_rows(data: bytes, line_numbers: list[int]) -> None:
    assert read(data) == (ROWS, line_numbers, [])


@pytest.mark.parametrize(
    ("data", "qids", "violations"),
    [
        (b'{"qid": 1}\n{"qid": 2\n{"qid": 3}\n', [1, 3], [(2, "not-json")]),
        (b'{"qid": 1\n{"qid": 2}\n', [2], [(1, "not-json")]),
        (b'[1, 2]\n{"qid": 2}\n', [2], [(1, "not-an-object")]),
        (b'[{"qid": 1},\n7,\n{"qid": 3}]', [1, 3], [(2, "not-an-object")]),
        (b'[{"qid": 1},\n{"qid": 2},\n', [1, 2], [(3, "not-json")]),
        (b'[{"qid": 1}\n{"qid": 2}]\n', [1], [(2, "not-json")]),
        (b'[{"qid": 1}]\n]', [], [(1, "not-an-object"), (2, "not-json")]),
        (b'{"qid": 1}\n{"qid": "\xff"}\n', [1], [(2, "not-json")]),
        (b'{"qid": "\xff"}\n{"qid": 2}\n', [2], [(1, "not-json")]),
        (b'{"qid": ' + b"9" * 5000 + b'}\n{"qid": 2}\n', [2], [(1, "not-json")]),
        (b"[" * 100_000 + b'\n{"qid": 2}\n', [2], [(1, "not-json")]),
        (b"[]", [], []),
    ],
)
def test_what_is_wrong_in_a_line_is_a_violation(data: bytes, qids: list, violations: list) -> None:
    rows, _, found = read(data)
    assert [row["qid"] for row in rows] == qids
    assert found == violations


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty"),
        (b"  \n\n", "is empty"),
        (b"qid,start,end\n1,2,3\n", "is not JSON (it starts with 'qid,start,end')"),
        (b"PAR1\x00\x00{", r"is binary (it starts with b'PAR1\x00\x00{')"),
        ("﻿" + LINES.decode(), "is UTF-16"),
        (gzip.compress(LINES)[:-9], "is a damaged gzip file"),
        (gzip.compress(LINES)[:20] + b"damaged" + gzip.compress(LINES)[27:], "is a damaged gzip file"),
    ],
)
def test_what_is_no_such_file_is_one_line(data: bytes | str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "preds.jsonl"
    path.write_bytes(data.encode("utf-16") if isinstance(data, str) else data)
    with pytest.raises(ValueError, match="preds.jsonl is ") as caught:
        read_submission(path)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_folders_and_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError, match="is a folder; expected a text file with one JSON object per line"):
        read_submission(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no such file: .*gone; check the path"):
        read_submission(tmp_path / "gone")


def test_the_checksum_is_that_of_the_stored_file(tmp_path: Path) -> None:
    path = tmp_path / "preds.jsonl.gz"
    path.write_bytes(gzip.compress(LINES))
    assert read_submission(str(path)).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"qid": 1}\n{"qid": 2', "truth.jsonl, line 2: expected JSON"),
        ('{"qid": 1}\n{"query": "a"}', "line 2: expected an annotation with a qid, got none; add its qid"),
        ('{"qid": [1]}', "line 1: expected an annotation with a qid"),
        ('{"qid": 1, "pred_relevant_windows": []}', "got predictions .* swap submission and ground truth"),
        ("[]", "holds no annotation"),
    ],
)
def test_a_ground_truth_must_be_whole(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "truth.jsonl"
    path.write_text(text)
    with pytest.raises(ValueError, match=words):
        read_ground_truth(path)
