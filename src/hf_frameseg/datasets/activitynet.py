"""ActivityNet Captions (Krishna et al., ICCV 2017, arXiv:1705.00754): sentences about web videos of some 2 minutes.

    data_dir/
      train.json  val_1.json  val_2.json
          {"v_...": {"duration": SECONDS, "timestamps": [[START, END], ...], "sentences": [SENTENCE, ...]}, ...}
      videos/v_....mp4

Every sentence is a query with one window. There are no public test annotations; as in the field, `val_1` is the split
`val` and `val_2` is `test`. Both are annotations of nearly the same videos by different people.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
from hf_frameseg.annotations.activitynet import ACTIVITYNET_FILES, read_activitynet
from hf_frameseg.annotations.files import split_file, splits_there
from hf_frameseg.prepared.builder import FrameDatasetBuilder, load_split
from hf_frameseg.prepared.config import FrameDatasetConfig
from hf_frameseg.video.read import DEFAULT_NUM_FRAMES


@dataclass
class ActivityNetConfig(FrameDatasetConfig):
    """Say what to prepare of ActivityNet Captions; the other fields are those of `FrameDatasetConfig`.

    Args:
        on_bad_window: "repair" or "raise", see `annotations/entries.py`.
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
        A data set with the columns listed in `hf_frameseg.prepared.builder`, in the order of the annotation file.
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
