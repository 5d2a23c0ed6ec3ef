"""What a set of annotations looks like before any model or frame: counts, lengths, balance (numpy only)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_frameseg.audit.queries import AuditQuery, read_queries
from hf_frameseg.metrics.highlight import MIN_RATINGS
from hf_frameseg.metrics.retrieval import LENGTH_RANGES_SECONDS, windows_in_range

LENGTH_EDGES_SECONDS: tuple[int, ...] = (0, 2, 6, 10, 20, 30, 60, 100, 150)
"""Edges of the histogram of window lengths; each bin is (low, high]."""


def annotation_statistics(annotations: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Count queries, videos and windows, and measure their lengths and balance.

    Args:
        annotations: QVHighlights rows with labels; ratings may be missing from all of them.

    Returns:
        `num_queries`, `num_videos` (None if a row has no vid), `num_windows`;
        `windows_per_query`: number of windows -> queries;
        `multi_window_queries`, `whole_video_queries`: shares in [0, 1];
        `duration_seconds`, `window_length_seconds`: min, median, mean, max;
        `window_lengths_seconds`: histogram over `LENGTH_EDGES_SECONDS`;
        `length_range_windows`: share of windows that are short, middle and long as the scorer has it;
        `foreground_seconds`: share of the time that is relevant; `background_per_foreground`: seconds of background
        per second of foreground;
        `highlight_bound`: HL-mAP and HIT@1 in percent that no ranking can pass, since an annotator without a 4 counts
        as 0; None without ratings.

    Raises:
        ValueError: There is no annotation, or one is malformed (names the qid).

    Example:
        >>> row = {"qid": 1, "vid": "a", "duration": 12, "relevant_windows": [[2, 6]], "relevant_clip_ids": [1, 2],
        ...        "saliency_scores": [[4, 4, 2], [4, 3, 2]]}
        >>> statistics = annotation_statistics([row])
        >>> statistics["background_per_foreground"], round(statistics["highlight_bound"]["HL-mAP"], 1)
        (2.0, 66.7)
    """
    return statistics_of(read_queries(annotations))


def statistics_of(queries: Sequence[AuditQuery]) -> dict[str, Any]:
    """Do the work of `annotation_statistics` on rows that are read already."""
    windows = np.concatenate([query.windows for query in queries])
    lengths = windows[:, 1] - windows[:, 0]
    durations = np.array([query.duration_seconds for query in queries])
    counts = Counter(len(query.windows) for query in queries)
    vids = [query.row.get("vid") for query in queries]
    covered = np.array([_covered_seconds(query.windows) for query in queries])
    foreground, total = float(covered.sum()), float(durations.sum())
    return {
        "num_queries": len(queries),
        "num_videos": len(set(vids)) if all(isinstance(vid, (str, int)) for vid in vids) else None,
        "num_windows": len(windows),
        "windows_per_query": {str(number): counts[number] for number in sorted(counts)},
        "multi_window_queries": float(np.mean([len(query.windows) > 1 for query in queries])),
        "whole_video_queries": float(np.mean(covered >= durations)),
        "duration_seconds": _summary(durations),
        "window_length_seconds": _summary(lengths),
        "window_lengths_seconds": _length_histogram(lengths),
        "length_range_windows": {
            name: len(windows_in_range(windows, limits)) / len(windows)
            for name, limits in LENGTH_RANGES_SECONDS.items()
        },
        "foreground_seconds": foreground / total,
        "background_per_foreground": (total - foreground) / foreground if foreground else None,
        "highlight_bound": None
        if queries[0].ratings is None
        else _highlight_bound([query.ratings for query in queries]),
    }


def _summary(values: NDArray[np.float64]) -> dict[str, float]:
    """Describe a distribution in four numbers."""
    return {
        "min": float(values.min()),
        "median": float(np.median(values)),
        "mean": float(values.mean()),
        "max": float(values.max()),
    }


def _covered_seconds(windows: NDArray[np.float64]) -> float:
    """Measure the union of windows, which other data sets let overlap."""
    covered, reached = 0.0, -np.inf
    for start, end in sorted(windows.tolist()):
        covered += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return covered


def _length_histogram(lengths: NDArray[np.float64]) -> dict[str, int]:
    """Count windows per length bin (low, high]."""
    edges = LENGTH_EDGES_SECONDS
    bins = np.searchsorted(edges, lengths, side="left")
    names = [f"{low}-{high}" for low, high in zip(edges, edges[1:], strict=False)] + [f">{edges[-1]}"]
    return {name: int((bins == index).sum()) for index, name in enumerate(names, start=1)}


def _highlight_bound(ratings: Sequence[NDArray[np.float64]]) -> dict[str, float]:
    """Score a ranking that finds every clip there is to find."""
    found = np.array([(clips >= MIN_RATINGS["VeryGood"]).any(axis=0) for clips in ratings])
    return {"HL-mAP": 100 * float(found.mean()), "HIT@1": 100 * float(found.any(axis=1).mean())}
