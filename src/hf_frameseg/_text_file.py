"""Text files of others as people have them: gzip, a byte order mark, any line ends, up to a size.

A file that holds no text (a folder, a pipe, a damaged archive, gigabytes) raises one `ValueError` or `OSError`, which
names the file and the repair. What the text means is left to `records.py` and to the readers of other formats.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from hf_frameseg._text import printable

MAX_FILE_BYTES = 256 * 2**20
"""Largest file that is read, unpacked: about the size of 100,000 queries with ten windows and 75 saliency scores."""

EXPECTED = "expected a text file with one JSON object per line"

_GZIP_MAGIC = b"\x1f\x8b"
_BOM = b"\xef\xbb\xbf"
_WIDE_BOMS = (b"\xff\xfe", b"\xfe\xff")
_SAMPLE_BYTES = 8192
_TOO_LARGE = f"more than {MAX_FILE_BYTES // 2**20} MB of text; name another file, or split it"


@dataclass(frozen=True)
class TextFile:
    r"""Hold a file that was read.

    Args:
        name: Its path, or what a stream calls itself, fit to be printed.
        text: Content, unpacked, without a byte order mark; every line ends in `\n`.
        sha256: Checksum of the file as it is stored.
    """

    name: str
    text: bytes
    sha256: str

    @property
    def short_name(self) -> str:
        """Return the name without its folder."""
        return Path(self.name).name

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """Yield the lines that are not blank with their numbers, counted from 1."""
        for number, line in enumerate(self.text.split(b"\n"), start=1):
            if line.strip():
                yield number, line


def read_text_file(
    source: str | Path | BinaryIO, expected: str = EXPECTED, sample_bytes: int = _SAMPLE_BYTES
) -> TextFile:
    r"""Read and unpack a text file of any of the forms above; nothing is parsed.

    Args:
        source: Path, or a binary stream such as `sys.stdin.buffer`; plain or gzip (told by content, not by name).
        expected: What the file should have been, for messages.
        sample_bytes: How many bytes at the start are searched for a null byte, the sign of a binary file. A later null
            byte is left to the reader of lines, which names the line.

    Returns:
        Its content.

    Raises:
        OSError: It is not there, cannot be read, or is a folder, a pipe or a device.
        ValueError: It is empty, damaged, too large, binary or UTF-16; the message names file and repair.

    Example:
        >>> import io
        >>> read_text_file(io.BytesIO(b"a\r\nb\rc")).text
        b'a\nb\nc'
    """
    name, data = _read(source, expected)
    text = _unpack(name, data).removeprefix(_BOM)
    if not text.strip():
        raise ValueError(f"{name} is empty; {expected}; write or copy it again")
    if text.startswith(_WIDE_BOMS):
        raise ValueError(f"{name} is UTF-16; {expected} in UTF-8; save it as UTF-8")
    if b"\0" in text[:sample_bytes]:
        raise ValueError(f"{name} is binary (it starts with {text[:8]!r}); {expected}; name another file")
    # A carriage return alone ends a line too (old Macs); JSON has none inside of a text.
    text = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return TextFile(name, text, hashlib.sha256(data).hexdigest())


def _read(source: str | Path | BinaryIO, expected: str) -> tuple[str, bytes]:
    """Read everything up to the limit; returns a name for messages too."""
    if not isinstance(source, (str, Path)):
        name = printable(getattr(source, "name", "the input"))
        data = source.read(MAX_FILE_BYTES + 1)
    else:
        path, name = Path(source), printable(source)
        if path.is_dir():
            raise IsADirectoryError(f"{name} is a folder; {expected}; name the file inside it")
        try:
            if path.exists() and not path.is_file():
                raise OSError(f"{name} is a pipe or a device; {expected}; name a file")
            with path.open("rb") as file:
                data = file.read(MAX_FILE_BYTES + 1)
        except FileNotFoundError:
            raise FileNotFoundError(f"no such file: {name}; check the path") from None
        except OSError as error:
            if error.errno is None:
                raise
            raise OSError(f"cannot read {name} ({error.strerror}); {expected}; check the path") from error
    if len(data) > MAX_FILE_BYTES:
        raise ValueError(f"{name} has {_TOO_LARGE}")
    return name, data


def _unpack(name: str, data: bytes) -> bytes:
    """Decompress gzip, whatever the name says, up to the limit: a small file can hold gigabytes."""
    if not data.startswith(_GZIP_MAGIC):
        return data
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            text = file.read(MAX_FILE_BYTES + 1)
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{name} is a damaged gzip file ({error}); copy or download it again") from error
    if len(text) > MAX_FILE_BYTES:
        raise ValueError(f"{name} has {_TOO_LARGE}")
    return text
