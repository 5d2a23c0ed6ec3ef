"""Charades-STA (Gao et al., "TALL", ICCV 2017, arXiv:1705.02101): sentences about the indoor videos of Charades.

    data_dir/
      charades_sta_train.txt  charades_sta_test.txt      VID START END##SENTENCE.
      Charades_v1_train.csv   Charades_v1_test.csv       of Charades itself: columns `id` and `length` (seconds)
      videos/VID.mp4

Every line is a query with one window, as the field counts them (12,408 and 3,720), also where two lines have one video
and sentence. There is no validation split.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
from hf_frameseg.annotations.charades_sta import (
    CHARADES_LENGTH_FILES,
    CHARADES_STA_FILES,
    charades_sta_entries,
    read_charades_lengths,
)
from hf_frameseg.annotations.entries import last_window_ends, to_rows
from hf_frameseg.annotations.files import find_file, split_file, splits_there
from hf_frameseg.prepared.builder import FrameDatasetBuilder, load_split
from hf_frameseg.prepared.config import FrameDatasetConfig
from hf_frameseg.video.read import DEFAULT_NUM_FRAMES


@dataclass
class CharadesSTAConfig(FrameDatasetConfig):
    """Say what to prepare of Charades-STA; the other fields are those of `FrameDatasetConfig`.

    Args:
        on_bad_window: "repair" or "raise", see `annotations/entries.py`.
    """

    on_bad_window: str = "repair"

    def split_names(self) -> tuple[str, ...]:
        """Return the splits whose annotation file is there."""
        return splits_there(self.data_dir, CHARADES_STA_FILES)

    def read_split(self, split: str) -> list[dict[str, Any]]:
        """Read the annotations of a split, with the lengths of Charades or, without their file, of the videos."""
        path = split_file(self.data_dir, CHARADES_STA_FILES, split)
        entries = charades_sta_entries(path)
        lengths = find_file(path.parent, CHARADES_LENGTH_FILES[split])
        if lengths is not None:
            return to_rows(entries, path, read_charades_lengths(lengths), self.on_bad_window)
        ends = last_window_ends(entries)
        return to_rows(entries, path, {**ends, **self.file_durations(list(ends))}, self.on_bad_window)


class CharadesSTA(FrameDatasetBuilder):
    """Decode the videos of Charades-STA into rows; used like `QVHighlights`."""

    BUILDER_CONFIG_CLASS = CharadesSTAConfig


def load_charades_sta(
    data_dir: str | Path,
    split: str,
    num_frames: int = DEFAULT_NUM_FRAMES,
    frame_size: int | None = None,
    frame_format: str = "jpeg",
    cache_dir: str | Path | None = None,
    num_proc: int | None = None,
    **options: Any,
) -> datasets.Dataset:
    """Load one split of Charades-STA, decoding its videos the first time only.

    Args:
        data_dir: Folder with the files listed at the top of this module. Without the csv file the videos are asked for
            their lengths.
        split: "train" or "test".
        num_frames: Frames F per video.
        frame_size: Side of the square the frames are squashed to, in pixels; None keeps the native size.
        frame_format: "jpeg" (quality 95) or "raw" (uint8, for small frames).
        cache_dir: Where prepared data is kept; None takes the cache of `datasets`.
        num_proc: Processes that decode.
        **options: Other fields of `CharadesSTAConfig`, such as video_dir, on_error or on_bad_window.

    Returns:
        A data set with the columns listed in `hf_frameseg.prepared.builder`, in the order of the annotation file.
        `saliency_source` is "window": the ratings are made up, and highlight scores mean nothing.

    Raises:
        FileNotFoundError: If the folder, the annotations or (with `on_error="raise"`) a video is not there.
        AnnotationError: If an annotation is wrong; the message names file and line.
        VideoReadError: If (with `on_error="raise"`) a video cannot be read.
        ValueError: If an argument is out of range.
    """
    builder = CharadesSTA(
        cache_dir=None if cache_dir is None else str(cache_dir),
        data_dir=str(data_dir),
        splits=(split,),
        num_frames=num_frames,
        frame_size=frame_size,
        frame_format=frame_format,
        **options,
    )
    return load_split(builder, split, num_proc)
