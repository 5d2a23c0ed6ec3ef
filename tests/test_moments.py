"""Tests of the value types and the arithmetic between seconds, frames and clips."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import pickle
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from functools import partial

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from hf_frameseg.intervals import nms, temporal_iou
from hf_frameseg.moments import (
    FrameGrid,
    Moment,
    mask_to_moments,
    mask_to_spans,
    moments_from_windows,
    moments_to_mask,
    num_clips,
)
from hf_frameseg.predictions import FramePrediction
from hf_frameseg.proposals import interpolate_to_clips

DURATIONS = st.floats(min_value=0.01, max_value=86_400.0, allow_nan=False, allow_infinity=False)
# No deadline: a busy machine is no failure. Derandomized: the same run fails or passes everywhere.
PROPERTY = settings(deadline=None, derandomize=True)
MASKS = npst.arrays(bool, st.integers(1, 200))
PHASES = st.one_of(
    st.sampled_from([0.0, -0.25, math.nextafter(0.5, 0), math.nextafter(-0.5, 0)]), st.floats(-0.49, 0.49)
)
LAYOUTS = st.one_of(st.just(FrameGrid.uniform), st.builds(lambda phase: partial(FrameGrid.phase, phase=phase), PHASES))
Layout = Callable[[float, int], FrameGrid]


@st.composite
def intervals(draw: st.DrawFn, max_size: int = 6) -> np.ndarray:
    """Draw an (N, 2) array of intervals that may be empty or touch."""
    pairs = draw(st.lists(st.tuples(st.floats(0, 150), st.floats(0, 150)), max_size=max_size))
    return np.array([sorted(pair) for pair in pairs], dtype=float).reshape(-1, 2)


@st.composite
def moment_lists(draw: st.DrawFn) -> list[Moment]:
    """Draw candidates on a coarse grid, so that equal scores and equal intervals happen."""
    drawn = st.tuples(st.integers(0, 20), st.integers(1, 10), st.integers(0, 3))
    return [Moment(start, start + length, score) for start, length, score in draw(st.lists(drawn, max_size=8))]


class TestMoment:
    def test_integers_become_floats(self) -> None:
        moment = Moment(1, 3, 1)
        assert all(type(value) is float for value in (moment.start, moment.end, moment.score))
        assert moment.duration_seconds == 2.0

    @pytest.mark.parametrize(("start", "end"), [(2, 2), (3, 2)])
    def test_empty_or_inverted_is_refused(self, start: float, end: float) -> None:
        with pytest.raises(ValueError, match="start < end"):
            Moment(start, end)

    @pytest.mark.parametrize("values", [(math.nan, 1, 1), (0, math.inf, 1), (0, 1, math.nan)])
    def test_not_finite_is_refused(self, values: tuple[float, float, float]) -> None:
        with pytest.raises(ValueError, match="finite"):
            Moment(*values)


class TestFrameGrid:
    def test_windows_of_the_paper(self) -> None:
        grid = FrameGrid.middle(150, 25)
        assert grid.edges.tolist() == [6.0 * i for i in range(26)]
        assert grid.times.tolist() == [6.0 * i + 3 for i in range(25)]
        assert grid.windows[[0, 24]].tolist() == [[0.0, 6.0], [144.0, 150.0]]

    @pytest.mark.parametrize("duration_seconds", [7, 149, 126.5, 33.125, 1])
    @pytest.mark.parametrize("num_frames", [1, 3, 7, 25, 75])
    def test_edges_and_centres_are_the_nearest_floats(self, duration_seconds: float, num_frames: int) -> None:
        grid = FrameGrid.middle(duration_seconds, num_frames)
        exact = Fraction(duration_seconds) / num_frames
        assert grid.edges.tolist() == [float(i * exact) for i in range(num_frames + 1)]
        assert grid.times.tolist() == [float((2 * i + 1) * exact / 2) for i in range(num_frames)]

    @PROPERTY
    @given(duration_seconds=DURATIONS, num_frames=st.integers(1, 300))
    def test_the_default_grid_is_the_papers_bit_for_bit(self, duration_seconds: float, num_frames: int) -> None:
        grid = FrameGrid.middle(duration_seconds, num_frames)
        edges = np.arange(num_frames + 1) * duration_seconds / num_frames
        edges[-1] = duration_seconds
        times = (2 * np.arange(num_frames) + 1) * duration_seconds / (2 * num_frames)
        for built in (grid, FrameGrid.phase(duration_seconds, num_frames, -0.0)):
            assert built == grid
            np.testing.assert_array_equal(built.edges, edges)
            np.testing.assert_array_equal(built.times, times)

    @PROPERTY
    @given(duration_seconds=DURATIONS, num_frames=st.integers(1, 300), kind=st.booleans(), phase=PHASES)
    def test_every_kind_is_the_old_formula_bit_for_bit(
        self, duration_seconds: float, num_frames: int, kind: bool, phase: float
    ) -> None:
        """Grids that were computed anew from (T, F, kind, phase) each time gave the references that are recorded."""
        if kind:
            grid, phase = FrameGrid.uniform(duration_seconds, num_frames), 0.0
            edges = (2 * np.arange(num_frames + 1) - 1) * duration_seconds / max(2 * num_frames - 2, 1)
            times = np.arange(num_frames) * duration_seconds / max(num_frames - 1, 1)
            times[1:][-1:] = duration_seconds
        else:
            grid = FrameGrid.phase(duration_seconds, num_frames, phase)
            edges = (np.arange(num_frames + 1) + phase) * duration_seconds / num_frames
            times = (2 * np.arange(num_frames) + 1 + 2 * phase) * duration_seconds / (2 * num_frames)
            times = np.minimum(times, duration_seconds)
        edges[0], edges[-1] = 0.0, duration_seconds
        np.testing.assert_array_equal(grid.edges, edges)
        np.testing.assert_array_equal(grid.times, times)
        assert (grid.num_frames, grid.start_seconds, grid.duration_seconds) == (num_frames, 0.0, duration_seconds)

    @PROPERTY
    @given(duration_seconds=DURATIONS, num_frames=st.integers(1, 300), layout=LAYOUTS)
    def test_windows_cover_the_video_without_gap(
        self, duration_seconds: float, num_frames: int, layout: Layout
    ) -> None:
        grid = layout(duration_seconds, num_frames)
        assert grid.edges[0] == 0
        assert grid.edges[-1] == duration_seconds
        windows, times = grid.windows, grid.times
        assert (windows[:, 0] < windows[:, 1]).all()
        assert (windows[1:, 0] == windows[:-1, 1]).all()
        assert (np.diff(times) > 0).all()
        assert (windows[:, 0] <= times).all()
        assert (times < np.append(windows[:-1, 1], np.inf)).all()  # the last sample may stand at the very end ...
        assert times[-1] <= duration_seconds  # ... but not behind it
        np.testing.assert_allclose(windows[1:, 0], (times[1:] + times[:-1]) / 2, rtol=1e-12)

    def test_uniform_samples_from_the_very_start_to_the_very_end(self) -> None:
        grid = FrameGrid.uniform(12, 4)
        assert grid.times.tolist() == [0.0, 4.0, 8.0, 12.0]
        assert grid.windows.tolist() == [[0.0, 2.0], [2.0, 6.0], [6.0, 10.0], [10.0, 12.0]]
        assert FrameGrid.uniform(7, 2).windows.tolist() == [[0.0, 3.5], [3.5, 7.0]]

    @PROPERTY
    @given(duration_seconds=DURATIONS, num_frames=st.integers(2, 300))
    def test_uniform_ends_exactly_at_the_end(self, duration_seconds: float, num_frames: int) -> None:
        times = FrameGrid.uniform(duration_seconds, num_frames).times
        assert (times[0], times[-1]) == (0.0, duration_seconds)
        np.testing.assert_allclose(times, np.linspace(0, duration_seconds, num_frames), rtol=1e-12)

    def test_one_frame_of_every_grid_stands_for_the_whole_video(self) -> None:
        grids = [FrameGrid.uniform(9, 1), FrameGrid.middle(9, 1), FrameGrid.phase(9, 1, 0.25)]
        assert [grid.times.tolist() for grid in grids] == [[0.0], [4.5], [6.75]]
        assert [grid.windows.tolist() for grid in grids] == [[[0.0, 9.0]]] * 3
        assert [mask_to_moments([1], grid) for grid in grids] == [[Moment(0, 9)]] * 3

    def test_phase_moves_every_sample_by_a_share_of_a_window(self) -> None:
        grid = FrameGrid.phase(12, 4, 0.25)
        assert grid.times.tolist() == [2.25, 5.25, 8.25, 11.25]
        assert grid.edges.tolist() == [0.0, 3.75, 6.75, 9.75, 12.0]
        assert FrameGrid.phase(12, 4, -0.25).edges.tolist() == [0.0, 2.25, 5.25, 8.25, 12.0]

    @pytest.mark.parametrize("phase", [0.5, -0.5, 1, math.nan, math.inf])
    def test_phase_of_half_a_window_or_more_is_refused(self, phase: float) -> None:
        with pytest.raises(ValueError, match="phase above -0.5 and below 0.5"):
            FrameGrid.phase(10, 4, phase)

    def test_grids_are_equal_by_value_and_frozen(self) -> None:
        grid = FrameGrid.phase(12, np.int64(4), np.float32(0.25))
        same = FrameGrid(grid.times.tolist(), grid.edges.tolist())
        assert (
            len({grid, same, FrameGrid.phase(12.0, 4, 0.25), FrameGrid.middle(12.0, 4), FrameGrid.uniform(12, 4)}) == 3
        )
        assert grid != FrameGrid(grid.times, [*grid.edges[:-1], 13.0])
        assert grid != "grid"
        assert repr(grid) == "FrameGrid(4 frames, 0 to 12 s)"
        with pytest.raises(dataclasses.FrozenInstanceError):
            grid.times = grid.times  # type: ignore[misc]
        for copied in (grid, pickle.loads(pickle.dumps(grid)), copy.deepcopy(grid)):
            assert copied == grid
            for array in (copied.times, copied.edges):
                with pytest.raises(ValueError, match="read-only"):
                    array[0] = 1.0

    def test_arrays_of_the_caller_are_not_shared(self) -> None:
        times = np.array([1.0, 3.0])
        grid = FrameGrid(times, [0, 2, 4])
        times[0] = 9.0
        assert grid.times.tolist() == [1.0, 3.0]

    def test_uneven_times_meet_midway_and_reach_the_ends(self) -> None:
        grid = FrameGrid.from_times([0.5, 1.5, 7.5, 11.0], 12)
        assert grid.edges.tolist() == [0.0, 1.0, 4.5, 9.25, 12.0]
        assert mask_to_moments([0, 1, 1, 0], grid) == [Moment(1.0, 9.25)]
        assert FrameGrid.from_times([3], 9).windows.tolist() == [[0.0, 9.0]]

    @PROPERTY
    @given(
        times=st.lists(st.floats(0, 600, allow_subnormal=False), min_size=1, max_size=40, unique=True).map(sorted),
        rest=st.floats(0.01, 60),
        data=st.data(),
    )
    def test_mask_survives_the_round_trip_on_any_times(
        self, times: list[float], rest: float, data: st.DataObject
    ) -> None:
        assume(len(times) == 1 or min(np.diff(times)) > 1e-9)
        assume(times[0] != 0 or len(times) == 1 or times[1] > 1e-9)
        grid = FrameGrid.from_times(times, times[-1] + rest)
        mask = data.draw(npst.arrays(bool, len(times)))
        assert (moments_to_mask(mask_to_moments(mask, grid), grid) == mask).all()
        assert mask_to_moments(np.ones(len(times)), grid) == [Moment(0, grid.duration_seconds)]

    @pytest.mark.parametrize(
        ("times", "edges", "message"),
        [
            ([], [0], r"times \(F,\) and edges \(F \+ 1,\) in seconds, got the shapes \(0,\) and \(1,\)"),
            ([1, 2], [0, 3], r"got the shapes \(2,\) and \(2,\)"),
            ([[1]], [0, 3], r"got the shapes \(1, 1\)"),
            ([math.nan], [0, 3], "finite times and edges"),
            ([1], [0, math.inf], "finite times and edges"),
            ([1], [-1, 3], "from 0 on"),
            ([1], [0, 1e6], r"duration_seconds to be finite and above 0, up to 86400 \(a day\)"),
            ([1, 2], [0, 2, 2], "edges that ascend, got 2 before 2 s; leave out frames without a window"),
            ([3, 1], [0, 2, 4], r"frame 0 at 3 s outside \[0, 2\); sort the times, or move the edges"),
            (np.ones(10_001), np.arange(10_002), "num_frames of at most 10000, got 10001"),
        ],
    )
    def test_what_is_no_grid_is_refused(self, times: list, edges: list, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            FrameGrid(times, edges)

    @pytest.mark.parametrize(
        ("times", "message"),
        [
            ([2, 1], "times that ascend, in seconds; sort them"),
            ([1, 1], "leave out doubled ones"),
            ([math.nan], "finite times"),
            ([], r"times of shape \(F,\), F >= 1, in seconds, got shape \(0,\)"),
            ([-1, 2], "inside its window, got frame 0 at -1 s"),
            ([1, 11], "inside its window, got frame 1 at 11 s|edges that ascend"),
        ],
    )
    def test_times_that_make_no_grid_are_refused(self, times: list, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            FrameGrid.from_times(times, 10)


class TestPart:
    def test_the_pattern_moves_and_keeps_the_clock(self) -> None:
        part = FrameGrid.from_times([1, 2, 7], 10).part(100, 120)
        assert part.times.tolist() == [102.0, 104.0, 114.0]
        assert part.edges.tolist() == [100.0, 103.0, 109.0, 120.0]
        assert (part.start_seconds, part.end_seconds, part.duration_seconds) == (100.0, 120.0, 20.0)
        assert mask_to_moments([0, 1, 1], part) == [Moment(103, 120)]
        assert moments_to_mask([Moment(0, 103), Moment(113, 500)], part).tolist() == [True, False, True]
        assert part.clip_times().tolist() == [101.0 + 2 * clip for clip in range(10)]

    @PROPERTY
    @given(
        layout=LAYOUTS,
        num_frames=st.integers(1, 60),
        own=st.floats(0.1, 4000),
        start=st.floats(0, 80_000),
        length=st.floats(0.1, 4000),
        data=st.data(),
    )
    def test_any_part_of_any_pattern_is_a_grid(
        self, layout: Layout, num_frames: int, own: float, start: float, length: float, data: st.DataObject
    ) -> None:
        part = layout(own, num_frames).part(start, start + length)
        assert (part.start_seconds, part.end_seconds) == (start, start + length)
        fresh = layout(part.duration_seconds, num_frames)
        np.testing.assert_allclose(part.times - start, fresh.times, atol=1e-9 * (start + length))
        np.testing.assert_allclose(part.edges - start, fresh.edges, atol=1e-9 * (start + length))
        mask = data.draw(npst.arrays(bool, num_frames))
        assert (moments_to_mask(mask_to_moments(mask, part), part) == mask).all()
        assert layout(own, num_frames).part(0, own) == layout(own, num_frames)

    @pytest.mark.parametrize(("start", "end"), [(-1, 5), (5, 5), (6, 5), (math.nan, 5), (0, math.inf), (0, 1e6)])
    def test_what_is_no_part_is_refused(self, start: float, end: float) -> None:
        with pytest.raises(ValueError, match="expected a part with 0 <= start < end <= 86400 s"):
            FrameGrid.middle(10, 4).part(start, end)

    @pytest.mark.parametrize("seconds", [12.0, 150.0, 59.4, 83.33])
    @pytest.mark.parametrize("count", [1, 2, 3])
    def test_neighbours_that_are_seen_as_one(self, seconds: float, count: int) -> None:
        fine = FrameGrid.middle(seconds, 6 * count)
        coarse = fine.merged(count)
        assert coarse.edges == pytest.approx(FrameGrid.middle(seconds, 6).edges, rel=1e-12)
        assert coarse.times == pytest.approx(FrameGrid.middle(seconds, 6).times, rel=1e-12)
        assert (coarse.start_seconds, coarse.end_seconds) == (0.0, seconds)
        uneven = FrameGrid([1, 2, 7, 8], [0, 1.5, 4.5, 7.5, 10]).merged(2)
        assert (uneven.times.tolist(), uneven.edges.tolist()) == ([1.5, 7.5], [0, 4.5, 10])

    @pytest.mark.parametrize("count", [0, -1, 4, 7])
    def test_windows_left_over_are_refused(self, count: int) -> None:
        with pytest.raises(ValueError, match=f"a whole share of 6 frames, got {count} at a time"):
            FrameGrid.middle(12, 6).merged(count)

    def test_touching_parts_share_a_sample_at_the_seam_and_keep_it_apart(self) -> None:
        first, second = (FrameGrid.uniform(6, 3).part(start, start + 6) for start in (0, 6))  # both sample at 6 s
        both = FrameGrid([*first.times, *second.times], [*first.edges, *second.edges[1:]])
        for mask in ([0, 0, 1, 0, 0, 0], [0, 0, 0, 1, 0, 0], [0, 1, 1, 1, 0, 1]):
            assert moments_to_mask(mask_to_moments(mask, both), both).tolist() == [bool(one) for one in mask]

    @pytest.mark.parametrize("duration_seconds", [1e-320, 5e-324, 1e-300])
    def test_windows_that_floats_cannot_hold_are_refused(self, duration_seconds: float) -> None:
        with pytest.raises(ValueError, match="windows in float64"):
            FrameGrid.middle(duration_seconds, 4)

    @pytest.mark.parametrize("duration_seconds", [0, -1, math.nan, math.inf, 86_401, 1e9, 1e305, 10**400])
    def test_bad_duration_is_refused(self, duration_seconds: float) -> None:
        with pytest.raises(ValueError, match="duration_seconds"):
            FrameGrid.middle(duration_seconds, 4)

    @pytest.mark.parametrize("num_frames", [0, -3, 2.5, math.nan, math.inf])
    def test_bad_number_of_frames_is_refused(self, num_frames: int) -> None:
        with pytest.raises(ValueError, match="num_frames"):
            FrameGrid.middle(10, num_frames)


class TestNumClips:
    @pytest.mark.parametrize(("seconds", "clips"), [(150, 75), (149, 74), (7.9, 3), (2, 1), (0.5, 1)])
    def test_counts_complete_clips_and_at_least_one(self, seconds: float, clips: int) -> None:
        assert num_clips(seconds) == clips

    @pytest.mark.parametrize(
        ("lengths", "message"),
        [
            ((1e9,), r"up to 86400 \(a day\), got 1000000000.0"),
            ((86_400, 1e-6), "clip_seconds above 0, for at most 100000 clips, got 1e-06"),
            ((10, 0), "clip_seconds above 0"),
            ((10, math.nan), "clip_seconds above 0"),
        ],
    )
    def test_more_clips_than_a_video_has_are_refused(self, lengths: tuple[float, ...], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            num_clips(*lengths)

    def test_other_clip_length(self) -> None:
        assert num_clips(10, clip_seconds=3) == 3


class TestMaskAndMoments:
    @pytest.mark.parametrize(
        ("mask", "spans"),
        [
            ([0, 0, 0], []),
            ([1, 1, 1], [(0, 3)]),
            ([1], [(0, 1)]),
            ([0, 1, 1, 0, 1], [(1, 3), (4, 5)]),
            ([1, 0, 1, 0], [(0, 1), (2, 3)]),
        ],
    )
    def test_spans_by_hand(self, mask: list[int], spans: list[tuple[int, int]]) -> None:
        assert mask_to_spans(mask) == spans

    def test_moments_by_hand(self) -> None:
        moments = mask_to_moments([1, 1, 0, 1], FrameGrid.middle(7, 4), scores=[0.5, 1.0, 0.0, 0.25])
        assert moments == [Moment(0, 3.5, 0.75), Moment(5.25, 7, 0.25)]

    def test_without_scores_every_moment_scores_one(self) -> None:
        assert mask_to_moments([0, 1], FrameGrid.middle(4, 2)) == [Moment(2, 4, 1.0)]

    def test_centre_on_the_start_is_inside_and_on_the_end_outside(self) -> None:
        grid = FrameGrid.middle(8, 4)  # centres 1, 3, 5, 7
        assert moments_to_mask([Moment(3, 5)], grid).tolist() == [False, True, False, False]

    def test_moment_between_two_centres_marks_nothing(self) -> None:
        assert not moments_to_mask([Moment(1.5, 2.5)], FrameGrid.middle(8, 4)).any()

    def test_overlapping_moments_unite(self) -> None:
        assert moments_to_mask([Moment(4, 8), Moment(0, 5)], FrameGrid.middle(8, 4)).all()

    def test_sample_at_the_very_end_is_inside_a_moment_that_reaches_it(self) -> None:
        grid = FrameGrid.uniform(12, 4)  # samples 0, 4, 8, 12
        assert moments_to_mask([Moment(9, 12)], grid).tolist() == [False, False, False, True]
        assert moments_to_mask([Moment(9, 11.9)], grid).tolist() == [False] * 4
        assert mask_to_moments([1, 0, 0, 1], grid) == [Moment(0, 2), Moment(10, 12)]

    @PROPERTY
    @given(mask=MASKS, duration_seconds=DURATIONS, layout=LAYOUTS)
    def test_mask_survives_the_round_trip(self, mask: np.ndarray, duration_seconds: float, layout: Layout) -> None:
        grid = layout(duration_seconds, len(mask))
        assert (moments_to_mask(mask_to_moments(mask, grid), grid) == mask).all()

    @PROPERTY
    @given(mask=MASKS, duration_seconds=DURATIONS, layout=LAYOUTS)
    def test_moments_are_ordered_and_separated(self, mask: np.ndarray, duration_seconds: float, layout: Layout) -> None:
        grid = layout(duration_seconds, len(mask))
        moments = mask_to_moments(mask, grid)
        assert all(a.end < b.start for a, b in zip(moments, moments[1:], strict=False))
        relevant_seconds = float(np.diff(grid.windows[mask]).sum())
        assert math.isclose(sum(m.duration_seconds for m in moments), relevant_seconds, abs_tol=1e-6)

    @PROPERTY
    @given(mask=MASKS, duration_seconds=DURATIONS)
    def test_equal_windows_give_the_share_of_ones(self, mask: np.ndarray, duration_seconds: float) -> None:
        moments = mask_to_moments(mask, FrameGrid.middle(duration_seconds, len(mask)))
        assert math.isclose(sum(m.duration_seconds for m in moments), mask.mean() * duration_seconds, abs_tol=1e-6)

    def test_mask_of_another_length_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"shape \(4,\)"):
            mask_to_moments([1, 0, 1], FrameGrid.middle(8, 4))

    def test_probabilities_are_no_mask(self) -> None:
        with pytest.raises(ValueError, match="threshold"):
            mask_to_spans([0.2, 0.9])

    def test_scores_with_nan_are_refused(self) -> None:
        with pytest.raises(ValueError, match="finite scores"):
            mask_to_moments([1, 0], FrameGrid.middle(4, 2), scores=[math.nan, 0])


class TestMomentsFromWindows:
    def test_keeps_the_given_order(self) -> None:
        assert moments_from_windows([[10, 12], [0, 4]], 12) == [Moment(10, 12), Moment(0, 4)]

    def test_no_windows_no_moments(self) -> None:
        assert moments_from_windows([], 12) == []

    @pytest.mark.parametrize(
        ("windows", "message"),
        [
            ([[0, 2], [4, 4]], r"relevant window 1 = \[4, 4\].*start < end"),
            ([[5, 3]], "start < end"),
            ([[148, 152]], "outside the video.*<= 150 seconds"),
            ([[-2, 2]], "outside the video"),
            ([[0, 2, 1]], "expected \\[start, end\\]"),
            ([7], "expected \\[start, end\\]"),
            ([["a", "b"]], "relevant window 0"),
            ([[None, 2]], "relevant window 0"),
            ([[0, math.nan]], "finite"),
        ],
    )
    def test_bad_windows_name_themselves_in_one_line(self, windows: list, message: str) -> None:
        with pytest.raises(ValueError, match=message) as caught:
            moments_from_windows(windows, 150)
        assert "\n" not in str(caught.value)

    def test_without_a_duration_any_end_is_allowed(self) -> None:
        assert moments_from_windows([[0, 1e4]]) == [Moment(0, 1e4)]


class TestTemporalIou:
    def test_by_hand(self) -> None:
        iou = temporal_iou([[0, 10], [4, 6]], [[0, 10], [5, 15], [10, 20]])
        np.testing.assert_allclose(iou, [[1, 5 / 15, 0], [0.2, 1 / 11, 0]])

    def test_no_intervals_give_an_empty_table(self) -> None:
        assert temporal_iou([], [[0, 1]]).shape == (0, 1)
        assert temporal_iou([[0, 1]], np.zeros((0, 2))).shape == (1, 0)

    def test_two_empty_intervals_have_no_overlap(self) -> None:
        assert temporal_iou([[3, 3]], [[3, 3], [0, 9]]).tolist() == [[0.0, 0.0]]

    @PROPERTY
    @given(a=intervals(), b=intervals())
    def test_is_symmetric_and_between_zero_and_one(self, a: np.ndarray, b: np.ndarray) -> None:
        iou = temporal_iou(a, b)
        assert ((iou >= 0) & (iou <= 1)).all()
        np.testing.assert_array_equal(iou, temporal_iou(b, a).T)

    @PROPERTY
    @given(a=intervals())
    def test_an_interval_overlaps_itself_fully(self, a: np.ndarray) -> None:
        iou = np.diag(temporal_iou(a, a))
        assert (iou == (a[:, 1] > a[:, 0])).all()

    def test_inverted_interval_is_refused(self) -> None:
        with pytest.raises(ValueError, match="start <= end in every interval of b"):
            temporal_iou([[0, 1]], [[2, 1]])

    def test_wrong_shape_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"shape \(N, 2\)"):
            temporal_iou([0, 1], [[0, 1]])


class TestNms:
    def test_by_hand(self) -> None:
        best, near, far = Moment(0, 10, 0.9), Moment(1, 10, 0.8), Moment(20, 30, 0.1)
        assert nms([far, near, best], 0.7) == [best, far]
        assert nms([far, near, best], 0.95) == [best, near, far]

    def test_a_dropped_moment_drops_nobody(self) -> None:
        chain = [Moment(0, 10, 0.9), Moment(3, 13, 0.8), Moment(6, 16, 0.7)]  # neighbours 7/13, ends 4/16
        assert nms(chain, 0.5) == [chain[0], chain[2]]

    def test_exactly_the_threshold_stays(self) -> None:
        pair = [Moment(0, 4, 1.0), Moment(0, 2, 0.5)]
        assert nms(pair, 0.5) == pair

    def test_equal_scores_keep_their_order(self) -> None:
        first, second = Moment(5, 15), Moment(0, 14)
        assert nms([first, second], 0.5) == [first]
        assert nms([second, first], 0.5) == [second]

    @PROPERTY
    @given(moments=moment_lists(), threshold=st.sampled_from([0.0, 0.3, 0.5, 0.9, 1.0]))
    def test_kept_are_apart_and_dropped_have_a_better_neighbour(self, moments: list[Moment], threshold: float) -> None:
        given_order = list(moments)
        kept = nms(moments, threshold)
        assert moments == given_order
        assert nms(kept, threshold) == kept
        assert [m.score for m in kept] == sorted((m.score for m in kept), reverse=True)
        table = np.array([[m.start, m.end] for m in kept]).reshape(-1, 2)
        iou = temporal_iou(table, table)
        assert (iou[~np.eye(len(kept), dtype=bool)] <= threshold).all()
        for moment in moments:
            better = [k for k in kept if k.score >= moment.score]
            overlap = temporal_iou([[moment.start, moment.end]], [[k.start, k.end] for k in better])
            assert moment in kept or (overlap > threshold).any()

    def test_threshold_outside_zero_to_one_is_refused(self) -> None:
        with pytest.raises(ValueError, match="iou_threshold"):
            nms([], 1.5)


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


class TestFramePrediction:
    @pytest.fixture
    def prediction(self) -> FramePrediction:
        return FramePrediction(
            grid=FrameGrid.middle(6, 3),
            mask=np.array([False, True, True]),
            probs=np.array([0.1, 0.7, 0.8]),
            moments=(Moment(2, 6, 0.75),),
            saliency=np.array([0.1, 0.7, 1 / 3]),
            query="a red circle",
            qid=np.int64(7),
            vid="abc",
        )

    def test_submission_row_has_floats_only(self, prediction: FramePrediction) -> None:
        row = prediction.to_submission()
        assert row == {
            "qid": 7,
            "query": "a red circle",
            "vid": "abc",
            "pred_relevant_windows": [[2.0, 6.0, 0.75]],
            "pred_saliency_scores": [0.1, 0.7, 1 / 3],
        }
        assert type(row["qid"]) is int
        assert all(type(value) is float for value in row["pred_relevant_windows"][0] + row["pred_saliency_scores"])

    def test_submission_row_survives_json_unrounded(self, prediction: FramePrediction) -> None:
        row = prediction.to_submission()
        assert json.loads(json.dumps(row)) == row

    def test_submission_needs_a_qid(self, prediction: FramePrediction) -> None:
        with pytest.raises(ValueError, match="qid"):
            dataclasses.replace(prediction, qid=None).to_submission()

    def test_a_text_qid_stays_a_text(self, prediction: FramePrediction) -> None:
        assert dataclasses.replace(prediction, qid="s34-d28_0").to_submission()["qid"] == "s34-d28_0"

    @pytest.mark.parametrize(
        ("field", "value"), [("mask", [True]), ("probs", [0.1, 0.2]), ("saliency", [[0.1]]), ("mask", [0, 2, 1])]
    )
    def test_arrays_that_do_not_fit_are_refused(self, prediction: FramePrediction, field: str, value: list) -> None:
        with pytest.raises(ValueError, match=field):
            dataclasses.replace(prediction, **{field: np.array(value)})

    def test_does_not_share_memory_with_the_caller(self, prediction: FramePrediction) -> None:
        probs = np.array([0.1, 0.2, 0.3])
        changed = dataclasses.replace(prediction, probs=probs)
        probs[0] = 9
        assert changed.probs[0] == 0.1


def test_needs_nothing_but_numpy() -> None:
    code = "import sys, hf_frameseg.moments; print(sorted({'torch', 'transformers', 'evaluate'} & sys.modules.keys()))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"
