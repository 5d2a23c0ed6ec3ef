"""Intervals of time: how much two of them overlap, and which of many stay when near duplicates go (numpy only).

Axes: N and M intervals.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hf_frameseg.moments import Moment


def temporal_iou(a: ArrayLike, b: ArrayLike) -> NDArray[np.float64]:
    """Compute intersection over union of every interval of `a` with every interval of `b`.

    Args:
        a: Intervals `[start, end]` in seconds, shape (N, 2).
        b: Intervals `[start, end]` in seconds, shape (M, 2).

    Returns:
        IoU in [0, 1], shape (N, M). Two empty intervals have IoU 0.

    Raises:
        ValueError: If a shape is wrong or an interval ends before it starts.

    Example:
        >>> temporal_iou([[0, 10]], [[5, 15], [10, 20], [0, 10]]).round(3).tolist()
        [[0.333, 0.0, 1.0]]
    """
    a, b = _as_intervals("a", a), _as_intervals("b", b)
    overlap = np.minimum(a[:, None, 1], b[None, :, 1]) - np.maximum(a[:, None, 0], b[None, :, 0])
    intersection = np.clip(overlap, 0, None)
    union = (a[:, 1] - a[:, 0])[:, None] + (b[:, 1] - b[:, 0])[None, :] - intersection
    return np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)


def nms(moments: Iterable[Moment], iou_threshold: float) -> list[Moment]:
    """Drop moments that overlap a better one too much (greedy non-maximum suppression).

    Args:
        moments: Candidates in any order.
        iou_threshold: A moment goes when its IoU with a kept, better one is above this, in [0, 1].

    Returns:
        The kept moments by descending score; equal scores keep their given order.

    Raises:
        ValueError: If the threshold is outside [0, 1].

    Example:
        >>> nms([Moment(0, 10, 0.5), Moment(0, 9, 0.9), Moment(20, 30, 0.1)], iou_threshold=0.7)
        [Moment(start=0.0, end=9.0, score=0.9), Moment(start=20.0, end=30.0, score=0.1)]
    """
    if not 0 <= iou_threshold <= 1:
        raise ValueError(f"expected iou_threshold in [0, 1], got {iou_threshold!r}")
    ranked = sorted(moments, key=lambda moment: -moment.score)
    intervals = np.array([[moment.start, moment.end] for moment in ranked]).reshape(-1, 2)
    iou = temporal_iou(intervals, intervals)
    kept: list[int] = []
    for candidate in range(len(ranked)):
        if not np.any(iou[candidate, kept] > iou_threshold):
            kept.append(candidate)
    return [ranked[index] for index in kept]


def _as_intervals(name: str, values: ArrayLike) -> NDArray[np.float64]:
    """Return intervals as a float64 (N, 2) array."""
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0:
        array = array.reshape(-1, 2)
    if array.ndim != 2 or array.shape[1] != 2:
        raise ValueError(f"expected {name} of shape (N, 2) = [start, end] in seconds, got {array.shape}")
    if not (array[:, 0] <= array[:, 1]).all():
        raise ValueError(f"expected start <= end in every interval of {name}; swap inverted ones first")
    return array
