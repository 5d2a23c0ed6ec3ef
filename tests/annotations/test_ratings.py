"""Clips of windows, and ratings on other scales."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_frameseg.annotations.ratings import RatingScale, window_clips
from hf_frameseg.moments import num_clips


@pytest.mark.parametrize(
    ("windows", "duration", "clips"),
    [
        ([[0, 2]], 30, [0]),
        ([[1, 3]], 30, [0]),  # half-open: the centre 1 is inside, 3 is not
        ([[1.01, 3.01]], 30, [1]),
        ([[0, 31]], 31, list(range(15))),  # the incomplete last clip has no number
        ([[30.2, 31]], 31, [14]),  # so a window in it takes the last that has one
        ([[0.2, 0.6]], 30, [0]),
        ([[1.5, 2.5]], 30, [1]),
        ([[0, 1.5]], 1.5, [0]),
        ([[4, 6], [0, 2], [5, 9]], 10, [0, 2, 3]),
    ],
)
def test_clips_of_windows_by_hand(windows: list[list[float]], duration: float, clips: list[int]) -> None:
    assert window_clips(windows, duration) == clips


@settings(deadline=None, derandomize=True)
@given(
    duration=st.floats(0.1, 300),
    shares=st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=4),
)
def test_clips_of_windows_equal_the_rule_spelt_out(duration: float, shares: list[tuple[float, float]]) -> None:
    windows = [sorted((a * duration, b * duration)) for a, b in shares]
    count = num_clips(duration)
    expected = set()
    for start, end in windows:
        held = {clip for clip in range(count) if start <= 2 * clip + 1 < end}
        expected |= held or {min(int((start + end) / 4), count - 1)}
    assert window_clips(windows, duration) == sorted(expected)


def test_clips_of_any_length_are_averaged_over_the_time_they_share() -> None:
    scale = RatingScale(0, 4, clip_seconds=3)
    # Clips of 3 s rated 0, 4: of the clip from 2 to 4 s one second each; nothing is rated behind 6 s.
    assert scale.to_clips(np.array([[0.0], [4.0]]), 8.5).tolist() == [[0.0], [2.0], [4.0], [4.0]]
