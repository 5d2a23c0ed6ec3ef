"""Intervals: seeded, as wide as theory says, and paired where it matters."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hf_frameseg.metrics import (
    bootstrap_intervals,
    evaluate_per_query,
    mean_iou,
    paired_differences,
    paired_outcomes,
    query_scores,
)

Rows = list[dict[str, Any]]


@pytest.fixture
def per_query(metric_data: Path, read_rows: Callable) -> dict[str, np.ndarray]:
    submission = read_rows(metric_data / "t01_synthetic_gt.preds.jsonl.gz")
    return evaluate_per_query(submission, read_rows(metric_data / "gt_synthetic.jsonl.gz"))


def moments(iou: np.ndarray) -> dict[str, np.ndarray]:
    return {"qid": np.arange(len(iou)), "mr_ap": np.tile(iou[:, None], 10), "r1_iou": iou}


def test_estimates_are_the_official_numbers_in_their_order(per_query: dict[str, np.ndarray], metric_data: Path) -> None:
    brief = json.loads((metric_data / "t01_synthetic_gt.result.json").read_text(encoding="utf-8"))["brief"]
    brief["mIoU"] = mean_iou(per_query)  # ours, behind the official ones
    intervals = bootstrap_intervals(per_query, num_resamples=50)
    assert list(intervals) == list(query_scores(per_query)) == list(brief)
    assert {name: interval.estimate for name, interval in intervals.items()} == pytest.approx(brief, abs=0.0051)
    assert all(interval.low <= interval.estimate <= interval.high for interval in intervals.values())


def test_equal_seeds_give_equal_intervals(per_query: dict[str, np.ndarray]) -> None:
    first = bootstrap_intervals(per_query, num_resamples=300, seed=3)
    assert first == bootstrap_intervals(per_query, num_resamples=300, seed=3)
    assert first != bootstrap_intervals(per_query, num_resamples=300, seed=4)


def test_the_standard_error_is_that_of_a_mean() -> None:
    iou = np.random.default_rng(0).random(400)
    interval = bootstrap_intervals(moments(iou), num_resamples=4000)["MR-full-mAP"]
    expected = 100 * iou.std() / np.sqrt(400)
    assert interval.standard_error == pytest.approx(expected, rel=0.05)
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * expected, rel=0.05)


def test_a_constant_score_has_no_width() -> None:
    interval = bootstrap_intervals(moments(np.full(20, 0.5)))["MR-full-mAP"]
    assert (interval.low, interval.high, interval.standard_error) == (50, 50, 0)


def test_queries_outside_a_length_range_do_not_count() -> None:
    per_query = moments(np.full(40, 0.5))
    per_query["short_mr_ap"] = np.full((40, 10), np.nan)
    per_query["long_mr_ap"] = np.where(np.arange(40)[:, None] < 10, 0.25, np.nan) * np.ones(10)
    intervals = bootstrap_intervals(per_query)
    assert intervals["MR-long-mAP"].estimate == intervals["MR-long-mAP"].low == 25
    assert np.isnan([intervals["MR-short-mAP"].estimate, intervals["MR-short-mAP"].low]).all()


def test_pairing_removes_what_both_submissions_share() -> None:
    iou = np.random.default_rng(0).random(200) * 0.9
    first, second = moments(iou), moments(iou + 0.01)
    order = np.random.default_rng(1).permutation(200)
    shuffled = {name: values[order] for name, values in second.items()}
    single = bootstrap_intervals(first)["MR-full-mAP"]
    difference = paired_differences(first, shuffled)["MR-full-mAP"]
    assert (difference.low, difference.high) == (pytest.approx(1), pytest.approx(1))
    assert single.high - single.low > 5


def test_a_submission_does_not_differ_from_itself(per_query: dict[str, np.ndarray]) -> None:
    for interval in paired_differences(per_query, per_query, num_resamples=20).values():
        assert (interval.estimate, interval.low, interval.high) == (0, 0, 0)


def test_outcomes_are_counted_query_by_query() -> None:
    first, second = moments(np.array([0.2, 0.6, 0.9, 0.4])), moments(np.array([0.6, 0.2, 0.9, 0.1]))
    second = {name: values[::-1] for name, values in second.items()}
    outcomes = paired_outcomes(first, second)
    iou, hits = outcomes["mIoU"], outcomes["MR-full-R1@0.5"]
    assert (iou.won, iou.lost, iou.tied, iou.difference) == (25, 50, 25, pytest.approx(-7.5))
    assert (hits.won, hits.lost, hits.tied, hits.difference) == (25, 25, 50, 0)


def test_outcomes_leave_out_queries_without_a_window_of_that_length(per_query: dict[str, np.ndarray]) -> None:
    better = {**per_query, "short_mr_ap": per_query["short_mr_ap"] + 0.1}
    outcomes = paired_outcomes(per_query, better)
    assert outcomes["MR-short-mAP"].won == 100
    assert outcomes["MR-short-mAP"].difference == pytest.approx(10)
    absent = {**per_query, "short_mr_ap": np.full_like(per_query["short_mr_ap"], np.nan)}
    assert np.isnan(paired_outcomes(absent, absent)["MR-short-mAP"].won)


def test_differences_and_outcomes_agree(per_query: dict[str, np.ndarray]) -> None:
    rng = np.random.default_rng(0)
    other = {**per_query, "mr_ap": rng.permutation(per_query["mr_ap"]), "r1_iou": rng.permutation(per_query["r1_iou"])}
    outcomes = paired_outcomes(per_query, other)
    intervals = paired_differences(per_query, other, num_resamples=10)
    assert list(outcomes) == list(intervals)
    for name, outcome in outcomes.items():
        assert outcome.difference == pytest.approx(intervals[name].estimate, abs=1e-9)
        assert outcome.won + outcome.lost + outcome.tied == pytest.approx(100)


def test_different_queries_cannot_be_paired() -> None:
    first, second = moments(np.ones(3)), moments(np.ones(4))
    with pytest.raises(ValueError, match="got 3 and 4 with 3 in common"):
        paired_differences(first, second)


@pytest.mark.parametrize("options", [{"num_resamples": 1}, {"level": 1.0}, {"level": 0.0}])
def test_parameters_are_checked(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="use 1000 and 0.95"):
        bootstrap_intervals(moments(np.ones(3)), **options)


def test_recorded_standard_errors_on_the_validation_split(shared_dir: Path, read_rows: Callable) -> None:
    folder = shared_dir / "goldens" / "metric"
    submission = read_rows(folder / "c01_sample_val.preds.jsonl.gz")
    intervals = bootstrap_intervals(evaluate_per_query(submission, read_rows(folder / "gt_val.jsonl.gz")))
    expected = {
        "MR-full-mAP": 0.83,
        "MR-full-mAP@0.5": 1.03,
        "MR-full-mAP@0.75": 1.08,
        "MR-full-R1@0.5": 1.23,
        "MR-full-R1@0.7": 1.22,
        "HL-min-VeryGood-mAP": 0.58,
        "HL-min-VeryGood-Hit1": 1.26,
    }
    measured = {name: intervals[name].standard_error for name in expected}
    assert measured == pytest.approx(expected, rel=0.08)
