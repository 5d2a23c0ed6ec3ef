"""The annotation files of QVHighlights, and of any folder of its shape.

    data_dir/
      highlight_train_release.jsonl   highlight_val_release.jsonl   highlight_test_release.jsonl

The public test labels come as `highlight_test_with_gt.jsonl`, which is preferred over the file without labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_frameseg._text import printable
from hf_frameseg._text_file import TextFile
from hf_frameseg.annotations.files import SplitFiles, json_objects, open_annotations
from hf_frameseg.annotations.ratings import rate_by_windows
from hf_frameseg.annotations.schema import (
    LABEL_FIELDS,
    QUERY_FIELDS,
    RATING_FIELDS,
    AnnotationError,
    check_duration,
    check_qid,
    check_ratings,
    check_text,
    check_windows,
)
from hf_frameseg.targets import WINDOW_SALIENCY

QVHIGHLIGHTS_FILES: SplitFiles = {
    "train": ("highlight_train_release.jsonl",),
    "val": ("highlight_val_release.jsonl",),
    "test": ("highlight_test_with_gt.jsonl", "highlight_test_release.jsonl"),
}
"""File names of each split, the preferred one first."""


def read_annotations(path: str | Path | TextFile, require_labels: bool = True) -> list[dict[str, Any]]:
    """Read a QVHighlights annotation file and check every line.

    Args:
        path: A file of JSON objects (lines or one list, plain or gzip) with the official fields: `qid`, `query`,
            `duration` (seconds), `vid`, and the labels `relevant_windows` (`[[start, end], ...]` in seconds),
            `relevant_clip_ids` (2-second clips) and `saliency_scores` (three annotators, 0 to 4, for each relevant
            clip). The last two may be missing, as in the files of other data sets: the clips in the windows are then
            rated 4, and `saliency_source` says "window".
        require_labels: Whether a line without labels is an error; if not, its labels are empty lists.

    Returns:
        One dict per line, in file order, with exactly the seven official fields, and `saliency_source` where the
        ratings are made up.

    Raises:
        FileNotFoundError: If there is no such file.
        AnnotationError: If the file is empty or a line is wrong; the message starts with `file:line`.
    """
    file = open_annotations(path)
    rows: list[dict[str, Any]] = []
    seen: dict[int | str, int] = {}
    durations: dict[str, float] = {}
    for number, raw in json_objects(file):
        try:
            row = _checked_row(raw, require_labels)
            check_qid(row["qid"], next(iter(seen), None))
            if row["qid"] in seen:
                raise ValueError(f"qid {row['qid']} is also on line {seen[row['qid']]}; every query needs its own qid")
            if durations.setdefault(row["vid"], row["duration"]) != row["duration"]:
                raise ValueError(
                    f"vid {row['vid']} lasts {row['duration']:g} s here and {durations[row['vid']]:g} s on an earlier "
                    "line; correct one of them"
                )
        except ValueError as error:
            raise AnnotationError(printable(f"{file.short_name}:{number}: {error}")) from None
        seen[row["qid"]] = number
        rows.append(row)
    return rows


def _checked_row(raw: Mapping[str, Any], require_labels: bool) -> dict[str, Any]:
    """Return one checked annotation."""
    raw = {name: value for name, value in raw.items() if value is not None or name not in LABEL_FIELDS}
    labelled = require_labels or any(name in raw for name in LABEL_FIELDS)
    # Moments without ratings are what other data sets have; half a set of ratings is a mistake.
    rated = any(name in raw for name in RATING_FIELDS) or "relevant_windows" not in raw
    needed = () if not labelled else LABEL_FIELDS if rated else LABEL_FIELDS[:1]
    missing = [name for name in (*QUERY_FIELDS, *needed) if name not in raw]
    if missing:
        raise ValueError(f"lacks {', '.join(missing)}; every line needs all of them")
    check_qid(raw["qid"])
    for name in ("query", "vid"):
        check_text(name, raw[name])
    check_duration(raw["duration"])
    query = {name: raw[name] for name in QUERY_FIELDS}
    if not labelled:
        return {**query, **{name: [] for name in LABEL_FIELDS}}
    windows = raw["relevant_windows"]
    check_windows(windows, raw["duration"])
    if rated:
        check_ratings(raw["relevant_clip_ids"], raw["saliency_scores"], raw["duration"])
        return {**query, **{name: raw[name] for name in LABEL_FIELDS}}
    labels = zip(LABEL_FIELDS, (windows, *rate_by_windows(windows, raw["duration"])), strict=True)
    return {**query, **dict(labels), "saliency_source": WINDOW_SALIENCY}
