"""Masks of frames and the moments they stand for, by the windows of a frame grid (numpy only).

Axes: F frames.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hf_frameseg.moments import FrameGrid, Moment


def mask_to_spans(mask: ArrayLike) -> list[tuple[int, int]]:
    """Find the runs of ones.

    Args:
        mask: Relevance per frame, shape (F,), bool or 0/1.

    Returns:
        Half-open runs `(first, last + 1)` of frame indices, in time order.

    Raises:
        ValueError: If the mask is not one-dimensional or not binary.

    Example:
        >>> mask_to_spans([1, 1, 0, 1])
        [(0, 2), (3, 4)]
    """
    padded = np.concatenate([[False], as_mask(mask), [False]])
    changes = np.flatnonzero(padded[1:] != padded[:-1])
    return [(int(first), int(stop)) for first, stop in zip(changes[::2], changes[1::2], strict=True)]


def mask_to_moments(mask: ArrayLike, grid: FrameGrid, scores: ArrayLike | None = None) -> list[Moment]:
    """Turn each run of ones into the moment that its frames' windows cover.

    The ends are window edges, i.e. midpoints between neighbouring samples. Using the sampling times themselves costs a
    perfect 25-frame mask 25 points of mAP on QVHighlights val.

    Args:
        mask: Relevance per frame, shape (F,), bool or 0/1.
        grid: The frame windows.
        scores: One score per frame, shape (F,); a moment gets the mean over its run. None scores every moment 1.

    Returns:
        Moments in time order.

    Raises:
        ValueError: If `mask` or `scores` does not have F entries.

    Example:
        >>> mask_to_moments([0, 1, 1, 0], FrameGrid.middle(8, 4), scores=[0.1, 0.9, 0.7, 0.2])
        [Moment(start=2.0, end=6.0, score=0.8)]
    """
    spans = mask_to_spans(as_mask(mask, grid.num_frames))
    edges = grid.edges
    if scores is None:
        return [Moment(edges[first], edges[stop]) for first, stop in spans]
    values = as_frame_values("scores", scores, grid.num_frames)
    return [Moment(edges[first], edges[stop], values[first:stop].mean()) for first, stop in spans]


def moments_to_mask(moments: Iterable[Moment], grid: FrameGrid) -> NDArray[np.bool_]:
    """Mark the frames whose sampling time (the window's centre in the paper's grid) lies in one of the moments.

    Inverse of `mask_to_moments`; a moment that holds no sampling time is lost.

    Args:
        moments: Half-open moments in seconds, any order, may overlap.
        grid: The frame windows.

    Returns:
        Relevance per frame, shape (F,), bool.

    Example:
        >>> moments_to_mask([Moment(2, 6)], FrameGrid.middle(8, 4)).tolist()
        [False, True, True, False]
    """
    times = grid.times
    at_end = times == grid.edges[1:]  # a sample at the very end of its window belongs to what ends there
    mask = np.zeros(grid.num_frames, dtype=bool)
    for moment in moments:
        inside = (moment.start <= times) & (times < moment.end)
        mask |= np.where(at_end, (moment.start < times) & (times <= moment.end), inside)
    return mask


def as_mask(mask: ArrayLike, num_frames: int | None = None) -> NDArray[np.bool_]:
    """Return a 1-d bool copy of a binary mask."""
    array = np.asarray(mask)
    if array.ndim != 1 or (num_frames is not None and len(array) != num_frames):
        raise ValueError(f"expected a mask of shape ({num_frames or 'F'},), one entry per frame, got {array.shape}")
    if array.dtype != bool and not np.isin(array, (0, 1)).all():
        raise ValueError("expected a mask of 0 and 1 only, got other values; threshold probabilities first")
    return array.astype(bool)


def as_frame_values(name: str, values: ArrayLike, num_frames: int) -> NDArray[np.float64]:
    """Return a float64 copy of one finite value per frame."""
    array = np.array(values, dtype=np.float64)
    if array.shape != (num_frames,):
        raise ValueError(f"expected {name} of shape ({num_frames},), one value per frame, got {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"expected finite {name}, got nan or inf; look for an overflow in the model's output")
    return array
