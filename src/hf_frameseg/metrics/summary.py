"""Average the scores of single queries: the official dictionary, the papers' columns, R1 at any IoU, mIoU, counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_frameseg._numbers import is_number, percent
from hf_frameseg.metrics.highlight import MIN_RATINGS
from hf_frameseg.metrics.retrieval import IOU_THRESHOLDS, LENGTH_RANGES_SECONDS

HEADLINE_COLUMNS: dict[str, str] = {
    "R1@0.5": "MR-full-R1@0.5",
    "R1@0.7": "MR-full-R1@0.7",
    "mAP": "MR-full-mAP",
    "mAP@0.5": "MR-full-mAP@0.5",
    "mAP@0.75": "MR-full-mAP@0.75",
    "HL-mAP": "HL-min-VeryGood-mAP",
    "HIT@1": "HL-min-VeryGood-Hit1",
}
"""Column of the papers' tables -> official key under `brief`."""


def summarize_per_query(per_query: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """Average the scores of the queries into the official nested dictionary.

    Args:
        per_query: What `evaluate_per_query` returned.

    Returns:
        As `evaluate_submission`.

    Example:
        >>> from hf_frameseg.metrics import evaluate_per_query
        >>> truth = [{"qid": 1, "relevant_windows": [[0, 4]]}, {"qid": 2, "relevant_windows": [[0, 4]]}]
        >>> rows = [{"qid": 2, "pred_relevant_windows": [[0.0, 4.0, 0.9]]}, {"qid": 1, "pred_relevant_windows": []}]
        >>> summarize_per_query(evaluate_per_query(rows, truth))["brief"]["MR-full-R1@0.5"]
        50.0
    """
    details: dict[str, Any] = {}
    brief: dict[str, float | None] = {}
    if "mr_ap" in per_query:
        moments = _retrieval_result(per_query)
        details |= moments
        brief |= _retrieval_brief(moments)
    if "hl_argmax" in per_query:
        highlights = _highlight_result(per_query)
        details |= highlights
        brief |= {f"{name}-{key[3:]}": value for name, part in highlights.items() for key, value in part.items()}
    return {"brief": brief, **dict(sorted(details.items()))}


def headline(result: Mapping[str, Any]) -> dict[str, float | None]:
    """Pick the columns of the papers' tables from an official result.

    Args:
        result: What `evaluate_submission` returned, or the same read from JSON.

    Returns:
        R1@0.5, R1@0.7, mAP, mAP@0.5, mAP@0.75, HL-mAP and HIT@1 (both VeryGood) in percent; None if not scored.

    Example:
        >>> headline({"brief": {"MR-full-mAP": 35.3, "HL-min-VeryGood-Hit1": 56.7}})["HIT@1"]
        56.7
    """
    return {column: result["brief"].get(key) for column, key in HEADLINE_COLUMNS.items()}


def recall_at(per_query: Mapping[str, NDArray[Any]], thresholds: Sequence[float]) -> dict[str, float]:
    """Give R1 at any IoU thresholds: R1@0.3 is what Charades-STA, TACoS and Ego4D-NLQ are also compared by.

    Args:
        per_query: What `evaluate_per_query` returned.
        thresholds: IoU thresholds, above 0 and up to 1; reaching one exactly counts.

    Returns:
        `R1@0.3` -> percent of the queries, rounded as the official numbers are; nothing if moments were not scored.

    Raises:
        ValueError: If a threshold is out of range.

    Example:
        >>> recall_at({"r1_iou": np.array([0.3, 0.8])}, [0.3, 0.5])
        {'R1@0.3': 100.0, 'R1@0.5': 50.0}
    """
    limits = check_thresholds(thresholds)
    if "r1_iou" not in per_query:
        return {}
    return {f"R1@{limit:g}": percent((per_query["r1_iou"] >= limit).mean()) for limit in limits}


def mean_iou(per_query: Mapping[str, NDArray[Any]]) -> float | None:
    """Average the IoU of the first listed windows: mIoU, which the official dictionary does not hold.

    Args:
        per_query: What `evaluate_per_query` returned.

    Returns:
        mIoU in percent, rounded as the official numbers are; None if moments were not scored.

    Example:
        >>> mean_iou({"r1_iou": np.array([0.5, 0.8])})
        65.0
    """
    return percent(per_query["r1_iou"].mean()) if "r1_iou" in per_query else None


def check_thresholds(thresholds: Sequence[float]) -> tuple[float, ...]:
    """Refuse what is no IoU to reach.

    Args:
        thresholds: IoU thresholds of R1.

    Returns:
        Each once, in rising order.

    Raises:
        ValueError: If one is no number above 0 and up to 1.
    """
    for limit in thresholds:
        if not is_number(limit) or not 0 < limit <= 1:
            raise ValueError(f"expected IoU thresholds above 0 and up to 1, got {limit!r:.80}; write 0.3, for example")
    return tuple(sorted({float(limit) for limit in thresholds}))


def count_queries(per_query: Mapping[str, NDArray[Any]]) -> dict[str, int]:
    """Count the queries that were scored, and those with a ground-truth window of each length range.

    Args:
        per_query: What `evaluate_per_query` returned.

    Returns:
        `full`; if moments were scored, `short`, `middle` and `long`; `rated`, if only some queries have ratings.

    Example:
        >>> from hf_frameseg.metrics import evaluate_per_query
        >>> truth = [{"qid": 1, "relevant_windows": [[0, 4], [20, 40]]}, {"qid": 2, "relevant_windows": [[0, 4]]}]
        >>> rows = [{"qid": 1, "pred_relevant_windows": []}, {"qid": 2, "pred_relevant_windows": []}]
        >>> count_queries(evaluate_per_query(rows, truth))
        {'full': 2, 'short': 2, 'middle': 1, 'long': 0}
    """
    ranges = {name: per_query.get(f"{name}_r1_iou") for name in LENGTH_RANGES_SECONDS}
    inside = {name: int((~np.isnan(iou)).sum()) for name, iou in ranges.items() if iou is not None}
    rated = int((per_query["hl_argmax"] >= 0).sum()) if "hl_argmax" in per_query else 0
    partly = {"rated": rated} if 0 < rated < len(per_query["qid"]) else {}
    return {"full": len(per_query["qid"]), **inside, **partly}


def _retrieval_result(per_query: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """Average moments into the official nesting."""
    result = {"full": _range_result(per_query["mr_ap"], per_query["r1_iou"])}
    for name in LENGTH_RANGES_SECONDS:
        inside = ~np.isnan(per_query[f"{name}_mr_ap"][:, 0])
        result[name] = _range_result(per_query[f"{name}_mr_ap"][inside], per_query[f"{name}_r1_iou"][inside])
    return result


def _range_result(ap: NDArray[np.float64], iou: NDArray[np.float64]) -> dict[str, Any]:
    """Average one length range; None everywhere if it has no query."""
    names = [str(threshold) for threshold in IOU_THRESHOLDS]
    if not len(ap):
        return {"MR-mAP": dict.fromkeys([*names, "average"]), "MR-R1": dict.fromkeys(names)}
    mean_ap = ap.mean(axis=0)
    hits = (iou[:, None] >= np.array(IOU_THRESHOLDS)).mean(axis=0)
    return {
        "MR-mAP": {
            **{name: percent(value) for name, value in zip(names, mean_ap, strict=True)},
            "average": percent(mean_ap.mean()),
        },
        "MR-R1": {name: percent(value) for name, value in zip(names, hits, strict=True)},
    }


def _retrieval_brief(moments: Mapping[str, Any]) -> dict[str, float | None]:
    """Pick the official brief keys, in their order."""
    mean_ap, hits = moments["full"]["MR-mAP"], moments["full"]["MR-R1"]
    return {
        "MR-full-R1@0.5": hits["0.5"],
        "MR-full-R1@0.7": hits["0.7"],
        "MR-full-mAP": mean_ap["average"],
        "MR-full-mAP@0.5": mean_ap["0.5"],
        "MR-full-mAP@0.75": mean_ap["0.75"],
        **{f"MR-{name}-mAP": moments[name]["MR-mAP"]["average"] for name in ("long", "middle", "short")},
    }


def _highlight_result(per_query: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """Average highlights of the rated queries into the official nesting."""
    rated = per_query["hl_argmax"] >= 0
    return {
        f"HL-min-{name}": {
            "HL-mAP": percent(per_query[f"hl_ap_{name}"][rated].mean()),
            "HL-Hit1": percent(per_query[f"hl_hit_{name}"][rated].mean()),
        }
        for name in MIN_RATINGS
    }
