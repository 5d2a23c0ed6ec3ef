"""How one video becomes the columns of a row; what a process that decodes has to know, and no more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from hf_frameseg.prepared.frame_columns import encode_frames
from hf_frameseg.video.read import read_variants
from hf_frameseg.video.sampling import VARIANTS
from hf_frameseg.video.settings import FrameSettings

FORMAT_VERSION = "5.0.0"
"""Raise it whenever the content of the cache changes for the same input; old caches are then not used."""

BLANK_SIDE = 64
"""Side of the black frames of a missing video whose size is not known, in pixels."""


def prepare_video(
    path: str | Path, duration_seconds: float, frames: FrameSettings, frame_format: str = "jpeg"
) -> dict[str, Any]:
    """Return the columns of a row that come from the video.

    Args:
        path: The video file.
        duration_seconds: Annotated length T; defines the frame grid.
        frames: Which frames, and at what size.
        frame_format: "jpeg" (quality 95) or "raw" (uint8, for small frames).

    Returns:
        `frames`, `frame_shape`, `frame_times_seconds` and `frames_missing` (False); and `file_seconds`, the length of
        the file, and `damaged_share`, that of damaged pictures, which are reported and then left out.

    Raises:
        VideoReadError: If the file cannot be read.
    """
    video = read_variants(path, frames.grid(duration_seconds), frames)
    return {
        **encode_frames(video.frames, frame_format),
        "frame_times_seconds": video.times_seconds.tolist(),
        "frames_missing": False,
        "file_seconds": video.duration_seconds,
        "damaged_share": float(video.damaged.mean()),
    }


def blank_columns(duration_seconds: float, frames: FrameSettings, frame_format: str = "jpeg") -> dict[str, Any]:
    """Return the columns of a video that could not be read: black frames, marked as missing.

    Args:
        duration_seconds: Annotated length T.
        frames: Which frames would have been kept.
        frame_format: As in `prepare_video`.

    Returns:
        The columns of `prepare_video` but `file_seconds`, with the grid's own times and `frames_missing` True.
    """
    shape = (frames.num_frames, len(VARIANTS), *(frames.known_size or (BLANK_SIDE, BLANK_SIDE)), 3)
    times = np.repeat(frames.grid(duration_seconds).times[:, None], len(VARIANTS), axis=1)
    columns = encode_frames(np.zeros(shape, dtype=np.uint8), frame_format)
    return {**columns, "frame_times_seconds": times.tolist(), "frames_missing": True}
