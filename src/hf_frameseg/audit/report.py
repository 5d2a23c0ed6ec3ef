"""What a perfect model could score: annotations sent through the frame mask and back, and what the labels look like.

The mask of F frames is the bottleneck of the method (arXiv "Moment and Highlight Detection via MLLM Frame
Segmentation", section III-B). Scoring the ground truth after a round trip through it gives the ceiling of any model
with that many frames and that label rule; `docs/audit.md` says how to read it. The label rules come from `labels`,
so `hf_frameseg.metrics` does not import this module.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_frameseg._numbers import percent
from hf_frameseg._text import short
from hf_frameseg.audit.queries import AuditQuery, read_queries
from hf_frameseg.audit.statistics import statistics_of
from hf_frameseg.masks import mask_to_moments, moments_to_mask
from hf_frameseg.metrics.highlight import MIN_RATINGS, highlight_average_precision, highlight_hits
from hf_frameseg.metrics.retrieval import LENGTH_RANGES_SECONDS
from hf_frameseg.metrics.submission import evaluate_submission
from hf_frameseg.metrics.summary import HEADLINE_COLUMNS
from hf_frameseg.moments import CLIP_SECONDS, FrameGrid, Moment
from hf_frameseg.proposals.saliency import TO_CLIPS
from hf_frameseg.targets import frame_mask, graded_frame_targets, saliency_threshold

LISTINGS: tuple[str, ...] = ("by_time", "by_rating")
"""Orders in which a mask's runs are listed: as they come with score 1, or best mean rating first."""

MAX_FRAMES = 10_000
"""Frames per video that an audit accepts; it holds the masks of all queries at once."""

SALIENCY_WAYS = ("linear", "nearest")
"""Rules of `proposals.saliency` by which ideal frame curves are brought to clips."""

_HIGHLIGHT_COLUMNS = ("HL-mAP", "HIT@1")
_WINDOW_COLUMNS = tuple(column for column in HEADLINE_COLUMNS if column not in _HIGHLIGHT_COLUMNS)

Scores = dict[str, float | None]


@dataclass(frozen=True, eq=False)
class _Mask:
    """Hold one query's mask on its frame grid."""

    query: AuditQuery
    grid: FrameGrid
    values: NDArray[np.bool_]


def audit_report(
    annotations: Sequence[Mapping[str, Any]],
    num_frames: Sequence[int] = (25, 50, 75),
    label_rules: Sequence[str] = ("window",),
) -> dict[str, Any]:
    """Measure annotations once and their ceilings for every number of frames and label rule.

    Args:
        annotations: QVHighlights rows with labels; ratings may be missing from all of them.
        num_frames: Frames per video F, one setting each.
        label_rules: `"window"` or `"saliency>TAU"`, see `targets.frame_mask`; one setting each.

    Returns:
        `annotations`: what `annotation_statistics` measures;
        `exact_windows`: the score of the annotated windows themselves (`scores` and `by_length`), which more than ten
        windows a query, and lengths that are scored alone, keep below 100;
        `settings`: for each label rule each F, what `audit_annotations` measures of the mask.

    Raises:
        ValueError: There is no annotation, number of frames or rule, or one of them is malformed.

    Example:
        >>> row = {"qid": 1, "duration": 12, "relevant_windows": [[2, 6]], "relevant_clip_ids": [1, 2],
        ...        "saliency_scores": [[4, 4, 2], [4, 3, 2]]}
        >>> report = audit_report([row], num_frames=[3, 6])
        >>> [(one["num_frames"], one["windows"]["by_time"]["R1@0.5"]) for one in report["settings"]]
        [(3, 0.0), (6, 100.0)]
    """
    if not num_frames or not label_rules:
        raise ValueError(f"expected at least one number of frames and one label rule, got {num_frames}, {label_rules}")
    if max(num_frames) > MAX_FRAMES:
        raise ValueError(f"expected up to {MAX_FRAMES} frames per video, got {max(num_frames)}; ask for fewer")
    for rule in label_rules:
        saliency_threshold(rule)  # a wrong rule is reported before the work
    queries = read_queries(annotations)
    if queries[0].mean_rating is None and set(label_rules) != {"window"}:
        raise ValueError(
            f"expected label rule 'window', as these annotations have no ratings, got {', '.join(label_rules)}; "
            "leave the saliency rule out"
        )
    exact = [{"qid": query.qid, "pred_relevant_windows": _with_score(query.windows)} for query in queries]
    grids = {frames: [FrameGrid.middle(query.duration_seconds, frames) for query in queries] for frames in num_frames}
    graded = {frames: _graded_highlights(queries, grids[frames]) for frames in num_frames}
    return {
        "annotations": statistics_of(queries),
        "exact_windows": dict(zip(("scores", "by_length"), _window_scores(queries, exact), strict=True)),
        "settings": [
            _audit_setting(queries, grids[frames], rule, graded[frames])
            for rule in label_rules
            for frames in num_frames
        ],
    }


def audit_annotations(
    annotations: Sequence[Mapping[str, Any]], num_frames: int = 25, label_rule: str = "window"
) -> dict[str, Any]:
    """Measure the ceilings and the balance of a set of annotations for one number of frames and one label rule.

    Args:
        annotations: QVHighlights rows with labels; ratings may be missing from all of them.
        num_frames: Frames per video, F.
        label_rule: `"window"` or `"saliency>TAU"`, see `targets.frame_mask`.

    Returns:
        `num_frames`, `label_rule`, `num_queries`;
        `windows`: R1 and mAP of the mask's runs, listed `by_time` or `by_rating` (best first);
        `windows_by_length`: their mAP on `short`, `middle` and `long` windows, None where there are none;
        `highlights`: HL-mAP and HIT@1 of the `mask` itself, of the `mean_rating` at each frame and of `votes`
        (annotators who gave a 4, then the mean), brought to clips `linear` or `nearest`;
        `all_zero_masks`, `all_one_masks`, `multi_window_queries`, `windows_without_frame`, `foreground`: shares in
        [0, 1]; `num_all_zero_masks`, `num_all_one_masks`, `num_windows_without_frame`: the same as counts;
        `all_zero_qids`: the queries that no frame answers; `pos_weight`: background frames per foreground frame, None
        without foreground;
        `window_lengths_seconds`: histogram.
        Without ratings `by_rating` and `highlights` are None.

    Raises:
        ValueError: An annotation lacks labels or is malformed (names the qid), or the rule is unknown.

    Example:
        >>> row = {"qid": 1, "duration": 12, "relevant_windows": [[2, 6]], "relevant_clip_ids": [1, 2],
        ...        "saliency_scores": [[4, 4, 2], [4, 3, 2]]}
        >>> audit = audit_annotations([row], num_frames=3)
        >>> audit["windows"]["by_time"]["R1@0.5"], audit["pos_weight"]
        (0.0, 2.0)
    """
    report = audit_report(annotations, [num_frames], [label_rule])
    shared = ("num_queries", "multi_window_queries", "window_lengths_seconds")
    return {**report["settings"][0], **{key: report["annotations"][key] for key in shared}}


def _audit_setting(
    queries: Sequence[AuditQuery], grids: Sequence[FrameGrid], rule: str, graded: dict[str, Any] | None
) -> dict[str, Any]:
    """Measure one label rule with one number of frames; `graded` is what the rule does not change."""
    masks = [_mask(query, grid, rule) for query, grid in zip(queries, grids, strict=True)]
    listings = {name: _listing(queries, masks, name) for name in LISTINGS}
    num_frames = grids[0].num_frames
    frames, total = sum(int(mask.values.sum()) for mask in masks), len(masks) * num_frames
    zero = [mask.query.qid for mask in masks if not mask.values.any()]
    ones = sum(bool(mask.values.all()) for mask in masks)
    missed = sum(_windows_without_frame(mask) for mask in masks)
    mask_values = [mask.values.astype(np.float64) for mask in masks]
    return {
        "num_frames": num_frames,
        "label_rule": rule,
        "windows": {name: listing and listing[0] for name, listing in listings.items()},
        "windows_by_length": {name: listing and listing[1] for name, listing in listings.items()},
        "highlights": None if graded is None else {"mask": _highlights(queries, grids, mask_values), **graded},
        "foreground": frames / total,
        "pos_weight": (total - frames) / frames if frames else None,
        "all_zero_masks": len(zero) / len(masks),
        "num_all_zero_masks": len(zero),
        "all_zero_qids": zero,
        "all_one_masks": ones / len(masks),
        "num_all_one_masks": ones,
        "windows_without_frame": missed / sum(len(query.windows) for query in queries),
        "num_windows_without_frame": missed,
    }


def _mask(query: AuditQuery, grid: FrameGrid, rule: str) -> _Mask:
    """Put one annotation on the frame grid."""
    saliency = None if query.mean_rating is None else query.mean_rating / 4
    try:
        return _Mask(query, grid, frame_mask(query.windows, grid, rule, saliency=saliency))
    except ValueError as error:
        raise ValueError(f"qid {short(query.qid)}: {error}") from None


def _listing(queries: Sequence[AuditQuery], masks: Sequence[_Mask], listing: str) -> tuple[Scores, Scores] | None:
    """Score the runs of all masks in one order; None if the order needs ratings and there are none."""
    if listing == "by_rating" and queries[0].mean_rating is None:
        return None
    return _window_scores(queries, [_runs(mask, listing == "by_rating") for mask in masks])


def _runs(mask: _Mask, by_rating: bool) -> dict[str, Any]:
    """Turn the mask's runs into a submission row; the score of a run is the mean rating of the clips it touches."""
    windows = []
    for moment in mask_to_moments(mask.values, mask.grid):
        score = _mean_rating_in(mask.query.mean_rating, moment) if by_rating else moment.score
        windows.append([moment.start, moment.end, score])
    return {"qid": mask.query.qid, "pred_relevant_windows": sorted(windows, key=lambda window: -window[2])}


def _mean_rating_in(ratings: NDArray[np.float64], moment: Moment) -> float:
    """Average the clips that a moment touches; the incomplete clip at the end of a video counts as the last one."""
    first = min(int(moment.start // CLIP_SECONDS), len(ratings) - 1)
    return float(ratings[first : max(first + 1, int(np.ceil(moment.end / CLIP_SECONDS)))].mean())


def _window_scores(queries: Sequence[AuditQuery], submission: Sequence[Mapping[str, Any]]) -> tuple[Scores, Scores]:
    """Score windows: the headline columns, and mAP per length range."""
    brief = evaluate_submission(submission, [query.row for query in queries])["brief"]
    columns = {column: brief[HEADLINE_COLUMNS[column]] for column in _WINDOW_COLUMNS}
    return columns, {name: brief[f"MR-{name}-mAP"] for name in LENGTH_RANGES_SECONDS}


def _with_score(windows: NDArray[np.float64]) -> list[list[float]]:
    """Add the score 1 to every window."""
    return [[start, end, 1.0] for start, end in windows.tolist()]


def _graded_highlights(
    queries: Sequence[AuditQuery], grids: Sequence[FrameGrid]
) -> dict[str, dict[str, Scores]] | None:
    """Score ideal graded frame curves, which no label rule changes."""
    if queries[0].votes is None:
        return None
    curves = {
        "mean_rating": [query.mean_rating for query in queries],
        "votes": [query.votes for query in queries],
    }
    return {
        name: _highlights(
            queries, grids, [graded_frame_targets(clips, grid) for clips, grid in zip(curve, grids, strict=True)]
        )
        for name, curve in curves.items()
    }


def _highlights(
    queries: Sequence[AuditQuery], grids: Sequence[FrameGrid], curves: Sequence[NDArray[np.float64]]
) -> dict[str, Scores]:
    """Score one value per frame as saliency, brought to clips in two ways."""
    ratings, minimum = [query.ratings for query in queries], [MIN_RATINGS["VeryGood"]]
    result = {}
    for way in SALIENCY_WAYS:
        saliency = [TO_CLIPS[way](curve, grid) for curve, grid in zip(curves, grids, strict=True)]
        result[way] = {
            "HL-mAP": percent(highlight_average_precision(saliency, ratings, minimum).mean()),
            "HIT@1": percent(highlight_hits(saliency, ratings, minimum).mean()),
        }
    return result


def _windows_without_frame(mask: _Mask) -> int:
    """Count the ground-truth windows that hold no frame centre, so no mask can show them."""
    return sum(not moments_to_mask([Moment(*window)], mask.grid).any() for window in mask.query.windows)
