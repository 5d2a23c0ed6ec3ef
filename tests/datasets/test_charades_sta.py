"""Charades-STA: its own two formats, read or refused with file and line. All lines here are made up."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hf_frameseg.annotations.official_files import read_charades_lengths, read_charades_sta
from hf_frameseg.annotations.qvhighlights import AnnotationError
from hf_frameseg.batches.collator import FrameSegmentationCollator
from hf_frameseg.datasets.charades_sta import load_charades_sta
from hf_frameseg.digits import BinaryLabels
from hf_frameseg.metrics import evaluate_submission, headline
from hf_frameseg.moments import mask_to_moments
from hf_frameseg.prepared import config as preparation
from hf_frameseg.sample import Sample

LENGTHS = {"AB1CD": 30.96, "X9YZ0": 24.0}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "charades_sta_test.txt"


def test_every_line_is_a_query_with_one_window(file: Path) -> None:
    file.write_text("AB1CD 0.0 6.9##a person opens a red door.\nX9YZ0 10.3 24.0##someone sits down.\n")
    first, second = read_charades_sta(file, LENGTHS)
    assert first == {
        "qid": 0,
        "query": "a person opens a red door.",
        "duration": 30.96,
        "vid": "AB1CD",
        "relevant_windows": [[0.0, 6.9]],
        "relevant_clip_ids": [0, 1, 2],  # centres 1, 3, 5
        "saliency_scores": [[4, 4, 4]] * 3,
        "saliency_source": "window",
    }
    assert (second["qid"], second["relevant_clip_ids"]) == (1, [5, 6, 7, 8, 9, 10, 11])


def test_lines_as_they_occur(file: Path) -> None:
    file.write_bytes(
        b"\xef\xbb\xbfAB1CD 1.0 2.5##a person ## cooks.  \r\n"  # byte order mark, Windows line end, ## in the sentence
        b"\n"
        b"AB1CD  3 4.5##a person ## cooks.\n"  # the same sentence again, two blanks, a whole number
        b"AB1CD 3 4.5##caf\xc3\xa9"  # no line end
    )
    rows = read_charades_sta(file, LENGTHS)
    assert [row["query"] for row in rows] == ["a person ## cooks.", "a person ## cooks.", "café"]
    assert [row["relevant_windows"] for row in rows] == [[[1.0, 2.5]], [[3.0, 4.5]], [[3.0, 4.5]]]
    assert [row["qid"] for row in rows] == [0, 1, 2]


def test_windows_past_the_end_are_cut_and_counted(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    file.write_text(
        "AB1CD 20.0 33.4##cut at 30.96.\nAB1CD 31.0 33.0##wholly outside.\n"
        "X9YZ0 9.0 2.0##swapped.\nX9YZ0 3.0 3.0##empty.\n"
    )
    with caplog.at_level(logging.WARNING):
        rows = read_charades_sta(file, LENGTHS)
    assert [(row["qid"], row["relevant_windows"]) for row in rows] == [(0, [[20.0, 30.96]]), (2, [[2.0, 9.0]])]
    assert caplog.messages == [
        "charades_sta_test.txt: repaired windows: 1 with start after end swapped, 2 cut at the video's start or end, 2 "
        "empty ones dropped; 2 queries without a window dropped"
    ]


@pytest.mark.parametrize("window", ["20.0 33.4", "31.0 33.0", "9.0 2.0", "3.0 3.0", "-1 4"])
def test_bad_windows_can_be_refused(file: Path, window: str) -> None:
    file.write_text(f"AB1CD 1 2##fine.\nAB1CD {window}##a door.\n")
    with pytest.raises(
        AnnotationError, match=r"^charades_sta_test\.txt:2: expected a window with 0 <= start < end <= 30"
    ):
        read_charades_sta(file, LENGTHS, on_bad_window="raise")


def test_clean_windows_say_nothing(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    file.write_text("AB1CD 0 30.96##the whole video.\n")
    read_charades_sta(file, LENGTHS, on_bad_window="raise")
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("AB1CD 1.0 2.0#one mark", "expected VID START END##SENTENCE"),
        ("AB1CD 1.0##two", "expected VID START END##SENTENCE"),
        ("AB1CD 1.0 2.0 3.0##four", "expected VID START END##SENTENCE"),
        ("AB1CD one two##words", "expected VID START END##SENTENCE"),
        ("##nothing before", "expected VID START END##SENTENCE"),
        ("AB1CD 1.0 2.0##", "query to be a non-empty text"),
        ("AB1CD 1.0 2.0##  ", "query to be a non-empty text"),
        ("AB1CD nan 2.0##not a number", r"expected a window \[start, end\] in seconds"),
        ("AB1CD 0 inf##endless", r"expected a window \[start, end\] in seconds"),
        ("ZZZZZ 0 1##unknown video", "the duration of video 'ZZZZZ' is not known"),
    ],
)
def test_a_wrong_line_is_named(file: Path, line: str, message: str) -> None:
    file.write_text(f"AB1CD 1 2##fine.\n\n{line}\n")
    with pytest.raises(AnnotationError, match=rf"^charades_sta_test\.txt:3: [^\n]*{message}[^\n]*$"):
        read_charades_sta(file, LENGTHS)


def test_files_without_queries_are_refused(file: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no annotation file at"):
        read_charades_sta(file, LENGTHS)
    file.write_text("\n\n")
    with pytest.raises(AnnotationError, match="charades_sta_test.txt: is empty"):
        read_charades_sta(file, LENGTHS)
    file.write_text("AB1CD 40 50##outside.\n")
    with pytest.raises(AnnotationError, match="no window lies inside its video"):
        read_charades_sta(file, LENGTHS)


def test_lengths_come_from_the_csv_of_charades(tmp_path: Path, file: Path) -> None:
    csv_file = tmp_path / "Charades_v1_test.csv"
    header = "id,subject,scene,quality,relevance,verified,script,objects,descriptions,actions,length\n"
    csv_file.write_text(
        header + 'AB1CD,S01,Kitchen,6,7,Yes,"A door, red,\nand a ""chair"".",door;chair,,c008 1.20 5.00,30.96\n'
        "X9YZ0,S02,Hall,5,,No,Nothing.,,,,24\n"
    )
    assert read_charades_lengths(csv_file) == LENGTHS
    file.write_text("AB1CD 20.0 33.4##cut.\n")
    assert read_charades_sta(file, csv_file)[0]["relevant_windows"] == [[20.0, 30.96]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", ": is empty; expected annotations"),
        ("id,subject\nAB1CD,S01\n", r":1: expected the columns id and length, got \['id', 'subject'\]"),
        ("id,length\nAB1CD,30\nX9YZ0,long\n", ":3: could not convert string to float: 'long'"),
        ("id,length\nAB1CD\n", ":2: video AB1CD has no length"),
    ],
)
def test_a_wrong_csv_is_named(tmp_path: Path, text: str, message: str) -> None:
    csv_file = tmp_path / "Charades_v1_test.csv"
    csv_file.write_text(text)
    with pytest.raises(AnnotationError, match=rf"^Charades_v1_test\.csv{message}"):
        read_charades_lengths(csv_file)
    with pytest.raises(FileNotFoundError, match="part of Charades.zip"):
        read_charades_lengths(tmp_path / "nowhere.csv")


def test_damaged_lines_are_read_or_refused_and_nothing_else(file: Path) -> None:
    good = b"AB1CD 1.5 20.0##a person opens a red door.\n"
    rng = random.Random(0)
    outcomes = []
    for _ in range(500):
        line = bytearray(good)
        for _ in range(rng.randint(1, 4)):
            line[rng.randrange(len(line))] = rng.randrange(256)
        file.write_bytes(bytes(line))
        try:
            outcomes.append(read_charades_sta(file, LENGTHS))
        except AnnotationError as error:
            outcomes.append(str(error))
    messages = [outcome for outcome in outcomes if isinstance(outcome, str)]
    assert 0 < len(messages) < 500
    assert not [message for message in messages if "\n" in message]


# With videos


@pytest.fixture
def folder(tmp_path: Path, write_video: Callable[..., Path]) -> Path:
    """Two videos of 10 frames per second whose pictures state their number, three queries."""
    (tmp_path / "videos").mkdir()
    write_video(tmp_path / "videos" / "AB1CD.mp4", np.arange(80) * 100)
    write_video(tmp_path / "videos" / "X9YZ0.mp4", np.arange(60) * 100)
    (tmp_path / "charades_sta_test.txt").write_text(
        "X9YZ0 3.0 6.3##someone sits down.\nAB1CD 0.0 4.0##a person opens a door.\nAB1CD 2.0 8.0##a person cooks.\n"
    )
    (tmp_path / "Charades_v1_test.csv").write_text("id,length\nAB1CD,8.0\nX9YZ0,6.0\n")
    return tmp_path


def load(folder: Path, **options: Any) -> Any:
    return load_charades_sta(
        folder, "test", num_frames=4, frame_format="raw", cache_dir=folder / "cache", **{"frame_size": 64, **options}
    )


def test_from_files_to_a_batch_and_a_score(
    folder: Path, read_number: Callable[[np.ndarray], int], tiny_processor: Any
) -> None:
    rows = load(folder)
    assert rows["query"] == ["someone sits down.", "a person opens a door.", "a person cooks."]
    assert rows["relevant_windows"] == [[[3.0, 6.0]], [[0.0, 4.0]], [[2.0, 8.0]]]
    assert rows["saliency_source"] == ["window"] * 3
    assert [read_number(picture) for picture in Sample.of(rows[1]).pictures()] == [10, 30, 50, 70]

    labels = BinaryLabels.from_tokenizer(tiny_processor.tokenizer)
    collator = FrameSegmentationCollator(processor=tiny_processor, labels=labels, prompt="timestamps", train=False)
    batch = collator([rows[index] for index in range(3)])
    assert batch["frame_targets"].tolist() == [[0, 0, 1, 1], [1, 1, 0, 0], [0, 1, 1, 1]]
    visible = batch["input_ids"][1][batch["attention_mask"][1].bool()]
    assert "Frame 3 at 7.0 s: " in tiny_processor.tokenizer.decode(visible)

    submission = [
        {
            "qid": row["qid"],
            "pred_relevant_windows": [
                [moment.start, moment.end, moment.score]
                for moment in mask_to_moments(target.numpy() == 1, Sample.of(row).grid)
            ],
        }
        for row, target in zip(rows, batch["frame_targets"], strict=True)
    ]
    truth = [{**row, "duration": row["duration_seconds"]} for row in rows.remove_columns("frames")]
    scores = headline(evaluate_submission(submission, truth))
    assert (scores["R1@0.7"], scores["mAP"], scores["HL-mAP"]) == (100.0, 100.0, None)


def test_another_grid_goes_all_the_way(
    folder: Path, read_number: Callable[[np.ndarray], int], tiny_processor: Any
) -> None:
    row = load(folder, grid_kind="uniform")[1]
    assert [read_number(picture) for picture in Sample.of(row).pictures()] == [0, 26, 53, 79]
    assert Sample.of(row).grid.times_seconds.tolist() == [0.0, 8 / 3, 16 / 3, 8.0]
    assert [times[1] for times in row["frame_times_seconds"]] == pytest.approx([0.0, 2.6, 5.3, 7.9])
    labels = BinaryLabels.from_tokenizer(tiny_processor.tokenizer)
    collator = FrameSegmentationCollator(processor=tiny_processor, labels=labels, prompt="timestamps", train=False)
    assert collator([row])["frame_targets"].tolist() == [[1, 1, 0, 0]]
    shifted = load(folder, grid_phase=0.25, variant_offset_seconds=0.2)[1]
    assert [read_number(picture) for picture in Sample.of(shifted).pictures()] == [15, 35, 55, 75]
    assert [read_number(picture) for picture in Sample.of(shifted).pictures([0, 2, 0, 2])] == [13, 37, 53, 77]


def test_without_the_csv_the_videos_are_asked(folder: Path) -> None:
    (folder / "Charades_v1_test.csv").unlink()
    rows = load(folder)
    assert rows["duration_seconds"] == pytest.approx([6.0, 8.0, 8.0], abs=1e-3)
    assert rows["relevant_windows"][0] == [pytest.approx([3.0, 6.0], abs=1e-3)]


def test_queries_of_a_missing_video_are_reported_and_left_out(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "Charades_v1_test.csv").unlink()
    (folder / "videos" / "AB1CD.mp4").unlink()
    with pytest.raises(FileNotFoundError, match="AB1CD"):
        load(folder)
    rows = load(folder, on_error="skip")
    assert rows["vid"] == ["X9YZ0"]
    assert "missing or unreadable videos: 1 (2 queries)" in caplog.text


def test_missing_files_are_named(folder: Path) -> None:
    for split, error, message in (
        ("val", ValueError, r"split to be one of \['train', 'test'\], got 'val'"),
        ("train", FileNotFoundError, "no annotations for train in .*; expected charades_sta_train.txt"),
    ):
        with pytest.raises(error, match=message):
            load_charades_sta(folder, split, cache_dir=folder / "cache")
    with pytest.raises(FileNotFoundError, match="no such data folder"):
        load_charades_sta(folder / "nowhere", "test", cache_dir=folder / "cache")


def test_without_the_csv_the_videos_are_asked_once(tmp_path, monkeypatch, write_video):
    """Their lengths are remembered beside the cache, until a file changes."""
    asked = []
    original = preparation.probe_duration

    def spy(path, **kwargs):
        asked.append(path.stem)
        return original(path, **kwargs)

    monkeypatch.setattr(preparation, "probe_duration", spy)
    folder = tmp_path / "data"
    (folder / "videos").mkdir(parents=True)
    for vid in ("AAAAA", "BBBBB"):
        write_video(folder / "videos" / f"{vid}.mp4", np.arange(0, 2000, 100))
    lines = ["AAAAA 0.0 1.0##a person sits.", "BBBBB 0.5 1.5##a person stands."]
    (folder / "charades_sta_test.txt").write_text("\n".join(lines))
    options = {"num_frames": 2, "frame_size": 16, "cache_dir": tmp_path / "cache", "timeout_seconds": None}
    first = load_charades_sta(folder, "test", **options)
    assert sorted(asked) == ["AAAAA", "BBBBB"]
    again = load_charades_sta(folder, "test", **options)
    assert again["duration_seconds"][:] == first["duration_seconds"][:] == [2.0, 2.0]
    assert len(asked) == 2
    assert again.cache_files == first.cache_files
    write_video(folder / "videos" / "BBBBB.mp4", np.arange(0, 3000, 100))
    assert load_charades_sta(folder, "test", **options)["duration_seconds"][:] == [2.0, 3.0]
    assert asked[2:] == ["BBBBB"]
