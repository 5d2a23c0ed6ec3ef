"""Any set of annotations in one table, see `annotations/table.py`.

The other forms of `annotations/forms.py`, such as the official files of Charades-STA and ActivityNet Captions, are read
as well.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
from hf_frameseg._text import printable
from hf_frameseg.annotations.entries import last_window_ends
from hf_frameseg.annotations.forms import annotation_entries, read_annotation_file
from hf_frameseg.annotations.ratings import RatingScale
from hf_frameseg.moments import CLIP_SECONDS
from hf_frameseg.prepared.builder import FrameDatasetBuilder, load_split
from hf_frameseg.prepared.config import FrameDatasetConfig
from hf_frameseg.video.read import DEFAULT_NUM_FRAMES

logger = logging.getLogger(__name__)


@dataclass
class MomentTableConfig(FrameDatasetConfig):
    """Say what to prepare of a table; the other fields are those of `FrameDatasetConfig`.

    Args:
        table: The file.
        on_bad_window: "raise", "repair" or None, see `read_annotation_file`.
        rating_scale: Lowest and highest rating, if not 0 and 4; `clip_seconds` and `num_raters` count only with it.
        clip_seconds: Length of a rated clip.
        num_raters: Raters of each clip; None takes what the file has.
    """

    table: str | None = None
    on_bad_window: str | None = None
    rating_scale: tuple[float, float] | None = None
    clip_seconds: float = CLIP_SECONDS
    num_raters: int | None = None

    def __post_init__(self) -> None:
        """Look for the videos beside the table."""
        self.scale()  # refuses what is out of range
        if self.table is None:
            raise ValueError("table is missing; pass the file that holds the queries")
        if self.data_dir is None:
            self.data_dir = str(Path(self.table).parent)
        super().__post_init__()

    def split_names(self) -> tuple[str, ...]:
        """Return one name; a table does not know which split it is."""
        return ("train",)

    def read_split(self, split: str) -> list[dict[str, Any]]:
        """Read the table, and ask the videos for durations that it does not state."""
        ends = last_window_ends(entry for entry in annotation_entries(self.table) if entry.duration_seconds is None)
        durations = {**ends, **self.file_durations(list(ends))} if ends else {}
        rows = read_annotation_file(self.table, durations, self.on_bad_window, self.scale())
        if bare := sum(not row["relevant_windows"] for row in rows):
            logger.warning(
                "%s: %d of %d queries have no windows, so the label rule `window` makes masks of zeros only; train "
                "with label_rule='saliency>0.5', and score with `frameseg score --rating-scale`",
                *(printable(Path(self.table).name), bare, len(rows)),
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


def load_moments(
    table: str | Path,
    video_dir: str | Path | None = None,
    split: str = "train",
    num_frames: int = DEFAULT_NUM_FRAMES,
    frame_size: int | None = None,
    frame_format: str = "jpeg",
    cache_dir: str | Path | None = None,
    num_proc: int | None = None,
    **options: Any,
) -> datasets.Dataset:
    """Load any table of queries, decoding its videos the first time only.

    Args:
        table: A file with the columns listed in `annotations/table.py`.
        video_dir: Folder of the videos, nested or not; None takes `videos` beside the table.
        split: Name for the result.
        num_frames: Frames F per video.
        frame_size: Side of the square the frames are squashed to, in pixels; None keeps the native size.
        frame_format: "jpeg" (quality 95) or "raw" (uint8, for small frames).
        cache_dir: Where prepared data is kept; None takes the cache of `datasets`.
        num_proc: Processes that decode.
        **options: Other fields of `MomentTableConfig`, such as on_error, on_bad_window or rating_scale.

    Returns:
        A data set with the columns listed in `hf_frameseg.prepared.builder`, in the order of the table. Where
        `saliency_source` is "window" the ratings are made up, and highlight scores mean nothing.

    Raises:
        FileNotFoundError: If the table, the video folder or (with `on_error="raise"`) a video is not there.
        AnnotationError: If a line is wrong; the message names file and line.
        VideoReadError: If (with `on_error="raise"`) a video cannot be read.
        ValueError: If an argument is out of range.
    """
    builder = MomentTable(
        cache_dir=None if cache_dir is None else str(cache_dir),
        table=str(table),
        video_dir=None if video_dir is None else str(video_dir),
        splits=(split,),
        num_frames=num_frames,
        frame_size=frame_size,
        frame_format=frame_format,
        **options,
    )
    return load_split(builder, split, num_proc)
