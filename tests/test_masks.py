"""Masks of frames, the moments they stand for, and back."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given

from grid_strategies import DURATIONS, LAYOUTS, MASKS, PROPERTY, Layout
from hf_frameseg.masks import mask_to_moments, mask_to_spans, moments_to_mask
from hf_frameseg.moments import FrameGrid, Moment


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
