"""Targets: windows and ratings of an annotation -> masks and graded targets per frame.

Axes: F frames, C clips.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hf_frameseg.masks import moments_to_mask
from hf_frameseg.moments import CLIP_SECONDS, MAX_RATING, FrameGrid, Moment

ANNOTATED_SALIENCY = "annotators"
"""`saliency_source` of rows with ratings made by people."""

WINDOW_SALIENCY = "window"
"""`saliency_source` of rows whose ratings the rule `window` made up."""

SCALED_SALIENCY = "scaled"
"""`saliency_source` of rows whose ratings were made on another scale: to learn from, not to be scored as they are."""

_SALIENCY_RULE = re.compile(r"saliency>(\d*\.?\d+)")


def moments_from_windows(windows: Sequence[Sequence[float]], duration_seconds: float | None = None) -> list[Moment]:
    """Turn raw `[[start, end], ...]` windows into moments, refusing what is not a window of the video.

    Args:
        windows: Raw relevant windows in seconds, as QVHighlights spells them.
        duration_seconds: Length of the video in seconds; None skips the check against it.

    Returns:
        One moment per window, in the given order, score 1.

    Raises:
        ValueError: If a window is not a pair, is empty, inverted, not finite or outside `[0, duration_seconds]`.

    Example:
        >>> moments_from_windows([[0, 4], [10, 12]], duration_seconds=12)
        [Moment(start=0.0, end=4.0, score=1.0), Moment(start=10.0, end=12.0, score=1.0)]
    """
    moments = []
    for index, window in enumerate(windows):
        if not isinstance(window, (Sequence, np.ndarray)) or isinstance(window, str) or len(window) != 2:
            raise ValueError(f"relevant window {index}: expected [start, end] in seconds, got {window!r}")
        try:
            moment = Moment(window[0], window[1])
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"relevant window {index} = {str(list(window)):.120}: {error}") from None
        if moment.start < 0 or (duration_seconds is not None and moment.end > duration_seconds):
            limit = "the video's end" if duration_seconds is None else f"{duration_seconds:g}"
            raise ValueError(
                f"relevant window {index} = {list(window)} is outside the video: expected 0 <= start < end <= {limit} "
                "seconds; correct the window or the duration"
            )
        moments.append(moment)
    return moments


def saliency_threshold(rule: str) -> float | None:
    """Check a label rule and return the threshold of `"saliency>TAU"`.

    Args:
        rule: See `frame_mask`.

    Returns:
        TAU; None for `"window"`.

    Raises:
        ValueError: If the rule is unknown.
    """
    if rule == "window":
        return None
    match = _SALIENCY_RULE.fullmatch(rule) if isinstance(rule, str) else None
    if match is None:
        raise ValueError(f"unknown label rule {rule!r}; use 'window' or 'saliency>TAU', e.g. 'saliency>0.5'")
    threshold = float(match.group(1))
    if threshold >= 1:
        raise ValueError(
            f"expected a threshold below 1 in label rule {rule!r}: it is compared with mean rating / {MAX_RATING}"
        )
    return threshold


def frame_mask(
    relevant_windows: Sequence[Sequence[float]],
    grid: FrameGrid,
    rule: str = "window",
    saliency: ArrayLike | None = None,
    duration_seconds: float | None = None,
) -> NDArray[np.bool_]:
    """Label each frame as relevant or not.

    Args:
        relevant_windows: Ground-truth `[[start, end], ...]` in seconds.
        grid: The frame windows.
        rule: `"window"`: the frame's centre lies in a (half-open) relevant window. `"saliency>TAU"`: the mean rating
            of the clip at the frame's centre, divided by 4, is above TAU; the public code of the paper trained with
            `"saliency>0.5"`, which leaves a perfect 25-frame model at mAP 53.5 instead of 73.2 (QVHighlights val).
        saliency: Mean rating / 4 of every clip, shape (C,), from `clip_saliency_targets`; for the saliency rule only.
        duration_seconds: Length of the video that the windows must lie in, where the grid is that of a part of it; None
            takes the end of the grid.

    Returns:
        Relevance per frame, shape (F,), bool.

    Raises:
        ValueError: If the rule is unknown, its saliency is missing, or a window is not inside the video.

    Example:
        >>> frame_mask([[2, 6]], FrameGrid.middle(duration_seconds=8, num_frames=4)).tolist()
        [False, True, True, False]
    """
    end_seconds = grid.end_seconds if duration_seconds is None else duration_seconds
    moments = moments_from_windows(relevant_windows, end_seconds)
    threshold = saliency_threshold(rule)
    if threshold is None:
        return moments_to_mask(moments, grid)
    if saliency is None:
        raise ValueError(f"label rule {rule!r} needs saliency=clip_saliency_targets(...), got None")
    return graded_frame_targets(saliency, grid) > threshold


def clip_saliency_targets(
    relevant_clip_ids: Sequence[int], saliency_scores: Sequence[Sequence[float]], num_clips: int
) -> NDArray[np.float64]:
    """Average the annotators' ratings into one target per clip.

    Args:
        relevant_clip_ids: Indices of the rated clips.
        saliency_scores: Ratings 0-4 of each rated clip by every annotator, same order as the ids.
        num_clips: Number of clips C of the video.

    Returns:
        Mean rating / 4 in [0, 1] per clip, shape (C,); 0 for clips nobody rated.

    Raises:
        ValueError: If lengths differ, an id is outside the video or repeated, or a rating is outside 0-4.

    Example:
        >>> clip_saliency_targets([1, 2], [[4, 4, 4], [0, 1, 2]], num_clips=4).tolist()
        [0.0, 1.0, 0.25, 0.0]
    """
    if len(relevant_clip_ids) != len(saliency_scores):
        raise ValueError(
            f"expected one row of saliency scores per relevant clip, got {len(saliency_scores)} rows "
            f"for {len(relevant_clip_ids)} clips"
        )
    ids = np.asarray(relevant_clip_ids, dtype=np.int64)
    if len(np.unique(ids)) != len(ids):
        raise ValueError("expected each relevant clip id once, got repeated ids; drop the repetitions")
    if len(ids) and (ids.min() < 0 or ids.max() >= num_clips):
        raise ValueError(
            f"expected relevant clip ids in 0..{num_clips - 1}, got {ids.min()}..{ids.max()}; "
            "correct the ids or the duration"
        )
    targets = np.zeros(num_clips)
    for clip, ratings in zip(ids, saliency_scores, strict=True):
        row = np.asarray(ratings, dtype=np.float64)
        if row.size == 0 or not ((row >= 0) & (row <= MAX_RATING)).all():
            raise ValueError(f"expected ratings in 0..{MAX_RATING} for clip {clip}, got {list(ratings)}")
        targets[clip] = row.mean() / MAX_RATING
    return targets


def graded_frame_targets(clip_targets: ArrayLike, grid: FrameGrid) -> NDArray[np.float64]:
    """Read per-clip targets at the frame centres.

    Args:
        clip_targets: One target per clip of the whole video, shape (C,), from `clip_saliency_targets`.
        grid: The frame windows.

    Returns:
        The target of the clip that holds each frame's centre, shape (F,). A centre in the incomplete clip at the end
        of a video whose duration is no multiple of 2 s takes the last complete clip's value.

    Raises:
        ValueError: If `clip_targets` is empty or not one-dimensional.

    Example:
        >>> graded_frame_targets([0.0, 0.5, 1.0], FrameGrid.middle(duration_seconds=6, num_frames=2)).tolist()
        [0.0, 1.0]
    """
    targets = np.asarray(clip_targets, dtype=np.float64)
    if targets.ndim != 1 or len(targets) == 0:
        raise ValueError(f"expected clip_targets of shape (C,) with C >= 1, got {targets.shape}")
    clip_index = (grid.times // CLIP_SECONDS).astype(np.int64)
    return targets[np.minimum(clip_index, len(targets) - 1)]
