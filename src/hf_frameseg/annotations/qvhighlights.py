"""The annotation files of QVHighlights, and of any folder of its shape.

    data_dir/
      highlight_train_release.jsonl   highlight_val_release.jsonl   highlight_test_release.jsonl

The public test labels come as `highlight_test_with_gt.jsonl`, which is preferred over the file without labels.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_frameseg._text import printable
from hf_frameseg.moments import (
    CLIP_SECONDS,
    MAX_RATING,
    MAX_VIDEO_SECONDS,
    NUM_ANNOTATORS,
    moments_from_windows,
    num_clips,
)
from hf_frameseg.records import TextFile, read_records, read_text_file

ANNOTATION_FILES: dict[str, tuple[str, ...]] = {
    "train": ("highlight_train_release.jsonl",),
    "val": ("highlight_val_release.jsonl",),
    "test": ("highlight_test_with_gt.jsonl", "highlight_test_release.jsonl"),
}
"""File names of each split, the preferred one first."""

QUERY_FIELDS = ("qid", "query", "duration", "vid")
LABEL_FIELDS = ("relevant_windows", "relevant_clip_ids", "saliency_scores")
RATING_FIELDS = LABEL_FIELDS[1:]

ANNOTATED_SALIENCY = "annotators"
"""`saliency_source` of rows with ratings made by people."""

WINDOW_SALIENCY = "window"
"""`saliency_source` of rows whose ratings the rule `window` made up."""

MIN_DURATION_SECONDS = 0.001
MAX_QID_CHARACTERS = 200
_MAGIC_BYTES = 64  # binary files are told by their start


class AnnotationError(ValueError):
    """Say in one line, with file and line number, what is wrong with an annotation."""


def read_annotations(path: str | Path, require_labels: bool = True) -> list[dict[str, Any]]:
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
    return annotation_rows(open_annotations(path), require_labels)


def annotation_rows(file: TextFile, require_labels: bool) -> list[dict[str, Any]]:
    """Do the work of `read_annotations` on a file that is read already."""
    rows: list[dict[str, Any]] = []
    seen: dict[int | str, int] = {}
    durations: dict[str, float] = {}
    for number, raw in annotation_records(file):
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


def open_annotations(path: str | Path) -> TextFile:
    """Read the text of an annotation file, of whatever form.

    Args:
        path: The file, plain or gzip.

    Returns:
        Its content.

    Raises:
        FileNotFoundError: If there is no such file.
        AnnotationError: If it is empty, damaged, too large, or no file of text.
    """
    if not os.path.lexists(path):
        raise FileNotFoundError(f"no annotation file at {printable(path)}; check the path")
    try:
        return read_text_file(path, "expected annotations", _MAGIC_BYTES)
    except ValueError as error:
        raise _named(path, error) from None


def _named(path: str | Path, error: ValueError) -> AnnotationError:
    """Return an error of the whole file that starts with its short name, as those of its lines do."""
    return AnnotationError(f"{printable(Path(path).name)}: {str(error).removeprefix(printable(path)).lstrip()}")


def annotation_records(file: TextFile) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the JSON objects of an annotation file with their lines.

    Args:
        file: The file: JSON lines, one list, or objects over several lines.

    Yields:
        Line, counted from 1, and object.

    Raises:
        AnnotationError: If something in it is no object, or there is none; the message starts with `file:line`.
    """
    try:
        records = read_records(file)
    except ValueError as error:
        raise _named(file.name, error) from None
    for fault in records.faults:
        where = f"{file.short_name}:{fault.line}"
        if fault.is_json:
            kind = type(fault.value).__name__
            raise AnnotationError(f"{where}: expected one JSON object per query, got {kind}")
        raise AnnotationError(f"{where}: not JSON ({fault.reason}); expected one object per line")
    if not records.rows:
        raise AnnotationError(f"{file.short_name}: expected at least one query, got none; download it again")
    yield from zip(records.line_numbers, records.rows, strict=True)


def find_annotations(data_dir: str | Path, split: str) -> Path:
    """Return the annotation file of a split.

    Args:
        data_dir: The folder.
        split: "train", "val" or "test".

    Returns:
        Path of an existing file.

    Raises:
        ValueError: If there is no such split.
        FileNotFoundError: If the folder or the file does not exist.
    """
    if split not in ANNOTATION_FILES:
        raise ValueError(f"expected split to be one of {list(ANNOTATION_FILES)}, got {split!r}")
    folder = Path(data_dir)
    if not folder.is_dir():
        raise FileNotFoundError(f"no such data folder: {folder}; pass the folder that holds the annotation files")
    for name in ANNOTATION_FILES[split]:
        if found := find_file(folder, name):
            return found
    raise FileNotFoundError(f"no annotations for {split} in {folder}; expected {' or '.join(ANNOTATION_FILES[split])}")


def window_clips(windows: Sequence[Sequence[float]], duration_seconds: float) -> list[int]:
    """List the clips that the rule `window` calls relevant.

    Args:
        windows: `[[start, end], ...]` in seconds, inside the video.
        duration_seconds: Length of the video; only complete 2-second clips count, and at least one.

    Returns:
        Clip ids, ascending.

    Example:
        >>> window_clips([[2.5, 6.0], [7.2, 7.8]], duration_seconds=9.5)  # clip centres 1, 3, 5, 7 s
        [1, 2, 3]
    """
    last = num_clips(duration_seconds) - 1
    relevant: set[int] = set()
    for start, end in windows:
        # Clip c has its centre at (c + 0.5) * CLIP_SECONDS; half-open as everywhere.
        first, stop = (math.ceil(side / CLIP_SECONDS - 0.5) for side in (start, end))
        inside = range(first, min(stop, last + 1))
        relevant.update(inside or [min(int((start + end) / 2 / CLIP_SECONDS), last)])
    return sorted(relevant)


def find_file(folder: str | Path, name: str) -> Path | None:
    """Return a file of a folder by its name, or the same packed by gzip.

    Args:
        folder: The folder.
        name: Name of the file, without `.gz`.

    Returns:
        Path of an existing file; None if there is none.
    """
    paths = (Path(folder) / name, Path(folder) / f"{name}.gz")
    return next((path for path in paths if path.is_file()), None)


def check_text(name: str, value: Any) -> None:
    """Refuse what cannot be a query or a vid.

    Args:
        name: What it is, for the message.
        value: The value.

    Raises:
        ValueError: If it is no text, is blank, or holds half a character (a lone surrogate), which no file can.
    """
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"expected {name} to be a non-empty text, got {value!r:.80}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"expected {name} to be a text of whole characters, got {value!a:.80}") from None


def check_qid(value: Any, other: Any = None) -> None:
    """Refuse what cannot be a query id, or is of another kind than the others of its file.

    Args:
        value: The value: a whole number, or a text such as `s34-d28_0`.
        other: A query id of the same file; None if there is none yet.

    Raises:
        ValueError: If it is neither a 64-bit integer nor a short text of whole characters, or `other` is of the other
            kind.
    """
    if isinstance(value, str):
        check_text("qid", value)
        if len(value) > MAX_QID_CHARACTERS:
            raise ValueError(f"expected qid to have up to {MAX_QID_CHARACTERS} characters, got {len(value)}")
    elif type(value) is not int or not -(2**63) <= value < 2**63:
        raise ValueError(f"expected qid to be a 64-bit integer or a text, got {value!r:.80}")
    if other is not None and isinstance(other, str) != isinstance(value, str):
        raise ValueError(
            f"expected qids of one kind, got {value!r:.80} after {other!r:.80}; write all of them as whole numbers, or "
            "all as texts"
        )


def qid_seed(qid: int | str) -> int:
    """Return the number from 0 to 2**64 - 1 that stands for a query wherever chance is drawn for it.

    Args:
        qid: Its id.

    Returns:
        The id itself modulo 2**64; of a text, the start of its checksum, the same in every process.

    Example:
        >>> qid_seed(7), qid_seed(-1) == 2**64 - 1, qid_seed("7") == qid_seed(7)
        (7, True, False)
    """
    if isinstance(qid, str):
        return int.from_bytes(hashlib.sha256(qid.encode()).digest()[:8], "big")
    return int(qid) % 2**64


def check_duration(value: Any) -> None:
    """Refuse what cannot be the duration of a video.

    Args:
        value: The value.

    Raises:
        ValueError: If it is no number, below a millisecond or above the limit of a video.
    """
    if not is_number(value) or not MIN_DURATION_SECONDS <= value <= MAX_VIDEO_SECONDS:
        raise ValueError(
            f"expected duration to be a number of seconds from {MIN_DURATION_SECONDS:g} to {MAX_VIDEO_SECONDS:g}, "
            f"got {value!r:.80}"
        )


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
    _check_query(raw)
    query = {name: raw[name] for name in QUERY_FIELDS}
    if not labelled:
        return {**query, **{name: [] for name in LABEL_FIELDS}}
    if not rated:
        return {**query, **_made_up_labels(raw)}
    _check_labels(raw)
    return {**query, **{name: raw[name] for name in LABEL_FIELDS}}


def _made_up_labels(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return the labels of a query without ratings: clips in its windows are rated 4, by a rule and not by people."""
    if not isinstance(raw["relevant_windows"], list):
        raise ValueError(f"expected relevant_windows to be a list, got {raw['relevant_windows']!r:.80}")
    moments_from_windows(raw["relevant_windows"], raw["duration"])
    clip_ids = window_clips(raw["relevant_windows"], raw["duration"])
    ratings = [[MAX_RATING] * NUM_ANNOTATORS for _ in clip_ids]
    labels = zip(LABEL_FIELDS, (raw["relevant_windows"], clip_ids, ratings), strict=True)
    return {**dict(labels), "saliency_source": WINDOW_SALIENCY}


def _check_query(raw: Mapping[str, Any]) -> None:
    """Check the fields that describe the query and its video."""
    check_qid(raw["qid"])
    for name in ("query", "vid"):
        check_text(name, raw[name])
    check_duration(raw["duration"])


def _check_labels(raw: Mapping[str, Any]) -> None:
    """Check windows, clip ids and saliency scores against the duration and each other."""
    if not isinstance(raw["relevant_windows"], list):
        raise ValueError(f"expected relevant_windows to be a list, got {raw['relevant_windows']!r:.80}")
    moments_from_windows(raw["relevant_windows"], raw["duration"])
    check_ratings(raw["relevant_clip_ids"], raw["saliency_scores"], raw["duration"])


def check_ratings(clip_ids: Any, scores: Any, duration_seconds: float) -> None:
    """Refuse what cannot be the ratings of a query in QVHighlights.

    Args:
        clip_ids: Ids of the rated 2-second clips.
        scores: For each of them three ratings from 0 to 4.
        duration_seconds: Length of the video.

    Raises:
        ValueError: If they do not fit the video, each other or the scale.
    """
    for name, value in (("relevant_clip_ids", clip_ids), ("saliency_scores", scores)):
        if not isinstance(value, list):
            raise ValueError(f"expected {name} to be a list, got {value!r:.80}")
    count = num_clips(duration_seconds)  # the scorer's: without an incomplete one at the end, and at least one
    for clip_id in clip_ids:
        if type(clip_id) is not int or not 0 <= clip_id < count:
            raise ValueError(
                f"relevant clip id {clip_id!r:.80} is no 2-second clip of a {duration_seconds:g} s video; expected ids "
                f"from 0 to {count - 1}"
            )
    if len(scores) != len(clip_ids):
        raise ValueError(f"expected one saliency entry per relevant clip ({len(clip_ids)}), got {len(scores)}")
    for entry in scores:
        if not _are_ratings(entry):
            raise ValueError(f"expected {NUM_ANNOTATORS} saliency scores from 0 to {MAX_RATING}, got {entry!r:.80}")


def _are_ratings(entry: Any) -> bool:
    """Tell whether a value is one integer rating per annotator."""
    return (
        isinstance(entry, list)
        and len(entry) == NUM_ANNOTATORS
        and all(type(score) is int and 0 <= score <= MAX_RATING for score in entry)
    )


def is_number(value: Any) -> bool:
    """Tell whether a value is a finite number.

    Args:
        value: Anything; `True` is none, and Python's JSON reads NaN.

    Returns:
        Whether it is.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False
