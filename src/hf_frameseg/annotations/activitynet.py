"""The annotation files of ActivityNet Captions.

data_dir/
train.json  val_1.json  val_2.json
{"v_...": {"duration": SECONDS, "timestamps": [[START, END], ...], "sentences": [SENTENCE, ...]}, ...}
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_frameseg._text import printable
from hf_frameseg._text_file import TextFile
from hf_frameseg.annotations.entries import MomentEntry, to_rows
from hf_frameseg.annotations.files import SplitFiles, open_annotations
from hf_frameseg.annotations.schema import AnnotationError

ACTIVITYNET_FILES: SplitFiles = {"train": ("train.json",), "val": ("val_1.json",), "test": ("val_2.json",)}
"""File names of each split."""

ACTIVITYNET_FIELDS = ("duration", "timestamps", "sentences")
"""Fields of a video."""


def read_activitynet(path: str | Path, on_bad_window: str = "repair") -> list[dict[str, Any]]:
    """Read an annotation file of ActivityNet Captions and check every sentence.

    Args:
        path: A JSON file of one object with a `duration` in seconds, `timestamps` and as many `sentences` per video.
        on_bad_window: "repair" swaps a start after its end and cuts a window at the video's end (a few of the real
            windows need it), "raise" refuses them; see `annotations/entries.py`.

    Returns:
        One dict per sentence with the seven fields of `read_annotations` and `saliency_source`, which is "window": the
        ratings are made up. `qid` numbers the sentences of the file from 0.

    Raises:
        FileNotFoundError: If there is no such file.
        AnnotationError: If the file is no JSON (the message starts with `file:line`) or an entry is wrong (it starts
            with file, video and number of the sentence from 0).
    """
    return to_rows(activitynet_entries(path), path, on_bad_window=on_bad_window)


def activitynet_entries(path: str | Path | TextFile) -> list[MomentEntry]:
    """Read the sentences of an annotation file, without checking their windows.

    Args:
        path: As in `read_activitynet`, or the file when it is read already.

    Returns:
        One entry per sentence.

    Raises:
        FileNotFoundError: If there is no such file.
        AnnotationError: If the file does not have the format.
    """
    file = open_annotations(path)
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
