"""TVSum and YouTube Highlights: the field's average precision, spelt out, and one line for what cannot be scored."""

from __future__ import annotations

import numpy as np
import pytest

from hf_frameseg.metrics import bootstrap_means, evaluate_highlights, positive_clips, ranking_average_precision


def spelt_out(scores: list[float], positive: list[bool], top: int | None) -> float:
    """Walk down the ranking, as the public code of the field does."""
    order = sorted(range(len(scores)), key=lambda clip: -scores[clip])
    labels = [positive[clip] for clip in order][:top]
    if not any(labels):
        return 0.0
    hits, area, recall, precision = 0, 0.0, 0.0, 1.0
    for rank, label in enumerate(labels, start=1):
        hits += label
        area += (hits / sum(labels) - recall) * (precision + hits / rank) / 2
        recall, precision = hits / sum(labels), hits / rank
    return area


@pytest.mark.parametrize("top", [None, 1, 5, 100])
def test_the_average_precision_is_that_of_the_field(top: int | None) -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        clips, raters = rng.integers(1, 40), rng.integers(1, 5)
        scores, ratings = rng.integers(0, 9, clips) / 8, rng.integers(1, 6, (clips, raters)).astype(float)
        positive = positive_clips(ratings)
        expected = [spelt_out(scores.tolist(), column.tolist(), top) for column in positive.T]
        np.testing.assert_allclose(ranking_average_precision(scores, positive, top), expected, rtol=0, atol=1e-12)


def test_by_hand() -> None:
    # Ranks: hit, miss, hit. Recall 1/2 at precision (1 + 1) / 2, then the other half at (1/2 + 2/3) / 2.
    rows = [{"qid": "a", "pred_saliency_scores": [0.9, 0.8, 0.7, 0.1, 0.0]}]
    ratings = {"a": np.array([[5.0], [1.0], [4.0], [2.0], [3.0]])}
    result = evaluate_highlights(rows, ratings)  # the median is 3
    assert result["ap"].tolist() == pytest.approx([0.5 + 0.5 * (1 / 2 + 2 / 3) / 2])
    assert evaluate_highlights(rows, ratings, top=2)["ap_top"].tolist() == [1.0]
    assert evaluate_highlights(rows, ratings, limit=5)["ap"].tolist() == [0.0]  # nobody would show a clip
    assert result["qid"].tolist() == ["a"]
    assert bootstrap_means({"mAP": 100 * result["ap"]})["mAP"].estimate == pytest.approx(79.1666667)


def test_the_median_of_an_even_number_is_the_lower_one() -> None:
    assert positive_clips(np.array([[1.0], [2.0], [3.0], [4.0]])).ravel().tolist() == [False, False, True, True]


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([{"qid": 1, "pred_saliency_scores": [0.5]}], {}, "qid 1: expected 2 saliency scores, one for each rated clip"),
        ([{"qid": 1, "pred_saliency_scores": [0.5, float("nan")]}], {}, "qid 1: .* NaN or infinity"),
        ([{"qid": 1}], {}, "qid 1: a row lacks 'pred_saliency_scores'"),
        ([{"qid": 2, "pred_saliency_scores": [0.5, 1]}], {}, "must hold the same qids"),
        ([{"qid": 1, "pred_saliency_scores": [0.5, 1]}], {"limit": "mean"}, "number or 'median', got 'mean'"),
        ([{"qid": 1, "pred_saliency_scores": [0.5, 1]}], {"top": 0}, "top to be at least 1"),
    ],
)
def test_what_cannot_be_scored_is_one_line(rows: list, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate_highlights(rows, {1: np.array([[1.0], [2.0]])}, **options)
