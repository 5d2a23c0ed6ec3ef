"""Windows and ratings of an annotation become moments, masks and graded targets."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hf_frameseg.moments import FrameGrid, Moment
from hf_frameseg.targets import clip_saliency_targets, frame_mask, graded_frame_targets, moments_from_windows


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


class TestFrameMask:
    def test_frame_centre_in_half_open_window(self) -> None:
        # T=8, F=4: centres 1, 3, 5, 7. A window from 3 to 5 holds the centre 3 and not the centre 5.
        assert frame_mask([[3, 5]], FrameGrid.middle(8, 4)).tolist() == [False, True, False, False]

    def test_several_windows(self) -> None:
        assert frame_mask([[0, 2], [6, 8]], FrameGrid.middle(8, 4)).tolist() == [True, False, False, True]

    def test_no_window_no_frame(self) -> None:
        assert not frame_mask([], FrameGrid.middle(8, 4)).any()

    def test_saliency_rule_reads_the_clip_at_the_centre_and_is_strict(self) -> None:
        # T=12, F=2: centres 3 and 9 lie in clips 1 and 4.
        saliency = [1, 0.5, 1, 1, 0.75, 1]
        grid = FrameGrid.middle(12, 2)
        assert frame_mask([[0, 12]], grid, "saliency>0.5", saliency).tolist() == [False, True]
        assert frame_mask([[0, 12]], grid, "saliency>0.49", saliency).tolist() == [True, True]
        assert frame_mask([[0, 12]], grid, "saliency>.75", saliency).tolist() == [False, False]

    @pytest.mark.parametrize("rule", ["windows", "saliency>", "saliency>=0.5", "saliency > 0.5", ""])
    def test_unknown_rule_is_refused(self, rule: str) -> None:
        with pytest.raises(ValueError, match="unknown label rule"):
            frame_mask([], FrameGrid.middle(8, 4), rule, [0] * 4)

    def test_threshold_on_the_rating_scale_is_refused(self) -> None:
        with pytest.raises(ValueError, match="below 1"):
            frame_mask([], FrameGrid.middle(8, 4), "saliency>2", [0] * 4)

    def test_saliency_rule_without_saliency_is_refused(self) -> None:
        with pytest.raises(ValueError, match="clip_saliency_targets"):
            frame_mask([], FrameGrid.middle(8, 4), "saliency>0.5")

    def test_window_outside_the_video_is_refused(self) -> None:
        with pytest.raises(ValueError, match="outside the video"):
            frame_mask([[0, 9]], FrameGrid.middle(8, 4))


class TestSaliencyTargets:
    def test_mean_of_the_annotators_by_hand(self) -> None:
        targets = clip_saliency_targets([0, 3], [[4, 2, 3], [0, 0, 1]], num_clips=5)
        np.testing.assert_allclose(targets, [0.75, 0, 0, 1 / 12, 0])

    def test_nobody_rated(self) -> None:
        assert clip_saliency_targets([], [], num_clips=2).tolist() == [0.0, 0.0]

    @pytest.mark.parametrize(
        ("clips", "scores", "message"),
        [
            ([0, 1], [[1, 1, 1]], "1 rows for 2 clips"),
            ([0, 0], [[1, 1, 1], [2, 2, 2]], "repeated"),
            ([3], [[1, 1, 1]], "0..2"),
            ([-1], [[1, 1, 1]], "0..2"),
            ([0], [[1, 5, 1]], "ratings in 0..4 for clip 0"),
            ([0], [[]], "ratings in 0..4 for clip 0"),
        ],
    )
    def test_bad_ratings_are_refused(self, clips: list, scores: list, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            clip_saliency_targets(clips, scores, num_clips=3)

    def test_graded_targets_by_hand(self) -> None:
        # T=12, F=4: centres 1.5, 4.5, 7.5, 10.5 lie in clips 0, 2, 3, 5.
        targets = graded_frame_targets([0.0, 0.1, 0.2, 0.3, 0.4, 0.5], FrameGrid.middle(12, 4))
        assert targets.tolist() == [0.0, 0.2, 0.3, 0.5]

    def test_centre_on_a_clip_edge_belongs_to_the_later_clip(self) -> None:
        assert graded_frame_targets([0.0, 1.0], FrameGrid.middle(4, 1)).tolist() == [1.0]

    def test_centre_in_the_incomplete_last_clip_takes_the_last_complete_one(self) -> None:
        # T=7, F=7: the centre 6.5 lies after the three complete clips.
        targets = graded_frame_targets([0.1, 0.2, 0.3], FrameGrid.middle(7, 7))
        assert targets.tolist() == [0.1, 0.1, 0.2, 0.2, 0.3, 0.3, 0.3]

    def test_no_clips_are_refused(self) -> None:
        with pytest.raises(ValueError, match="C >= 1"):
            graded_frame_targets([], FrameGrid.middle(4, 1))
