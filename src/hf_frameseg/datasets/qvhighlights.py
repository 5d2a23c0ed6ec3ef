"""QVHighlights, or any folder of its shape, as a `datasets` data set of cached frames.

`load_rows("qvhighlights", data_dir, "train")` decodes every video once, for all its queries, and keeps
the result; how, and the columns of a row, is described in `hf_frameseg.prepared.builder`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_frameseg.annotations.download import fetch_annotations
from hf_frameseg.annotations.files import split_file, splits_there
from hf_frameseg.annotations.qvhighlights import QVHIGHLIGHTS_FILES, read_annotations
from hf_frameseg.prepared.builder import FrameDatasetBuilder
from hf_frameseg.prepared.config import FrameDatasetConfig


@dataclass
class QVHighlightsConfig(FrameDatasetConfig):
    """Say what to prepare of QVHighlights; the other fields are those of `FrameDatasetConfig`.

    Args:
        download: Download annotations that are not in the folder, once, see `hf_frameseg.annotations.download`.
    """

    download: bool = False

    def split_names(self) -> tuple[str, ...]:
        """Return the splits whose annotation file is there; all, if they may be downloaded."""
        if self.download:
            return tuple(QVHIGHLIGHTS_FILES)
        try:
            return splits_there(self.data_dir, QVHIGHLIGHTS_FILES)
        except FileNotFoundError as error:
            raise self._with_hint(error) from None

    def read_split(self, split: str) -> list[dict[str, Any]]:
        """Read the checked annotations of a split; only test ones may lack labels."""
        return read_annotations(self._annotation_file(split), require_labels=split != "test")

    def _annotation_file(self, split: str) -> Path:
        """Return the annotation file of a split."""
        try:
            return split_file(self.data_dir, QVHIGHLIGHTS_FILES, split)
        except FileNotFoundError as error:
            if self.download:
                return fetch_annotations(split)
            raise self._with_hint(error) from None

    def _with_hint(self, error: FileNotFoundError) -> FileNotFoundError:
        """Return the error with another way to the annotations, if the folder is right."""
        hint = ", or pass download=True" if Path(self.data_dir).is_dir() else ""
        return FileNotFoundError(f"{error}{hint}")


class QVHighlights(FrameDatasetBuilder):
    """Decode the videos of a QVHighlights-shaped folder into rows.

    `load_dataset` refuses builders that are not on the Hub as data files, so this class is used as a class:

        builder = QVHighlights(data_dir="data", frames=FrameSettings(frame_size=378))
        builder.download_and_prepare(num_proc=8)
        rows = builder.as_dataset("train")
    """

    BUILDER_CONFIG_CLASS = QVHighlightsConfig
