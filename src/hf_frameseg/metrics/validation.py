"""Check a submission before scoring it: every violation by line, each with its fix.

Errors are what no evaluator can score, or what it would score as something else than you mean (a duplicate qid, an
inverted window, NaN). Warnings are what the official evaluator accepts and what usually costs points (scores out of
order, integer or empty windows, windows past the end, too short a saliency list). `evaluate_submission` scores every
submission without errors, given a sound ground truth.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from hf_frameseg._numbers import is_number
from hf_frameseg._text import short
from hf_frameseg.metrics.retrieval import MAX_WINDOWS
from hf_frameseg.moments import CLIP_SECONDS, MAX_DURATION_SECONDS, num_clips

PREDICTION_KEYS = ("pred_relevant_windows", "pred_saliency_scores")


@dataclass(frozen=True)
class Violation:
    """Describe one thing to repair in a submission.

    Args:
        code: Stable short name, for example `inverted-window`.
        message: What was expected and what came.
        fix: What to do.
        is_error: False for a warning.
        line: Line of the file, counted from 1; None if it concerns the file as a whole.
        qid: The row's qid as written, None if it has none.

    Example:
        >>> print(Violation("duplicate-qid", "qid already stands in line 3", "keep one of the rows", line=8, qid=7))
        line 8 (qid 7): error: qid already stands in line 3; keep one of the rows [duplicate-qid]
    """

    code: str
    message: str
    fix: str
    is_error: bool = True
    line: int | None = None
    qid: Any = None

    def __str__(self) -> str:
        """Show everything on one line."""
        place = "file" if self.line is None else f"line {self.line}"
        query = "" if self.qid is None else f" (qid {short(self.qid)})"
        return f"{place}{query}: {'error' if self.is_error else 'warning'}: {self.message}; {self.fix} [{self.code}]"


def validate_submission(
    submission: Sequence[Any],
    ground_truth: Sequence[Mapping[str, Any]] | None = None,
    *,
    line_numbers: Sequence[int] | None = None,
    match_number: bool = True,
) -> list[Violation]:
    """List everything wrong with a submission; never raise for its content.

    Args:
        submission: Rows, possibly malformed.
        ground_truth: Annotations (labels not needed); without them qids, durations and list lengths go unchecked.
        line_numbers: Line of each row in its file; rows count from 1 if absent.
        match_number: Report missing and unknown qids; False when scoring a subset.

    Returns:
        Violations in line order; those of the file as a whole come last.

    Example:
        >>> rows = [{"qid": 1, "pred_relevant_windows": [[9.0, 4.0, 0.9]]}]
        >>> for violation in validate_submission(rows):
        ...     print(violation)  # doctest: +NORMALIZE_WHITESPACE
        line 1 (qid 1): error: expected start < end, got [9.0, 4.0, 0.9] as window 0; swap the ends or remove the
        window [inverted-window]
    """
    numbers = range(1, len(submission) + 1) if line_numbers is None else line_numbers
    annotated = None if ground_truth is None else _Annotated(ground_truth)
    keys = [key for key in PREDICTION_KEYS if any(isinstance(row, Mapping) and key in row for row in submission)]
    seen: dict[Hashable, int] = {}
    violations: list[Violation] = []
    for line, row in zip(numbers, submission, strict=True):
        found = _check_row(row, line, keys, seen, annotated, match_number)
        qid = row.get("qid") if isinstance(row, Mapping) else None
        violations += [Violation(*parts, line=line, qid=qid) for parts in found]
    return violations + list(_check_file(seen, annotated, match_number))


Found = tuple[str, str, str, bool]


class _Annotated:
    """The annotation of each qid, and the qids by how they look: 7 for "7"."""

    def __init__(self, ground_truth: Sequence[Mapping[str, Any]]) -> None:
        self.rows: dict[Hashable, Mapping[str, Any]] = {row["qid"]: row for row in ground_truth}

    @cached_property
    def by_text(self) -> dict[str, Hashable]:
        """Written once: looking for each of many unknown qids would be quadratic."""
        return {str(qid): qid for qid in reversed(self.rows)}


def _check_row(
    row: Any,
    line: int,
    keys: Sequence[str],
    seen: dict[Hashable, int],
    annotated: _Annotated | None,
    match_number: bool,
) -> Iterator[Found]:
    """Check one row; remembers its qid in `seen`."""
    if not isinstance(row, Mapping):
        yield "not-an-object", f"expected an object, got {short(row)}", "write one object per query", True
        return
    yield from _check_qid(row, line, seen, annotated, match_number)
    for key in keys:
        if key not in row:
            yield "missing-key", f"expected {key} as in other rows", "add it, or remove it from all rows", True
    if not keys:
        yield "missing-key", f"expected {' or '.join(PREDICTION_KEYS)}, got neither", "add one or both", True
    truth = annotated.rows.get(row.get("qid")) if annotated and isinstance(row.get("qid"), Hashable) else None
    duration_seconds = truth.get("duration") if truth else None
    if not is_number(duration_seconds):
        duration_seconds = None
    if "pred_relevant_windows" in row:
        yield from _check_windows(row["pred_relevant_windows"], duration_seconds)
    if "pred_saliency_scores" in row:
        yield from _check_saliency(row["pred_saliency_scores"], duration_seconds)


def _check_qid(
    row: Mapping[str, Any],
    line: int,
    seen: dict[Hashable, int],
    annotated: _Annotated | None,
    match_number: bool,
) -> Iterator[Found]:
    """Check type, uniqueness and existence of a qid."""
    if "qid" not in row:
        yield "missing-key", "expected qid, got none", "add the query's qid", True
        return
    qid = row["qid"]
    if not isinstance(qid, (int, str, np.integer)) or isinstance(qid, bool):
        yield "bad-qid", f"expected a whole number as qid, got {short(qid)}", "copy the qid of the annotation", True
        return
    if qid in seen:
        yield "duplicate-qid", f"qid already stands in line {seen[qid]}", "keep one row per query", True
        return
    seen[qid] = line
    if annotated is not None and match_number and qid not in annotated.rows:
        twin = annotated.by_text.get(str(qid))
        if twin is None:
            yield "unknown-qid", "qid is not in the ground truth", "remove the row or score the right split", True
        else:
            yield "unknown-qid", f"qid is {qid!r}, the ground truth has {twin!r}", "write it with that type", True


def _check_windows(windows: Any, duration_seconds: float | None) -> Iterator[Found]:
    """Check a list of windows; one violation per code, for the first window that has it."""
    if not _is_list(windows):
        yield "bad-windows", f"expected a list of windows, got {short(windows)}", "write [[start, end, score]]", True
        return
    if not len(windows):
        fix = "list one window at least"
        yield "no-window", "an empty list counts as a miss and crashes the official evaluator", fix, False
    if len(windows) > MAX_WINDOWS:
        message = f"{len(windows)} windows, of which the first {MAX_WINDOWS} listed count"
        yield "too-many-windows", message, f"keep the best {MAX_WINDOWS}", False
    reported: set[str] = set()
    well_formed = []
    for index, window in enumerate(windows):
        found = list(_check_window(window, index, duration_seconds))
        yield from (parts for parts in found if parts[0] not in reported)
        reported |= {parts[0] for parts in found}
        if "bad-window" not in {parts[0] for parts in found}:
            well_formed.append(float(window[2]))
    if well_formed != sorted(well_formed, reverse=True):
        message = "scores are not falling, but the first listed window decides R1"
        yield "unsorted-scores", message, "list the windows best first", False


def _check_window(window: Any, index: int, duration_seconds: float | None) -> Iterator[Found]:
    """Check one window."""
    shown = f"{short(window)} as window {index}"
    if not _is_list(window) or len(window) < 3 or not all(is_number(value) for value in window[:3]):
        yield "bad-window", f"expected three finite numbers, got {shown}", "write [start, end, score]", True
        return
    start, end = float(window[0]), float(window[1])
    if start > end:
        yield "inverted-window", f"expected start < end, got {shown}", "swap the ends or remove the window", True
    if start == end:
        yield "empty-window", f"expected start < end, got {shown}, which matches nothing", "remove the window", False
    if len(window) > 3:
        yield "long-window", f"expected three numbers, got {shown}", "write [start, end, score]", False
    if all(isinstance(value, (int, np.integer)) for value in window[:2]):
        fix = "write floats and do not round (0.0, not 0)"
        yield "integer-window", f"expected seconds as floats, got {shown}", fix, False
    past_end = duration_seconds is not None and end > duration_seconds
    if start < 0 or past_end:
        limit = "from 0 s on" if start < 0 else f"up to {duration_seconds:g} s"
        yield "outside-video", f"expected times {limit}, got {shown}", "clip the window to the video", False


def _check_saliency(scores: Any, duration_seconds: float | None) -> Iterator[Found]:
    """Check a saliency list."""
    fix = f"write one number per {CLIP_SECONDS:g}-second clip"
    if not _is_list(scores) or not len(scores):
        yield "bad-saliency", f"expected a list of numbers, got {short(scores)}", fix, True
        return
    wrong = next((clip for clip, score in enumerate(scores) if not is_number(score)), None)
    if wrong is not None:
        message = f"expected a finite number for clip {wrong}, got {short(scores[wrong])}"
        yield "bad-saliency", message, "check the model's output", True
    known = duration_seconds is not None and 0 < duration_seconds <= MAX_DURATION_SECONDS
    count = num_clips(duration_seconds) if known else None
    if count is not None and len(scores) != count:
        message = f"expected {count} number{'s' * (count > 1)} for {duration_seconds:g} s, got {len(scores)}"
        yield "saliency-length", message, fix, False  # the evaluator's own sample submission has such rows


def _check_file(seen: Mapping[Hashable, int], annotated: _Annotated | None, match_number: bool) -> Iterator[Violation]:
    """Check what no single row shows."""
    if not seen:
        yield Violation("no-rows", "expected one row per query, got none with a usable qid", "write the predictions")
        return
    if annotated is None:
        return
    missing = [qid for qid in annotated.rows if qid not in seen]
    if match_number and missing:
        message = f"{len(missing)} of {len(annotated.rows)} qids are missing: {', '.join(map(repr, missing[:5]))}"
        fix = "predict every query, or score the subset on purpose"
        yield Violation("missing-qid", message + (", ..." if len(missing) > 5 else ""), fix)
    elif len(missing) == len(annotated.rows):
        yield Violation("no-shared-qid", "no qid is in the ground truth", "score against the right split")


def _is_list(value: Any) -> bool:
    """Tell lists from strings and mappings, which have a length too."""
    return isinstance(value, (list, tuple)) or (isinstance(value, np.ndarray) and value.ndim > 0)
