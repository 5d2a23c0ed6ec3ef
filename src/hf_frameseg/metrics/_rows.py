"""Reading submission and annotation rows into arrays, with one-line errors that name the query and the repair."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_frameseg._text import short
from hf_frameseg.metrics.retrieval import MAX_WINDOWS
from hf_frameseg.moments import CLIP_SECONDS, NUM_ANNOTATORS, num_clips
from hf_frameseg.targets import ANNOTATED_SALIENCY, SCALED_SALIENCY

Row = Mapping[str, Any]


def rows_by_qid(rows: Sequence[Row], what: str) -> dict[Hashable, list[Row]]:
    """Group rows by qid in order of first appearance; `what` names the list in errors."""
    groups: dict[Hashable, list[Row]] = {}
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping) or "qid" not in row:
            raise ValueError(f"{what} row {number} is {short(row)}; expected an object with a 'qid'; add its qid")
        if not isinstance(row["qid"], Hashable):
            raise ValueError(f"{what} row {number} has qid {short(row['qid'])}; expected a number; write one number")
        groups.setdefault(row["qid"], []).append(row)
    return groups


def shared_qids(
    predicted: Mapping[Hashable, Any], annotated: Mapping[Hashable, Any], match_number: bool
) -> list[Hashable]:
    """List the qids to score, in the order of the submission."""
    missing = [qid for qid in annotated if qid not in predicted]
    unknown = [qid for qid in predicted if qid not in annotated]
    if match_number and (missing or unknown):
        raise ValueError(
            f"submission and ground truth must hold the same qids: {_some(missing)} missing from the submission, "
            f"{_some(unknown)} not in the ground truth; add or remove these rows (qids keep their type: 1 is not '1'), "
            "or pass match_number=False to score the shared ones"
        )
    shared = [qid for qid in predicted if qid in annotated]
    if not shared:
        raise ValueError(
            f"submission ({len(predicted)} qids) and ground truth ({len(annotated)} qids) share no qid, so there is "
            "nothing to score; check that both belong to the same split and that qids are numbers in both"
        )
    return shared


def qid_array(qids: Sequence[Hashable]) -> NDArray[Any]:
    """Make an int64 array where possible, else keep the objects (numpy would turn [1, '1'] into strings)."""
    if all(isinstance(qid, (int, np.integer)) and abs(int(qid)) < 2**63 for qid in qids):
        return np.array(qids, dtype=np.int64)
    array = np.empty(len(qids), dtype=object)
    array[:] = qids
    return array


def is_rated(row: Row) -> bool:
    """Tell whether people rated the clips of a query; a rule may have made ratings up (`saliency_source`)."""
    if row.get("saliency_source") not in (None, ANNOTATED_SALIENCY):
        return False
    return not (_is_empty(row.get("relevant_clip_ids")) and _is_empty(row.get("saliency_scores")))


def is_scaled(row: Row) -> bool:
    """Tell whether the ratings of a query were made on another scale; such data sets may have no windows."""
    return row.get("saliency_source") == SCALED_SALIENCY


def rated(rows: Sequence[Row]) -> NDArray[np.bool_]:
    """Mark the queries to score highlights on. Beside ratings, empty lists are marked too: scoring will refuse them."""
    mask = np.array([is_rated(row) for row in rows])
    if mask.any():
        mask |= [row.get("saliency_source") is None and row.get("relevant_clip_ids") is not None for row in rows]
    return mask


def has_windows(row: Row) -> bool:
    """Tell whether a query has windows; some data sets have highlights only."""
    return not _is_empty(row.get("relevant_windows"))


def _is_empty(value: Any) -> bool:
    """Tell a missing or empty list from labels, sound or not."""
    return value is None or (isinstance(value, (list, tuple, np.ndarray)) and len(value) == 0)


def predicted_windows(row: Row) -> NDArray[np.float64]:
    """Read the first `MAX_WINDOWS` listed windows, (N, 3) of [start, end, score]."""
    value = _get(row, "pred_relevant_windows", "add the key to every row, or remove it from all of them")
    try:
        listed = [window[:3] for window in value[:MAX_WINDOWS]]
        windows = _numbers(listed) if listed else np.empty((0, 3))
    except (TypeError, KeyError, IndexError, ValueError, OverflowError):
        windows = None
    if windows is None or windows.ndim != 2 or windows.shape[1] != 3:
        raise ValueError(
            f"qid {short(row['qid'])}: pred_relevant_windows is {short(value)}; expected a list of [start, end, score] "
            "in numbers; write every window with its score (1.0 if there is none)"
        )
    return windows


def annotated_windows(row: Row) -> NDArray[np.float64]:
    """Read the ground-truth windows, (G, 2), at least one."""
    value = _get(row, "relevant_windows", "use annotations with labels (highlight_test_release has none)")
    try:
        windows = _numbers([window[:2] for window in value])
    except (TypeError, KeyError, IndexError, ValueError, OverflowError):
        windows = None
    if windows is None or windows.ndim != 2 or windows.shape[1] != 2:
        raise ValueError(
            f"qid {short(row['qid'])}: relevant_windows of the ground truth is {short(value)}; expected at least one "
            "[start, end] in numbers; correct the annotation or leave the query out of both files"
        )
    return windows


def predicted_saliency(row: Row) -> NDArray[np.float64]:
    """Read the saliency list as it is, (n,), at least one value."""
    value = _get(row, "pred_saliency_scores", "add the key to every row, or remove it from all of them")
    try:
        scores = _numbers(value)
    except (TypeError, ValueError, OverflowError):
        scores = None
    if scores is not None and scores.ndim == 2 and scores.shape[1] == 1:
        scores = scores[:, 0]
    if scores is None or scores.ndim != 1 or scores.size == 0:
        raise ValueError(
            f"qid {short(row['qid'])}: pred_saliency_scores is {short(value)}; expected a flat list of numbers; write "
            f"one number per {CLIP_SECONDS:g}-second clip"
        )
    return scores


def annotated_ratings(row: Row) -> NDArray[np.float64]:
    """Spread the ratings over all clips of the video, (C, 3), 0 where the clip is not relevant."""
    clip_ids, ratings, duration_seconds = (
        _get(row, key, "use annotations with labels, or drop pred_saliency_scores to score moments only")
        for key in ("relevant_clip_ids", "saliency_scores", "duration")
    )
    try:
        count = num_clips(duration_seconds)
        spread = np.zeros((count, NUM_ANNOTATORS))
        # One assignment decides, as in the official code: negative ids count from the end, one column serves all.
        spread[np.array(clip_ids)] = _numbers(ratings)
    except (TypeError, ValueError, IndexError, OverflowError):
        raise ValueError(
            f"qid {short(row['qid'])}: the ground truth has relevant_clip_ids {short(clip_ids)} and saliency_scores "
            f"{short(ratings)} for {short(duration_seconds)} s; expected one or more ids of {CLIP_SECONDS:g}-second "
            f"clips in the video with {NUM_ANNOTATORS} ratings each; correct the annotation, or drop "
            "pred_saliency_scores to score moments only"
        ) from None
    return spread


def _get(row: Row, key: str, repair: str) -> Any:
    """Fetch a field that must be there."""
    if key not in row:
        raise ValueError(f"qid {short(row['qid'])}: a row lacks {key!r}, which scoring needs; {repair}")
    return row[key]


def _numbers(values: Any) -> NDArray[np.float64]:
    """Convert to float64, refusing what numpy would parse (strings) or box (None)."""
    array = np.array(values)
    # Integers beyond 64 bits are boxed too, but they are numbers.
    if array.dtype.kind == "O" and all(isinstance(value, (int, float)) for value in array.flat):
        return array.astype(np.float64, copy=False)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"expected numbers, got {array.dtype}")
    return array.astype(np.float64, copy=False)


def _some(qids: Sequence[Hashable]) -> str:
    """Count qids and show the first three."""
    return f"{len(qids)} ({', '.join(map(repr, qids[:3]))}{', ...' if len(qids) > 3 else ''})" if qids else "0"
