"""One reader for every form of annotations: the field's JSON lines, lists, tables, official files, plain or gzip."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from hf_frameseg.annotations.files import split_file
from hf_frameseg.annotations.forms import is_official, read_annotation_file
from hf_frameseg.annotations.qvhighlights import QVHIGHLIGHTS_FILES, read_annotations
from hf_frameseg.annotations.ratings import RatingScale
from hf_frameseg.annotations.schema import AnnotationError

FIELD_ROWS = [
    {"qid": "s1-d2_0", "query": "a knife.", "vid": "s1-d2", "duration": 30.96, "relevant_windows": [[24.3, 30.4]]},
    {"qid": "s1-d2_1", "query": "a bowl.", "vid": "s1-d2", "duration": 30.96, "relevant_windows": [[0.5, 4.0]]},
]


def read_table(path: Path, durations: dict[str, float] | None = None, **options: Any) -> list[dict[str, Any]]:
    """Read as the loader of tables does, which looks up what the file does not state."""
    return read_annotation_file(path, durations or {}, **options)


def variants(folder: Path, rows: list[dict[str, Any]]) -> list[Path]:
    """Write rows as lines, one list, an indented list and lines that end in CR, plain and packed."""
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    texts = {"lines.jsonl": lines, "list.json": json.dumps(rows), "indented.json": json.dumps(rows, indent=1)}
    texts["mac.jsonl"] = lines.replace("\n", "\r")
    paths = []
    for name, text in texts.items():
        paths += [folder / name, folder / f"{name}.gz"]
        paths[-2].write_bytes(text.encode())
        paths[-1].write_bytes(gzip.compress(text.encode()))
    return paths


def test_moments_without_ratings_in_every_form(tmp_path: Path) -> None:
    for path in variants(tmp_path, FIELD_ROWS):
        for rows in (read_annotations(path), read_annotation_file(path), read_table(path)):
            assert [row["qid"] for row in rows] == ["s1-d2_0", "s1-d2_1"], path
            assert rows[1]["relevant_windows"] == [[0.5, 4.0]]
            assert rows[1]["relevant_clip_ids"] == [0, 1]
            assert {row["saliency_source"] for row in rows} == {"window"}


def test_rows_with_ratings_in_every_form(tmp_path: Path, annotation: Any) -> None:
    rated = [annotation(qid=7), annotation(qid=3)]
    for path in variants(tmp_path, rated):
        assert is_official(path)
        assert read_annotations(path) == read_annotation_file(path) == rated
        assert read_table(path) == [{**row, "saliency_source": "annotators"} for row in rated]


def test_a_table_in_every_form(tmp_path: Path) -> None:
    table = [{"video": "v0.mp4", "query": "a light", "windows": [[2.0, 6.0]], "duration": 10.0}]
    for path in variants(tmp_path, table):
        assert not is_official(path)
        (row,) = read_annotation_file(path)
        assert (row["vid"], row["qid"], row["relevant_windows"]) == ("v0", 0, [[2.0, 6.0]])


def test_the_official_files_of_two_data_sets(tmp_path: Path) -> None:
    charades = tmp_path / "charades_sta_test.txt"
    for end in ("\n", "\r", "\r\n"):
        charades.write_bytes(f"AB1CD 0.5 4.0##a dog.{end}X9YZ0 9 3##a cat.{end}".encode())
        rows = read_annotation_file(charades, need_durations=False)
        assert [(row["vid"], row["query"], row["relevant_windows"]) for row in rows] == [
            ("AB1CD", "a dog.", [[0.5, 4.0]]),
            ("X9YZ0", "a cat.", [[3.0, 9.0]]),
        ]
        assert not {"duration", "saliency_scores"} & rows[0].keys()
    with pytest.raises(AnnotationError, match="the duration of video 'AB1CD' is not known"):
        read_annotation_file(charades)
    (tmp_path / "Charades_v1_test.csv").write_text("id,length\nAB1CD,30\nX9YZ0,8\n")
    assert [row["relevant_windows"] for row in read_annotation_file(charades)] == [[[0.5, 4.0]], [[3.0, 8.0]]]
    packed = tmp_path / "charades_sta_test.txt.gz"
    packed.write_bytes(gzip.compress(charades.read_bytes()))
    assert read_annotation_file(packed) == read_annotation_file(charades)

    activitynet = tmp_path / "val_1.json"
    video = {"duration": 10.0, "timestamps": [[0, 4], [9, 5]], "sentences": ["a dog", "a cat"]}
    for text in (json.dumps({"v_a": video}), json.dumps({"v_a": dict(reversed(video.items()))}, indent=2)):
        activitynet.write_text(text)
        rows = read_annotation_file(activitynet)
        assert [(row["vid"], row["relevant_windows"]) for row in rows] == [("v_a", [[0.0, 4.0]]), ("v_a", [[5.0, 9.0]])]


def test_a_split_may_be_packed(tmp_path: Path, annotation: Any) -> None:
    path = tmp_path / "highlight_val_release.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(annotation()).encode()))
    assert split_file(tmp_path, QVHIGHLIGHTS_FILES, "val") == path
    assert read_annotations(path) == [annotation()]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"windows": [[1, 2]]}, "expected windows or relevant_windows, got two that differ"),
        ({"video": "other"}, "expected video or vid, got two that differ"),
        ({"saliency_scores": [[4, 4, 4]], "windows": [[24.3, 30.4]]}, "lacks one of relevant_clip_ids and saliency"),
        ({"vid": "a\x1b]0;x\x07", "duration": 0}, "expected duration"),
        ({"vid": ["a"]}, "expected vid(eo)? to be a non-empty text"),
        ({"query": "a\n0 problems \u202e", "duration": -1, "windows": None}, "expected duration"),
    ],
)
def test_what_contradicts_itself_is_one_line(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({**FIELD_ROWS[0], **fields}))
    for read in (read_table, lambda path: read_annotation_file(path, {}, need_durations=False)):
        with pytest.raises(AnnotationError, match=message) as caught:
            read(path)
        assert str(caught.value).isprintable()


# Ratings on another scale

TVSUM = {"video": "a.mp4", "query": "a train", "duration": 4, "saliency": [[1.0, 3], [5, 3], [5, 4], [5, 4]]}


def test_ratings_of_another_scale_are_brought_to_ours(tmp_path: Path) -> None:
    path = tmp_path / "tvsum.jsonl"
    path.write_text(json.dumps(TVSUM))
    (row,) = read_table(path, scale=RatingScale(1, 5, clip_seconds=1, num_raters=2))
    assert row["relevant_windows"] == []
    assert row["relevant_clip_ids"] == [0, 1]
    assert row["saliency_scores"] == [[2.0, 2.0], [4.0, 3.0]]
    assert row["saliency_source"] == "scaled"


@pytest.mark.parametrize(
    ("fields", "options", "message"),
    [
        ({}, None, r"has ratings and no windows; .* state rating_scale=\(LOWEST, HIGHEST\) and clip_seconds"),
        ({"windows": [[0, 4]]}, None, "list of 2 ratings, one per 2-second clip, got 4 of them; .* state rating_scale"),
        ({"windows": [[0, 4]], "saliency": [2.5, 1]}, None, "whole number from 0 to 4, .* got 2.5; .* state rating_sc"),
        ({}, {"clip_seconds": 2}, "expected 2 ratings, one for each 2-second clip of 4 s, got 4 of them"),
        ({}, {"clip_seconds": 1, "num_raters": 20}, "expected 20 ratings for each clip, got"),
        ({"saliency": [[1], [2], [3], [6]]}, {"clip_seconds": 1}, r"expected ratings from 1 to 5, got \[6\]"),
        ({"saliency": [[1], [2], [3], [1, 2]]}, {"clip_seconds": 1}, "expected 1 ratings for each clip, got"),
        ({"saliency": [1, 2, 3, None]}, {"clip_seconds": 1}, r"expected ratings from 1 to 5, got \[None\]"),
        ({"saliency": None}, {"clip_seconds": 1}, "lacks windows"),
    ],
)
def test_ratings_that_do_not_fit_are_one_line(
    tmp_path: Path, fields: dict[str, Any], options: dict[str, Any] | None, message: str
) -> None:
    path = tmp_path / "tvsum.jsonl"
    path.write_text(json.dumps({**TVSUM, **fields}))
    with pytest.raises(AnnotationError, match=f"^tvsum.jsonl:1: .*{message}"):
        read_table(path, scale=options and RatingScale(1, 5, **options))


def test_the_files_that_failed_are_read(shared_dir: Path) -> None:
    folder = shared_dir / "faults" / "text"
    if not folder.is_dir():
        pytest.skip(f"{folder} does not exist")
    formats = folder / "formats"
    for read in (read_annotations, read_annotation_file, read_table):
        assert [row["qid"] for row in read(formats / "charades_lighthouse.jsonl")] == [12404, 12405, 12406]
        assert [row["qid"] for row in read(formats / "tacos_lighthouse.jsonl")] == ["s34-d28_0", "s34-d28_1"]
    tables = [read_table(formats / name) for name in ("list.json", "list_indented.json", "t.jsonl.gz")]
    assert tables[0] == tables[1] == tables[2]
    assert (tables[0][0]["vid"], tables[0][0]["relevant_windows"]) == ("v0", [[2.0, 6.0]])
    scales = {
        "a": RatingScale(1, 5, 1, 20),
        "b": RatingScale(0, 4, 1),
        "c": RatingScale(1, 5, 1),
        "d": RatingScale(0, 4, 1),
    }
    for name, scale in scales.items():
        path = folder / "tvsum" / f"{name}.jsonl"
        with pytest.raises(AnnotationError, match=r"state rating_scale=\(LOWEST, HIGHEST\) and clip_seconds"):
            read_table(path)
        (row,) = read_table(path, scale=scale)
        assert (row["saliency_source"], row["duration"]) == ("scaled", 74.0)
        assert all(0 <= rating <= 4 for clip in row["saliency_scores"] for rating in clip)
