"""The annotation files of Charades-STA, and the lengths of its videos.

data_dir/
charades_sta_train.txt  charades_sta_test.txt      VID START END##SENTENCE.
Charades_v1_train.csv   Charades_v1_test.csv       of Charades itself: columns `id` and `length` (seconds)
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_frameseg._text import printable
from hf_frameseg._text_file import TextFile
from hf_frameseg.annotations.entries import MomentEntry, to_rows
from hf_frameseg.annotations.files import SplitFiles, open_annotations
from hf_frameseg.annotations.schema import AnnotationError

CHARADES_STA_FILES: SplitFiles = {"train": ("charades_sta_train.txt",), "test": ("charades_sta_test.txt",)}
"""File names of each split."""

CHARADES_LENGTH_FILES = {"train": "Charades_v1_train.csv", "test": "Charades_v1_test.csv"}
"""File with the lengths of the videos of each split."""


def read_charades_sta(
    path: str | Path, durations_seconds: Mapping[str, float] | str | Path, on_bad_window: str = "repair"
) -> list[dict[str, Any]]:
    """Read an annotation file of Charades-STA and check every line.

    Args:
        path: A text file of lines `VID START END##SENTENCE`; what follows the first `##` is the sentence.
        durations_seconds: vid -> length in seconds, or a csv of Charades, see `read_charades_lengths`.
        on_bad_window: "repair" cuts a window at the video's end (in the real files some end later), "raise" refuses it;
            see `annotations/entries.py`.

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


def charades_sta_entries(path: str | Path | TextFile) -> list[MomentEntry]:
    """Read the lines of an annotation file, without looking at durations.

    Args:
        path: As in `read_charades_sta`, or the file when it is read already.

    Returns:
        One entry per line.

    Raises:
        FileNotFoundError: If there is no such file.
        AnnotationError: If a line does not have the format.
    """
    file = open_annotations(path)
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
