"""The official annotation files of Charades-STA and ActivityNet Captions, without their videos."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_frameseg._text import printable
from hf_frameseg.annotations.moment_rows import MomentEntry, to_rows
from hf_frameseg.annotations.qvhighlights import AnnotationError, open_annotations
from hf_frameseg.records import TextFile

ACTIVITYNET_FIELDS = ("duration", "timestamps", "sentences")
"""Fields of a video in the files of ActivityNet Captions."""


def read_charades_sta(
    path: str | Path, durations_seconds: Mapping[str, float] | str | Path, on_bad_window: str = "repair"
) -> list[dict[str, Any]]:
    """Read an annotation file of Charades-STA and check every line.

    Args:
        path: A text file of lines `VID START END##SENTENCE`; what follows the first `##` is the sentence.
        durations_seconds: vid -> length in seconds, or a csv of Charades, see `read_charades_lengths`.
        on_bad_window: "repair" cuts a window at the video's end (in the real files some end later), "raise" refuses it;
            see `annotations/moment_rows.py`.

    Returns:
        One dict per line with the seven fields of `read_annotations` and `saliency_source`, which is "window": the
        ratings are made up. `qid` numbers the lines from 0.

    Raises:
        FileNotFoundError: If there is no such file.
        AnnotationError: If the file is empty or a line is wrong; the message starts with `file:line`.
    """
    path = Path(path)
    if not isinstance(durations_seconds, Mapping):
        durations_seconds = read_charades_lengths(durations_seconds)
    return to_rows(charades_sta_entries(path), path, durations_seconds, on_bad_window)


def charades_sta_entries(path: str | Path) -> list[MomentEntry]:
    """Read the lines of an annotation file, without looking at durations.

    Args:
        path: As in `read_charades_sta`.

    Returns:
        One entry per line.

    Raises:
        FileNotFoundError: If there is no such file.
        AnnotationError: If a line does not have the format.
    """
    return charades_sta_entries_of(open_annotations(path))


def charades_sta_entries_of(file: TextFile) -> list[MomentEntry]:
    """Do the work of `charades_sta_entries` on a file that is read already."""
    entries = []
    for number, line in file.lines():
        where = f"{file.short_name}:{number}"
        try:
            head, _, sentence = line.decode("utf-8").partition("##")
            vid, start, end = head.split()
            window = [float(start), float(end)]
        except ValueError:
            raise AnnotationError(f"{where}: expected VID START END##SENTENCE with seconds, got {line!r:.80}") from None
        entries.append(MomentEntry(where, vid, sentence, [window], qid=len(entries)))
    return entries


def read_charades_lengths(path: str | Path) -> dict[str, float]:
    """Read the lengths of the videos from a csv file of Charades.

    Args:
        path: `Charades_v1_train.csv` or `Charades_v1_test.csv`; of its columns `id` and `length` are used.

    Returns:
        vid -> seconds.

    Raises:
        FileNotFoundError: If there is no such file.
        AnnotationError: If a column is missing or a length is no number.
    """
    if not os.path.lexists(path):
        raise FileNotFoundError(f"no file with video lengths at {printable(path)}; it is part of Charades.zip")
    file = open_annotations(path)
    lengths: dict[str, float] = {}
    reader = csv.DictReader(io.StringIO(file.text.decode("utf-8", "replace"), newline=""))
    try:
        if not {"id", "length"} <= set(reader.fieldnames or ()):
            raise ValueError(f"expected the columns id and length, got {reader.fieldnames!r:.200}")
        for row in reader:
            if row["length"] is None:
                raise ValueError(f"video {row['id']} has no length")
            lengths[row["id"]] = float(row["length"])
    except (ValueError, csv.Error) as error:
        line = max(reader.reader.line_num, 1)
        raise AnnotationError(printable(f"{file.short_name}:{line}: {error}; download it again")) from None
    return lengths


def read_activitynet(path: str | Path, on_bad_window: str = "repair") -> list[dict[str, Any]]:
    """Read an annotation file of ActivityNet Captions and check every sentence.

    Args:
        path: A JSON file of one object with a `duration` in seconds, `timestamps` and as many `sentences` per video.
        on_bad_window: "repair" swaps a start after its end and cuts a window at the video's end (a few of the real
            windows need it), "raise" refuses them; see `annotations/moment_rows.py`.

    Returns:
        One dict per sentence with the seven fields of `read_annotations` and `saliency_source`, which is "window": the
        ratings are made up. `qid` numbers the sentences of the file from 0.

    Raises:
        FileNotFoundError: If there is no such file.
        AnnotationError: If the file is no JSON (the message starts with `file:line`) or an entry is wrong (it starts
            with file, video and number of the sentence from 0).
    """
    return to_rows(activitynet_entries(path), path, on_bad_window=on_bad_window)


def activitynet_entries(path: str | Path) -> list[MomentEntry]:
    """Read the sentences of an annotation file, without checking their windows.

    Args:
        path: As in `read_activitynet`.

    Returns:
        One entry per sentence.

    Raises:
        FileNotFoundError: If there is no such file.
        AnnotationError: If the file does not have the format.
    """
    return activitynet_entries_of(open_annotations(path))


def activitynet_entries_of(file: TextFile) -> list[MomentEntry]:
    """Do the work of `activitynet_entries` on a file that is read already."""
    entries: list[MomentEntry] = []
    for vid, video in _load(file).items():
        where = printable(f"{file.short_name}:{vid}")
        if not isinstance(video, Mapping) or any(name not in video for name in ACTIVITYNET_FIELDS):
            raise AnnotationError(
                f"{where}: expected an object with {', '.join(ACTIVITYNET_FIELDS)}, got {video!r:.80}"
            )
        windows, sentences = video["timestamps"], video["sentences"]
        if not isinstance(windows, list) or not isinstance(sentences, list) or len(windows) != len(sentences):
            raise AnnotationError(f"{where}: expected lists of as many timestamps as sentences")
        for index, (window, sentence) in enumerate(zip(windows, sentences, strict=True)):
            place = f"{where}:{index}"
            entries.append(MomentEntry(place, vid, sentence, [window], video["duration"], qid=len(entries)))
    return entries


def _load(file: TextFile) -> dict[str, Any]:
    """Return the file's object."""
    try:
        data = json.loads(file.text.decode("utf-8"), object_pairs_hook=_without_repetition)
    except json.JSONDecodeError as error:
        raise AnnotationError(f"{file.short_name}:{error.lineno}: not JSON ({error.msg}); download it again") from None
    except (ValueError, RecursionError) as error:
        raise AnnotationError(f"{file.short_name}: not JSON ({str(error)[:120]}); download it again") from None
    if not isinstance(data, dict):
        raise AnnotationError(f"{file.short_name}: expected an object of videos, got {type(data).__name__}")
    return data


def _without_repetition(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object, refusing a key that would hide another."""
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a video or a field is there twice")
    return made
