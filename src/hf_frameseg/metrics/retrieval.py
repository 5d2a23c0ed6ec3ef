"""Moment retrieval scores per query, with the semantics of the official QVHighlights evaluator.

Everything here works on plain arrays: one array of predicted windows and one of ground-truth windows per query.
Windows are in seconds and may be anything a submission may hold (inverted, empty, outside the video), which is why
this room does not use `Moment`: a scorer has to give a wrong window its official score, not refuse it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hf_frameseg.metrics._ragged import chunks, pad, stretch_sums

IOU_THRESHOLDS: tuple[float, ...] = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
"""Thresholds of R1 and mAP, as the official evaluator rounds them."""

LENGTH_RANGES_SECONDS: dict[str, tuple[float, float]] = {
    "short": (0.0, 10.0),
    "middle": (10.0, 30.0),
    "long": (30.0, 150.0),
}
"""Ranges (low, high] of the ground-truth window length. `full` is no range: it keeps windows above 150 s too."""

MAX_WINDOWS = 10
"""The official evaluator reads the first 10 *listed* windows of a row, not the 10 best."""

_CHUNK_ELEMENTS = 100_000


def window_iou(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute intersection over union of windows the official way.

    Args:
        first: Windows [start, end] in seconds, (..., 2).
        second: Windows in seconds, broadcastable against `first`.

    Returns:
        IoU of the broadcast shape without the last axis. 0/0 is NaN: an inverted window as long as the other one has
        union 0, and the official matching counts that NaN as a match.

    Example:
        >>> window_iou(np.array([0.0, 10.0]), np.array([[5.0, 15.0], [0.0, 10.0], [20.0, 30.0]])).round(3).tolist()
        [0.333, 1.0, 0.0]
    """
    with np.errstate(all="ignore"):
        left = np.maximum(first[..., 0], second[..., 0])
        right = np.minimum(first[..., 1], second[..., 1])
        intersection = np.clip(right - left, 0.0, None)
        union = (first[..., 1] - first[..., 0]) + (second[..., 1] - second[..., 0]) - intersection
        return intersection / union


def windows_in_range(windows: NDArray[np.float64], range_seconds: tuple[float, float]) -> NDArray[np.float64]:
    """Keep the windows whose length lies in (low, high].

    Args:
        windows: Windows in seconds, (G, 2).
        range_seconds: Low (exclusive) and high (inclusive) end, for example `LENGTH_RANGES_SECONDS["short"]`.

    Returns:
        The kept windows in their order, (G', 2).

    Example:
        >>> windows_in_range(np.array([[0.0, 10.0], [20.0, 32.0]]), (0.0, 10.0)).tolist()
        [[0.0, 10.0]]
    """
    return windows[in_range(windows, range_seconds)]


def in_range(windows: NDArray[np.float64], range_seconds: tuple[float, float]) -> NDArray[np.bool_]:
    """Mark the windows that `windows_in_range` keeps, (G,)."""
    low, high = range_seconds
    length = windows[:, 1] - windows[:, 0]
    return (low < length) & (length <= high)


def top_window_iou(
    predictions: Sequence[NDArray[np.float64]], ground_truth: Sequence[NDArray[np.float64]]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Compare each query's first listed window with the ground-truth window it overlaps most.

    R1@x is the share of queries with an IoU of at least x; mIoU is the mean. Scores play no part.

    Args:
        predictions: Q arrays (N_q, 2 or more) of windows in listing order; an empty one is a miss.
        ground_truth: Q arrays (G_q, 2) of windows, none empty.

    Returns:
        IoU (Q,) and the index of the chosen ground-truth window (Q,), the first one on ties. Without a prediction
        they are 0 and -1.

    Example:
        >>> iou, index = top_window_iou([np.array([[0.0, 8.0]])], [np.array([[20.0, 30.0], [0.0, 10.0]])])
        >>> iou.tolist(), index.tolist()
        ([0.8], [1])
    """
    iou = np.zeros(len(predictions))
    index = np.full(len(predictions), -1)
    answered = np.array([q for q, windows in enumerate(predictions) if len(windows)], dtype=np.int64)
    sizes = np.array([len(ground_truth[q]) for q in answered], dtype=np.int64)
    for group in chunks(sizes, _CHUNK_ELEMENTS):
        rows = answered[group]
        first = np.stack([predictions[q][0, :2] for q in rows])
        windows, valid = pad([ground_truth[q] for q in rows], fill=0.0)
        best = np.where(valid, window_iou(first[:, None], windows), -np.inf).argmax(axis=1)
        chosen = windows[np.arange(len(rows)), best]
        iou[rows] = _hull_iou(first, chosen)
        index[rows] = best
    return iou, index


def _hull_iou(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute IoU with the hull as union: equal to IoU on overlap, and 0 where that would be NaN."""
    with np.errstate(all="ignore"):
        start = np.maximum(first[:, 0], second[:, 0])
        intersection = np.maximum(0.0, np.minimum(first[:, 1], second[:, 1]) - start)
        hull = np.maximum(first[:, 1], second[:, 1]) - np.minimum(first[:, 0], second[:, 0])
        iou = np.divide(intersection, hull, out=np.zeros_like(intersection), where=hull != 0)
    return np.where(np.isnan(iou), 0.0, iou)


def average_precision(
    predictions: Sequence[NDArray[np.float64]],
    ground_truth: Sequence[NDArray[np.float64]],
    thresholds: ArrayLike = IOU_THRESHOLDS,
) -> NDArray[np.float64]:
    """Compute the interpolated average precision of each query at each IoU threshold.

    Windows are ranked by score (ties keep the listing order). Each takes the free ground-truth window it overlaps
    most among those at or above the threshold, or is a false positive. Precision is interpolated as in VOC (best
    precision at this recall or beyond), so low-ranked extra windows never cost anything.

    Args:
        predictions: Q arrays (N_q, 3) of [start, end, score] in listing order; an empty one has AP 0. Cut them to
            `MAX_WINDOWS` before, as the official evaluator does.
        ground_truth: Q arrays (G_q, 2) of windows, none empty.
        thresholds: T IoU thresholds; reaching one exactly counts.

    Returns:
        AP in [0, 1], (Q, T).

    Example:
        >>> windows = np.array([[0.0, 10.0, 0.9], [50.0, 60.0, 0.8], [20.0, 30.0, 0.7]])
        >>> average_precision([windows], [np.array([[0.0, 10.0], [20.0, 30.0]])], [0.5]).round(3).tolist()
        [[0.833]]
    """
    limits = np.asarray(thresholds, dtype=np.float64)
    result = np.zeros((len(predictions), limits.size))
    counts = np.array([len(windows) for windows in ground_truth], dtype=np.int64)
    widest = max((len(windows) for windows in predictions), default=0)
    for rows in chunks(counts * max(widest, limits.size), _CHUNK_ELEMENTS):
        ranked, predicted = pad([_by_score(predictions[q]) for q in rows], fill=0.0)
        windows, real = pad([ground_truth[q] for q in rows], fill=0.0)
        iou = window_iou(ranked[:, :, None], windows[:, None])
        # -inf is below every threshold: padding never matches, and as a last-ranked false positive it costs nothing.
        iou = np.where(predicted[:, :, None] & real[:, None], iou, -np.inf)
        matched = _match(iou, _preference(iou, counts[rows], limits.min(initial=np.inf)), limits)
        result[rows] = _interpolated_precision(matched, counts[rows].astype(np.float64))
    return result


def _by_score(windows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sort windows by falling score, stably."""
    # Python's sort, not numpy's: the official code uses it, and they disagree when a score is NaN.
    keys = (-windows[:, 2]).tolist()
    if keys == sorted(keys):  # the usual case
        return windows
    return windows[sorted(range(len(keys)), key=keys.__getitem__)]


def _preference(iou: NDArray[np.float64], num_truths: NDArray[np.int64], lowest_limit: np.float64) -> NDArray[np.int32]:
    """Number the ground-truth windows in the order a predicted window tries them.

    Args:
        iou: IoU (Q, N, G); -inf for padding.
        num_truths: Real ground-truth windows, (Q,).
        lowest_limit: Lowest threshold; the order below it plays no part.

    Returns:
        Position of each ground-truth window, (Q, N, G): NaN first, then by falling IoU.
    """
    order = np.argsort(iou, axis=-1, kind="stable")[..., ::-1]
    place = np.argsort(order, axis=-1).astype(np.int32)
    # The official code leaves ties to numpy's default sort, whose order depends on the processor. They decide matches
    # among several NaN and where ground-truth windows overlap or touch; there, the same call on the same entries is the
    # only way to its number.
    falling = np.take_along_axis(iou, order, axis=-1)
    first, second = falling[..., :-1], falling[..., 1:]
    tied = ((first == second) & (first >= lowest_limit)) | (np.isnan(first) & np.isnan(second))
    for q, n in np.argwhere(tied.any(axis=-1)):
        tried = np.argsort(iou[q, n, : num_truths[q]])[::-1]
        place[q, n, tried] = np.arange(len(tried))
    return place


def _match(iou: NDArray[np.float64], place: NDArray[np.int32], limits: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Assign ranked windows to ground-truth windows greedily.

    Args:
        iou: IoU (Q, N, G) of windows in rank order; -inf for padding.
        place: Order in which each window tries the ground-truth windows, (Q, N, G).
        limits: Thresholds (T,).

    Returns:
        True positives (Q, T, N).
    """
    num_queries, num_windows, num_truths = iou.shape
    free = np.ones((num_queries, limits.size, num_truths), dtype=bool)
    matched = np.zeros((num_queries, limits.size, num_windows), dtype=bool)
    for n in range(num_windows):
        # "not below" instead of "at least": NaN (see window_iou) counts as a match in the official code.
        eligible = free & ~(iou[:, None, n] < limits[:, None])
        choice = np.where(eligible, place[:, None, n], num_truths).argmin(axis=-1)[..., None]
        hit = np.take_along_axis(eligible, choice, axis=-1)
        # A miss points at an ineligible window, which keeps its state.
        np.put_along_axis(free, choice, np.take_along_axis(free, choice, axis=-1) & ~hit, axis=-1)
        matched[:, :, n] = hit[..., 0]
    return matched


def _interpolated_precision(matched: NDArray[np.bool_], num_truths: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turn true positives (Q, T, N) in rank order into AP (Q, T); `num_truths` (Q,) normalises recall."""
    found = np.cumsum(matched, axis=-1)
    recall = found / num_truths[:, None, None]
    precision = found / np.arange(1, matched.shape[-1] + 1)
    best = np.maximum.accumulate(precision[..., ::-1], axis=-1)[..., ::-1]
    gain = np.diff(recall, axis=-1, prepend=0.0) * best
    # The official code adds the gains of the matches and, below full recall, a last step of height 0, which counts for
    # the order of the sum. To the last bit, because a mean on half a hundredth must round the same way.
    last = np.zeros((*gain.shape[:-1], 1))
    steps = np.concatenate([matched, matched.sum(axis=-1, keepdims=True) < num_truths[:, None, None]], axis=-1)
    return stretch_sums(np.concatenate([gain, last], axis=-1)[steps], steps.sum(axis=-1))
