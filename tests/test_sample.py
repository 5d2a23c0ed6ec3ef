"""One prepared row as a value: what it reads, on which grid, and what it refuses."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from datasets import Dataset
from hf_frameseg.moments import FrameGrid, Moment
from hf_frameseg.prepared.frame_columns import grid_columns
from hf_frameseg.sample import Sample, rows_with_frames, samples_without_pictures, with_queries


def test_every_value_of_a_row_by_hand(make_row: Callable[..., dict[str, Any]]) -> None:
    row = make_row(7, [[2.0, 6.0]], num_frames=5, query="a dog") | {"saliency_scores": [[4, 4, 4], [1, 0, 2]], "box": 3}
    before = dict(row)
    sample = Sample.of(row)
    assert (sample.qid, sample.query, sample.vid, sample.duration_seconds) == (7, "a dog", "video_7", 10.0)
    assert (sample.num_frames, sample.grid) == (5, FrameGrid.middle(10.0, 5))
    assert sample.windows == (Moment(2.0, 6.0),)
    assert (sample.clip_ids, sample.ratings) == ([1, 2], [[4, 4, 4], [1, 0, 2]])
    assert sample.clip_targets().tolist() == [0.0, 1.0, 0.25, 0.0, 0.0]
    assert sample.mask().tolist() == [False, True, True, False, False]
    assert sample.mask("saliency>0.5").tolist() == [False, True, False, False, False]
    assert sample.frame_targets().tolist() == [0.0, 1.0, 1.0, 0.0, 0.0]
    assert sample.frame_targets(graded=True).tolist() == [0.0, 1.0, 0.25, 0.0, 0.0]
    assert sample.frame_targets().dtype == sample.frame_targets(graded=True).dtype == np.float32
    frames = np.frombuffer(row["frames"], dtype=np.uint8).reshape(row["frame_shape"])
    np.testing.assert_array_equal(sample.pictures(), frames[:, 1])
    np.testing.assert_array_equal(sample.pictures([0, 2, 1, 0, 2]), frames[np.arange(5), [0, 2, 1, 0, 2]])
    assert sample.times().tolist() == [1.0, 3.0, 5.0, 7.0, 9.0]
    assert sample.times([0, 2, 1, 0, 2]).tolist() == [0.9, 3.1, 5.0, 6.9, 9.1]
    assert (sample.frames_missing, sample.saliency_source, sample.other) == (False, None, {"box": 3})
    assert row == before


def test_a_row_says_which_grid_it_is_on() -> None:
    row = {"duration_seconds": 10.0, "frame_shape": [5, 3, 8, 8, 3]}
    assert Sample.of(row).grid == FrameGrid.middle(10, 5)
    assert Sample.of({**row, "grid_times": None, "grid_edges": None}).grid == FrameGrid.middle(10, 5)
    uneven = FrameGrid.from_times([0, 1, 2, 4, 9], 10)
    stored = grid_columns(uneven)
    assert Sample.of({**row, **stored}).grid == uneven
    assert Sample.of({"duration_seconds": 10.0, **stored}).grid_of(5) == uneven
    assert Sample.of(row).times([0, 2, 1, 0, 2]).tolist() == [1, 3, 5, 7, 9]  # of the grid: it has none of its own
    part = {**row, **grid_columns(uneven.part(40, 60)), "duration_seconds": 100.0, "relevant_windows": [[44, 90]]}
    assert Sample.of(part).mask().tolist() == [False, False, True, True, True]  # at 40, 42, 44, 48 and 58 s
    for broken in ({**stored, "grid_edges": None}, {**stored, "grid_times": [1.0, 2.0]}):
        with pytest.raises(ValueError, match="expected grid_times and grid_edges of 5 and 6 numbers, got .* again"):
            Sample.of({**row, **broken}).grid  # noqa: B018


@pytest.mark.parametrize("has_grid", [False, True])
def test_several_pictures_for_one_frame(has_grid: bool, make_row: Callable[..., dict[str, Any]]) -> None:
    row = make_row(7, [[2.0, 6.0]], num_frames=10)
    fine = FrameGrid.middle(10.0, 10)
    if has_grid:
        row |= {"grid_times": fine.times.tolist(), "grid_edges": fine.edges.tolist()}
    sample = Sample.of(row).labelled("window", graded=True).merged(2)
    assert (sample.num_frames, sample.num_pictures) == (5, 10)
    assert sample.grid == FrameGrid.middle(10.0, 5) == Sample.of(row).grid_of(5)
    assert sample.mask().tolist() == [False, True, True, False, False]
    assert sample.frame_targets().tolist() == [0.0, 0.75, 0.75, 0.0, 0.0]  # ratings 4, 3, 2
    assert sample.times() == pytest.approx([1.0, 3.0, 5.0, 7.0, 9.0])
    drawn = [0, 2] * 5
    assert sample.times(drawn) == pytest.approx([1.0, 3.0, 5.0, 7.0, 9.0])  # 0.1 s early and 0.1 s late
    np.testing.assert_array_equal(sample.pictures(drawn), Sample.of(row).pictures(drawn))
    assert len(sample.pictures()) == 10
    for other in (sample.labelled(), sample.without_pictures()):
        assert other.num_frames == 5
    with pytest.raises(ValueError, match="grid_times and grid_edges of 4 and 5 numbers, got 10 and 11"):
        Sample.of(row | {"grid_times": fine.times.tolist(), "grid_edges": fine.edges.tolist()}).grid_of(4)


def test_the_annotation_is_the_official_line(make_row: Callable[..., dict[str, Any]]) -> None:
    row = make_row(7, [[2, 6]])
    line = {
        "qid": 7,
        "query": "a red circle",
        "vid": "video_7",
        "relevant_windows": [[2, 6]],
        "relevant_clip_ids": [1, 2],
        "saliency_scores": [[4, 3, 2], [4, 3, 2]],
        "duration": 10.0,
    }
    assert Sample.of(row).annotation() == line
    assert Sample.of(row | {"saliency_source": "windows"}).annotation() == line | {"saliency_source": "windows"}


def test_values_of_tensors_become_those_of_python(make_row: Callable[..., dict[str, Any]]) -> None:
    row = make_row(7)
    tensors = {key: value if isinstance(value, str | bytes) else torch.tensor(value) for key, value in row.items()}
    sample = Sample.of(tensors)
    assert sample.annotation() == Sample.of(row).annotation()
    assert isinstance(sample.qid, int)
    assert Sample.of(sample) is sample


def test_a_sample_travels_without_its_pictures(make_row: Callable[..., dict[str, Any]]) -> None:
    whole = Sample.of(make_row(7))
    small = pickle.loads(pickle.dumps(whole.without_pictures()))
    assert len(pickle.dumps(small)) < 2000 < len(pickle.dumps(whole))
    assert (small.annotation(), small.grid, small.times().tolist()) == (
        whole.annotation(),
        whole.grid,
        whole.times().tolist(),
    )


def test_what_a_row_lacks_is_said_when_it_is_needed(make_row: Callable[..., dict[str, Any]]) -> None:
    row = make_row(7)
    for name in ("relevant_windows", "relevant_clip_ids", "saliency_scores"):
        del row[name]
    sample = Sample.of(row)
    sample.check_can_be_asked()
    with pytest.raises(ValueError, match=r"column\(s\) \['relevant_windows'\], got .* use with_answer=False"):
        sample.check_can_be_asked(answered=True)
    every = r"\['relevant_windows', 'relevant_clip_ids', 'saliency_scores'\]"
    with pytest.raises(ValueError, match=every):
        sample.check_can_be_asked(answered=True, rated=True)
    with pytest.raises(ValueError, match=f"{every} to score them"):
        sample.check_can_be_scored()
    sample.check_num_frames(5)
    with pytest.raises(ValueError, match="expected 4 frames per video, the prepared data has 5"):
        sample.check_num_frames(4)


@pytest.mark.parametrize("kind", ["rows", "data set", "formatted", "stream"])
def test_samples_of_any_rows(kind: str, make_row: Callable[..., dict[str, Any]]) -> None:
    rows = [make_row(3, [[1.1, 5.7]]), make_row(4) | {"vid": "other"}]
    given: Any = rows if kind == "rows" else Dataset.from_list(rows)
    given = given.with_format("torch") if kind == "formatted" else given
    given = given.to_iterable_dataset() if kind == "stream" else given
    samples = list(samples_without_pictures(given))
    assert [sample.annotation() for sample in samples] == [Sample.of(row).annotation() for row in rows]
    assert [sample.grid for sample in samples] == [FrameGrid.middle(10.0, 5)] * 2
    with pytest.raises(KeyError, match="frames"):
        samples[0].pictures()


def test_rows_whose_video_could_not_be_read(make_row: Callable[..., dict[str, Any]]) -> None:
    rows = [make_row(qid) | {"frames_missing": missing} for qid, missing in enumerate((False, True))]
    assert [row["qid"] for row in rows_with_frames(rows)] == [0]
    assert rows_with_frames(Dataset.from_list(rows))["qid"][:] == [0]
    for whole in ([make_row()], Dataset.from_list([make_row()]), Dataset.from_list(rows[:1])):
        assert rows_with_frames(whole) is whole


def test_other_queries_keep_the_rest(make_row: Callable[..., dict[str, Any]]) -> None:
    dataset = Dataset.from_list([make_row(0), make_row(1)])
    asked = with_queries(dataset, ["one", "two"])
    assert list(asked["query"]) == ["one", "two"]
    assert list(dataset["query"]) == ["a red circle"] * 2
    assert asked[1] | {"query": None} == dataset[1] | {"query": None}
