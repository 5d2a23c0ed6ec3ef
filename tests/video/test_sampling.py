from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_frameseg.moments import FrameGrid
from hf_frameseg.video.sampling import MIDDLE_VARIANT, TIME_TOLERANCE_SECONDS, VARIANTS, select_frames

GRIDS = st.one_of(
    st.just(FrameGrid.uniform), st.builds(lambda phase: partial(FrameGrid.phase, phase=phase), st.floats(-0.49, 0.49))
)


def by_hand(times: list[float], grid: FrameGrid, frames: int = 0, seconds: float | None = None) -> list[list[int]]:
    """Spell the rule out, one window at a time."""
    chosen = []
    for at, (start, end) in zip(grid.times, grid.windows, strict=True):
        before_end = [i for i, t in enumerate(times) if t < end - TIME_TOLERANCE_SECONDS]
        middle = max((i for i in before_end if times[i] <= at + TIME_TOLERANCE_SECONDS), default=0)
        own = [i for i in before_end if start - TIME_TOLERANCE_SECONDS <= times[i]] + [middle]
        left, right = middle - frames, middle + frames
        if seconds is not None:
            left = max((i for i, t in enumerate(times) if t <= at - seconds + TIME_TOLERANCE_SECONDS), default=0)
            right = max((i for i, t in enumerate(times) if t <= at + seconds + TIME_TOLERANCE_SECONDS), default=0)
        chosen.append([min(max(left, min(own)), middle), middle, max(min(right, max(own)), middle)])
    return chosen


def test_constant_rate_takes_the_frame_at_the_window_centre_and_three_to_either_side():
    chosen = select_frames(np.arange(4500) / 30, FrameGrid.middle(150, 25))
    assert chosen.shape == (25, 3)
    assert chosen.dtype == np.int64
    assert chosen[0].tolist() == [87, 90, 93]  # 3 s at 30 frames per second
    assert chosen[-1].tolist() == [4407, 4410, 4413]
    assert VARIANTS[MIDDLE_VARIANT] == "middle"


def test_ntsc_rate_differs_from_index_times_rounded_rate():
    times = np.arange(4496) * 1001 / 30000  # 29.97 frames per second, 150 s
    middle = select_frames(times, FrameGrid.middle(150, 25))[:, 1]
    assert middle[0] == 89  # frame 90 starts at 3.003 s: after the centre
    assert middle[-1] == 4405  # index 147 s * 30 = 4410 would be 0.15 s late


def test_variable_rate_by_hand():
    times = [0.0, 0.1, 0.2, 0.3, 4.5, 5.5, 5.6, 5.7, 5.8, 5.9]
    # Windows [0, 3) and [3, 6), centres 1.5 and 4.5.
    assert select_frames(times, FrameGrid.middle(6, 2), 2).tolist() == [[1, 3, 3], [4, 4, 6]]


def test_a_frame_that_starts_a_rounding_error_late_counts_and_a_real_delay_does_not():
    assert select_frames([0.0, 1.0004], FrameGrid.middle(2, 1))[0, 1] == 1
    assert select_frames([0.0, 1.01], FrameGrid.middle(2, 1))[0, 1] == 0


def test_fewer_frames_than_windows_repeat_the_frame_on_display():
    assert select_frames([0.0, 2.0], FrameGrid.middle(4, 8)).tolist() == [[0, 0, 0]] * 4 + [[1, 1, 1]] * 4


def test_windows_after_the_last_frame_show_the_last_frame():
    chosen = select_frames(np.arange(10) / 10, FrameGrid.middle(4, 4))
    assert chosen[1:].tolist() == [[9, 9, 9]] * 3


def test_a_video_whose_first_frame_comes_after_the_first_centre_uses_that_frame():
    assert select_frames([3.0, 3.5], FrameGrid.middle(4, 4))[0].tolist() == [0, 0, 0]


def test_zero_offset_gives_three_equal_variants():
    chosen = select_frames(np.arange(100) / 10, FrameGrid.middle(10, 5), 0)
    assert (chosen == chosen[:, 1:2]).all()


@settings(max_examples=200, deadline=None)
@given(
    gaps=st.lists(st.floats(0, 3, allow_nan=False), min_size=1, max_size=40),
    duration=st.floats(0.5, 60),
    num_frames=st.integers(1, 30),
    offset=st.integers(0, 6),
)
def test_equals_the_rule_spelt_out(gaps, duration, num_frames, offset):
    times = np.cumsum([0.0, *gaps[1:]])
    grid = FrameGrid.middle(duration, num_frames)
    assert select_frames(times, grid, offset).tolist() == by_hand(times.tolist(), grid, offset)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    gaps=st.lists(st.floats(0, 3, allow_nan=False), min_size=1, max_size=40),
    duration=st.floats(0.5, 60),
    num_frames=st.integers(1, 30),
    layout=GRIDS,
    seconds=st.one_of(st.none(), st.floats(0, 5)),
)
def test_other_grids_and_offsets_in_seconds_equal_the_rule_spelt_out(gaps, duration, num_frames, layout, seconds):
    times = np.cumsum([0.0, *gaps[1:]])
    grid = layout(duration, num_frames)
    chosen = select_frames(times, grid, variant_offset_seconds=seconds)
    assert chosen.tolist() == by_hand(times.tolist(), grid, 3, seconds)
    assert (np.diff(chosen, axis=1) >= 0).all()  # left, middle, right
    assert (np.diff(chosen, axis=0) >= 0).all()  # and in time order


def test_uniform_grid_shows_the_first_and_the_last_frame():
    chosen = select_frames(np.arange(300) / 30, FrameGrid.uniform(10, 5))  # 0, 2.5, 5, 7.5, 10 s
    assert chosen.tolist() == [[0, 0, 3], [72, 75, 78], [147, 150, 153], [222, 225, 228], [296, 299, 299]]


def test_the_very_end_of_a_longer_file_shows_no_frame_behind_the_end():
    chosen = select_frames(np.arange(600) / 30, FrameGrid.uniform(10, 5))  # frame 300 starts at the end
    assert chosen[-1].tolist() == [296, 299, 299]


def test_phase_moves_the_frames():
    chosen = select_frames(np.arange(300) / 30, FrameGrid.phase(10, 5, 0.25))  # 1.5, 3.5, ... s
    assert chosen[:, 1].tolist() == [45, 105, 165, 225, 285]


def test_offset_in_seconds_stays_in_the_own_window():
    times = np.arange(100) / 10
    assert select_frames(times, FrameGrid.middle(10, 5), variant_offset_seconds=0.5)[1].tolist() == [25, 30, 35]
    assert select_frames(times, FrameGrid.middle(10, 5), variant_offset_seconds=9.0)[1].tolist() == [20, 30, 39]
    assert select_frames(times, FrameGrid.middle(10, 5), variant_offset_seconds=0)[1].tolist() == [30, 30, 30]
    # At a variable rate, seconds and frames differ: windows [0, 3) and [3, 6), centres 1.5 and 4.5.
    assert select_frames(
        [0.0, 0.1, 0.2, 1.4, 3.1, 4.0, 4.4, 5.2], FrameGrid.middle(6, 2), variant_offset_seconds=0.6
    ).tolist() == [[2, 3, 3], [4, 6, 6]]


def test_offset_in_seconds_takes_the_place_of_the_one_in_frames():
    times = np.arange(100) / 10
    for seconds in (-0.1, np.nan, np.inf):
        with pytest.raises(ValueError, match="variant_offset_seconds of at least 0 or None"):
            select_frames(times, FrameGrid.middle(10, 5), variant_offset_seconds=seconds)
    with pytest.raises(ValueError, match="expected one offset, got variant_offset_frames=5"):
        select_frames(times, FrameGrid.middle(10, 5), 5, 0.5)


@pytest.mark.parametrize("times", [[], [[0.0]], [0.0, np.nan], [1.0, 0.5]])
def test_bad_times_are_refused(times):
    with pytest.raises(ValueError, match="presentation times"):
        select_frames(times, FrameGrid.middle(1, 1))


@pytest.mark.parametrize("offset", [-1, 1.5])
def test_bad_offset_is_refused(offset):
    with pytest.raises(ValueError, match="variant_offset_frames"):
        select_frames([0.0], FrameGrid.middle(1, 1), offset)


def test_the_first_frame_stands_for_what_is_before_it():
    grid = FrameGrid.middle(10, 5)
    assert select_frames(np.arange(100) / 20 + 5.0, grid).tolist() == [
        [0] * 3,
        [0] * 3,
        [0, 0, 3],
        [37, 40, 43],
        [77, 80, 83],
    ]
    assert select_frames([5.0], grid).tolist() == [[0] * 3] * 5
