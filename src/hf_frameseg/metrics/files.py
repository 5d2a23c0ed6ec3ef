"""Reading submission and annotation files as people have them: JSON lines, one JSON list, gzip, a byte order mark.

What cannot be such a file at all (a folder, a table, a damaged archive) is one `ValueError` or `OSError`; what is wrong
in single lines comes back as violations with their places.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import zlib
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from hf_frameseg.metrics._text import short
from hf_frameseg.metrics.validation import Violation

GZIP_MAGIC = b"\x1f\x8b"
BOM = b"\xef\xbb\xbf"
WIDE_BOMS = (b"\xff\xfe", b"\xfe\xff")

_EXPECTED = "expected a text file with one JSON object per line"
_SPACE = re.compile(r"[ \t\r\n]*")
_SAMPLE_BYTES = 8192


@dataclass(frozen=True)
class ParsedSubmission:
    """Hold the rows of a JSON Lines file with their places.

    Args:
        rows: The lines that are JSON objects.
        line_numbers: Line of each row, counted from 1.
        violations: The lines that are not.
        sha256: Checksum of the file as it is stored; empty if there was no file.
    """

    rows: list[dict[str, Any]]
    line_numbers: list[int]
    violations: list[Violation]
    sha256: str = ""


def read_submission(source: str | Path | BinaryIO) -> ParsedSubmission:
    r"""Read a submission file, collecting what is wrong in single lines.

    Args:
        source: Path, or a binary stream such as `sys.stdin.buffer`. One JSON object per line, or objects over several
            lines, or one list of them; plain or gzip (told by content, not by name).

    Returns:
        Rows, the line each starts in, violations, and the checksum of the file as it is stored.

    Raises:
        OSError: The file is not there or cannot be read.
        ValueError: It is empty, damaged, or no JSON at all; the message names the file and the repair.

    Example:
        >>> import io
        >>> read_submission(io.BytesIO(b'[\n{"qid": 1},\n{"qid": 2}\n]')).line_numbers
        [2, 3]
    """
    name, data = _read_bytes(source)
    text = _unpack(name, data).removeprefix(BOM)
    _check_is_text(name, text)
    return replace(_parse(text), sha256=hashlib.sha256(data).hexdigest())


def read_ground_truth(path: str | Path) -> ParsedSubmission:
    """Read an annotation file for scoring; its labels are checked when they are scored.

    Args:
        path: As `source` of `read_submission`.

    Returns:
        Rows, each with a qid, and what else `read_submission` gives; no violations.

    Raises:
        OSError: The file is not there or cannot be read.
        ValueError: It is no annotation file; the message names file, line and repair.
    """
    parsed = read_submission(path)
    name = Path(path).name
    for violation in parsed.violations:
        raise ValueError(f"{name}, line {violation.line}: {violation.message}; {violation.fix}")
    for line, row in zip(parsed.line_numbers, parsed.rows, strict=True):
        if not isinstance(row.get("qid"), Hashable) or row.get("qid") is None:
            raise ValueError(f"{name}, line {line}: expected an annotation with a qid, got none; add its qid")
        if "pred_relevant_windows" in row and "relevant_windows" not in row:
            raise ValueError(
                f"{name}, line {line}: expected annotations, got predictions (pred_relevant_windows); swap submission "
                "and ground truth"
            )
    if not parsed.rows:
        raise ValueError(f"{name} holds no annotation; {_EXPECTED}; download it again")
    return parsed


def parse_submission(lines: Iterable[str | bytes]) -> ParsedSubmission:
    """Read the lines of a submission file, collecting what is not a JSON object instead of stopping.

    Args:
        lines: Lines of a JSON Lines file; empty ones are skipped.

    Returns:
        Rows, their line numbers and the violations.

    Example:
        >>> parsed = parse_submission(['{"qid": 1}', "", "{'qid': 2}"])
        >>> parsed.rows, [violation.line for violation in parsed.violations]
        ([{'qid': 1}], [3])
    """
    parsed = ParsedSubmission([], [], [])
    for line, text in enumerate(lines, start=1):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except (ValueError, RecursionError) as error:
            parsed.violations.append(_not_json(error, line))
            continue
        if not isinstance(row, dict):
            parsed.violations.append(_not_an_object(row, line))
            continue
        parsed.rows.append(row)
        parsed.line_numbers.append(line)
    return parsed


def _read_bytes(source: str | Path | BinaryIO) -> tuple[str, bytes]:
    """Read everything; returns a name for messages too."""
    if not isinstance(source, (str, Path)):
        return str(getattr(source, "name", "the input")), source.read()
    path = Path(source)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; {_EXPECTED}; name the file inside it")
    try:
        return str(path), path.read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"no such file: {path}; check the path") from None


def _unpack(name: str, data: bytes) -> bytes:
    """Decompress gzip, whatever the name says."""
    if not data.startswith(GZIP_MAGIC):
        return data
    try:
        return gzip.decompress(data)
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{name} is a damaged gzip file ({error}); copy or download it again") from error


def _check_is_text(name: str, text: bytes) -> None:
    """Refuse what holds no JSON at all."""
    start = text.lstrip()[:60]
    if not start:
        raise ValueError(f"{name} is empty; {_EXPECTED}; write or copy it again")
    if text.startswith(WIDE_BOMS):
        raise ValueError(f"{name} is UTF-16; {_EXPECTED} in UTF-8; save it as UTF-8")
    if b"\0" in text[:_SAMPLE_BYTES]:
        raise ValueError(f"{name} is binary (it starts with {text[:8]!r}); {_EXPECTED}; write it with json.dumps")
    if not re.search(rb"^[ \t]*[\[{]", text, re.MULTILINE):
        first = start.split(b"\n")[0].decode("utf-8", "replace").strip()
        raise ValueError(f"{name} is not JSON (it starts with {first!r}); {_EXPECTED}; write it with json.dumps")


def _parse(data: bytes) -> ParsedSubmission:
    """Tell the three forms apart: lines, one list, objects over several lines."""
    lines = data.split(b"\n")
    filled = [line for line in lines if line.strip()]
    is_list = filled[0].lstrip().startswith(b"[")
    if _is_json(filled[0]) and not (is_list and len(filled) == 1):
        return parse_submission(lines)
    try:
        found = _parse_values(data.decode("utf-8"), is_list)
    except UnicodeDecodeError:
        return parse_submission(lines)  # says in which line
    # What cannot be read as a whole is better told line by line, unless a list broke off somewhere in it.
    return found if not found.violations or (is_list and found.rows) else parse_submission(lines)


def _is_json(line: bytes) -> bool:
    """Tell whether a line is a JSON value by itself."""
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _parse_values(text: str, is_list: bool) -> ParsedSubmission:
    """Collect the objects of a text, up to the first that is none."""
    parsed = ParsedSubmission([], [], [])
    line = 1
    try:
        for line, value in _values(text, is_list):
            if isinstance(value, dict):
                parsed.rows.append(value)
                parsed.line_numbers.append(line)
            else:
                parsed.violations.append(_not_an_object(value, line))
    except (ValueError, RecursionError) as error:
        parsed.violations.append(_not_json(error, getattr(error, "lineno", line)))
    return parsed


def _values(text: str, is_list: bool) -> Iterator[tuple[int, Any]]:
    """Yield the JSON values of a list, or those that stand one after the other, each with its first line."""
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


def _not_json(error: Exception, line: int) -> Violation:
    """Describe text that the JSON reader refused."""
    where = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
    return Violation(
        "not-json", f"expected JSON, got {where}", "write one JSON object per query (json.dumps)", line=line
    )


def _not_an_object(value: Any, line: int) -> Violation:
    """Describe a JSON value that is no row."""
    return Violation(
        "not-an-object", f"expected a JSON object, got {short(value)}", "write one object per query", line=line
    )
