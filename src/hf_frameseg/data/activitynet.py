"""ActivityNet Captions (Krishna et al., ICCV 2017, arXiv:1705.00754): sentences about web videos of some 2 minutes.

    data_dir/
      train.json  val_1.json  val_2.json
          {"v_...": {"duration": SECONDS, "timestamps": [[START, END], ...], "sentences": [SENTENCE, ...]}, ...}
      videos/v_....mp4

Every sentence is a query with one window. There are no public test annotations; as in the field, `val_1` is the split
`val` and `val_2` is `test`. Both are annotations of nearly the same videos by different people.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets

from hf_frameseg.data.annotations import AnnotationError
from hf_frameseg.data.builder import FrameDatasetBuilder, load_split
from hf_frameseg.data.moment_rows import MomentEntry, split_file, splits_there, to_rows
from hf_frameseg.data.preparation import FrameDatasetConfig
from hf_frameseg.data.video import DEFAULT_NUM_FRAMES

ACTIVITYNET_FILES = {"train": "train.json", "val": "val_1.json", "test": "val_2.json"}
"""Annotation file of each split."""

_FIELDS = ("duration", "timestamps", "sentences")


def read_activitynet(path: str | Path, on_bad_window: str = "repair") -> list[dict[str, Any]]:
    """Read an annotation file of ActivityNet Captions and check every sentence.

    Args:
        path: A JSON file of one object with a `duration` in seconds, `timestamps` and as many `sentences` per video.
        on_bad_window: "repair" swaps a start after its end and cuts a window at the video's end (a few of the real
            windows need it), "raise" refuses them; see `data/moment_rows.py`.

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
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no annotation file at {path}; check the path")
    entries: list[MomentEntry] = []
    for vid, video in _load(path).items():
        where = f"{path.name}:{vid}"
        if not isinstance(video, Mapping) or any(name not in video for name in _FIELDS):
            raise AnnotationError(f"{where}: expected an object with {', '.join(_FIELDS)}, got {video!r:.80}")
        windows, sentences = video["timestamps"], video["sentences"]
        if not isinstance(windows, list) or not isinstance(sentences, list) or len(windows) != len(sentences):
            raise AnnotationError(f"{where}: expected lists of as many timestamps as sentences")
        for index, (window, sentence) in enumerate(zip(windows, sentences, strict=True)):
            place = f"{where}:{index}"
            entries.append(MomentEntry(place, vid, sentence, [window], video["duration"], qid=len(entries)))
    return entries


def _load(path: Path) -> dict[str, Any]:
    """Return the file's object."""
    try:
        data = json.loads(path.read_bytes().decode("utf-8-sig"), object_pairs_hook=_without_repetition)
    except json.JSONDecodeError as error:
        raise AnnotationError(f"{path.name}:{error.lineno}: not JSON ({error.msg}); download it again") from None
    except (ValueError, RecursionError) as error:
        raise AnnotationError(f"{path.name}: not JSON ({str(error)[:120]}); download it again") from None
    if not isinstance(data, dict):
        raise AnnotationError(f"{path.name}: expected an object of videos, got {type(data).__name__}")
    return data


def _without_repetition(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object, refusing a key that would hide another."""
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a video or a field is there twice")
    return made


@dataclass
class ActivityNetConfig(FrameDatasetConfig):
    """Say what to prepare of ActivityNet Captions; the other fields are those of `FrameDatasetConfig`.

    Args:
        on_bad_window: "repair" or "raise", see `data/moment_rows.py`.
    """

    on_bad_window: str = "repair"

    def split_names(self) -> tuple[str, ...]:
        """Return the splits whose annotation file is there."""
        return splits_there(self.data_dir, ACTIVITYNET_FILES)

    def read_split(self, split: str) -> list[dict[str, Any]]:
        """Read the annotations of a split."""
        return read_activitynet(split_file(self.data_dir, ACTIVITYNET_FILES, split), self.on_bad_window)


class ActivityNet(FrameDatasetBuilder):
    """Decode the videos of ActivityNet Captions into rows; used like `QVHighlights`."""

    BUILDER_CONFIG_CLASS = ActivityNetConfig


def load_activitynet(
    data_dir: str | Path,
    split: str,
    num_frames: int = DEFAULT_NUM_FRAMES,
    frame_size: int | None = None,
    frame_format: str = "jpeg",
    cache_dir: str | Path | None = None,
    num_proc: int | None = None,
    **options: Any,
) -> datasets.Dataset:
    """Load one split of ActivityNet Captions, decoding its videos the first time only.

    Args:
        data_dir: Folder with the files listed at the top of this module.
        split: "train", "val" (`val_1.json`) or "test" (`val_2.json`).
        num_frames: Frames F per video.
        frame_size: Side of the square the frames are squashed to, in pixels; None keeps the native size.
        frame_format: "jpeg" (quality 95) or "raw" (uint8, for small frames).
        cache_dir: Where prepared data is kept; None takes the cache of `datasets`.
        num_proc: Processes that decode.
        **options: Other fields of `ActivityNetConfig`, such as video_dir, on_error or on_bad_window.

    Returns:
        A data set with the columns listed in `hf_frameseg.data.builder`, in the order of the annotation file.
        `saliency_source` is "window": the ratings are made up, and highlight scores mean nothing.

    Raises:
        FileNotFoundError: If the folder, the annotations or (with `on_error="raise"`) a video is not there.
        AnnotationError: If an annotation is wrong; the message names file, video and sentence.
        VideoReadError: If (with `on_error="raise"`) a video cannot be read.
        ValueError: If an argument is out of range.
    """
    builder = ActivityNet(
        cache_dir=None if cache_dir is None else str(cache_dir),
        data_dir=str(data_dir),
        splits=(split,),
        num_frames=num_frames,
        frame_size=frame_size,
        frame_format=frame_format,
        **options,
    )
    return load_split(builder, split, num_proc)
