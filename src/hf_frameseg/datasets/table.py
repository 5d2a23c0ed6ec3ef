"""Any set of annotations in one table, see `annotations/table.py`.

The other forms of `annotations/forms.py`, such as the official files of Charades-STA and ActivityNet Captions, are read
as well.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_frameseg._text import printable
from hf_frameseg.annotations.entries import last_window_ends
from hf_frameseg.annotations.forms import annotation_entries, read_annotation_file
from hf_frameseg.annotations.ratings import RatingScale
from hf_frameseg.moments import CLIP_SECONDS
from hf_frameseg.prepared.builder import FrameDatasetBuilder
from hf_frameseg.prepared.config import FrameDatasetConfig

logger = logging.getLogger(__name__)


@dataclass
class MomentTableConfig(FrameDatasetConfig):
    """Say what to prepare of a table; the other fields are those of `FrameDatasetConfig`.

    Args:
        data_dir: The file of the queries. The videos are in `videos/` beside it, if `video_dir` names no other place.
        on_bad_window: "raise", "repair" or None, see `read_annotation_file`.
        rating_scale: Lowest and highest rating, if not 0 and 4; `clip_seconds` and `num_raters` count only with it.
        clip_seconds: Length of a rated clip.
        num_raters: Raters of each clip; None takes what the file has.
    """

    on_bad_window: str | None = None
    rating_scale: tuple[float, float] | None = None
    clip_seconds: float = CLIP_SECONDS
    num_raters: int | None = None

    def __post_init__(self) -> None:
        """Check the choices."""
        super().__post_init__()
        self.scale()  # refuses what is out of range

    def video_place(self) -> Path:
        """Return where the videos are: beside the table, if no other place is named."""
        return Path(self.video_dir) if self.video_dir is not None else Path(self.data_dir).parent / "videos"

    def split_names(self) -> tuple[str, ...]:
        """Return one name; a table does not know which split it is."""
        return ("train",)

    def read_split(self, split: str) -> list[dict[str, Any]]:
        """Read the table, and ask the videos for durations that it does not state."""
        ends = last_window_ends(entry for entry in annotation_entries(self.data_dir) if entry.duration_seconds is None)
        durations = {**ends, **self.file_durations(list(ends))} if ends else {}
        rows = read_annotation_file(self.data_dir, durations, self.on_bad_window, self.scale())
        if bare := sum(not row["relevant_windows"] for row in rows):
            logger.warning(
                "%s: %d of %d queries have no windows, so the label rule `window` makes masks of zeros only; train "
                "with label_rule='saliency>0.5', and score with `frameseg score --rating-scale`",
                *(printable(Path(self.data_dir).name), bare, len(rows)),
            )
        return rows

    def scale(self) -> RatingScale | None:
        """Return how the clips were rated, None for QVHighlights' way."""
        if self.rating_scale is None:
            if self.clip_seconds != CLIP_SECONDS or self.num_raters is not None:
                raise ValueError("clip_seconds and num_raters need rating_scale=(LOWEST, HIGHEST); state it as well")
            return None
        return RatingScale.of(self.rating_scale, self.clip_seconds, self.num_raters)


class MomentTable(FrameDatasetBuilder):
    """Decode the videos of a table of queries into rows; used like `QVHighlights`."""

    BUILDER_CONFIG_CLASS = MomentTableConfig
