"""The rules that all data sets share on the way from what a file states to rows."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_frameseg.annotations.entries import MomentEntry, to_rows
from hf_frameseg.annotations.qvhighlights import read_annotations
from hf_frameseg.annotations.schema import AnnotationError
from hf_frameseg.moments import num_clips


@pytest.mark.parametrize(("duration", "ratings"), [(6.0, [0, 4, 2]), (5.999, [0, 4]), (5.999, [0, 4, 2]), (1.0, [3])])
def test_an_incomplete_last_clip_may_be_rated_and_does_not_count(duration: float, ratings: list[int]) -> None:
    (row,) = to_rows([MomentEntry("a:1", "v", "q", [[0, 1]], duration, clip_ratings=ratings)], "a")
    spread = [0] * num_clips(duration)
    for clip, three in zip(row["relevant_clip_ids"], row["saliency_scores"], strict=True):
        spread[clip] = three[0]
    assert spread == ratings[: num_clips(duration)]
    with pytest.raises(AnnotationError, match="a:1: expected saliency to be a list"):
        to_rows([MomentEntry("a:1", "v", "q", [[0, 1]], duration, clip_ratings=[*ratings, 0, 0])], "a")


@settings(deadline=None, derandomize=True, max_examples=50)
@given(
    duration=st.floats(0.1, 300),
    windows=st.lists(st.tuples(st.floats(-50, 350), st.floats(-50, 350)), min_size=1, max_size=4),
)
def test_repaired_rows_are_rows_of_the_official_schema(
    tmp_path_factory: pytest.TempPathFactory, duration: float, windows: list[tuple[float, float]]
) -> None:
    fine = MomentEntry("a:1", "v", "a dog", [[0, duration]], duration)
    rows = to_rows([fine, MomentEntry("a:2", "v", "a cat", windows, duration)], "a")
    file = tmp_path_factory.mktemp("official") / "rows.jsonl"
    official = [{name: value for name, value in row.items() if name != "saliency_source"} for row in rows]
    file.write_text("".join(json.dumps(row) + "\n" for row in official))
    assert read_annotations(file) == official


def test_an_unknown_rule_is_refused() -> None:
    with pytest.raises(ValueError, match=r"on_bad_window to be one of \['repair', 'raise'\], got 'drop'"):
        to_rows([MomentEntry("a:1", "v", "q", [[0, 1]], 3)], "a", on_bad_window="drop")
