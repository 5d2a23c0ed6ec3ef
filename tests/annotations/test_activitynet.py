"""The files of ActivityNet Captions: read, or refused with file and place. All annotations here are made up."""

from __future__ import annotations

import json
import logging
import random
from pathlib import Path
from typing import Any

import pytest

from hf_frameseg.annotations.activitynet import read_activitynet
from hf_frameseg.annotations.schema import AnnotationError

VIDEO = {"duration": 12.5, "timestamps": [[0, 4.2], [3.1, 12.5]], "sentences": ["A dog runs.", " It sleeps. "]}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "val_1.json"


def write(file: Path, **videos: Any) -> None:
    file.write_text(json.dumps(videos))


def test_every_sentence_is_a_query(file: Path) -> None:
    write(file, v_abc=VIDEO, v_d_e={"duration": 3, "timestamps": [[1, 2]], "sentences": ["A cat naps."]})
    rows = read_activitynet(file)
    assert rows[1] == {
        "qid": 1,
        "query": "It sleeps.",
        "duration": 12.5,
        "vid": "v_abc",
        "relevant_windows": [[3.1, 12.5]],
        "relevant_clip_ids": [2, 3, 4, 5],  # centres 5, 7, 9, 11; six complete clips
        "saliency_scores": [[4, 4, 4]] * 4,
        "saliency_source": "window",
    }
    assert [(row["qid"], row["vid"]) for row in rows] == [(0, "v_abc"), (1, "v_abc"), (2, "v_d_e")]


def test_bad_windows_are_repaired_and_counted(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    windows = [[9.0, 2.0], [4.0, 12.61], [5.0, 5.0], [1.0, 2.0]]
    write(file, v_abc={"duration": 12.5, "timestamps": windows, "sentences": ["a", "b", "c", "d"]})
    with caplog.at_level(logging.WARNING):
        rows = read_activitynet(file)
    assert [row["relevant_windows"] for row in rows] == [[[2.0, 9.0]], [[4.0, 12.5]], [[1.0, 2.0]]]
    assert [row["qid"] for row in rows] == [0, 1, 3]  # the place in the file, whatever is dropped
    assert (
        "1 with start after end swapped, 1 cut at the video's start or end, 1 empty ones dropped; 1 queries"
        in caplog.text
    )
    with pytest.raises(AnnotationError, match=r"^val_1\.json:v_abc:0: expected a window .* got \[9.0, 2.0\]"):
        read_activitynet(file, on_bad_window="raise")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"duration": None}, "v_x:0: the duration of video 'v_x' is not known"),
        ({"duration": "12"}, "v_x:0: expected duration to be a number of seconds from 0.001"),
        ({"duration": 0}, "v_x:0: expected duration to be a number of seconds from 0.001"),
        ({"duration": float("nan")}, "v_x:0: expected duration to be a number of seconds"),
        ({"duration": 1e12}, "v_x:0: expected duration .* to 14400, got 1000000000000.0"),
        ({"timestamps": [[0, 1]]}, "v_x: expected lists of as many timestamps as sentences"),
        ({"sentences": "AB"}, "v_x: expected lists of as many timestamps as sentences"),
        ({"timestamps": [[0, 1], 3]}, r"v_x:1: expected a window \[start, end\] in seconds, got 3"),
        ({"timestamps": [[0, 1], [1, True]]}, "v_x:1: expected a window"),
        ({"timestamps": [[0, 1], [1, 2, 3]]}, "v_x:1: expected a window"),
        ({"sentences": ["a", " "]}, "v_x:1: expected query to be a non-empty text"),
        ({"sentences": ["a", None]}, "v_x:1: expected query to be a non-empty text"),
    ],
)
def test_a_wrong_entry_is_named(file: Path, fields: dict[str, Any], message: str) -> None:
    write(file, v_abc=VIDEO, v_x={**VIDEO, **fields})
    with pytest.raises(AnnotationError, match=rf"^val_1\.json:{message}[^\n]*$"):
        read_activitynet(file)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"v_a": {\n"duration": 3,,}}', ":2: not JSON"),
        (b"\xff{}", ": not JSON"),
        (b"[" * 100_000, ": not JSON"),
        (b"[]", ": expected an object of videos, got list"),
        (b"{}", ": expected at least one query"),
        (b'{"v_a": 3}', ":v_a: expected an object with duration, timestamps, sentences"),
        (b'{"v_a": {}, "v_a": {}}', ": not JSON .a video or a field is there twice"),
    ],
)
def test_a_wrong_file_is_named(file: Path, content: bytes, message: str) -> None:
    file.write_bytes(content)
    with pytest.raises(AnnotationError, match=rf"^val_1\.json{message}[^\n]*$"):
        read_activitynet(file)


def test_a_missing_file_is_named(file: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no annotation file at .*val_1\.json"):
        read_activitynet(file)


def test_damaged_files_are_read_or_refused_and_nothing_else(file: Path) -> None:
    good = json.dumps({"v_abc": VIDEO}).encode()
    rng = random.Random(0)
    messages = []
    for _ in range(500):
        content = bytearray(good)
        for _ in range(rng.randint(1, 4)):
            content[rng.randrange(len(content))] = rng.randrange(256)
        file.write_bytes(bytes(content))
        try:
            read_activitynet(file)
        except AnnotationError as error:
            messages.append(str(error))
    assert 0 < len(messages) < 500
    assert not [message for message in messages if "\n" in message]
