"""What a perfect model could score: annotations sent through the frame mask and back, and what the labels look like.

The mask of F frames is the bottleneck of the method (arXiv "Moment and Highlight Detection via MLLM Frame
Segmentation", section III-B). Scoring the ground truth after a round trip through it gives the ceiling of any model
with that many frames and that label rule. This module imports torch (through `labels`), so `hf_frameseg.metrics` does
not import it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_frameseg.labels import frame_mask, graded_frame_targets
from hf_frameseg.metrics._rows import annotated_ratings, annotated_windows
from hf_frameseg.metrics.highlight import CLIP_SECONDS, MIN_RATINGS
from hf_frameseg.metrics.submission import HEADLINE_COLUMNS, evaluate_submission, headline
from hf_frameseg.moments import FrameGrid, interpolate_to_clips, mask_to_spans

LENGTH_EDGES_SECONDS: tuple[int, ...] = (0, 2, 6, 10, 20, 30, 60, 100, 150)
"""Edges of the histogram of window lengths; each bin is (low, high]."""

_HIGHLIGHT_COLUMNS = ("HL-mAP", "HIT@1")


@dataclass(frozen=True)
class _Labels:
    """Hold one query's labels on the frame grid."""

    qid: Any
    grid: FrameGrid
    mask: NDArray[np.bool_]
    mean_rating: NDArray[np.float64]  # per clip
    votes: NDArray[np.float64]  # per clip: how many annotators gave a 4, then their mean


def audit_annotations(
    annotations: Sequence[Mapping[str, Any]], num_frames: int = 25, label_rule: str = "window"
) -> dict[str, Any]:
    """Measure the ceilings and the balance of a set of annotations.

    Args:
        annotations: QVHighlights rows with labels.
        num_frames: Frames per video, F.
        label_rule: `"window"` or `"saliency>TAU"`, see `labels.frame_mask`.

    Returns:
        `num_frames`, `label_rule`, `num_queries`;
        `windows`: R1 and mAP of the mask's runs, listed `by_time` or `by_rating` (best first);
        `highlights`: HL-mAP and HIT@1 of the `mask` itself, of the `mean_rating` at each frame and of `votes`
        (annotators who gave a 4, then the mean), brought to clips `linear` or `nearest`;
        `all_zero_masks`, `all_one_masks`, `multi_window_queries`, `windows_without_frame`, `foreground`: shares in
        [0, 1]; `pos_weight`: background frames per foreground frame, None without foreground;
        `window_lengths_seconds`: histogram.

    Raises:
        ValueError: An annotation lacks labels or is malformed (names the qid), or the rule is unknown.

    Example:
        >>> row = {"qid": 1, "duration": 12, "relevant_windows": [[2, 6]], "relevant_clip_ids": [1, 2],
        ...        "saliency_scores": [[4, 4, 2], [4, 3, 2]]}
        >>> audit = audit_annotations([row], num_frames=3)
        >>> audit["windows"]["by_time"]["R1@0.5"], audit["pos_weight"]
        (0.0, 2.0)
    """
    labels = [_label(row, num_frames, label_rule) for row in annotations]
    windows = [annotated_windows(row) for row in annotations]
    frames = sum(int(one.mask.sum()) for one in labels)
    total = len(labels) * num_frames
    return {
        "num_frames": num_frames,
        "label_rule": label_rule,
        "num_queries": len(labels),
        "windows": {
            name: _ceiling(annotations, [_runs(one, by_rating) for one in labels])
            for name, by_rating in (("by_time", False), ("by_rating", True))
        },
        "highlights": _highlight_ceilings(annotations, labels),
        "all_zero_masks": float(np.mean([not one.mask.any() for one in labels])),
        "all_one_masks": float(np.mean([one.mask.all() for one in labels])),
        "multi_window_queries": float(np.mean([len(one) > 1 for one in windows])),
        "windows_without_frame": _windows_without_frame(windows, labels),
        "foreground": frames / total,
        "pos_weight": (total - frames) / frames if frames else None,
        "window_lengths_seconds": _length_histogram(windows),
    }


def _label(row: Mapping[str, Any], num_frames: int, rule: str) -> _Labels:
    """Put one annotation on the frame grid."""
    ratings = annotated_ratings(row)
    mean_rating = ratings.mean(axis=1)
    grid = FrameGrid(row["duration"], num_frames)
    votes = (ratings >= MIN_RATINGS["VeryGood"]).sum(axis=1)
    return _Labels(
        qid=row["qid"],
        grid=grid,
        mask=frame_mask(row["relevant_windows"], grid, rule, saliency=mean_rating / 4),
        mean_rating=mean_rating,
        votes=10 * votes + mean_rating,
    )


def _runs(labels: _Labels, by_rating: bool) -> dict[str, Any]:
    """Turn the mask's runs into a submission row; the score of a run is the mean rating of the clips it touches."""
    edges = labels.grid.edges_seconds
    clip_starts = CLIP_SECONDS * np.arange(len(labels.mean_rating))
    windows = []
    for first, last in mask_to_spans(labels.mask):
        start, end = float(edges[first]), float(edges[last])
        touched = labels.mean_rating[(clip_starts < end) & (clip_starts + CLIP_SECONDS > start)]
        windows.append([start, end, float(touched.mean()) if by_rating and len(touched) else 1.0])
    return {"qid": labels.qid, "pred_relevant_windows": sorted(windows, key=lambda window: -window[2])}


def _highlight_ceilings(
    annotations: Sequence[Mapping[str, Any]], labels: Sequence[_Labels]
) -> dict[str, dict[str, dict[str, float | None]]]:
    """Score three ideal frame curves, each brought to clips in two ways."""
    curves = {
        "mask": [one.mask.astype(np.float64) for one in labels],
        "mean_rating": [graded_frame_targets(one.mean_rating, one.grid) for one in labels],
        "votes": [graded_frame_targets(one.votes, one.grid) for one in labels],
    }
    ways = {"linear": _linear, "nearest": _nearest}
    return {
        name: {
            way: _ceiling(
                annotations,
                [
                    {"qid": one.qid, "pred_saliency_scores": to_clips(values, one)}
                    for values, one in zip(curve, labels, strict=True)
                ],
            )
            for way, to_clips in ways.items()
        }
        for name, curve in curves.items()
    }


def _linear(values: NDArray[np.float64], labels: _Labels) -> NDArray[np.float64]:
    """Interpolate between frame centres, as the package does for predictions."""
    return interpolate_to_clips(values, labels.grid)


def _nearest(values: NDArray[np.float64], labels: _Labels) -> NDArray[np.float64]:
    """Take the frame whose window holds the clip's centre."""
    times_seconds = CLIP_SECONDS * (np.arange(len(labels.mean_rating)) + 0.5)
    frames = np.floor(times_seconds / labels.grid.duration_seconds * len(values)).astype(np.int64)
    return values[np.minimum(frames, len(values) - 1)]


def _ceiling(
    annotations: Sequence[Mapping[str, Any]], submission: Sequence[Mapping[str, Any]]
) -> dict[str, float | None]:
    """Score a submission and keep the headline columns of its task."""
    scores = headline(evaluate_submission(submission, annotations))
    is_highlight = "pred_saliency_scores" in submission[0]
    return {column: scores[column] for column in HEADLINE_COLUMNS if (column in _HIGHLIGHT_COLUMNS) == is_highlight}


def _windows_without_frame(windows: Sequence[NDArray[np.float64]], labels: Sequence[_Labels]) -> float:
    """Compute the share of ground-truth windows that hold no frame centre, so no mask can show them."""
    missed = total = 0
    for truths, one in zip(windows, labels, strict=True):
        centers = one.grid.times_seconds
        held = (truths[:, :1] <= centers) & (centers < truths[:, 1:])
        missed += int((~held.any(axis=1)).sum())
        total += len(truths)
    return missed / total


def _length_histogram(windows: Sequence[NDArray[np.float64]]) -> dict[str, int]:
    """Count windows per length bin (low, high]."""
    edges = LENGTH_EDGES_SECONDS
    joined = np.concatenate(windows)
    bins = np.searchsorted(edges, joined[:, 1] - joined[:, 0], side="left")
    names = [f"{low}-{high}" for low, high in zip(edges, edges[1:], strict=False)] + [f">{edges[-1]}"]
    return {name: int((bins == index).sum()) for index, name in enumerate(names, start=1)}
