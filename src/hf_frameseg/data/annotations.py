"""The annotation files of QVHighlights, and of any folder of its shape.

    data_dir/
      highlight_train_release.jsonl   highlight_val_release.jsonl   highlight_test_release.jsonl

The public test labels come as `highlight_test_with_gt.jsonl`, which is preferred over the file without labels.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_frameseg.data.video_index import MAX_DURATION_SECONDS
from hf_frameseg.moments import moments_from_windows, num_clips

ANNOTATION_FILES: dict[str, tuple[str, ...]] = {
    "train": ("highlight_train_release.jsonl",),
    "val": ("highlight_val_release.jsonl",),
    "test": ("highlight_test_with_gt.jsonl", "highlight_test_release.jsonl"),
}
"""File names of each split, the preferred one first."""

QUERY_FIELDS = ("qid", "query", "duration", "vid")
LABEL_FIELDS = ("relevant_windows", "relevant_clip_ids", "saliency_scores")

MIN_DURATION_SECONDS = 0.001
MAX_QID_CHARACTERS = 200

NUM_ANNOTATORS = 3
MAX_SALIENCY_SCORE = 4


class AnnotationError(ValueError):
    """Say in one line, with file and line number, what is wrong with an annotation."""


def read_annotations(path: str | Path, require_labels: bool = True) -> list[dict[str, Any]]:
    """Read a QVHighlights annotation file and check every line.

    Args:
        path: A JSON-lines file with the official fields: `qid`, `query`, `duration` (seconds), `vid`, and the labels
            `relevant_windows` (`[[start, end], ...]` in seconds), `relevant_clip_ids` (2-second clips) and
            `saliency_scores` (three annotators, 0 to 4, for each relevant clip).
        require_labels: Whether a line without labels is an error; if not, its labels are empty lists.

    Returns:
        One dict per line, in file order, with exactly the seven official fields.

    Raises:
        FileNotFoundError: If there is no such file.
        AnnotationError: If the file is empty or a line is wrong; the message starts with `file:line`.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no annotation file at {path}; check the path")
    rows: list[dict[str, Any]] = []
    seen: dict[int | str, int] = {}
    durations: dict[str, float] = {}
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            row = _parse_line(line, require_labels)
            check_qid(row["qid"], next(iter(seen), None))
            if row["qid"] in seen:
                raise ValueError(f"qid {row['qid']} is also on line {seen[row['qid']]}; every query needs its own qid")
            if durations.setdefault(row["vid"], row["duration"]) != row["duration"]:
                raise ValueError(
                    f"vid {row['vid']} lasts {row['duration']:g} s here and {durations[row['vid']]:g} s on an earlier "
                    "line; correct one of them"
                )
        except ValueError as error:
            raise AnnotationError(f"{path.name}:{number}: {error}") from None
        seen[row["qid"]] = number
        rows.append(row)
    if not rows:
        raise AnnotationError(f"{path.name}: expected one JSON object per line, got an empty file; download it again")
    return rows


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
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(f"no annotations for {split} in {folder}; expected {' or '.join(ANNOTATION_FILES[split])}")


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
    if not _is_number(value) or not MIN_DURATION_SECONDS <= value <= MAX_DURATION_SECONDS:
        raise ValueError(
            f"expected duration to be a number of seconds from {MIN_DURATION_SECONDS:g} to {MAX_DURATION_SECONDS:g}, "
            f"got {value!r:.80}"
        )


def _parse_line(line: bytes, require_labels: bool) -> dict[str, Any]:
    """Return one checked annotation."""
    try:
        raw = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON ({str(error)[:120]}); expected one object per line") from None
    if not isinstance(raw, dict):
        raise ValueError(f"expected a JSON object with qid, query, duration and vid, got {type(raw).__name__}")
    labelled = require_labels or any(name in raw for name in LABEL_FIELDS)
    missing = [name for name in (*QUERY_FIELDS, *(LABEL_FIELDS if labelled else ())) if name not in raw]
    if missing:
        raise ValueError(f"lacks {', '.join(missing)}; every line needs all of them")
    _check_query(raw)
    if labelled:
        _check_labels(raw)
    return {name: raw.get(name, []) for name in (*QUERY_FIELDS, *LABEL_FIELDS)}


def _check_query(raw: Mapping[str, Any]) -> None:
    """Check the fields that describe the query and its video."""
    check_qid(raw["qid"])
    for name in ("query", "vid"):
        check_text(name, raw[name])
    check_duration(raw["duration"])


def _check_labels(raw: Mapping[str, Any]) -> None:
    """Check windows, clip ids and saliency scores against the duration and each other."""
    for name in LABEL_FIELDS:
        if not isinstance(raw[name], list):
            raise ValueError(f"expected {name} to be a list, got {raw[name]!r:.80}")
    moments_from_windows(raw["relevant_windows"], raw["duration"])
    clip_ids, scores = raw["relevant_clip_ids"], raw["saliency_scores"]
    count = num_clips(raw["duration"])  # the scorer's: without an incomplete one at the end, and at least one
    for clip_id in clip_ids:
        if type(clip_id) is not int or not 0 <= clip_id < count:
            raise ValueError(
                f"relevant clip id {clip_id!r:.80} is no 2-second clip of a {raw['duration']:g} s video; expected ids "
                f"from 0 to {count - 1}"
            )
    if len(scores) != len(clip_ids):
        raise ValueError(f"expected one saliency entry per relevant clip ({len(clip_ids)}), got {len(scores)}")
    for entry in scores:
        if not _are_ratings(entry):
            raise ValueError(
                f"expected {NUM_ANNOTATORS} saliency scores from 0 to {MAX_SALIENCY_SCORE}, got {entry!r:.80}"
            )


def _are_ratings(entry: Sequence[Any] | Any) -> bool:
    """Tell whether a value is one integer rating per annotator."""
    return (
        isinstance(entry, list)
        and len(entry) == NUM_ANNOTATORS
        and all(type(score) is int and 0 <= score <= MAX_SALIENCY_SCORE for score in entry)
    )


def _is_number(value: Any) -> bool:
    """Tell whether a JSON value is a finite number (`true` is none, and Python's JSON reads NaN)."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False
