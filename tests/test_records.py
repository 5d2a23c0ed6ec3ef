"""Records in all the forms people have, and one line for what is none."""

from __future__ import annotations

import gzip
import io
import re
from pathlib import Path

import pytest

from hf_frameseg._text_file import read_text_file
from hf_frameseg.records import read_json_lines, read_records, write_json_lines


def rows_of(data: bytes) -> list[dict]:
    return read_records(read_text_file(io.BytesIO(data))).rows


@pytest.mark.parametrize("end", [b"\r", b"\n", b"\r\n"])
def test_every_line_end_ends_a_line(end: bytes) -> None:
    file = read_text_file(io.BytesIO(end.join([b'{"a": 1}', b"", b'{"a": 2}', b""])))
    assert [number for number, _ in file.lines()] == [1, 3]
    assert read_records(file).line_numbers == [1, 3]


def test_gzip_of_several_parts_is_read_as_one() -> None:
    assert rows_of(gzip.compress(b'{"a": 1}\n') + gzip.compress(b'{"a": 2}')) == [{"a": 1}, {"a": 2}]


def test_names_are_printed_as_text(tmp_path: Path) -> None:
    path = tmp_path / "a\x1b[2J\n0 errors"
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"a\\x1b\[2J\\n0 errors is not JSON") as caught:
        read_records(read_text_file(path))
    assert "\x1b" not in str(caught.value)


def test_json_lines_are_read_as_they_were_written(tmp_path: Path) -> None:
    rows = [{"qid": 1, "text": "a\u2028é\n"}, {"qid": 2, "score": 1 / 3}]
    path = tmp_path / "new" / "rows.jsonl"
    for ensure_ascii in (True, False):
        write_json_lines(path, iter(rows), ensure_ascii)
        assert path.read_bytes().isascii() == ensure_ascii
        assert path.read_text("utf-8").count("\n") == 2
        assert read_json_lines(path) == rows


def test_json_lines_appear_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write_json_lines(path, [{"a": 1}])
    with pytest.raises(TypeError):
        write_json_lines(path, [{"a": 2}, {"a": {3}}])
    assert read_json_lines(path) == [{"a": 1}]
    assert [file.name for file in tmp_path.iterdir()] == ["rows.jsonl"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"a": ', "not JSON (Expecting value at column 7); expected one object per line"),
        ("[1]", "expected one JSON object per line, got list"),
    ],
)
def test_a_damaged_line_of_json_lines_is_named(tmp_path: Path, line: str, reason: str) -> None:
    path = tmp_path / "rows\x1b.jsonl"
    path.write_text('{"a": 1}\n' + line + "\n")
    with pytest.raises(ValueError, match=rf"^{re.escape('rows' + chr(92) + 'x1b.jsonl:2: ' + reason)}$"):
        read_json_lines(path)
