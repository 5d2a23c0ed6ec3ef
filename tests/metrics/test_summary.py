"""The numbers of a split from the scores of its queries: headline columns, mIoU, R1 at any threshold."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hf_frameseg.metrics import (
    IOU_THRESHOLDS,
    bootstrap_intervals,
    evaluate_per_query,
    headline,
    mean_iou,
    paired_outcomes,
    recall_at,
    summarize_per_query,
)

MOMENTS_ONLY = [
    {"qid": "s1", "duration": 30.96, "relevant_windows": [[24.3, 30.4]]},
    {"qid": "s2", "duration": 30.96, "relevant_windows": [[0.0, 10.0]]},
]
PREDICTED = [
    {"qid": "s1", "pred_relevant_windows": [[24.3, 30.4, 0.9]]},
    {"qid": "s2", "pred_relevant_windows": [[6.0, 10.0, 0.9]]},
]


def test_headline_columns_come_from_the_official_keys(metric_data: Path) -> None:
    recorded = json.loads((metric_data / "t01_synthetic_gt.result.json").read_text(encoding="utf-8"))
    assert headline(recorded) == {
        "R1@0.5": 76.67,
        "R1@0.7": 58.33,
        "mAP": 36.21,
        "mAP@0.5": 57.35,
        "mAP@0.75": 36.32,
        "HL-mAP": 38.65,
        "HIT@1": 56.67,
    }
    assert headline({"brief": {}})["mAP"] is None


def test_mean_iou_is_that_of_the_first_listed_windows(metric_data: Path, read_rows: Callable) -> None:
    recorded = read_rows(metric_data / "t01_synthetic_gt.perquery.jsonl.gz")
    submission = read_rows(metric_data / "t01_synthetic_gt.preds.jsonl.gz")
    per_query = evaluate_per_query(submission, read_rows(metric_data / "gt_synthetic.jsonl.gz"))
    assert mean_iou(per_query) == float(f"{100 * np.mean([row['r1_iou'] for row in recorded]):.2f}")
    assert mean_iou({"qid": per_query["qid"]}) is None


def test_recall_at_any_thresholds() -> None:
    per_query = evaluate_per_query(PREDICTED, MOMENTS_ONLY)
    assert recall_at(per_query, [0.7, 0.3, 0.4, 0.401, 0.3]) == {
        "R1@0.3": 100.0,
        "R1@0.4": 100.0,  # reached exactly
        "R1@0.401": 50.0,
        "R1@0.7": 50.0,
    }
    official = summarize_per_query(per_query)["full"]["MR-R1"]
    assert {f"R1@{limit}": value for limit, value in official.items()} == recall_at(per_query, IOU_THRESHOLDS)
    intervals = bootstrap_intervals(per_query, r1_thresholds=[0.3, 0.401])
    assert (intervals["MR-full-R1@0.3"].low, intervals["MR-full-R1@0.401"].estimate) == (100.0, 50.0)
    outcomes = paired_outcomes(per_query, per_query, r1_thresholds=[0.3])
    assert outcomes["MR-full-R1@0.3"].tied == 100.0
    assert recall_at({"qid": per_query["qid"]}, [0.3]) == {}


@pytest.mark.parametrize("limit", [0, -0.1, 1.01, float("nan"), True, "0.3"])
def test_a_threshold_that_nothing_reaches_is_refused(limit: Any) -> None:
    with pytest.raises(ValueError, match="expected IoU thresholds above 0 and up to 1, got"):
        recall_at({}, [limit])
