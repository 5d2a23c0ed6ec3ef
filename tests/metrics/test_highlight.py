"""Highlight scores against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from hf_frameseg.metrics import highlight


def ap(scores: list[float], labels: list[int]) -> float:
    """AP of one annotator whose rating is 4 where the label is 1."""
    ratings = 4.0 * np.array(labels)[:, None]
    return highlight.highlight_average_precision([np.array(scores, dtype=np.float64)], [ratings], [4])[0, 0, 0]


def test_a_perfect_ranking_is_one() -> None:
    assert ap([0.9, 0.8, 0.1, 0.2], [1, 1, 0, 0]) == 1


def test_precision_is_averaged_over_recall_levels() -> None:
    # ranks of the positives: 1 and 3 -> 1 and 2/3
    assert ap([0.9, 0.8, 0.7, 0.1], [1, 0, 1, 0]) == pytest.approx((1 + 2 / 3) / 2)
    # ranks 2 and 3: interpolation lifts the first level from 1/2 to 2/3
    assert ap([0.9, 0.8, 0.7, 0.1], [0, 1, 1, 0]) == pytest.approx(2 / 3)


def test_a_tie_group_makes_one_recall_level() -> None:
    assert ap([1, 1, 1, 1], [1, 0, 0, 1]) == 0.5
    # levels: the single clip (1), then the group of three that adds two positives (3/4)
    assert ap([2, 1, 1, 1], [1, 1, 1, 0]) == pytest.approx((1 + 3 / 4) / 2)


def test_no_positive_is_zero_and_no_negative_is_one() -> None:
    assert ap([0.3, 0.2], [0, 0]) == 0
    assert ap([0.3, 0.2], [1, 1]) == 1


def test_a_short_list_is_padded_with_zeros_that_outrank_negative_scores() -> None:
    assert ap([-1.0, -2.0], [1, 0, 0]) == 0.5
    assert ap([-1.0, -2.0], [0, 0, 1]) == 1


def test_a_long_list_is_cut_for_ap_but_not_for_the_best_clip() -> None:
    scores, ratings = np.array([0.5, 0.4, 0.9]), np.array([[4.0], [0.0]])
    assert highlight.highlight_average_precision([scores], [ratings], [4]).item() == 1
    assert highlight.top_clip([scores]).tolist() == [2]
    assert highlight.highlight_hits([scores], [ratings], [4]).tolist() == [[0]]


def test_one_annotator_is_enough_for_a_hit() -> None:
    ratings = np.array([[0.0, 0.0, 0.0], [1.0, 3.0, 2.0]])
    assert highlight.highlight_hits([np.array([0.1, 0.2])], [ratings]).tolist() == [[1, 1, 0]]


def test_the_first_clip_wins_ties() -> None:
    assert highlight.top_clip([np.array([1.0, 3.0, 3.0])]).tolist() == [1]


def test_queries_of_different_length_do_not_disturb_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    ratings = [rng.integers(0, 5, (n, 3)).astype(np.float64) for n in range(1, 30)]
    scores = [rng.integers(-3, 4, rng.integers(1, 40)).astype(np.float64) for _ in ratings]
    together = highlight.highlight_average_precision(scores, ratings)
    alone = [highlight.highlight_average_precision([s], [r])[0] for s, r in zip(scores, ratings, strict=True)]
    np.testing.assert_array_equal(together, np.stack(alone))
    monkeypatch.setattr(highlight, "_CHUNK_ELEMENTS", 1)
    np.testing.assert_array_equal(together, highlight.highlight_average_precision(scores, ratings))
