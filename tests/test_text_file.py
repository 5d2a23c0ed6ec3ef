"""Text files in all the forms people have, and one line for what is none."""

from __future__ import annotations

import gzip
import io
import os
import zlib
from pathlib import Path

import pytest

from hf_frameseg import _text_file
from hf_frameseg._text_file import read_text_file


def test_gzip_of_several_parts_is_read_as_one() -> None:
    packed = gzip.compress(b'{"a": 1}\n') + gzip.compress(b'{"a": 2}')
    assert read_text_file(io.BytesIO(packed)).text == b'{"a": 1}\n{"a": 2}'


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_text_file, "MAX_FILE_BYTES", 2**20)
    packer = zlib.compressobj(9, wbits=31)
    path = tmp_path / "bomb.jsonl.gz"
    path.write_bytes(b"".join(packer.compress(b" " * 2**20) for _ in range(64)) + packer.flush())  # 64 MB in 64 KB
    asked: list[int] = []
    original = gzip.GzipFile.read

    def spy(file: gzip.GzipFile, size: int = -1) -> bytes:
        asked.append(size)
        return original(file, size)

    monkeypatch.setattr(gzip.GzipFile, "read", spy)
    with pytest.raises(ValueError, match=r"bomb.jsonl.gz has more than \d+ MB of text; name another file, or split it"):
        read_text_file(path)
    assert asked == [2**20 + 1]


def test_a_large_file_and_a_large_stream_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_text_file, "MAX_FILE_BYTES", 10)
    path = tmp_path / "large.jsonl"
    path.write_bytes(b'{"qid": 1}\n')
    for source in (path, io.BytesIO(path.read_bytes())):
        with pytest.raises(ValueError, match="MB of text"):
            read_text_file(source)


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), Path("/dev/null")):
        with pytest.raises(OSError, match="is a pipe or a device; .*; name a file"):
            read_text_file(path)


def test_links_in_a_circle_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(OSError, match=r"^cannot read .*a \(Too many levels of symbolic links\); .*; check the path$"):
        read_text_file(tmp_path / "a")
