"""Overlap of intervals, by hand and as properties."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_frameseg.intervals import nms, temporal_iou
from hf_frameseg.moments import Moment

PROPERTY = settings(deadline=None, derandomize=True)


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
