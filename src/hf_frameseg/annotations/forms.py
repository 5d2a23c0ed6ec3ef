"""Annotation files of every form that the field uses, read by one function that tells the form by the content.

| form | known by |
|---|---|
| a table, see `annotations/table.py` | `.csv`, `.tsv`; or JSON rows |
| rows of QVHighlights, with ratings or without | JSON rows of which the first has no `video` and no `windows` |
| Charades-STA, `VID START END##SENTENCE` | `##` in the first line |
| ActivityNet Captions, `{"v_...": {"duration": ..., "timestamps": ..., "sentences": ...}}` | its first value |

JSON rows may be lines, one list, or objects over several lines. Any file may be packed by gzip.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from hf_frameseg._text_file import TextFile
from hf_frameseg.annotations.activitynet import ACTIVITYNET_FIELDS, activitynet_entries
from hf_frameseg.annotations.charades_sta import CHARADES_LENGTH_FILES, charades_sta_entries, read_charades_lengths
from hf_frameseg.annotations.entries import MomentEntry, last_window_ends, to_rows
from hf_frameseg.annotations.files import find_file, json_objects, open_annotations
from hf_frameseg.annotations.qvhighlights import read_annotations
from hf_frameseg.annotations.ratings import RatingScale
from hf_frameseg.annotations.schema import RATING_FIELDS, AnnotationError
from hf_frameseg.annotations.table import delimiter_of, table_entries

FORMS: dict[str, Callable[[TextFile], list[MomentEntry]]] = {
    "rows": table_entries,
    "charades-sta": charades_sta_entries,
    "activitynet": activitynet_entries,
}
"""Form of a file -> reader of what it states of each query; JSON rows and text tables have one."""


def read_annotation_file(
    path: str | Path,
    durations_seconds: Mapping[str, float] | None = None,
    on_bad_window: str | None = None,
    scale: RatingScale | None = None,
    need_durations: bool = True,
) -> list[dict[str, Any]]:
    """Read annotations of any of the forms above, and check every query.

    Args:
        path: The file. The lengths of the videos of Charades-STA are taken from the csv files of Charades beside it.
        durations_seconds: vid -> length in seconds, for queries that do not state it; None if each has to state it.
        on_bad_window: "raise" refuses a window that is inverted, empty or not inside the video, "repair" mends it. None
            repairs windows of Charades-STA and ActivityNet, whose official files need it, and refuses those of others.
        scale: How the clips were rated, if not from 0 to 4 in clips of 2 seconds.
        need_durations: Whether a query of unknown duration is an error; if not, its row has no `duration`.

    Returns:
        One dict per query with the seven fields of `read_annotations`, and `saliency_source`; rows of QVHighlights that
        have all ratings are returned without it.

    Raises:
        FileNotFoundError: If there is no such file.
        AnnotationError: If the file is empty or an entry is wrong; the message starts with its place.
    """
    file = open_annotations(path)
    form = _form(file)
    if scale is None and durations_seconds is None and _is_qvhighlights(file, form):
        return read_annotations(file)
    entries = FORMS[form](file)
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
    return FORMS[_form(file)](file)


def is_official(path: str | Path) -> bool:
    """Tell whether a file has rows with the fields of QVHighlights, as the official evaluator reads them.

    Args:
        path: An annotation file.

    Returns:
        Whether it has; False for a file that cannot be read: whoever reads it says why.
    """
    try:
        file = open_annotations(path)
        return _is_qvhighlights(file, _form(file))
    except (ValueError, OSError):
        return False


def _form(file: TextFile) -> str:
    """Tell the forms apart."""
    if delimiter_of(file.name) is not None:
        return "rows"
    first = next(line for _, line in file.lines()).strip()
    if not first.startswith((b"{", b"[")) and b"##" in first:
        return "charades-sta"
    # Its keys are names of videos, so that only the first value tells.
    fields = "|".join(ACTIVITYNET_FIELDS)
    start = file.text.lstrip()[:4096]
    if re.match(rb'\{\s*("(?:[^"\\]|\\.)*"\s*:\s*\{\s*"(?:%b)"|\}\s*$)' % fields.encode(), start):
        return "activitynet"
    return "rows"


def _is_qvhighlights(file: TextFile, form: str) -> bool:
    """Tell the rows of QVHighlights from those of a table, by the first."""
    if form != "rows" or delimiter_of(file.name) is not None:
        return False
    _, first = json_objects(file)[0]
    return "video" not in first and "windows" not in first


def _charades_lengths(folder: Path) -> dict[str, float]:
    """Read the lengths of all videos of Charades whose csv files are there."""
    lengths: dict[str, float] = {}
    for name in CHARADES_LENGTH_FILES.values():
        if path := find_file(folder, name):
            lengths |= read_charades_lengths(path)
    return lengths
