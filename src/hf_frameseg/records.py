"""Records in text files: JSON lines, one JSON list, or objects over several lines.

Submissions, annotations, tables and frames files are read here, so that the same forms are accepted and refused
everywhere. A line that is no record comes back as a `Fault` with its place.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hf_frameseg._files import atomic_write
from hf_frameseg._text import printable
from hf_frameseg._text_file import EXPECTED, TextFile, read_text_file

MAX_DEPTH = 32
"""Deepest nesting of lists and objects in a row; a submission has three levels."""

_SPACE = re.compile(r"[ \t\r\n]*")


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
