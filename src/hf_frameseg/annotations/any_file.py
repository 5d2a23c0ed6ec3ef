"""Annotation files of every form that the field uses, read by one function.

| form | known by |
|---|---|
| a table of `video`, `query`, `windows` (see `datasets/moment_table.py`) | `.csv`, `.tsv`; or JSON rows |
| rows of `vid`, `query`, `relevant_windows`, with `relevant_clip_ids` and `saliency_scores` or without | JSON rows |
| Charades-STA, `VID START END##SENTENCE` | `##` in the first line |
| ActivityNet Captions, `{"v_...": {"duration": ..., "timestamps": ..., "sentences": ...}}` | its first value |

JSON rows may be lines, one list, or objects over several lines. Any file may be packed by gzip.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hf_frameseg._text import printable
from hf_frameseg.annotations.moment_rows import MomentEntry, RatingScale, last_window_ends, to_rows
from hf_frameseg.annotations.official_files import (
    ACTIVITYNET_FIELDS,
    activitynet_entries_of,
    charades_sta_entries_of,
    read_charades_lengths,
)
from hf_frameseg.annotations.qvhighlights import (
    RATING_FIELDS,
    AnnotationError,
    annotation_records,
    annotation_rows,
    open_annotations,
)
from hf_frameseg.records import TextFile
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
_LENGTH_FILES = "Charades_v1_*.csv*"


def read_annotation_file(
    path: str | Path,
    durations_seconds: Mapping[str, float] | None = None,
    on_bad_window: str | None = None,
    scale: RatingScale | None = None,
    need_durations: bool = True,
) -> list[dict[str, Any]]:
    """Read annotations of any of the forms above, and check every query.

    Args:
        path: The file. Beside one of Charades-STA the csv files of Charades are asked for the lengths of its videos.
        durations_seconds: vid -> length in seconds, for queries that do not say it; None if all of them have to.
        on_bad_window: "raise" refuses a window that is inverted, empty or not inside the video, "repair" mends it; None
            repairs the official files of Charades-STA and ActivityNet, which need it, and refuses in others.
        scale: How the clips were rated, if not from 0 to 4 in clips of 2 seconds.
        need_durations: Whether a query of unknown duration is an error; if not, its row has no `duration`.

    Returns:
        One dict per query with the seven fields of `read_annotations`, and `saliency_source` where the ratings are not
        those of QVHighlights' annotators.

    Raises:
        FileNotFoundError: If there is no such file.
        AnnotationError: If the file is empty or an entry is wrong; the message starts with its place.
    """
    file = open_annotations(path)
    form = _form(file)
    if form == "rows" and scale is durations_seconds is None and _has_official_fields(file):
        return annotation_rows(file, require_labels=True)
    entries = _ENTRIES[form](file)
    durations = dict(durations_seconds or {})
    if form == "charades-sta":
        durations = _charades_lengths(Path(path).parent) | durations
    rule = on_bad_window or ("repair" if form in ("charades-sta", "activitynet") else "raise")
    if need_durations:
        return to_rows(entries, path, durations, rule, scale)
    rows = to_rows(entries, path, last_window_ends(entries) | durations, rule, scale)  # checks them first
    known = {*durations, *(entry.vid for entry in entries if entry.duration_seconds is not None)}
    unknown = {"duration", *RATING_FIELDS, "saliency_source"}
    return [row if row["vid"] in known else {k: v for k, v in row.items() if k not in unknown} for row in rows]


def read_rated_clips(path: str | Path, scale: RatingScale) -> dict[int | str, dict[str, Any]]:
    """Read highlights without moments as they were rated, for scoring.

    Args:
        path: A file of rows or a table with `saliency`.
        scale: How the clips were rated.

    Returns:
        qid -> `vid`, `query` and `ratings` (C, A), of all complete clips, in the order of the file.

    Raises:
        FileNotFoundError: If there is no such file.
        AnnotationError: If an entry is wrong or has no ratings; the message starts with its place.
    """
    entries = annotation_entries(path)
    for entry in entries:
        if entry.clip_ratings is None:
            raise AnnotationError(f"{entry.where}: lacks saliency, the ratings of its clips; add them")
    rows = to_rows([replace(entry, windows=()) for entry in entries], path, scale=scale)  # none is left out
    rated = {}
    for row, entry in zip(rows, entries, strict=True):
        ratings = scale.read(entry.clip_ratings, row["duration"])
        rated[row["qid"]] = {"vid": row["vid"], "query": row["query"], "ratings": ratings}
    return rated


def annotation_entries(path: str | Path) -> list[MomentEntry]:
    """Read the queries of an annotation file, without looking at durations.

    Args:
        path: As in `read_annotation_file`.

    Returns:
        One entry per query.

    Raises:
        FileNotFoundError: If there is no such file.
        AnnotationError: If the file does not have one of the forms.
    """
    file = open_annotations(path)
    return _ENTRIES[_form(file)](file)


def is_official(path: str | Path) -> bool:
    """Tell whether a file has rows with the fields of QVHighlights, as the official evaluator reads them.

    Args:
        path: An annotation file.

    Returns:
        Whether it has; False for what cannot be read, which is told when it is.
    """
    try:
        file = open_annotations(path)
        return _form(file) == "rows" and _has_official_fields(file)
    except (ValueError, OSError):
        return False


def _form(file: TextFile) -> str:
    """Tell the forms apart."""
    suffix = Path(file.name.removesuffix(".gz")).suffix.lower()
    if suffix in TABLE_DELIMITERS:
        return "table"
    first = next(line for _, line in file.lines()).strip()
    if not first.startswith((b"{", b"[")) and b"##" in first:
        return "charades-sta"
    # Its keys are names of videos, so that only the first value tells.
    fields = "|".join(ACTIVITYNET_FIELDS)
    start = file.text.lstrip()[:4096]
    if re.match(rb'\{\s*("(?:[^"\\]|\\.)*"\s*:\s*\{\s*"(?:%b)"|\}\s*$)' % fields.encode(), start):
        return "activitynet"
    return "rows"


def _has_official_fields(file: TextFile) -> bool:
    """Tell the rows of QVHighlights from those of a table, by the first."""
    first = next(iter(annotation_records(file)))[1]
    return "video" not in first and "windows" not in first


def _row_entries(file: TextFile) -> list[MomentEntry]:
    """Read JSON rows."""
    return _entries(file, annotation_records(file))


def _table_entries(file: TextFile) -> list[MomentEntry]:
    """Read a CSV or TSV file."""
    return _entries(file, _table_lines(file))


_ENTRIES: dict[str, Callable[[TextFile], list[MomentEntry]]] = {
    "rows": _row_entries,
    "table": _table_entries,
    "charades-sta": charades_sta_entries_of,
    "activitynet": activitynet_entries_of,
}


def _charades_lengths(folder: Path) -> dict[str, float]:
    """Read the lengths of all videos of Charades whose csv files are there."""
    lengths: dict[str, float] = {}
    for path in sorted(folder.glob(_LENGTH_FILES)):
        lengths |= read_charades_lengths(path)
    return lengths


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


def _table_lines(file: TextFile) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield number and content of every line of a CSV or TSV file, numbers and JSON parsed."""
    try:
        text = file.text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise AnnotationError(
            f"{file.short_name}: not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8"
        ) from None
    delimiter = TABLE_DELIMITERS[Path(file.name.removesuffix(".gz")).suffix.lower()]
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
