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
from typing import Any

from hf_frameseg.annotations.activitynet import ACTIVITYNET_FILES, read_activitynet
from hf_frameseg.annotations.files import split_file, splits_there
from hf_frameseg.prepared.builder import FrameDatasetBuilder
from hf_frameseg.prepared.config import FrameDatasetConfig


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
