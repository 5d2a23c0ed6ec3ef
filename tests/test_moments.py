"""Tests of the value types and the arithmetic between seconds, frames and clips."""

from __future__ import annotations

import copy
import dataclasses
import math
import pickle
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from grid_strategies import DURATIONS, LAYOUTS, PHASES, PROPERTY, Layout
from hf_frameseg.masks import mask_to_moments, moments_to_mask
from hf_frameseg.moments import FrameGrid, Moment, num_clips


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
            ([-1, 2], "inside the video, from 0 to 10.0 s, got -1.0"),
            ([1, 11], "inside the video, from 0 to 10.0 s, got 11.0"),
            (np.float32([1, 10.00001]), "inside the video, from 0 to 10.0 s, got 10.0000"),
        ],
    )
    def test_times_that_make_no_grid_are_refused(self, times: list, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            FrameGrid.from_times(times, 10)

    def test_an_end_that_was_rounded_up_is_the_end(self) -> None:
        assert float(np.float32(10.1)) > 10.1
        assert FrameGrid.from_times(np.linspace(0, 10.1, 5, dtype=np.float32), 10.1).times[-1] == 10.1


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


def test_needs_nothing_but_numpy() -> None:
    code = "import sys, hf_frameseg.moments; print(sorted({'torch', 'transformers', 'evaluate'} & sys.modules.keys()))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"
