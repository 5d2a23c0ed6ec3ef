"""Highlight detection scores per query, with the semantics of the official QVHighlights evaluator.

Three annotators rated each relevant 2-second clip from 0 to 4; a clip is positive for an annotator when the rating
reaches a minimum. HL-mAP ranks all clips by predicted saliency; HIT@1 looks at the best one only.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hf_frameseg.metrics._ragged import chunks, pad, stretch_sums
from hf_frameseg.moments import NUM_ANNOTATORS

MIN_RATINGS: dict[str, int] = {"Fair": 2, "Good": 3, "VeryGood": 4}
"""Smallest rating that makes a clip positive. The papers' HL-mAP and HIT@1 are VeryGood."""

_CHUNK_ELEMENTS = 100_000


def fit_to_clips(scores: NDArray[np.float64], num_clips: int) -> NDArray[np.float64]:
    """Cut or pad a saliency list to the clips of the video.

    Args:
        scores: Predicted saliency per clip, (n,).
        num_clips: Clips of the video.

    Returns:
        (num_clips,). Missing clips get 0.0, as in the official code: that outranks negative predictions.

    Example:
        >>> fit_to_clips(np.array([-1.0, -2.0]), 3).tolist()
        [-1.0, -2.0, 0.0]
    """
    fitted = np.zeros(num_clips)
    kept = scores[:num_clips]
    fitted[: len(kept)] = kept
    return fitted


def highlight_average_precision(
    scores: Sequence[NDArray[np.float64]],
    ratings: Sequence[NDArray[np.float64]],
    min_ratings: Sequence[float] = tuple(MIN_RATINGS.values()),
) -> NDArray[np.float64]:
    """Compute the average precision of the clip ranking, per query, minimum rating and annotator.

    AP is the unweighted mean of interpolated precision over the distinct recall levels reached. Clips with equal
    scores enter together and make one level, so ties are punished: never round the scores. Without a positive clip
    AP is 0, without a negative one 1.

    Args:
        scores: Q arrays (n_q,) of finite predictions; longer than the video is cut, shorter padded with 0.0.
        ratings: Q arrays (C_q, A) of ratings per clip and annotator, 0 for clips that are not relevant.
        min_ratings: M minimum ratings.

    Returns:
        AP in [0, 1], (Q, M, A).

    Example:
        >>> ratings = np.array([[4.0], [0.0], [4.0]])
        >>> highlight_average_precision([np.array([0.9, 0.8, 0.7])], [ratings], [4]).round(3).tolist()
        [[[0.833]]]
        >>> highlight_average_precision([np.array([0.5, 0.5, 0.5])], [ratings], [4]).round(3).tolist()
        [[[0.667]]]
    """
    minimum = np.asarray(min_ratings, dtype=np.float64)
    annotators = ratings[0].shape[1] if len(ratings) else NUM_ANNOTATORS
    sizes = np.array([len(clips) for clips in ratings], dtype=np.int64) * minimum.size * annotators
    order, precisions = [np.zeros(0, dtype=np.int64)], [np.zeros(0)]
    num_levels = np.zeros((len(scores), minimum.size, annotators), dtype=np.int64)
    for rows in chunks(sizes, _CHUNK_ELEMENTS):
        padded_ratings, valid = pad([ratings[q] for q in rows], fill=-np.inf)
        padded_scores, _ = pad([fit_to_clips(scores[q], len(ratings[q])) for q in rows], fill=0.0)
        falling = np.where(valid, -padded_scores, np.inf)
        rank = np.argsort(falling, axis=1, kind="stable")
        valid = np.take_along_axis(valid, rank, axis=1)
        ranked = np.take_along_axis(padded_ratings, rank[:, :, None], axis=1).transpose(0, 2, 1)
        positive = ranked[:, None] >= minimum[:, None, None]
        ends = _tie_ends(np.take_along_axis(falling, rank, axis=1), valid)
        best, new_level = _level_precision(positive, ends, valid)
        num_levels[rows] = new_level.sum(axis=-1)
        # From full recall down, as the official code adds them: see `stretch_sums`.
        precisions.append(best[..., ::-1][new_level[..., ::-1]])
        order.append(rows)
    in_order = np.concatenate(order)
    result = np.zeros(num_levels.shape)
    result[in_order] = stretch_sums(np.concatenate(precisions), num_levels[in_order])
    return result / np.maximum(num_levels, 1)


def _tie_ends(falling: NDArray[np.float64], valid: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Mark the last clip of each run of equal scores, (Q, C)."""
    ends = valid.copy()
    ends[:, :-1] &= (falling[:, 1:] != falling[:, :-1]) | ~valid[:, 1:]
    return ends


def _level_precision(
    positive: NDArray[np.bool_], ends: NDArray[np.bool_], valid: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Interpolate precision and mark where a recall level is reached; `positive` (Q, M, A, C), the others (Q, C)."""
    ends = ends[:, None, None]
    found = np.cumsum(positive, axis=-1, dtype=np.int32)
    seen = np.maximum(np.cumsum(valid, axis=-1), 1)[:, None, None]
    precision = np.where(ends, found / seen, 0.0)
    best = np.maximum.accumulate(precision[..., ::-1], axis=-1)[..., ::-1]
    before = np.zeros_like(found)
    before[..., 1:] = np.maximum.accumulate(np.where(ends, found, 0), axis=-1)[..., :-1]
    return best, ends & (found > before)


def top_clip(scores: Sequence[NDArray[np.float64]]) -> NDArray[np.int64]:
    """Find each query's best clip, the first one on ties.

    Args:
        scores: Q non-empty arrays (n_q,), *not* cut to the video: a best clip beyond its end is a miss.

    Returns:
        Clip indices (Q,).

    Example:
        >>> top_clip([np.array([0.1, 0.7, 0.7])]).tolist()
        [1]
    """
    return np.array([values.argmax() for values in scores], dtype=np.int64)


def highlight_hits(
    scores: Sequence[NDArray[np.float64]],
    ratings: Sequence[NDArray[np.float64]],
    min_ratings: Sequence[float] = tuple(MIN_RATINGS.values()),
) -> NDArray[np.float64]:
    """Tell whether any annotator finds the best clip good enough; the mean over queries is HIT@1.

    Args:
        scores: Q non-empty arrays (n_q,) of predictions.
        ratings: Q arrays (C_q, A) of ratings per clip and annotator.
        min_ratings: M minimum ratings.

    Returns:
        1.0 or 0.0, (Q, M).

    Example:
        >>> highlight_hits([np.array([0.1, 0.9])], [np.array([[4.0, 4.0], [0.0, 3.0]])], [3, 4]).tolist()
        [[1.0, 0.0]]
    """
    best = [
        clips[clip].max() if clip < len(clips) else -np.inf
        for clip, clips in zip(top_clip(scores), ratings, strict=True)
    ]
    return (np.array(best)[:, None] >= np.asarray(min_ratings, dtype=np.float64)).astype(np.float64)
