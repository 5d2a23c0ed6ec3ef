"""The files of Charades-STA: read, or refused with file and line. All lines here are made up."""

from __future__ import annotations

import logging
import random
from pathlib import Path

import pytest

from hf_frameseg.annotations.charades_sta import read_charades_lengths, read_charades_sta
from hf_frameseg.annotations.schema import AnnotationError

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
