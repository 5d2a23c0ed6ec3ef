"""Moment retrieval scores against values worked out by hand."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest

from hf_frameseg.metrics import retrieval


def windows(*rows: list[float]) -> np.ndarray:
    return np.array(rows, dtype=np.float64)


def ap(predictions: np.ndarray, truths: np.ndarray, threshold: float = 0.5) -> float:
    return retrieval.average_precision([predictions], [truths], [threshold])[0, 0]


TRUTHS = windows([0, 10], [20, 30])


def test_iou_of_overlapping_nested_and_disjoint_windows() -> None:
    other = windows([0, 10], [0, 20], [5, 15], [10, 20])
    assert retrieval.window_iou(np.array([0.0, 10.0]), other) == pytest.approx([1, 0.5, 1 / 3, 0])


def test_iou_of_an_inverted_window_as_long_as_the_other_is_nan() -> None:
    assert np.isnan(retrieval.window_iou(np.array([12.0, 4.0]), np.array([4.0, 12.0])))


def test_the_first_listed_window_decides_r1_whatever_its_score() -> None:
    listed = windows([20, 28, 0.1], [0, 10, 0.9])
    iou, index = retrieval.top_window_iou([listed], [TRUTHS])
    assert (iou[0], index[0]) == (0.8, 1)


def test_r1_picks_the_first_truth_on_ties_and_misses_without_windows() -> None:
    touching = windows([0, 10], [10, 20])
    iou, index = retrieval.top_window_iou([windows([0, 20, 1]), np.empty((0, 3))], [touching, TRUTHS])
    assert iou.tolist() == [0.5, 0.0]
    assert index.tolist() == [0, -1]


def test_ap_of_perfect_windows_is_one_in_any_order() -> None:
    assert ap(windows([20, 30, 0.9], [0, 10, 0.1]), TRUTHS) == 1


def test_ap_interpolates_precision() -> None:
    # hit, miss, hit: precision 1 up to recall 1/2, then 2/3
    assert ap(windows([0, 10, 0.9], [50, 60, 0.8], [20, 30, 0.7]), TRUTHS) == pytest.approx((1 + 2 / 3) / 2)
    # miss, hit, hit: the later 2/3 is also the best precision for recall 1/2
    assert ap(windows([50, 60, 0.9], [0, 10, 0.8], [20, 30, 0.7]), TRUTHS) == pytest.approx(2 / 3)


def test_a_truth_is_matched_once_and_the_next_best_is_tried() -> None:
    assert ap(windows([0, 10, 0.9], [0, 10, 0.8]), TRUTHS) == 0.5
    # the second window overlaps the taken truth most (0.6), and then the free one (0.5)
    overlapping = windows([0, 10], [5, 13])
    assert ap(windows([0, 10, 0.9], [3, 11, 0.8]), overlapping) == 1


def test_reaching_a_threshold_exactly_counts() -> None:
    assert ap(windows([0, 20, 1]), windows([0, 10]), 0.5) == 1
    assert ap(windows([0, 20, 1]), windows([0, 10]), 0.55) == 0


def test_equal_scores_keep_the_listing_order() -> None:
    assert ap(windows([50, 60, 0.5], [0, 10, 0.5]), TRUTHS) == pytest.approx(0.25)
    assert ap(windows([0, 10, 0.5], [50, 60, 0.5]), TRUTHS) == pytest.approx(0.5)


def test_low_ranked_extra_windows_are_free() -> None:
    one = windows([0, 10, 0.9])
    many = np.concatenate([one, np.tile(windows([50, 60, 0.1]), (9, 1))])
    assert ap(one, TRUTHS) == ap(many, TRUTHS) == 0.5


def test_more_truths_than_windows_cap_the_ap() -> None:
    truths = np.array([[10 * i, 10 * i + 5] for i in range(20)], dtype=np.float64)
    listed = np.column_stack([truths[:10], np.ones(10)])
    assert ap(listed, truths) == pytest.approx(0.5)


def test_many_gains_are_added_in_the_official_order() -> None:
    # Numpy adds eight numbers or more in another order than a loop, and the step to full recall is one of them.
    rng, differ = np.random.default_rng(0), 0
    for _ in range(200):
        num_truths = int(rng.integers(10, 15))
        truths = np.array([[10 * i, 10 * i + 5] for i in range(num_truths)], dtype=np.float64)
        hit = rng.random(12) < 0.8
        hit[np.cumsum(hit) > num_truths] = False
        targets = np.where(hit, 10.0 * (np.cumsum(hit) - 1), 5000.0)
        listed = np.column_stack([targets, targets + 5, -np.arange(12)])
        recall = np.hstack([0, np.cumsum(hit) / num_truths, 1])
        precision = np.hstack([np.cumsum(hit) / np.arange(1, 13), 0])
        gains = [(recall[i + 1] - recall[i]) * precision[i:].max() for i in range(13) if recall[i + 1] != recall[i]]
        assert ap(listed, truths) == np.sum(gains)
        differ += np.sum(gains) != sum(gains)
    assert differ > 10  # else the test would not see the order


def test_equal_overlaps_are_tried_in_the_order_of_the_official_sort(slow_reference: ModuleType) -> None:
    rng, decided = np.random.default_rng(0), 0
    for _ in range(300):
        truths = np.sort(rng.integers(0, 8, (rng.integers(2, 7), 2)), axis=1) + [0.0, 1.0]
        listed = np.column_stack([np.sort(rng.integers(0, 8, (6, 2)), axis=1) + [0.0, 1.0], np.zeros(6)])
        found = retrieval.average_precision([listed], [truths])[0]
        expected = [slow_reference.window_ap(listed.tolist(), truths.tolist(), t) for t in retrieval.IOU_THRESHOLDS]
        assert found == pytest.approx(expected, abs=1e-12)
        backwards = retrieval.average_precision([listed], [truths[::-1]])[0]
        decided += not np.allclose(found, backwards)
    assert decided > 5  # else no tie decided anything


def test_a_nan_iou_counts_as_a_match_in_ap_and_as_a_miss_in_r1() -> None:
    inverted = windows([10, 0, 1])
    assert ap(inverted, windows([0, 10]), 0.95) == 1
    assert retrieval.top_window_iou([inverted], [windows([0, 10])])[0].tolist() == [0]


def test_no_window_has_ap_zero_next_to_queries_that_have_some() -> None:
    result = retrieval.average_precision([np.empty((0, 3)), windows([0, 10, 1])], [TRUTHS, TRUTHS])
    assert result[0].tolist() == [0] * 10
    assert result[1].tolist() == [0.5] * 10


def test_length_ranges_exclude_their_low_end() -> None:
    lengths = windows([0, 10], [0, 10.5], [0, 30], [0, 150], [0, 151], [5, 5], [9, 2])
    kept = {
        name: retrieval.windows_in_range(lengths, seconds)[:, 1].tolist()
        for name, seconds in retrieval.LENGTH_RANGES_SECONDS.items()
    }
    assert kept == {"short": [10], "middle": [10.5, 30], "long": [150]}


def test_results_do_not_depend_on_the_grouping_of_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    truths = [np.sort(rng.integers(0, 60, (rng.integers(1, 9), 2)), axis=1) + [0.0, 1.0] for _ in range(40)]
    listed = [np.column_stack([np.sort(rng.uniform(0, 60, (n, 2)), axis=1), rng.random(n)]) for n in range(40)]
    whole = retrieval.average_precision(listed, truths), *retrieval.top_window_iou(listed, truths)
    monkeypatch.setattr(retrieval, "_CHUNK_ELEMENTS", 1)
    single = retrieval.average_precision(listed, truths), *retrieval.top_window_iou(listed, truths)
    for first, second in zip(whole, single, strict=True):
        np.testing.assert_array_equal(first, second)
