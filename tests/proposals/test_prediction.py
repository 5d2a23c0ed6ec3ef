"""Tests of the way from a mask and its logits to ranked moments and clip saliency."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

import hf_frameseg.proposals
import hf_frameseg.readout
from hf_frameseg.masks import moments_to_mask
from hf_frameseg.metrics import evaluate_submission, headline
from hf_frameseg.moments import FrameGrid, Moment
from hf_frameseg.predictions import FramePrediction
from hf_frameseg.proposals import rank_runs, redecode, to_prediction
from hf_frameseg.proposals.prediction import prediction_of
from hf_frameseg.proposals.settings import PAPER_PROPOSALS, SCORING_PROPOSALS, ProposalSettings
from hf_frameseg.targets import moments_from_windows

PROPERTY = settings(deadline=None, derandomize=True)
GRID = FrameGrid.middle(12, 6)


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
        grid = FrameGrid.middle(46, 23)
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
        grid = FrameGrid.middle(2 * len(mask), len(mask))
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
            ({"max_moments": 0}, "max_moments to be a whole number of at least 1"),
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
            [0, 1, 1], [[ln3, 0], [5.0, 5.0], [-2, ln3 - 2]], FrameGrid.middle(6, 3), query="a dog", qid=3, vid="v"
        )
        np.testing.assert_allclose(prediction.probs, [0.25, 0.5, 0.75])
        np.testing.assert_allclose(prediction.saliency, [0.25, 0.5, 0.75])
        assert prediction.mask.tolist() == [False, True, True]
        assert prediction.moments == (Moment(2, 6, 0.625),)
        assert (prediction.query, prediction.qid, prediction.vid) == ("a dog", 3, "v")
        assert not prediction.fallback

    def test_all_zero_mask_stays_all_zero(self) -> None:
        prediction = to_prediction(
            torch.zeros(2, dtype=torch.bool), torch.tensor([[0.0, 0], [1, 0]]), FrameGrid.middle(4, 2)
        )
        assert not prediction.mask.any()
        assert prediction.fallback
        assert prediction.moments == (Moment(0, 2, 0.5),)

    def test_all_zero_mask_without_stand_in(self) -> None:
        prediction = to_prediction(
            [0, 0], [[0.0, 0], [1, 0]], FrameGrid.middle(4, 2), ProposalSettings("runs", empty="none")
        )
        assert (prediction.moments, prediction.fallback) == ((), False)
        assert prediction.saliency.max() == 0.5

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
    def test_takes_tensors_of_any_dtype(self, dtype: torch.dtype) -> None:
        logits = torch.tensor([[0.0, 2.0], [1.0, -1.0]], dtype=dtype, requires_grad=True)
        prediction = to_prediction(torch.tensor([True, False]), logits, FrameGrid.middle(4, 2))
        assert prediction.probs.dtype == np.float64
        np.testing.assert_allclose(prediction.probs, [1 / (1 + np.exp(-2.0)), 1 / (1 + np.exp(2.0))])

    def test_a_constant_per_frame_cancels(self) -> None:
        logits = torch.randn(5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        grid = FrameGrid.middle(10, 5)
        raw = to_prediction([1] * 5, logits, grid).probs
        np.testing.assert_allclose(to_prediction([1] * 5, logits.log_softmax(-1) - 30, grid).probs, raw)

    def test_large_logits_neither_overflow_nor_tie(self) -> None:
        with np.errstate(all="raise", under="ignore"):
            extreme = to_prediction([0, 1], [[1e4, -1e4], [-1e4, 1e4]], FrameGrid.middle(4, 2)).probs
        assert extreme.tolist() == [0.0, 1.0]
        # float32 rounds both to 1; the ranking of saturated frames must survive.
        close = to_prediction([1, 1], torch.tensor([[0.0, 20.0], [0.0, 21.0]]), FrameGrid.middle(4, 2)).probs
        assert close[0] < close[1] < 1

    def test_the_settings_reach_windows_and_saliency(self) -> None:
        settings = ProposalSettings("runs", max_moments=1, saliency_values="logits")
        prediction = to_prediction([1, 0, 1], [[0, 1], [0, -1], [0, 2]], FrameGrid.middle(6, 3), settings)
        assert [(m.start, m.end) for m in prediction.moments] == [(4.0, 6.0)]
        assert prediction.saliency.tolist() == [1.0, -1.0, 2.0]

    def test_keeps_the_logit_differences(self) -> None:
        prediction = to_prediction([1, 0], torch.tensor([[1.5, 2.0], [3.0, -4.0]]), FrameGrid.middle(4, 2))
        assert prediction.log_odds.tolist() == [0.5, -7.0]
        assert prediction.log_odds.dtype == np.float64

    @pytest.mark.parametrize("log_odds", [[1.0, 2.0], [[1.0, 2.0, 3.0]], [1.0, np.nan, 3.0]])
    def test_a_prediction_takes_one_finite_difference_per_frame(self, log_odds: list[float]) -> None:
        with pytest.raises(ValueError, match="log_odds"):
            FramePrediction(FrameGrid.middle(6, 3), np.ones(3), np.ones(3), (), np.zeros(3), log_odds=log_odds)

    @pytest.mark.parametrize("shape", [(3,), (2, 2), (3, 3), (1, 3, 2)])
    def test_wrong_shape_is_refused(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match=r"frame_logits of shape \(3, 2\)"):
            to_prediction([1, 0, 1], np.zeros(shape), FrameGrid.middle(6, 3))

    def test_nan_is_refused(self) -> None:
        with pytest.raises(ValueError, match="finite"):
            to_prediction([1], [[np.nan, 0]], FrameGrid.middle(6, 1))


class TestRedecode:
    def test_equals_decoding_with_those_settings(self) -> None:
        rng = np.random.default_rng(0)
        logits, mask = rng.normal(size=(25, 2)), rng.random(25) < 0.4
        settings = ProposalSettings("soft-iou", saliency="box", snap_seconds=2.0, max_moments=4)
        direct = to_prediction(mask, logits, FrameGrid.middle(138, 25), settings, query="q", qid=1, vid="v")
        first = to_prediction(mask, logits, FrameGrid.middle(138, 25), SCORING_PROPOSALS, query="q", qid=1, vid="v")
        assert first.moments != direct.moments
        second = redecode(first, settings)
        assert second.to_submission() == direct.to_submission()
        assert redecode(second, SCORING_PROPOSALS).to_submission() == first.to_submission()

    def test_a_stand_in_comes_and_goes_with_the_settings(self) -> None:
        prediction = to_prediction([0, 0], [[0.0, 0], [1, 0]], FrameGrid.middle(4, 2))
        assert prediction.fallback
        without = redecode(prediction, ProposalSettings("runs", empty="none"))
        assert (without.moments, without.fallback) == ((), False)
        assert not redecode(prediction, ProposalSettings("soft-iou")).fallback
        assert redecode(without, PAPER_PROPOSALS).fallback

    def test_the_prediction_stays_as_it_is(self) -> None:
        prediction = to_prediction([1, 0], [[0.0, 1], [1, 0]], FrameGrid.middle(4, 2))
        before = (prediction.moments, prediction.saliency.copy())
        redecode(prediction, ProposalSettings("soft-iou", saliency_values="logits"))
        assert prediction.moments == before[0]
        assert (prediction.saliency == before[1]).all()


class TestPackage:
    @pytest.mark.parametrize("package", [hf_frameseg.proposals, hf_frameseg.readout])
    def test_every_name_is_its_modules_own(self, package: ModuleType) -> None:
        for name, module in package._MODULE_OF.items():
            full = f"{package.__name__}.{module}"
            __import__(full)
            assert getattr(package, name) is getattr(sys.modules[full], name)
        assert set(package._MODULE_OF) <= set(dir(package))
        with pytest.raises(AttributeError, match="no attribute 'decode'"):
            package.decode  # noqa: B018 - the access is the test

    def test_windows_are_made_without_torch(self) -> None:
        script = (
            "import sys; from hf_frameseg.proposals import prediction, frames_file; "
            "from hf_frameseg.moments import FrameGrid; "
            "print(prediction.to_prediction([1, 0], [[0, 1], [1, 0]], FrameGrid.middle(4, 2)).moments[0].end, "
            "'torch' in sys.modules, 'transformers' in sys.modules)"
        )
        done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
        assert done.stdout.split() == ["2.0", "False", "False"]


@pytest.fixture(scope="module")
def truth(shared_dir: Path) -> list[dict]:
    """The annotations of QVHighlights val."""
    path = shared_dir / "qvhighlights" / "highlight_val_release.jsonl"
    if not path.is_file():
        pytest.skip(f"annotations not found: {path} does not exist")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def perfect(truth: list[dict]) -> list[FramePrediction]:
    """A perfect mask of 25 frames for each of them."""
    found = []
    for row in truth:
        grid = FrameGrid.middle(row["duration"], 25)
        mask = moments_to_mask(moments_from_windows(row["relevant_windows"], row["duration"]), grid)
        found.append(FramePrediction(grid, mask, mask.astype(float), (), np.zeros(0), qid=row["qid"]))
    return found


class TestCeilings:
    """What a perfect mask scores, as measured with the official evaluator."""

    EXPECTED = (97.1, 87.5, 72.7, 89.1, 81.0)  # R1@0.5, R1@0.7, mAP, mAP@0.5, mAP@0.75: runs in time order

    def scores(self, perfect: list[FramePrediction], truth: list[dict], settings: ProposalSettings) -> list[float]:
        submission = [redecode(prediction, settings).to_submission() for prediction in perfect]
        for row in submission:
            del row["pred_saliency_scores"]
        return list(headline(evaluate_submission(submission, truth)).values())[:5]

    def test_runs_reach_the_recorded_ceiling(self, perfect: list[FramePrediction], truth: list[dict]) -> None:
        found = self.scores(perfect, truth, ProposalSettings("runs", ranking="time"))
        assert [round(value, 1) for value in found] == list(self.EXPECTED)

    def test_fill_keeps_r1_and_gains_map(self, perfect: list[FramePrediction], truth: list[dict]) -> None:
        runs = self.scores(perfect, truth, PAPER_PROPOSALS)
        filled = self.scores(perfect, truth, replace(PAPER_PROPOSALS, decoder="runs+fill"))
        assert filled[:2] == runs[:2]
        assert all(more > less for more, less in zip(filled[2:], runs[2:], strict=True))


@pytest.mark.parametrize("settings", [PAPER_PROPOSALS, SCORING_PROPOSALS])
def test_an_answer_becomes_a_prediction_once(settings: ProposalSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    check = FramePrediction.__post_init__
    monkeypatch.setattr(FramePrediction, "__post_init__", lambda self: made.append(check(self)))
    grid = FrameGrid.middle(duration_seconds=8, num_frames=2)
    prediction = to_prediction([0, 1], [[0.0, -1.0], [0.0, 1.0]], grid, settings, query="a dog", qid=3, vid="v")
    assert len(made) == 1
    assert (prediction.query, prediction.qid, prediction.vid, prediction.fallback) == ("a dog", 3, "v", False)
    redecode(prediction, settings)
    assert len(made) == 2


def test_known_probabilities_become_a_prediction() -> None:
    grid = FrameGrid.middle(duration_seconds=4, num_frames=2)
    found = prediction_of([0, 0], [0.25, 0.75], grid, qid=1)
    assert (found.moments, found.fallback, found.log_odds) == ((Moment(2.0, 4.0, 0.75),), True, None)
    with pytest.raises(ValueError, match=r"a mask of shape \(2,\)"):
        prediction_of([1], [0.25, 0.75], grid)
    with pytest.raises(ValueError, match=r"probs of shape \(2,\)"):
        prediction_of([1, 0], [0.25], grid)
    with pytest.raises(ValueError, match=r"log_odds of shape \(2,\)"):
        prediction_of([1, 0], [0.25, 0.75], grid, log_odds=[0.5])
