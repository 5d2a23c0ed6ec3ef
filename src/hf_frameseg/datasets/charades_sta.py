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
from typing import Any

from hf_frameseg.annotations.charades_sta import (
    CHARADES_LENGTH_FILES,
    CHARADES_STA_FILES,
    charades_sta_entries,
    read_charades_lengths,
)
from hf_frameseg.annotations.entries import last_window_ends, to_rows
from hf_frameseg.annotations.files import find_file, split_file, splits_there
from hf_frameseg.prepared.builder import FrameDatasetBuilder
from hf_frameseg.prepared.config import FrameDatasetConfig


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
