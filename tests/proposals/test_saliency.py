"""From frames to clips: by hand, without rounding, and with ties only where the rule makes them."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from hf_frameseg.moments import FrameGrid, num_clips
from hf_frameseg.proposals.prediction import redecode, to_prediction
from hf_frameseg.proposals.saliency import TO_CLIPS, box_to_clips, interpolate_to_clips, nearest_to_clips
from hf_frameseg.proposals.settings import SALIENCY_RULES, ProposalSettings

DURATIONS = st.floats(min_value=0.01, max_value=86_400.0, allow_nan=False, allow_infinity=False)
# No deadline: a busy machine is no failure. Derandomized: the same run fails or passes everywhere.
PROPERTY = settings(deadline=None, derandomize=True)


PHASES = st.one_of(
    st.sampled_from([0.0, -0.25, math.nextafter(0.5, 0), math.nextafter(-0.5, 0)]), st.floats(-0.49, 0.49)
)
LAYOUTS = st.one_of(st.just(FrameGrid.uniform), st.builds(lambda phase: partial(FrameGrid.phase, phase=phase), PHASES))
Layout = Callable[[float, int], FrameGrid]


def test_every_rule_has_its_function() -> None:
    assert tuple(TO_CLIPS) == SALIENCY_RULES


class TestRules:
    # 3 frames of 10/3 s with centres at 5/3, 5 and 25/3 s; clip centres at 1, 3, 5, 7, 9 s.
    GRID = FrameGrid.middle(10, 3)
    VALUES = np.array([0.0, 3.0, 9.0])

    def test_linear_by_hand(self) -> None:
        expected = [0, 3 * (3 - 5 / 3) / (10 / 3), 3, 3 + 6 * 2 / (10 / 3), 9]
        np.testing.assert_allclose(TO_CLIPS["linear"](self.VALUES, self.GRID), expected)

    def test_nearest_by_hand(self) -> None:
        assert nearest_to_clips(self.VALUES, self.GRID).tolist() == [0, 0, 3, 9, 9]

    def test_box_by_hand(self) -> None:
        # Edges at 10/3 and 20/3: clip [2, 4) has 4/3 s of frame 0 and 2/3 s of frame 1; [6, 8) 2/3 s of 1, 4/3 of 2.
        np.testing.assert_allclose(box_to_clips(self.VALUES, self.GRID), [0, 1, 3, (3 * 2 + 9 * 4) / 6, 9])

    def test_a_centre_on_an_edge_belongs_to_the_later_frame(self) -> None:
        assert nearest_to_clips(np.arange(4.0), FrameGrid.middle(4, 4)).tolist() == [1.0, 3.0]

    @pytest.mark.parametrize("rule", SALIENCY_RULES)
    def test_a_video_shorter_than_a_clip_has_one(self, rule: str) -> None:
        assert TO_CLIPS[rule](np.array([0.25, 0.75]), FrameGrid.middle(1, 2))[0] in (0.5, 0.75)

    def test_box_counts_only_what_the_video_covers(self) -> None:
        assert box_to_clips(np.array([0.25, 0.75]), FrameGrid.middle(1, 2)).tolist() == [0.5]

    def test_a_frame_that_covers_three_clips_ties_them_exactly_in_box_and_nearest_only(self) -> None:
        values = np.random.default_rng(0).random(25)
        grid = FrameGrid.middle(150, 25)
        for rule in ("box", "nearest"):
            np.testing.assert_array_equal(TO_CLIPS[rule](values, grid), np.repeat(values, 3))
        assert len(set(TO_CLIPS["linear"](values, grid)[1:-1])) == 73

    @PROPERTY
    @given(
        values=npst.arrays(np.float64, st.integers(1, 80), elements=st.floats(-50, 50)),
        seconds=st.floats(0.5, 400),
        kind=st.sampled_from(["middle", "uniform"]),
        rule=st.sampled_from(SALIENCY_RULES),
    )
    def test_one_value_per_clip_between_the_extremes(
        self, values: np.ndarray, seconds: float, kind: str, rule: str
    ) -> None:
        clips = TO_CLIPS[rule](values, getattr(FrameGrid, kind)(seconds, len(values)))
        assert clips.shape == (num_clips(seconds),)
        assert clips.dtype == np.float64
        assert (clips >= values.min() - 1e-12).all()
        assert (clips <= values.max() + 1e-12).all()

    @pytest.mark.parametrize("rule", SALIENCY_RULES)
    def test_clips_of_a_part_are_counted_from_its_start(self, rule: str) -> None:
        values, whole = np.array([0.1, 0.9, 0.4]), FrameGrid.from_times([1.0, 3.5, 8.0], 10)
        here, there = (TO_CLIPS[rule](values, grid) for grid in (whole, whole.part(301, 311)))
        np.testing.assert_allclose(there, here, rtol=1e-12)


class TestInterpolateToClips:
    def test_by_hand(self) -> None:
        # T=10, F=2: frame centres 2.5 and 7.5; clip centres 1, 3, 5, 7, 9.
        values = interpolate_to_clips([0.0, 1.0], FrameGrid.middle(10, 2))
        np.testing.assert_allclose(values, [0.0, 0.1, 0.5, 0.9, 1.0], atol=1e-15)

    def test_windows_of_the_paper_by_hand(self) -> None:
        # T=18, F=3: frame centres 3, 9, 15; clip centres 1, 3, ..., 17: thirds between the frames.
        values = interpolate_to_clips([0.3, 0.9, 0.0], FrameGrid.middle(18, 3))
        np.testing.assert_allclose(values, [0.3, 0.3, 0.5, 0.7, 0.9, 0.6, 0.3, 0.0, 0.0], atol=1e-15)

    def test_other_grids_are_read_at_their_own_times(self) -> None:
        # T=8: uniform samples 0, 8, phase 0.25 samples 3, 7; clip centres 1, 3, 5, 7.
        assert interpolate_to_clips([0.0, 1.0], FrameGrid.uniform(8, 2)).tolist() == [0.125, 0.375, 0.625, 0.875]
        assert interpolate_to_clips([0.0, 1.0], FrameGrid.phase(8, 2, 0.25)).tolist() == [0.0, 0.0, 0.5, 1.0]

    def test_incomplete_last_clip_is_not_read(self) -> None:
        assert interpolate_to_clips([0.1, 0.2], FrameGrid.middle(7.5, 2)).shape == (3,)

    def test_video_shorter_than_a_clip_has_one_clip(self) -> None:
        assert interpolate_to_clips([0.1, 0.2], FrameGrid.middle(1, 2)).tolist() == [0.2]

    @PROPERTY
    @given(duration_clips=st.integers(1, 100), values=st.data())
    def test_one_frame_per_clip_is_the_identity(self, duration_clips: int, values: st.DataObject) -> None:
        curve = values.draw(npst.arrays(np.float64, duration_clips, elements=st.floats(0, 1)))
        grid = FrameGrid.middle(2 * duration_clips, duration_clips)
        np.testing.assert_array_equal(interpolate_to_clips(curve, grid), curve)

    @PROPERTY
    @given(
        curve=npst.arrays(np.float64, st.integers(1, 60), elements=st.floats(0, 1)),
        duration_seconds=DURATIONS,
        layout=LAYOUTS,
    )
    def test_stays_between_the_extremes(self, curve: np.ndarray, duration_seconds: float, layout: Layout) -> None:
        assume(duration_seconds < 500)
        clips = interpolate_to_clips(curve, layout(duration_seconds, len(curve)))
        assert clips.shape == (num_clips(duration_seconds),)
        assert (clips >= curve.min() - 1e-12).all()
        assert (clips <= curve.max() + 1e-12).all()


class TestValues:
    GRID = FrameGrid.middle(8, 4)

    @PROPERTY
    @given(log_odds=npst.arrays(np.float64, 4, elements=st.floats(-30, 30)))
    def test_nothing_is_rounded(self, log_odds: np.ndarray) -> None:
        logits = np.stack([np.zeros(4), log_odds], axis=1)
        prediction = to_prediction([1, 0, 1, 0], logits, self.GRID)
        np.testing.assert_array_equal(prediction.saliency, prediction.probs)  # one frame per clip
        raw = redecode(prediction, ProposalSettings("runs", saliency_values="logits"))
        np.testing.assert_array_equal(raw.saliency, log_odds)
        assert raw.saliency.dtype == prediction.saliency.dtype == np.float64

    def test_logits_rank_what_probabilities_tie(self) -> None:
        logits = [[0.0, 40.0], [0.0, 45.0], [0.0, 43.0], [0.0, -1.0]]
        prediction = to_prediction([1, 1, 1, 0], logits, self.GRID)
        assert prediction.saliency[:3].tolist() == [1.0] * 3  # argmax takes the first
        for rule in SALIENCY_RULES:
            ranked = redecode(prediction, ProposalSettings("runs", saliency=rule, saliency_values="logits"))
            assert ranked.saliency.argmax() == 1
            assert ranked.moments == prediction.moments

    def test_lost_logits_are_not_made_up(self) -> None:
        from dataclasses import replace

        prediction = to_prediction([1, 0, 0, 0], [[0.0, 40.0]] * 4, self.GRID)
        with pytest.raises(ValueError, match="log-odds are needed"):
            redecode(replace(prediction, log_odds=None), ProposalSettings("runs", saliency_values="logits"))


def test_a_day_in_many_frames_is_averaged_in_parts() -> None:
    grid = FrameGrid.middle(duration_seconds=86_400, num_frames=2_000)
    values = np.random.default_rng(0).random(2_000)
    tracemalloc.start()
    try:
        found = box_to_clips(values, grid)
        assert tracemalloc.get_traced_memory()[1] < 300e6  # all at once: 43,200 x 2,000 float64, several times
    finally:
        tracemalloc.stop()
    starts = np.arange(43_200) * 2.0
    first = (starts / 43.2 + 1e-9).astype(int)  # windows of 43.2 s: a clip lies in one or in two
    share = np.clip(((first + 1) * 43.2 - starts) / 2, 0, 1)
    second = np.minimum(first + 1, 1_999)
    np.testing.assert_allclose(found, share * values[first] + (1 - share) * values[second], atol=1e-9)
