"""Text files of records as people have them: JSON lines, one JSON list, objects over several lines, gzip, a BOM.

Submissions, annotations, tables and frames files are read here, so that the same forms are accepted and refused
everywhere. A file that cannot hold records (a folder, a pipe, a damaged archive, gigabytes) raises one `ValueError` or
`OSError`. A line that is no record comes back as a `Fault` with its place.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from hf_frameseg._files import atomic_write
from hf_frameseg._text import printable

MAX_FILE_BYTES = 256 * 2**20
"""Largest file that is read, unpacked: about the size of 100,000 queries with ten windows and 75 saliency scores."""

MAX_DEPTH = 32
"""Deepest nesting of lists and objects in a row; a submission has three levels."""

EXPECTED = "expected a text file with one JSON object per line"

_GZIP_MAGIC = b"\x1f\x8b"
_BOM = b"\xef\xbb\xbf"
_WIDE_BOMS = (b"\xff\xfe", b"\xfe\xff")
_SPACE = re.compile(r"[ \t\r\n]*")
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


@dataclass(frozen=True)
class Fault:
    """Say what is wrong with one value of a file.

    Args:
        line: Line in which it starts, counted from 1.
        reason: What came in its place, for a sentence that starts with "expected JSON, got".
        value: The value, if it is JSON but no object.
        is_json: Whether it is JSON.
    """

    line: int
    reason: str
    value: Any = None
    is_json: bool = False


@dataclass(frozen=True)
class Records:
    """Hold the objects of a file with their places.

    Args:
        rows: The objects.
        line_numbers: Line in which each starts, counted from 1.
        faults: What is no object.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    line_numbers: list[int] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)

    def add(self, line: int, value: Any) -> None:
        """Add a JSON value, as a row or as a fault."""
        if _is_deep(value):
            self.faults.append(Fault(line, f"lists in lists, more than {MAX_DEPTH} deep"))
        elif isinstance(value, dict):
            self.rows.append(value)
            self.line_numbers.append(line)
        else:
            self.faults.append(Fault(line, "", value, is_json=True))


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


def read_records(file: TextFile) -> Records:
    """Read the JSON objects of a file; whatever else is in it becomes a fault, and reading goes on.

    Args:
        file: What `read_text_file` returned.

    Returns:
        The rows with their lines, and the faults.

    Raises:
        ValueError: The file contains no JSON; the message names file and repair.
    """
    if not re.search(rb"^[ \t]*[\[{]", file.text, re.MULTILINE):
        first = printable(file.text.lstrip()[:60].split(b"\n")[0].decode("utf-8", "replace").strip())
        raise ValueError(f"{file.name} is not JSON (it starts with {first!r}); {EXPECTED}; write it with json.dumps")
    return _parse(file)


def objects_of(file: TextFile) -> list[tuple[int, dict[str, Any]]]:
    """Read the JSON objects of a file in which everything has to be one.

    Args:
        file: What `read_text_file` returned.

    Returns:
        Line, counted from 1, and object.

    Raises:
        ValueError: Something else is in the file; the message starts with file and line, both fit to be printed.
    """
    records = read_records(file)
    for fault in records.faults:
        where = f"{file.short_name}:{fault.line}"
        if fault.is_json:
            raise ValueError(f"{where}: expected one JSON object per line, got {type(fault.value).__name__}")
        raise ValueError(f"{where}: not JSON ({fault.reason}); expected one object per line")
    return list(zip(records.line_numbers, records.rows, strict=True))


def read_json_lines(path: str | Path) -> list[dict[str, Any]]:
    """Read a file that `write_json_lines` wrote.

    Args:
        path: The file.

    Returns:
        Its rows.

    Raises:
        OSError: If it is not there or cannot be read.
        ValueError: If it is damaged; the message names file and line.
    """
    return [row for _, row in objects_of(read_text_file(path))]


def write_json_lines(path: str | Path, rows: Iterable[Mapping[str, Any]], ensure_ascii: bool = True) -> None:
    """Write one JSON object per line, the file whole or not at all.

    Args:
        path: The file; an old one is replaced when the new one is complete.
        rows: The objects.
        ensure_ascii: Whether letters beyond ASCII are written as escapes.

    Raises:
        OSError: If it cannot be written; the message names the path.
    """
    atomic_write(path, "".join(json.dumps(row, ensure_ascii=ensure_ascii) + "\n" for row in rows))


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


def _is_deep(value: Any) -> bool:
    """Tell whether a value is nested so deeply that even showing it would end in a RecursionError."""
    level = [value] if isinstance(value, (dict, list)) else []
    for _ in range(MAX_DEPTH):
        inner = (part for outer in level for part in (outer.values() if isinstance(outer, dict) else outer))
        level = [part for part in inner if isinstance(part, (dict, list))]
        if not level:
            return False
    return True


def _parse(file: TextFile) -> Records:
    """Tell the three forms apart: lines, one list, objects over several lines."""
    lines = list(file.lines())
    first = lines[0][1]
    is_list = first.lstrip().startswith(b"[")
    if _is_json(first) and not (is_list and len(lines) == 1):
        return _records_of_lines(lines)
    try:
        found = _parse_values(file.text.decode("utf-8"), is_list)
    except UnicodeDecodeError:
        return _records_of_lines(lines)  # says in which line
    # Faults of single lines say more than the first fault of the whole text, except in a list that breaks off.
    return found if not found.faults or (is_list and found.rows) else _records_of_lines(lines)


def _records_of_lines(lines: Iterable[tuple[int, bytes]]) -> Records:
    """Read lines that hold one JSON object each."""
    records = Records()
    for number, line in lines:
        try:
            records.add(number, json.loads(line))
        except (ValueError, RecursionError) as error:
            records.faults.append(_not_json(error, number))
    return records


def _is_json(line: bytes) -> bool:
    """Tell whether a line is a JSON value by itself."""
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _parse_values(text: str, is_list: bool) -> Records:
    """Collect the objects of a text, up to the first fault."""
    records = Records()
    line = 1
    try:
        for line, value in _values(text, is_list):
            records.add(line, value)
    except (ValueError, RecursionError) as error:
        records.faults.append(_not_json(error, getattr(error, "lineno", line)))
    return records


def _values(text: str, is_list: bool) -> Iterator[tuple[int, Any]]:
    """Yield the JSON values of a list, or of a text that holds one value after the other, with their first lines."""
    decode = json.JSONDecoder().raw_decode
    at, line, counted = _SPACE.match(text).end(), 1, 0
    if is_list:
        at = _SPACE.match(text, at + 1).end()
        if text[at : at + 1] == "]":
            return
    while at < len(text):
        line, counted = line + text.count("\n", counted, at), at
        value, at = decode(text, at)
        yield line, value
        at = _SPACE.match(text, at).end()
        if is_list:
            if text[at : at + 1] == "]" and not text[at + 1 :].strip():
                return
            if text[at : at + 1] != ",":
                raise json.JSONDecodeError("Expecting ',' delimiter", text, at)
            at = _SPACE.match(text, at + 1).end()
    if is_list:
        raise json.JSONDecodeError("Expecting value", text, at)


def _not_json(error: Exception, line: int) -> Fault:
    """Describe text that the JSON reader refused."""
    where = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
    return Fault(line, printable(where)[:120])
