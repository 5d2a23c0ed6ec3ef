"""Any set of annotations in one table: JSON lines, CSV or TSV with one query per line.

| column | meaning |
|---|---|
| `video` | name of the video file, with or without its suffix; folders before it do not count |
| `query` | the sentence |
| `windows` | `[[start, end], ...]` in seconds (in CSV: JSON); in its place, `start` and `end` for one window |
| `duration` | optional: length of the video in seconds |
| `qid` | optional, for all lines or none: whole number; else the lines are numbered from 0 |
| `saliency` | optional: for each 2-second clip of the video a rating from 0 to 4 or a list of three (in CSV: JSON) |

Other columns are left alone. An empty cell, or null, counts as not there.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets

from hf_frameseg.data.annotations import AnnotationError
from hf_frameseg.data.builder import FrameDatasetBuilder, load_split
from hf_frameseg.data.moment_rows import MomentEntry, last_window_ends, to_rows
from hf_frameseg.data.preparation import FrameDatasetConfig
from hf_frameseg.data.video import DEFAULT_NUM_FRAMES
from hf_frameseg.data.video_folder import VIDEO_SUFFIXES

TABLE_DELIMITERS = {".csv": ",", ".tsv": "\t"}
"""Delimiter of a text table by the file's suffix; every other file is read as JSON lines."""

_CELL_TYPES: dict[str, tuple[Callable[[str], Any], str]] = {
    "windows": (json.loads, "JSON such as [[2, 6]]"),
    "saliency": (json.loads, "JSON such as [0, 4, 4]"),
    "qid": (int, "a whole number"),
    **dict.fromkeys(("start", "end", "duration"), (float, "a number of seconds")),
}


def read_moment_table(
    path: str | Path, durations_seconds: Mapping[str, float] | None = None, on_bad_window: str = "raise"
) -> list[dict[str, Any]]:
    """Read a table of queries and check every line.

    Args:
        path: A `.csv`, `.tsv` or JSON-lines file with the columns listed at the top of this module.
        durations_seconds: Name of the video without its suffix -> length in seconds, for lines without `duration`.
        on_bad_window: "raise" refuses a window that is inverted, empty or not inside the video, "repair" mends it; see
            `data/moment_rows.py`.

    Returns:
        One dict per line with the seven fields of `read_annotations`, and `saliency_source`: "annotators" where the
        line has `saliency`, else "window": the ratings are made up.

    Raises:
        FileNotFoundError: If there is no such file.
        AnnotationError: If the file is empty or a line is wrong; the message starts with `file:line`.
    """
    return to_rows(moment_table_entries(path), path, durations_seconds, on_bad_window)


def moment_table_entries(path: str | Path) -> list[MomentEntry]:
    """Read the lines of a table, without looking at durations.

    Args:
        path: As in `read_moment_table`.

    Returns:
        One entry per line.

    Raises:
        FileNotFoundError: If there is no such file.
        AnnotationError: If a line does not have the format.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no annotation file at {path}; check the path")
    delimiter = TABLE_DELIMITERS.get(path.suffix.lower())
    lines = _json_lines(path) if delimiter is None else _table_lines(path, delimiter)
    entries: list[MomentEntry] = []
    for number, line in lines:
        where = f"{path.name}:{number}"
        try:
            entry = _entry(where, line)
        except ValueError as error:
            raise AnnotationError(f"{where}: {error}") from None
        if entries and (entry.qid is None) != (entries[0].qid is None):
            raise AnnotationError(f"{where}: expected a qid on every line or on none; number all queries, or drop it")
        entries.append(entry)
    return entries


def _entry(where: str, line: Mapping[str, Any]) -> MomentEntry:
    """Return one line's entry."""
    line = {name: value for name, value in line.items() if value not in (None, "")}
    if "windows" not in line and "start" in line and "end" in line:
        line["windows"] = [[line["start"], line["end"]]]
    if missing := [name for name in ("video", "query", "windows") if name not in line]:
        raise ValueError(f"lacks {', '.join(missing)}; every line needs video, query and windows (or start and end)")
    vid = line["video"]
    if isinstance(vid, str):
        vid = Path(vid).stem if Path(vid).suffix.lower() in VIDEO_SUFFIXES else Path(vid).name
    return MomentEntry(
        where, vid, line["query"], line["windows"], line.get("duration"), line.get("qid"), line.get("saliency")
    )


def _json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield number and content of every line of a JSON-lines file."""
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode("utf-8-sig"))
        except (ValueError, RecursionError) as error:
            raise AnnotationError(
                f"{path.name}:{number}: not JSON ({str(error)[:120]}); expected one object per line"
            ) from None
        if not isinstance(row, dict):
            raise AnnotationError(f"{path.name}:{number}: expected a JSON object, got {type(row).__name__}")
        yield number, row


def _table_lines(path: Path, delimiter: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield number and content of every line of a CSV or TSV file, numbers and JSON parsed."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise AnnotationError(
            f"{path.name}: not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8"
        ) from None
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for row in reader:
            if None in row or None in row.values():
                raise AnnotationError(
                    f"{path.name}:{reader.line_num}: expected {len(reader.fieldnames or ())} cells as in the first "
                    "line; put a cell with a delimiter into double quotes"
                )
            yield reader.line_num, {name: _cell(path, reader.line_num, name, cell) for name, cell in row.items()}
    except csv.Error as error:
        # Not `reader.line_num`, which counts up to the last good line.
        raise AnnotationError(
            f"{path.name}:{reader.reader.line_num}: not a table ({error}); check the quotes"
        ) from None


def _cell(path: Path, number: int, name: str, cell: str) -> Any:
    """Return a cell's value, a text unless the column holds something else."""
    if not cell.strip() or name not in _CELL_TYPES:
        return cell.strip()
    read, expected = _CELL_TYPES[name]
    try:
        return read(cell)
    except (ValueError, RecursionError):
        raise AnnotationError(f"{path.name}:{number}: expected {name} to be {expected}, got {cell!r:.80}") from None


@dataclass
class MomentTableConfig(FrameDatasetConfig):
    """Say what to prepare of a table; the other fields are those of `FrameDatasetConfig`.

    Args:
        table: The file.
        on_bad_window: "raise" or "repair", see `data/moment_rows.py`.
    """

    table: str | None = None
    on_bad_window: str = "raise"

    def __post_init__(self) -> None:
        """Look for the videos beside the table."""
        if self.table is None:
            raise ValueError("table is missing; pass the file that holds the queries")
        if self.data_dir is None:
            self.data_dir = str(Path(self.table).parent)
        super().__post_init__()

    def split_names(self) -> tuple[str, ...]:
        """Return one name; a table does not know which split it is."""
        return ("train",)

    def read_split(self, split: str) -> list[dict[str, Any]]:
        """Read the table, and ask the videos for durations that it does not state."""
        entries = moment_table_entries(self.table)
        ends = last_window_ends(entry for entry in entries if entry.duration_seconds is None)
        durations = {**ends, **self.file_durations(list(ends))} if ends else {}
        return to_rows(entries, self.table, durations, self.on_bad_window)


class MomentTable(FrameDatasetBuilder):
    """Decode the videos of a table of queries into rows; used like `QVHighlights`."""

    BUILDER_CONFIG_CLASS = MomentTableConfig


def load_moments(
    table: str | Path,
    video_dir: str | Path | None = None,
    split: str = "train",
    num_frames: int = DEFAULT_NUM_FRAMES,
    frame_size: int | None = None,
    frame_format: str = "jpeg",
    cache_dir: str | Path | None = None,
    num_proc: int | None = None,
    **options: Any,
) -> datasets.Dataset:
    """Load any table of queries, decoding its videos the first time only.

    Args:
        table: A `.csv`, `.tsv` or JSON-lines file with the columns listed at the top of this module.
        video_dir: Folder of the videos, nested or not; None takes `videos` beside the table.
        split: Name for the result.
        num_frames: Frames F per video.
        frame_size: Side of the square the frames are squashed to, in pixels; None keeps the native size.
        frame_format: "jpeg" (quality 95) or "raw" (uint8, for small frames).
        cache_dir: Where prepared data is kept; None takes the cache of `datasets`.
        num_proc: Processes that decode.
        **options: Other fields of `MomentTableConfig`, such as on_error or on_bad_window.

    Returns:
        A data set with the columns listed in `hf_frameseg.data.builder`, in the order of the table. Where
        `saliency_source` is "window" the ratings are made up, and highlight scores mean nothing.

    Raises:
        FileNotFoundError: If the table, the video folder or (with `on_error="raise"`) a video is not there.
        AnnotationError: If a line is wrong; the message names file and line.
        VideoReadError: If (with `on_error="raise"`) a video cannot be read.
        ValueError: If an argument is out of range.
    """
    builder = MomentTable(
        cache_dir=None if cache_dir is None else str(cache_dir),
        table=str(table),
        video_dir=None if video_dir is None else str(video_dir),
        splits=(split,),
        num_frames=num_frames,
        frame_size=frame_size,
        frame_format=frame_format,
        **options,
    )
    return load_split(builder, split, num_proc)
