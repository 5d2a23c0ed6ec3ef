"""Highlight detection where there are no moments: TVSum and YouTube Highlights, scored as their field does.

A clip is positive for a rater above a limit: the median of the rater's own ratings (TVSum, 1 to 5 by twenty people), or
a number (YouTube Highlights, above 0). The clips are ranked by predicted saliency; ties keep the order of the video.
Average precision is the area under the curve of precision over recall. The height of a step is the mean of the
precision before it (1 before the first) and after it. Of the top k clips, recall counts only the positives among these
k; if there is none, the average precision is 0. It is averaged over raters and videos. `datasets/tvsum.py` and
`datasets/youtube.py` of github.com/TencentARC/UMT compute the same, and QD-DETR and others after them.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_frameseg._numbers import is_number
from hf_frameseg._text import short
from hf_frameseg.metrics import _rows
from hf_frameseg.metrics._rows import Row

TOP_CLIPS = 5
"""Clips that the top-5 mAP of TVSum looks at."""

MEDIAN = "median"
"""Limit of a positive clip: the median of its rater's ratings."""


def positive_clips(ratings: NDArray[np.float64], limit: float | str = MEDIAN) -> NDArray[np.bool_]:
    """Mark the clips that a rater would show.

    Args:
        ratings: Of each clip by each rater, (C, A).
        limit: Ratings above it are positive: a number, or "median" for each rater's own, the lower one of two.

    Returns:
        (C, A).

    Raises:
        ValueError: If the limit is neither.

    Example:
        >>> positive_clips(np.array([[1.0], [2.0], [4.0], [5.0]])).ravel().tolist()
        [False, False, True, True]
    """
    if limit == MEDIAN:
        return ratings > np.sort(ratings, axis=0)[(len(ratings) - 1) // 2]
    if not is_number(limit):
        raise ValueError(f"expected the limit of a positive clip to be a number or {MEDIAN!r}, got {short(limit)}")
    return ratings > limit


def ranking_average_precision(
    scores: NDArray[np.float64], positive: NDArray[np.bool_], top: int | None = None
) -> NDArray[np.float64]:
    """Compute the average precision of a ranking of clips, for each rater.

    Args:
        scores: Predicted saliency, (C,).
        positive: What each rater would show, (C, A).
        top: Clips at the top of the ranking that count; None takes all.

    Returns:
        AP in [0, 1], (A,).

    Example:
        >>> positive = np.array([[True], [False], [True], [False]])
        >>> ranking_average_precision(np.array([0.9, 0.8, 0.7, 0.1]), positive).round(4).tolist()
        [0.7917]
        >>> ranking_average_precision(np.array([0.9, 0.8, 0.7, 0.1]), positive, top=2).tolist()
        [1.0]
    """
    ranked = positive[np.argsort(-scores, kind="stable")][:top]
    found = np.cumsum(ranked, axis=0)
    total = found[-1]
    precision = found / np.arange(1, len(ranked) + 1)[:, None]
    before = np.concatenate([np.ones((1, ranked.shape[1])), precision[:-1]])
    gained = np.where(ranked, (before + precision) / 2, 0.0).sum(axis=0)
    return np.where(total > 0, gained / np.maximum(total, 1), 0.0)


def evaluate_highlights(
    submission: Sequence[Row],
    ratings: Mapping[Hashable, NDArray[np.float64]],
    limit: float | str = MEDIAN,
    top: int = TOP_CLIPS,
    match_number: bool = True,
) -> dict[str, NDArray[Any]]:
    """Score the saliency of every video.

    Args:
        submission: Rows with `qid` and `pred_saliency_scores`, one number per rated clip; longer lists are cut.
        ratings: qid -> ratings (C, A).
        limit: As in `positive_clips`.
        top: As in `ranking_average_precision`.
        match_number: Require both to hold the same qids. False scores the shared ones.

    Returns:
        `qid`, `ap` and `ap_top`, (Q,), fractions in [0, 1], the mean over raters; their means over queries are the mAP
        and the top-5 mAP of the papers.

    Raises:
        ValueError: If the input cannot be scored; the message names the qid and the repair.

    Example:
        >>> rows = [{"qid": 1, "pred_saliency_scores": [0.1, 0.9, 0.5]}]
        >>> result = evaluate_highlights(rows, {1: np.array([[1.0], [5.0], [3.0]])})
        >>> result["ap"].tolist()
        [1.0]
    """
    predicted = _rows.rows_by_qid(submission, "submission")
    qids = _rows.shared_qids(predicted, ratings, match_number)
    if top < 1:
        raise ValueError(f"expected top to be at least 1, got {top}")
    ap, ap_top = [], []
    for qid in qids:
        row = predicted[qid][-1]
        scores, clips = _rows.predicted_saliency(row), ratings[qid]
        if len(scores) < len(clips):
            raise ValueError(
                f"qid {short(qid)}: expected {len(clips)} saliency scores, one for each rated clip, got {len(scores)}; "
                "predict one for each, or correct the length of a clip"
            )
        scores = scores[: len(clips)]
        if not np.isfinite(scores).all():
            raise ValueError(f"qid {short(qid)}: pred_saliency_scores holds NaN or infinity; check the model's logits")
        positive = positive_clips(clips, limit)
        ap.append(ranking_average_precision(scores, positive).mean())
        ap_top.append(ranking_average_precision(scores, positive, top).mean())
    return {"qid": _rows.qid_array(qids), "ap": np.array(ap), "ap_top": np.array(ap_top)}
