"""The decoders: by hand, against slow literal versions, and what each of them promises."""

from __future__ import annotations

import math
import tracemalloc
from fractions import Fraction
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from hf_frameseg.intervals import temporal_iou
from hf_frameseg.masks import mask_to_moments, moments_to_mask
from hf_frameseg.metrics import evaluate_per_query
from hf_frameseg.moments import FrameGrid, Moment
from hf_frameseg.predictions import FramePrediction
from hf_frameseg.proposals.prediction import probs_of, propose_moments
from hf_frameseg.proposals.settings import OWN_OPTIONS, ProposalSettings
from hf_frameseg.proposals.windows import DECODERS, FrameScores, known_log_odds, local_soft_iou, snap

PROPERTY = settings(deadline=None, derandomize=True)
GRID = FrameGrid.middle(12, 6)  # windows of 2 s
SMALL = FrameGrid.middle(6, 3)


def listed(mask: list[int], probs: list[float], grid: FrameGrid, options: ProposalSettings) -> list[tuple[float, ...]]:
    """Windows with scores, as plain numbers."""
    moments, _ = propose_moments(mask, probs, grid, options)
    return [(m.start, m.end, pytest.approx(m.score)) for m in moments]


@st.composite
def queries(draw: st.DrawFn, max_frames: int = 12) -> tuple[np.ndarray, np.ndarray, FrameGrid]:
    """A mask, probabilities (with ties and exact 0 and 1) and a grid, of any length and kind."""
    frames = draw(st.integers(1, max_frames))
    values = st.one_of(st.sampled_from([0.0, 0.5, 1.0]), st.floats(0, 1))
    duration = draw(st.one_of(st.just(2.0 * frames), st.floats(0.5, 400)))
    make = draw(st.sampled_from([FrameGrid.middle, FrameGrid.uniform, partial(FrameGrid.phase, phase=0.25)]))
    mask = draw(npst.arrays(bool, frames))
    return mask, draw(npst.arrays(np.float64, frames, elements=values)), make(duration, frames)


any_settings = st.builds(
    lambda decoder, snapped, max_moments: ProposalSettings(decoder, max_moments=max_moments, snap_seconds=snapped),
    st.sampled_from(sorted(DECODERS)),
    st.sampled_from([None, 2.0, 7.0]),
    st.integers(1, 12),
)


def test_every_decoder_has_its_options_and_every_option_a_decoder() -> None:
    assert DECODERS.keys() == OWN_OPTIONS.keys()


class TestRuns:
    MASK = (1, 0, 1, 1, 0, 1)

    @pytest.mark.parametrize(
        ("ranking", "expected"),
        [
            # sums 2.0, 2.4, 0.5; sigmoids .881, .769, .622
            ("mean-probability", [(0, 2, 0.880797), (4, 8, 0.768525), (10, 12, 0.622459)]),
            ("log-odds", [(4, 8, 2.4), (0, 2, 2.0), (10, 12, 0.5)]),
            ("time", [(0, 2, 1.0), (4, 8, 1.0), (10, 12, 1.0)]),
        ],
    )
    def test_rankings_by_hand(self, ranking: str, expected: list[tuple[float, float, float]]) -> None:
        log_odds = np.array([2.0, -1.0, 1.2, 1.2, -3.0, 0.5])
        options = ProposalSettings("runs", ranking=ranking)
        moments, fallback = propose_moments(self.MASK, probs_of(log_odds), GRID, options, log_odds)
        assert not fallback
        assert [(m.start, m.end) for m in moments] == [window[:2] for window in expected]
        assert [m.score for m in moments] == pytest.approx([window[2] for window in expected], rel=1e-5)

    def test_log_odds_are_computed_from_probabilities_where_they_can_be(self) -> None:
        probs = np.array([0.9, 0.1, 0.6, 0.7, 0.2, 0.5])
        frames = FrameScores(GRID, np.array(self.MASK, dtype=bool), probs)
        np.testing.assert_allclose(probs_of(known_log_odds(frames)), probs)
        moments, _ = propose_moments(self.MASK, probs, GRID, ProposalSettings("runs", ranking="log-odds"))
        assert [m.start for m in moments] == [0.0, 4.0, 10.0]
        assert moments[1].score == pytest.approx(math.log(0.6 / 0.4) + math.log(0.7 / 0.3))

    @pytest.mark.parametrize("saturated", [0.0, 1.0])
    def test_lost_log_odds_are_not_made_up(self, saturated: float) -> None:
        probs = [0.9, saturated, 0.6, 0.7, 0.2, 0.5]
        with pytest.raises(ValueError, match="log-odds are needed.*exactly 0 or 1; keep the logit differences"):
            propose_moments(self.MASK, probs, GRID, ProposalSettings("runs", ranking="log-odds"))
        propose_moments(self.MASK, probs, GRID, ProposalSettings("runs"))

    @PROPERTY
    @given(query=queries(60), max_moments=st.integers(1, 12), empty=st.sampled_from(["best_frame", "none"]))
    def test_equal_the_rule_written_out(
        self, query: tuple[np.ndarray, np.ndarray, FrameGrid], max_moments: int, empty: str
    ) -> None:
        mask, probs, grid = query
        moments = mask_to_moments(mask, grid, scores=probs)
        fallback = not moments and empty == "best_frame"
        if fallback:
            best = np.zeros(len(mask), dtype=bool)
            best[int(np.argmax(probs))] = True
            moments = mask_to_moments(best, grid, scores=probs)
        ranked = tuple(sorted(moments, key=lambda moment: -moment.score)[:max_moments])
        options = ProposalSettings("runs", max_moments=max_moments, empty=empty)
        assert propose_moments(mask, probs, grid, options) == (ranked, fallback)


class TestThresholdLadder:
    def test_by_hand(self) -> None:
        # >= 0: all six; >= .25: 1-3 and 5; >= .5: 2-3 and 5; >= .75: 2 and 5. Frame 5 alone comes once.
        options = ProposalSettings("threshold-ladder")
        assert listed([0] * 6, [0.1, 0.25, 0.8, 0.6, 0.2, 0.9], GRID, options) == [
            (10, 12, 0.9),
            (4, 6, 0.8),
            (4, 8, 0.7),
            (2, 8, 0.55),
            (0, 12, 2.85 / 6),
        ]

    def test_the_mask_plays_no_part_and_every_query_has_a_window(self) -> None:
        probs = [0.1, 0.3, 0.8, 0.6, 0.2, 0.9]
        options = ProposalSettings("threshold-ladder")
        found = {propose_moments(mask, probs, GRID, options) for mask in ([0] * 6, [1] * 6, [1, 0, 0, 0, 0, 0])}
        assert len(found) == 1
        moments, fallback = propose_moments([0] * 6, [0.0] * 6, GRID, options)
        assert (moments, fallback) == ((Moment(0, 12, 0.0),), False)

    def test_of_equal_means_the_longer_comes_first(self) -> None:
        # The whole video and its first three frames have the mean .5.
        probs = [0.5, 0.5, 0.5, 0.2, 0.8, 0.5]
        windows = [window[:2] for window in listed([0] * 6, probs, GRID, ProposalSettings("threshold-ladder"))]
        assert windows == [(8, 10), (8, 12), (0, 12), (0, 6)]

    def test_thresholds_are_an_option(self) -> None:
        options = ProposalSettings("threshold-ladder", thresholds=(0, 0.9))
        assert listed([0] * 6, [0.1, 0.3, 0.8, 0.6, 0.2, 0.9], GRID, options) == [(10, 12, 0.9), (0, 12, 2.9 / 6)]


class TestLocalSoftIou:
    def test_by_hand(self) -> None:
        # Each span of at most 3 frames looks one frame to either side.
        spans = np.array([[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]])
        expected = [0 / (1 + 1), 1 / (2 + 0.5), 1.5 / 3, 1 / (1 + 0.5), 1.5 / 2, 0.5 / (1 + 1)]
        assert local_soft_iou(np.array([0, 1, 0.5]), spans, 0.3) == pytest.approx(expected)

    def test_context_grows_with_the_span_and_is_rounded_up(self) -> None:
        probs = np.ones(40)
        # 20 frames in the middle of 40: 0.3 * 20 = 6 frames to either side; 0.31 * 20 is rounded up to 7.
        for context, nearby in ((0.3, 12), (0.31, 14), (0.0, 0), (9.0, 20), (1e300, 20)):
            assert local_soft_iou(probs, np.array([[10, 30]]), context) == pytest.approx(20 / (20 + nearby))

    def test_context_that_is_a_whole_number_but_for_rounding_is_that_number(self) -> None:
        assert 0.07 * 100 > 7  # in floats
        score = local_soft_iou(np.ones(200), np.array([[50, 150]]), 0.07)
        assert score == pytest.approx(100 / 114)

    def test_without_context_it_is_the_mean(self) -> None:
        probs = np.array([0.2, 0.9, 0.4])
        assert local_soft_iou(probs, np.array([[0, 3], [1, 3]]), 0.0) == pytest.approx([0.5, 0.65])

    def test_equal_spans_tie_whatever_was_summed_before_them(self) -> None:
        scores = local_soft_iou(np.full(75, 0.1), np.array([[i, i + 3] for i in range(1, 71)]), 0.3)
        assert np.ptp(scores) == 0.0


class TestSoftIou:
    def test_by_hand(self) -> None:
        # IoU of [1, 3) with [0, 3) is 2/3: allowed at .7, too much at .6. Scores as above.
        probs = [0.0, 1.0, 0.5]
        best = [(2, 6, 0.75), (2, 4, 2 / 3), (0, 6, 0.5), (0, 4, 0.4), (4, 6, 0.25), (0, 2, 0.0)]
        assert listed([0] * 3, probs, SMALL, ProposalSettings("soft-iou")) == best
        strict = ProposalSettings("soft-iou", soft_iou_nms_iou=0.6)
        assert listed([0] * 3, probs, SMALL, strict) == [best[i] for i in (0, 1, 3, 4, 5)]
        assert listed([1] * 3, probs, SMALL, ProposalSettings("soft-iou", max_moments=2)) == best[:2]

    @PROPERTY
    @given(
        eighths=st.lists(st.integers(0, 8), min_size=1, max_size=10),
        seconds=st.floats(1, 200),
        context=st.sampled_from([0.0, 0.5, 1.0]),
        limit=st.sampled_from([0.0, 0.45, 0.7, 0.9]),
    )
    def test_equals_loops_over_all_intervals_in_exact_arithmetic(
        self, eighths: list[int], seconds: float, context: float, limit: float
    ) -> None:
        frames, probs = len(eighths), [Fraction(n, 8) for n in eighths]
        edges = FrameGrid.middle(seconds, frames).edges.tolist()
        candidates = []
        for first in range(frames):
            for stop in range(first + 1, frames + 1):
                reach = math.ceil(context * (stop - first))
                nearby = [*probs[max(first - reach, 0) : first], *probs[stop : stop + reach]]
                score = sum(probs[first:stop]) / (stop - first + sum(nearby))
                candidates.append((score, edges[first], edges[stop]))
        kept: list[tuple[Fraction, float, float]] = []
        for one in sorted(candidates, key=lambda candidate: -candidate[0]):  # stable: equal ones in time order
            if all(temporal_iou([one[1:]], [other[1:]])[0, 0] <= limit for other in kept):
                kept.append(one)
        options = ProposalSettings("soft-iou", context=context, soft_iou_nms_iou=limit)
        found = listed([1] * frames, [float(p) for p in probs], FrameGrid.middle(seconds, frames), options)
        assert found == [(start, end, pytest.approx(float(score), abs=1e-11)) for score, start, end in kept[:10]]

    def test_tiny_probabilities_are_ranked_like_others(self) -> None:
        shape = np.array([0.1, 0.1, 0.9, 0.8, 0.1, 0.2])
        options = ProposalSettings("soft-iou")
        for scale in (1.0, 1e-9, 1e-200):
            windows = [window[:2] for window in listed([0] * 6, shape * scale, GRID, options)]
            assert windows[0] == ((4, 8) if scale == 1.0 else (4, 6))  # rare events: the mean decides, not the overlap


class TestRunsAndFill:
    def test_by_hand(self) -> None:
        # The run is [1, 2); then all other intervals by local soft IoU, each one below.
        found = listed([0, 1, 0], [0.0, 1.0, 0.5], SMALL, ProposalSettings())
        assert found == [(2, 4, 1), (2, 6, 0), (0, 6, -1), (0, 4, -2), (4, 6, -3), (0, 2, -4)]

    def test_what_overlaps_a_run_too_much_is_left_out(self) -> None:
        strict = ProposalSettings(fill_nms_iou=0.45)  # [1, 3) and [0, 2) have 0.5 with the run, [0, 3) has 1/3
        found = listed([0, 1, 0], [0.0, 1.0, 0.5], SMALL, strict)
        assert found == [(2, 4, 1), (0, 6, 0), (4, 6, -1), (0, 2, -2)]

    def test_enough_runs_are_left_alone(self) -> None:
        mask, probs, grid = [1, 0] * 11 + [1], np.linspace(0, 1, 23), FrameGrid.middle(46, 23)
        for count in (1, 3, 10):
            filled, paper = (
                propose_moments(mask, probs, grid, ProposalSettings(name, max_moments=count))
                for name in ("runs+fill", "runs")
            )
            assert filled == paper

    def test_no_moment_stays_no_moment(self) -> None:
        assert propose_moments([0] * 6, [0.4] * 6, GRID, ProposalSettings(empty="none")) == ((), False)

    def test_an_empty_mask_is_filled_below_its_best_frame(self) -> None:
        moments, fallback = propose_moments([0] * 6, [0.1, 0.2, 0.4, 0.3, 0, 0], GRID, ProposalSettings())
        assert fallback
        assert len(moments) == 10
        assert moments[0] == Moment(4, 6, 0.4)

    @pytest.mark.parametrize("log_odds", [1e30, -1e30, 1e300])
    def test_scores_fall_even_where_one_less_is_the_same_float(self, log_odds: float) -> None:
        values = np.full(6, log_odds)
        options = ProposalSettings(ranking="log-odds")
        moments, _ = propose_moments([1, 0, 1, 0, 0, 0], probs_of(values), GRID, options, values)
        scores = [m.score for m in moments]
        assert scores[0] == scores[1] == log_odds
        assert all(low < high for high, low in zip(scores[1:], scores[2:], strict=False))

    @PROPERTY
    @given(
        query=queries(30),
        ranking=st.sampled_from(["mean-probability", "time"]),
        snapped=st.sampled_from([None, 2.0]),
        empty=st.sampled_from(["best_frame", "none"]),
    )
    def test_keeps_the_runs_first_and_adds_strictly_below(
        self, query: tuple[np.ndarray, np.ndarray, FrameGrid], ranking: str, snapped: float | None, empty: str
    ) -> None:
        mask, probs, grid = query
        filled = ProposalSettings(ranking=ranking, snap_seconds=snapped, empty=empty)
        moments, fallback = propose_moments(mask, probs, grid, filled)
        paper, paper_fallback = propose_moments(mask, probs, grid, filled.for_decoder("runs"))
        assert moments[: len(paper)] == paper
        assert fallback == paper_fallback
        lowest = min((m.score for m in paper), default=math.inf)
        added = [m.score for m in moments[len(paper) :]]
        assert all(score < lowest for score in added)
        assert all(low < high for high, low in zip(added, added[1:], strict=False))

    @PROPERTY
    @given(query=queries(25), data=st.data())
    def test_never_changes_r1_and_never_lowers_an_average_precision(
        self, query: tuple[np.ndarray, np.ndarray, FrameGrid], data: st.DataObject
    ) -> None:
        mask, probs, grid = query
        truth = data.draw(npst.arrays(bool, len(mask)).filter(np.any))
        annotation = {
            "qid": 1,
            "duration": grid.duration_seconds,
            "relevant_windows": [[m.start, m.end] for m in mask_to_moments(truth, grid)],
        }
        filled, paper = (
            evaluate_per_query(
                [{"qid": 1, "pred_relevant_windows": [[m.start, m.end, m.score] for m in moments]}], [annotation]
            )
            for moments in (
                propose_moments(mask, probs, grid, ProposalSettings(name))[0] for name in ("runs+fill", "runs")
            )
        )
        assert filled["r1_iou"].tolist() == paper["r1_iou"].tolist()
        assert (filled["mr_ap"] >= paper["mr_ap"]).all()


class TestSnap:
    def test_by_hand(self) -> None:
        times = np.array([0.0, 0.9, 1.0, 2.9, 3.0, 4.4, 4.5, 5.0])
        assert snap(times, 2.0, 5.0).tolist() == [0, 0, 2, 2, 4, 4, 5, 5]
        assert snap(np.array([0.0, 1.0, 3.0]), 20.0, 3.0).tolist() == [0, 0, 3]

    def test_windows_move_to_the_grid_and_the_end_stays(self) -> None:
        # 25 frames of 138 s: edges every 5.52 s; 5.52 -> 6, 11.04 -> 12, 132.48 -> 132.
        mask = np.zeros(25, dtype=int)
        mask[[1, 24]] = 1
        options = ProposalSettings("runs", snap_seconds=2.0, ranking="time")
        assert listed(mask, np.full(25, 0.5), FrameGrid.middle(138, 25), options) == [(6, 12, 1), (132, 138, 1)]
        found = listed(mask, np.full(25, 0.5), FrameGrid.middle(137, 25), options)
        assert found[1] == (132, 137, 1)  # 131.52, and the end

    def test_a_window_that_collapses_becomes_its_cell(self) -> None:
        grid = FrameGrid.middle(6, 12)  # windows of half a second
        for frame, cell in ((0, (0, 2)), (3, (0, 2)), (4, (2, 4)), (7, (2, 4)), (11, (4, 6))):
            mask = np.eye(12, dtype=int)[frame]
            found = listed(mask, np.full(12, 0.5), grid, ProposalSettings("runs", snap_seconds=2.0))
            assert [window[:2] for window in found] == [cell], frame

    def test_the_last_cell_ends_with_the_video(self) -> None:
        found = listed(
            np.eye(10, dtype=int)[9],
            np.full(10, 0.5),
            FrameGrid.middle(5, 10),
            ProposalSettings("runs", snap_seconds=2.0),
        )
        assert [window[:2] for window in found] == [(4, 5)]

    def test_in_a_part_the_points_are_counted_from_its_start(self) -> None:
        options, whole = ProposalSettings("runs", snap_seconds=2.0), FrameGrid.middle(5, 10)
        for mask in ([0, 1, 1, 1, 0, 0, 0, 0, 0, 1], [0] * 9 + [1], [1] * 10, [0, 0, 0, 1, 0, 0, 0, 0, 0, 0]):
            here = listed(mask, np.full(10, 0.5), whole, options)
            there = listed(mask, np.full(10, 0.5), whole.part(101, 106), options)
            assert [(start + 101, end + 101) for start, end, _ in here] == [window[:2] for window in there]

    def test_windows_that_become_one_are_listed_once_with_the_better_score(self) -> None:
        grid = FrameGrid.middle(6, 12)
        mask, probs = np.zeros(12, dtype=int), np.zeros(12)
        mask[[0, 2]], probs[[0, 2]] = 1, (0.6, 0.9)
        moments, _ = propose_moments(mask, probs, grid, ProposalSettings("runs", snap_seconds=2.0))
        assert moments == (Moment(0, 2, 0.9),)

    def test_a_grid_coarser_than_the_video_leaves_the_whole_video(self) -> None:
        found = listed([0, 1, 0], [0.1, 0.9, 0.1], SMALL, ProposalSettings("soft-iou", snap_seconds=60.0))
        assert [window[:2] for window in found] == [(0, 6)]


class TestAll:
    @PROPERTY
    @given(query=queries(40), options=any_settings)
    def test_floats_in_the_video_ranked_and_few_enough(
        self, query: tuple[np.ndarray, np.ndarray, FrameGrid], options: ProposalSettings
    ) -> None:
        mask, probs, grid = query
        moments, fallback = propose_moments(mask, probs, grid, options)
        assert 1 <= len(moments) <= options.max_moments
        assert all(type(value) is float for m in moments for value in (m.start, m.end, m.score))
        assert all(0 <= m.start < m.end <= grid.duration_seconds for m in moments)
        scores = [m.score for m in moments]
        assert scores == sorted(scores, reverse=True)
        assert len({(m.start, m.end) for m in moments}) == len(moments)
        assert fallback == (not mask.any() and options.decoder in ("runs", "runs+fill"))

    @pytest.mark.parametrize("decoder", sorted(DECODERS))
    def test_inputs_stay_as_they_are(self, decoder: str) -> None:
        mask, probs = np.zeros(6, dtype=bool), np.full(6, 0.5)
        propose_moments(mask, probs, GRID, ProposalSettings(decoder))
        assert not mask.any()
        assert (probs == 0.5).all()

    @pytest.mark.parametrize("decoder", sorted(DECODERS))
    def test_one_frame_is_the_whole_video(self, decoder: str) -> None:
        moments, _ = propose_moments([1], [0.5], FrameGrid.middle(150, 1), ProposalSettings(decoder))
        assert [(m.start, m.end) for m in moments] == [(0.0, 150.0)]

    @pytest.mark.parametrize("decoder", sorted(DECODERS))
    @pytest.mark.parametrize("windows", [[[4, 10]], [[0, 2], [6, 8]], [[0, 12]]])
    def test_a_perfect_answer_is_perfect(self, decoder: str, windows: list[list[float]]) -> None:
        mask = moments_to_mask([Moment(*window) for window in windows], GRID)
        prediction = FramePrediction(GRID, mask, mask.astype(float), (), np.zeros(0))
        moments, _ = propose_moments(mask, prediction.probs, GRID, ProposalSettings(decoder))
        row = {"qid": 1, "pred_relevant_windows": [[m.start, m.end, m.score] for m in moments]}
        scores = evaluate_per_query([row], [{"qid": 1, "duration": 12, "relevant_windows": windows}])
        assert scores["r1_iou"].tolist() == [1.0]
        assert scores["mr_ap"].mean() == pytest.approx(1.0)


@pytest.mark.parametrize("decoder", ["runs+fill", "soft-iou"])
def test_decoders_that_compare_all_intervals_have_a_limit(decoder: str) -> None:
    probs = np.random.default_rng(0).random(2_000)
    tracemalloc.start()
    try:
        moments, _ = propose_moments(probs > 0.999, probs, FrameGrid.middle(7_200, 2_000), ProposalSettings(decoder))
        assert len(moments) == 10
        assert tracemalloc.get_traced_memory()[1] < 500e6
    finally:
        tracemalloc.stop()
    many = np.full(2_001, 0.5)
    with pytest.raises(ValueError, match="take up to 2000 frames, got 2001; choose runs or threshold-ladder"):
        propose_moments(many > 0.6, many, FrameGrid.middle(7_200, 2_001), ProposalSettings(decoder))


@pytest.mark.parametrize("decoder", ["runs", "threshold-ladder"])
def test_the_others_take_what_a_grid_takes(decoder: str) -> None:
    probs = np.random.default_rng(0).random(10_000)
    moments, _ = propose_moments(probs > 0.5, probs, FrameGrid.middle(7_200, 10_000), ProposalSettings(decoder))
    assert len(moments) == 10
