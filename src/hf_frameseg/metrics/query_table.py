"""The scores of single queries as flat columns, one row per query: for a file, a data frame, a look at the worst."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from hf_frameseg.metrics.highlight import MIN_RATINGS
from hf_frameseg.metrics.retrieval import IOU_THRESHOLDS, LENGTH_RANGES_SECONDS


def query_table(per_query: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Flatten the arrays of `evaluate_per_query` into columns.

    Args:
        per_query: What `evaluate_per_query` returned.

    Returns:
        Column -> (Q,), fractions in [0, 1], not rounded:
        `qid`;
        for moments `mr_ap@0.5` ... `mr_ap@0.95` and their mean `mr_ap`, `r1_iou` of the first listed window,
        `r1_gt_index` of the ground-truth window it is compared with (-1: no window predicted), and `short_mr_ap`,
        `short_r1_iou`, the same for `middle` and `long`, NaN for queries without a ground-truth window of that length;
        for highlights `hl_argmax` (the best clip), `hl_ap_Fair` (mean of the annotators), `hl_hit_Fair` (0 or 1), the
        same for `Good` and `VeryGood`.
        The mean of a column over its numbers, times 100, is the official score.

    Example:
        >>> import numpy as np
        >>> table = query_table({"qid": np.array([7]), "mr_ap": np.eye(1, 10), "r1_iou": np.array([0.5]),
        ...                      "r1_gt_index": np.array([0])})
        >>> table["mr_ap@0.5"].tolist(), table["mr_ap"].tolist()
        ([1.0], [0.1])
    """
    columns: dict[str, NDArray[Any]] = {"qid": per_query["qid"]}
    if "mr_ap" in per_query:
        columns |= {f"mr_ap@{limit}": per_query["mr_ap"][:, t] for t, limit in enumerate(IOU_THRESHOLDS)}
        columns["mr_ap"] = per_query["mr_ap"].mean(axis=1)
        columns |= {name: per_query[name] for name in ("r1_iou", "r1_gt_index")}
        for name in LENGTH_RANGES_SECONDS:
            if f"{name}_mr_ap" in per_query:
                columns[f"{name}_mr_ap"] = per_query[f"{name}_mr_ap"].mean(axis=1)
                columns[f"{name}_r1_iou"] = per_query[f"{name}_r1_iou"]
    if "hl_argmax" in per_query:
        columns["hl_argmax"] = per_query["hl_argmax"]
        for name in MIN_RATINGS:
            columns[f"hl_ap_{name}"] = per_query[f"hl_ap_{name}"].mean(axis=1)
            columns[f"hl_hit_{name}"] = per_query[f"hl_hit_{name}"]
    return columns
