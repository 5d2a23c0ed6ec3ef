"""How sure a score is: bootstrap over queries, for one submission and for the difference of two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_frameseg.metrics.highlight import MIN_RATINGS
from hf_frameseg.metrics.retrieval import IOU_THRESHOLDS, LENGTH_RANGES_SECONDS
from hf_frameseg.metrics.summary import check_thresholds

MAX_RESAMPLES = 100_000
"""Resamples that are drawn at most; more change no digit that is shown."""

_CHUNK_RESAMPLES = 250


@dataclass(frozen=True)
class Interval:
    """Hold a score and how far it may be off, in percent points.

    Args:
        estimate: The score itself, not rounded.
        low: Lower end of the percentile interval.
        high: Upper end.
        standard_error: Standard deviation over resamples.
    """

    estimate: float
    low: float
    high: float
    standard_error: float


@dataclass(frozen=True)
class Outcomes:
    """Hold how two submissions compare query by query.

    Args:
        difference: Mean of `second - first` in percent points, not rounded.
        won: Percent of the queries on which the second scores higher.
        lost: Percent on which it scores lower.
        tied: Percent on which both score the same.
    """

    difference: float
    won: float
    lost: float
    tied: float


def query_scores(
    per_query: Mapping[str, NDArray[Any]], r1_thresholds: Sequence[float] = ()
) -> dict[str, NDArray[np.float64]]:
    """Give each query's share in the official `brief` numbers and in mIoU.

    Args:
        per_query: What `evaluate_per_query` returned.
        r1_thresholds: Further IoU thresholds of R1, such as 0.3.

    Returns:
        Official brief key -> percent per query, (Q,); the mean over the numbers that are not NaN is the official
        score. NaN marks queries without a ground-truth window of that length, or without ratings. The last ones are
        ours: `mIoU`, and R1 at further thresholds under keys like the official ones.

    Example:
        >>> scores = query_scores({"mr_ap": np.zeros((2, 10)), "r1_iou": np.array([0.6, 0.8])})
        >>> scores["MR-full-R1@0.7"].tolist()
        [0.0, 100.0]
    """
    scores: dict[str, NDArray[np.float64]] = {}
    if "mr_ap" in per_query:
        ap, iou = per_query["mr_ap"], per_query["r1_iou"]
        scores |= {f"MR-full-R1@{limit}": (iou >= limit).astype(np.float64) for limit in (0.5, 0.7)}
        scores["MR-full-mAP"] = ap.mean(axis=1)
        scores |= {f"MR-full-mAP@{limit}": ap[:, IOU_THRESHOLDS.index(limit)] for limit in (0.5, 0.75)}
        ranges = [name for name in LENGTH_RANGES_SECONDS if f"{name}_mr_ap" in per_query]
        scores |= {f"MR-{name}-mAP": per_query[f"{name}_mr_ap"].mean(axis=1) for name in reversed(ranges)}
    if "hl_argmax" in per_query:
        for name in MIN_RATINGS:
            scores[f"HL-min-{name}-mAP"] = per_query[f"hl_ap_{name}"].mean(axis=1)
            scores[f"HL-min-{name}-Hit1"] = per_query[f"hl_hit_{name}"]
    if "r1_iou" in per_query:
        scores["mIoU"] = per_query["r1_iou"]
        scores |= {
            f"MR-full-R1@{limit:g}": (per_query["r1_iou"] >= limit).astype(np.float64)
            for limit in check_thresholds(r1_thresholds)
        }
    return {name: 100 * values for name, values in scores.items()}


def bootstrap_intervals(
    per_query: Mapping[str, NDArray[Any]],
    *,
    num_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    r1_thresholds: Sequence[float] = (),
) -> dict[str, Interval]:
    """Estimate how far each official number would move with other queries.

    Args:
        per_query: What `evaluate_per_query` returned.
        num_resamples: Resamples of the queries, with replacement.
        level: Share of the resamples inside the interval, in (0, 1).
        seed: Seed of the resampling; equal inputs and seed give equal intervals.
        r1_thresholds: As in `query_scores`.

    Returns:
        Official brief key, or `mIoU` -> interval in percent; all NaN for a length range without any ground-truth
        window.

    Raises:
        ValueError: `num_resamples` or `level` out of range.

    Example:
        >>> per_query = {"mr_ap": np.ones((50, 10)), "r1_iou": np.linspace(0, 1, 50)}
        >>> interval = bootstrap_intervals(per_query)["MR-full-R1@0.5"]
        >>> interval.estimate, interval.low < 50 < interval.high
        (50.0, True)
    """
    return _intervals(query_scores(per_query, r1_thresholds), num_resamples, level, seed)


def bootstrap_means(
    scores: Mapping[str, NDArray[np.float64]], *, num_resamples: int = 1000, level: float = 0.95, seed: int = 0
) -> dict[str, Interval]:
    """Estimate how far the mean of any score per query would move with other queries.

    Args:
        scores: Name -> value of each query, (Q,); NaN for queries that have none.
        num_resamples: As in `bootstrap_intervals`.
        level: As in `bootstrap_intervals`.
        seed: As in `bootstrap_intervals`.

    Returns:
        Name -> interval.

    Raises:
        ValueError: If a parameter is out of range.
    """
    return _intervals(scores, num_resamples, level, seed)


def paired_differences(
    first: Mapping[str, NDArray[Any]],
    second: Mapping[str, NDArray[Any]],
    *,
    num_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    r1_thresholds: Sequence[float] = (),
) -> dict[str, Interval]:
    """Estimate the difference `second - first` of two submissions on the same queries.

    Both are resampled together, so what makes a query hard for either cancels: the interval is usually much narrower
    than the two single ones suggest. An interval that holds 0 shows no difference.

    Args:
        first: `evaluate_per_query` of the one submission.
        second: The same of the other, with the same qids in any order.
        num_resamples: As in `bootstrap_intervals`.
        level: As in `bootstrap_intervals`.
        seed: As in `bootstrap_intervals`.
        r1_thresholds: As in `bootstrap_intervals`.

    Returns:
        Official brief key, or `mIoU` -> interval of the difference in percent points, for the keys that both have.

    Raises:
        ValueError: The qids differ, or a parameter is out of range.

    Example:
        >>> first = {"qid": np.array([1, 2]), "mr_ap": np.zeros((2, 10)), "r1_iou": np.zeros(2)}
        >>> second = {"qid": np.array([2, 1]), "mr_ap": np.ones((2, 10)), "r1_iou": np.zeros(2)}
        >>> paired_differences(first, second)["MR-full-mAP"].low
        100.0
    """
    return _intervals(_differences(first, second, r1_thresholds), num_resamples, level, seed)


def paired_outcomes(
    first: Mapping[str, NDArray[Any]], second: Mapping[str, NDArray[Any]], r1_thresholds: Sequence[float] = ()
) -> dict[str, Outcomes]:
    """Count on how many queries the second submission scores higher, lower and the same.

    Args:
        first: As in `paired_differences`.
        second: As in `paired_differences`.
        r1_thresholds: As in `paired_differences`.

    Returns:
        Official brief key, or `mIoU` -> difference and shares, for the keys that both have; NaN for a length range
        without any ground-truth window.

    Raises:
        ValueError: The qids differ.

    Example:
        >>> first = {"qid": np.array([1, 2]), "mr_ap": np.zeros((2, 10)), "r1_iou": np.zeros(2)}
        >>> second = {"qid": np.array([1, 2]), "mr_ap": np.eye(2, 10), "r1_iou": np.array([0.0, 0.6])}
        >>> outcomes = paired_outcomes(first, second)
        >>> outcomes["MR-full-mAP"].won, outcomes["MR-full-R1@0.5"]
        (100.0, Outcomes(difference=50.0, won=50.0, lost=0.0, tied=50.0))
    """
    result = {}
    for name, values in _differences(first, second, r1_thresholds).items():
        values = values[~np.isnan(values)]
        parts = (values, 100 * (values > 0), 100 * (values < 0), 100 * (values == 0))
        result[name] = Outcomes(*(float(part.mean()) if len(values) else np.nan for part in parts))
    return result


def _differences(
    first: Mapping[str, NDArray[Any]], second: Mapping[str, NDArray[Any]], r1_thresholds: Sequence[float]
) -> dict[str, NDArray[np.float64]]:
    """Subtract the queries' scores, `second - first`, in the order of the first."""
    place = {qid: q for q, qid in enumerate(second["qid"].tolist())}
    qids = first["qid"].tolist()
    if set(qids) != set(place):
        raise ValueError(
            f"expected the same qids in both submissions, got {len(qids)} and {len(place)} with "
            f"{len(set(qids) & set(place))} in common; score both against the same ground truth"
        )
    order = np.array([place[qid] for qid in qids])
    before, after = query_scores(first, r1_thresholds), query_scores(second, r1_thresholds)
    return {name: after[name][order] - values for name, values in before.items() if name in after}


def _intervals(
    scores: Mapping[str, NDArray[np.float64]], num_resamples: int, level: float, seed: int
) -> dict[str, Interval]:
    """Resample the mean of every array with the same draws."""
    if not 2 <= num_resamples <= MAX_RESAMPLES or not 0 < level < 1:
        raise ValueError(
            f"expected num_resamples from 2 to {MAX_RESAMPLES} and 0 < level < 1, got {num_resamples} and {level}; use "
            "1000 and 0.95"
        )
    if not scores:
        return {}
    values = np.stack(list(scores.values()), axis=1)
    means = _resampled_means(values, num_resamples, seed)
    estimate = _mean(np.ones((1, len(values))), values)[0]
    result = {}
    for name, value, column in zip(scores, estimate, means.T, strict=True):
        column = column[~np.isnan(column)]  # resamples of a rare length range may hold none of it
        tails = np.quantile(column, [(1 - level) / 2, (1 + level) / 2]) if len(column) else [np.nan, np.nan]
        error = column.std(ddof=1) if len(column) > 1 else np.nan
        result[name] = Interval(float(value), float(tails[0]), float(tails[1]), float(error))
    return result


def _resampled_means(values: NDArray[np.float64], num_resamples: int, seed: int) -> NDArray[np.float64]:
    """Draw queries with replacement; (Q, K) -> (num_resamples, K)."""
    rng = np.random.default_rng(seed)
    num_queries = len(values)
    parts = []
    for start in range(0, num_resamples, _CHUNK_RESAMPLES):
        size = min(_CHUNK_RESAMPLES, num_resamples - start)
        drawn = rng.integers(num_queries, size=(size, num_queries)) + num_queries * np.arange(size)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=size * num_queries).reshape(size, num_queries)
        parts.append(_mean(counts.astype(np.float64), values))
    return np.concatenate(parts)


def _mean(counts: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average the numbers that are not NaN, weighted; (R, Q) and (Q, K) -> (R, K), NaN where there is none."""
    present = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return (counts @ np.where(present, values, 0.0)) / (counts @ present.astype(np.float64))
