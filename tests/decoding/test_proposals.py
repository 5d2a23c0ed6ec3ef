"""Tests of the way from a mask and its logits to ranked moments and clip saliency."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from hf_frameseg.decoding import rank_runs, to_prediction
from hf_frameseg.moments import FrameGrid, Moment, moments_to_mask

PROPERTY = settings(deadline=None, derandomize=True)
GRID = FrameGrid(12, 6)


class TestRankRuns:
    def test_by_hand(self) -> None:
        moments, fallback = rank_runs([1, 0, 1, 1, 0, 1], [0.6, 0.1, 0.9, 0.8, 0.2, 0.7], GRID)
        assert not fallback
        assert [(m.start, m.end) for m in moments] == [(4.0, 8.0), (10.0, 12.0), (0.0, 2.0)]
        assert [m.score for m in moments] == pytest.approx([0.85, 0.7, 0.6])

    def test_equal_scores_stay_in_time_order(self) -> None:
        moments, _ = rank_runs([1, 0, 1, 0, 1, 0], [0.5, 0, 0.5, 0, 0.5, 0], GRID)
        assert [m.start for m in moments] == [0.0, 4.0, 8.0]

    def test_a_one_whose_probability_is_low_is_still_a_run(self) -> None:
        # The best beam may choose a digit that is not the likelier one at its step.
        assert rank_runs([0, 1, 0, 0, 0, 0], [0.9, 0.2, 0, 0, 0, 0], GRID) == ((Moment(2, 4, 0.2),), False)

    def test_keeps_the_best_when_there_are_too_many(self) -> None:
        grid = FrameGrid(46, 23)
        mask, probs = [1, 0] * 11 + [1], np.linspace(0, 1, 23)
        moments, _ = rank_runs(mask, probs, grid)
        assert len(moments) == 10
        assert [m.start for m in moments] == [44.0 - 4 * i for i in range(10)]
        assert rank_runs(mask, probs, grid, max_moments=2)[0] == moments[:2]

    def test_all_zero_mask_gives_the_first_best_frame_and_says_so(self) -> None:
        moments, fallback = rank_runs([0] * 6, [0.1, 0.4, 0.2, 0.4, 0.0, 0.0], GRID)
        assert fallback
        assert moments == (Moment(2, 4, 0.4),)

    def test_all_zero_mask_can_stay_without_moment(self) -> None:
        assert rank_runs([0] * 6, [0.4] * 6, GRID, empty="none") == ((), False)

    def test_all_one_mask_is_the_whole_video(self) -> None:
        assert rank_runs([1] * 6, [0.5] * 6, GRID, empty="none") == ((Moment(0, 12, 0.5),), False)

    @PROPERTY
    @given(data=st.data(), mask=npst.arrays(bool, st.integers(1, 60)), max_moments=st.integers(1, 12))
    def test_always_ranked_floats_on_the_mask(self, data: st.DataObject, mask: np.ndarray, max_moments: int) -> None:
        probs = data.draw(npst.arrays(np.float64, len(mask), elements=st.floats(0, 1)))
        grid = FrameGrid(2 * len(mask), len(mask))
        moments, fallback = rank_runs(mask, probs, grid, max_moments)
        assert 1 <= len(moments) <= max_moments
        assert fallback == (not mask.any())
        assert all(type(value) is float for m in moments for value in (m.start, m.end, m.score))
        scores = [m.score for m in moments]
        assert scores == sorted(scores, reverse=True)
        covered = moments_to_mask(moments, grid)
        assert fallback or (covered <= mask).all()

    def test_does_not_touch_its_inputs(self) -> None:
        mask, probs = np.zeros(6, dtype=bool), np.full(6, 0.5)
        rank_runs(mask, probs, GRID)
        assert not mask.any()
        assert (probs == 0.5).all()

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"max_moments": 0}, "max_moments >= 1"),
            ({"empty": "whole_video"}, "best_frame.*whole_video"),
            ({"probs": [0.5] * 5}, r"shape \(6,\)"),
            ({"mask": [0.5] * 6}, "0 and 1 only"),
        ],
    )
    def test_bad_arguments_are_refused(self, arguments: dict, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            rank_runs(**{"mask": [0] * 6, "probs": [0.5] * 6, "grid": GRID, **arguments})


class TestToPrediction:
    def test_by_hand(self) -> None:
        # sigmoid(0) = 1/2, sigmoid(ln 3) = 3/4, sigmoid(-ln 3) = 1/4; T=6, F=3: one frame per clip.
        ln3 = np.log(3)
        prediction = to_prediction(
            [0, 1, 1], [[ln3, 0], [5.0, 5.0], [-2, ln3 - 2]], FrameGrid(6, 3), query="a dog", qid=3, vid="v"
        )
        np.testing.assert_allclose(prediction.probs, [0.25, 0.5, 0.75])
        np.testing.assert_allclose(prediction.saliency, [0.25, 0.5, 0.75])
        assert prediction.mask.tolist() == [False, True, True]
        assert prediction.moments == (Moment(2, 6, 0.625),)
        assert (prediction.query, prediction.qid, prediction.vid) == ("a dog", 3, "v")
        assert not prediction.fallback

    def test_all_zero_mask_stays_all_zero(self) -> None:
        prediction = to_prediction(torch.zeros(2, dtype=torch.bool), torch.tensor([[0.0, 0], [1, 0]]), FrameGrid(4, 2))
        assert not prediction.mask.any()
        assert prediction.fallback
        assert prediction.moments == (Moment(0, 2, 0.5),)

    def test_all_zero_mask_without_stand_in(self) -> None:
        prediction = to_prediction([0, 0], [[0.0, 0], [1, 0]], FrameGrid(4, 2), empty="none")
        assert (prediction.moments, prediction.fallback) == ((), False)
        assert prediction.saliency.max() == 0.5

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
    def test_takes_tensors_of_any_dtype(self, dtype: torch.dtype) -> None:
        logits = torch.tensor([[0.0, 2.0], [1.0, -1.0]], dtype=dtype, requires_grad=True)
        prediction = to_prediction(torch.tensor([True, False]), logits, FrameGrid(4, 2))
        assert prediction.probs.dtype == np.float64
        np.testing.assert_allclose(prediction.probs, [1 / (1 + np.exp(-2.0)), 1 / (1 + np.exp(2.0))])

    def test_a_constant_per_frame_cancels(self) -> None:
        logits = torch.randn(5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        grid = FrameGrid(10, 5)
        raw = to_prediction([1] * 5, logits, grid).probs
        np.testing.assert_allclose(to_prediction([1] * 5, logits.log_softmax(-1) - 30, grid).probs, raw)

    def test_large_logits_neither_overflow_nor_tie(self) -> None:
        with np.errstate(all="raise", under="ignore"):
            extreme = to_prediction([0, 1], [[1e4, -1e4], [-1e4, 1e4]], FrameGrid(4, 2)).probs
        assert extreme.tolist() == [0.0, 1.0]
        # float32 rounds both to 1; the ranking of saturated frames must survive.
        close = to_prediction([1, 1], torch.tensor([[0.0, 20.0], [0.0, 21.0]]), FrameGrid(4, 2)).probs
        assert close[0] < close[1] < 1

    def test_max_moments_reaches_the_ranking(self) -> None:
        prediction = to_prediction([1, 0, 1], np.zeros((3, 2)), FrameGrid(6, 3), max_moments=1)
        assert prediction.moments == (Moment(0, 2, 0.5),)

    @pytest.mark.parametrize("shape", [(3,), (2, 2), (3, 3), (1, 3, 2)])
    def test_wrong_shape_is_refused(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match=r"frame_logits of shape \(3, 2\)"):
            to_prediction([1, 0, 1], np.zeros(shape), FrameGrid(6, 3))

    def test_nan_is_refused(self) -> None:
        with pytest.raises(ValueError, match="finite"):
            to_prediction([1], [[np.nan, 0]], FrameGrid(6, 1))
