"""Queries in a table: JSON lines, CSV or TSV with one query per line.

| column | meaning |
|---|---|
| `video` | name of the video file, with or without its suffix; folders before it do not count. Or `vid`, as it is |
| `query` | the sentence |
| `windows`, `relevant_windows` | `[[start, end], ...]` in seconds (in CSV: JSON); or `start` and `end` for one window |
| `duration` | optional: length of the video in seconds |
| `qid` | optional, for all lines or none: all whole numbers or all texts; else the lines are numbered from 0 |
| `saliency` | optional: for each 2-second clip of the video a rating from 0 to 4 or a list of three (in CSV: JSON) |
| `relevant_clip_ids`, `saliency_scores` | optional, in place of `saliency`: as QVHighlights has them |

Other columns are ignored. An empty cell, or null, is the same as a missing one. With a `RatingScale` the ratings may be
on another scale, for clips of another length, by any number of people, and `windows` may be missing: TVSum, YouTube
Highlights.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_frameseg._text import printable
from hf_frameseg._text_file import TextFile
from hf_frameseg.annotations.entries import MomentEntry
from hf_frameseg.annotations.files import json_objects, open_annotations
from hf_frameseg.annotations.schema import RATING_FIELDS, AnnotationError
from hf_frameseg.video.file import VIDEO_SUFFIXES

TABLE_DELIMITERS = {".csv": ",", ".tsv": "\t"}
"""Delimiter of a text table by the file's suffix; every other file is told by its content."""

_CELL_TYPES: dict[str, tuple[Callable[[str], Any], str]] = {
    **dict.fromkeys(("windows", "relevant_windows"), (json.loads, "JSON such as [[2, 6]]")),
    "saliency": (json.loads, "JSON such as [0, 4, 4]"),
    "relevant_clip_ids": (json.loads, "JSON such as [1, 2]"),
    "saliency_scores": (json.loads, "JSON such as [[4, 4, 3]]"),
    **dict.fromkeys(("start", "end", "duration"), (float, "a number of seconds")),
}


def delimiter_of(name: str) -> str | None:
    """Return the delimiter of a text table.

    Args:
        name: Name of a file, packed or not.

    Returns:
        What stands between its cells; None for a file that is no text table by its suffix.
    """
    return TABLE_DELIMITERS.get(Path(name.removesuffix(".gz")).suffix.lower())


def table_entries(path: str | Path | TextFile) -> list[MomentEntry]:
    """Read the lines of a table, without looking at durations.

    Args:
        path: The file, or the file when it is read already: text with a delimiter by its suffix, else JSON.

    Returns:
        One entry per line.

    Raises:
        FileNotFoundError: If there is no such file.
        AnnotationError: If a line does not have the format; the message starts with `file:line`.
    """
    file = open_annotations(path)
    return _entries(file, json_objects(file) if delimiter_of(file.name) is None else _text_lines(file))


def _entries(file: TextFile, lines: Iterable[tuple[int, Mapping[str, Any]]]) -> list[MomentEntry]:
    """Return one entry per line."""
    entries: list[MomentEntry] = []
    for number, line in lines:
        where = f"{file.short_name}:{number}"
        try:
            entry = _entry(where, line)
        except ValueError as error:
            raise AnnotationError(printable(f"{where}: {error}")) from None
        if entries and (entry.qid is None) != (entries[0].qid is None):
            raise AnnotationError(f"{where}: expected a qid on every line or on none; number all queries, or drop it")
        entries.append(entry)
    return entries


def _entry(where: str, line: Mapping[str, Any]) -> MomentEntry:
    """Return one line's entry."""
    line = {name: value for name, value in line.items() if value not in (None, "")}
    windows = _one_of(line, "windows", "relevant_windows")
    if windows is None and "start" in line and "end" in line:
        windows = [[line["start"], line["end"]]]
    vid, rated = _one_of(line, "video", "vid"), all(name in line for name in RATING_FIELDS)
    found = {"video": vid, "query": line.get("query"), "windows": () if "saliency" in line else windows}
    if missing := [name for name, value in found.items() if value is None]:
        raise ValueError(f"lacks {', '.join(missing)}; every line needs video, query and windows (or start and end)")
    if not rated and any(name in line for name in RATING_FIELDS):
        raise ValueError(f"lacks one of {' and '.join(RATING_FIELDS)}; write both or none")
    if "video" in line and isinstance(vid, str):
        vid = Path(vid).stem if Path(vid).suffix.lower() in VIDEO_SUFFIXES else Path(vid).name
    return MomentEntry(
        where,
        vid,
        line["query"],
        () if windows is None else windows,
        line.get("duration"),
        line.get("qid"),
        line.get("saliency"),
        tuple(line[name] for name in RATING_FIELDS) if rated else None,
    )


def _one_of(line: Mapping[str, Any], name: str, other: str) -> Any:
    """Return the value of a field that has two names, None if it has none."""
    if name in line and other in line and line[name] != line[other]:
        raise ValueError(f"expected {name} or {other}, got two that differ; leave one of them out")
    return line.get(name, line.get(other))


def _text_lines(file: TextFile) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield number and content of every line of a CSV or TSV file, numbers and JSON parsed."""
    try:
        text = file.text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise AnnotationError(
            f"{file.short_name}: not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8"
        ) from None
    delimiter = delimiter_of(file.name)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    lines: list[tuple[int, dict[str, str]]] = []
    try:
        _check_columns(f"{file.short_name}:1", reader.fieldnames or (), delimiter)
        for row in reader:
            if None in row or None in row.values():
                raise AnnotationError(
                    f"{file.short_name}:{reader.line_num}: expected {len(reader.fieldnames or ())} cells as in the "
                    "first line; put a cell with a delimiter into double quotes"
                )
            lines.append((reader.line_num, row))
    except csv.Error as error:
        # Not `reader.line_num`, which counts up to the last good line.
        raise AnnotationError(
            f"{file.short_name}:{reader.reader.line_num}: not a table ({error}); check the quotes"
        ) from None
    # A table says nothing of types: ids are numbers if all of them look so.
    whole = all(re.fullmatch(r"\s*[+-]?\d*\s*", row.get("qid", ""), re.ASCII) for _, row in lines)
    types = {**_CELL_TYPES, "qid": (int, "a whole number")} if whole else _CELL_TYPES
    for number, row in lines:
        where = f"{file.short_name}:{number}"
        yield number, {name: _cell(where, name, cell, types) for name, cell in row.items()}


def _check_columns(where: str, names: Sequence[str], delimiter: str) -> None:
    """Refuse a first line that does not name columns, each once: of two of one name only the last would be read."""
    if len(names) == 1:
        raise AnnotationError(
            printable(
                f"{where}: expected columns between {delimiter!r}, got {names[0]!r:.80}; save it with {delimiter!r}"
            )
        )
    for name in names:
        if names.count(name) > 1:
            raise AnnotationError(
                printable(f"{where}: expected every column once, got {name!r:.80} twice; rename or remove one of them")
            )


def _cell(where: str, name: str, cell: str, types: Mapping[str, tuple[Callable[[str], Any], str]]) -> Any:
    """Return a cell's value, a text unless the column holds something else."""
    if not cell.strip() or name not in types:
        return cell.strip()
    read, expected = types[name]
    try:
        return read(cell)
    except (ValueError, RecursionError):
        raise AnnotationError(printable(f"{where}: expected {name} to be {expected}, got {cell!r:.80}")) from None
