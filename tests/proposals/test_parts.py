"""Answers about the parts of a video become one answer."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from hf_frameseg.moments import FrameGrid, Moment
from hf_frameseg.predictions import FramePrediction
from hf_frameseg.proposals import PAPER_PROPOSALS, SCORING_PROPOSALS, ProposalSettings, merge_parts, to_prediction
from hf_frameseg.proposals.prediction import prediction_of

PATTERN = FrameGrid.middle(8, 4)  # windows of 2 s


def answer(start: float, mask: str, probs: list[float], pattern: FrameGrid = PATTERN) -> FramePrediction:
    grid = pattern.part(start, start + pattern.duration_seconds)
    return prediction_of([int(digit) for digit in mask], probs, grid, query="a dog", qid=7, vid="v")


def test_moments_that_touch_at_a_seam_are_one_and_all_are_ranked_together() -> None:
    first = answer(0, "1011", [0.6, 0.1, 0.9, 0.8])
    second = answer(8, "1000", [0.4, 0.0, 0.2, 0.0])
    third = answer(16, "0101", [0.1, 0.95, 0.3, 0.5])
    merged = merge_parts([third, first, second])
    assert [(moment.start, moment.end, moment.score) for moment in merged.moments] == [
        (18, 20, 0.95),
        (4, 10, pytest.approx(0.7)),  # 0.9, 0.8 and, behind the seam, 0.4
        (0, 2, 0.6),
        (22, 24, 0.5),
    ]
    assert (merged.query, merged.qid, merged.vid) == ("a dog", 7, "v")
    assert merged.grid.edges.tolist() == [2.0 * edge for edge in range(13)]
    assert merged.saliency.tolist() == [*first.probs, *second.probs, *third.probs]  # clips are windows here


def test_nothing_in_one_part_is_no_moment_and_nothing_anywhere_is_one() -> None:
    silent, heard = answer(0, "0000", [0.1, 0.3, 0.2, 0.1]), answer(8, "0100", [0.2, 0.7, 0.4, 0.0])
    assert silent.fallback
    one = merge_parts([silent, heard])
    assert (one.moments, one.fallback) == ((Moment(10, 12, 0.7),), False)
    both = merge_parts([silent, answer(8, "0000", [0.2, 0.4, 0.1, 0.0])])
    assert (both.moments, both.fallback) == ((Moment(10, 12, 0.4),), True)
    assert merge_parts([silent, heard], ProposalSettings("runs", empty="none")).fallback is False


@settings(deadline=None, derandomize=True)
@given(
    logits=npst.arrays(np.float64, (12, 2), elements=st.floats(-20, 20)),
    mask=npst.arrays(bool, 12),
    cuts=st.sets(st.integers(1, 11), max_size=4),
    how=st.sampled_from([PAPER_PROPOSALS, SCORING_PROPOSALS, ProposalSettings("runs", saliency_values="logits")]),
)
def test_parts_of_one_grid_merge_to_what_the_whole_would_have_given(
    logits: np.ndarray, mask: np.ndarray, cuts: set[int], how: ProposalSettings
) -> None:
    whole = FrameGrid.middle(31, 12)
    parts = []
    for first, stop in pairwise([0, *sorted(cuts), 12]):
        grid = FrameGrid(whole.times[first:stop], whole.edges[first : stop + 1])
        parts.append(to_prediction(mask[first:stop], logits[first:stop], grid))
    merged, expected = merge_parts(parts, how), to_prediction(mask, logits, whole, how)
    assert (merged.grid, merged.moments, merged.fallback) == (whole, expected.moments, expected.fallback)
    np.testing.assert_array_equal(merged.saliency, expected.saliency)
    np.testing.assert_array_equal(merged.log_odds, expected.log_odds)


def test_parts_may_differ_in_pattern_and_start_anywhere() -> None:
    first = answer(100, "0001", [0.1, 0.1, 0.1, 0.9])
    second = answer(108, "10", [0.7, 0.1], FrameGrid.uniform(6, 2))  # windows of 3 s
    merged = merge_parts([first, second])
    assert [(one.start, one.end, one.score) for one in merged.moments] == [(106, 111, pytest.approx(0.8))]
    assert len(merged.saliency) == 7  # clips from 100 s on
    assert merged.log_odds is None


@pytest.mark.parametrize(
    ("starts", "message"),
    [
        ([], "expected the prediction of at least one part, got none"),
        (
            [0, 10],
            r"end to end, got one up to 8\.0 s and the next from 10\.0 s; cut the video at one list",
        ),
        ([0, 6], r"parts that lie end to end, got one up to 8\.0 s and the next from 6\.0 s"),
        ([0, 8, 8], "parts that lie end to end"),
    ],
)
def test_parts_with_gaps_or_overlaps_are_refused(starts: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        merge_parts([answer(start, "0000", [0.1] * 4) for start in starts])


@pytest.mark.parametrize(("field", "value"), [("query", "a cat"), ("qid", 8), ("vid", "w")])
def test_answers_to_different_questions_are_refused(field: str, value: object) -> None:
    first, second = answer(0, "0000", [0.1] * 4), answer(8, "0000", [0.1] * 4)
    with pytest.raises(ValueError, match=r"one query of one video, got 'a dog' \(qid 7, vid 'v'\) and .*; merge those"):
        merge_parts([first, replace(second, **{field: value})])
