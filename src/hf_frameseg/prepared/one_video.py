"""How one video becomes the columns of a row; what a process that decodes has to know, and no more."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hf_frameseg.moments import FrameGrid
from hf_frameseg.prepared.frame_columns import check_frame_format, encode_frames
from hf_frameseg.video.file import MAX_FRAME_PIXELS, MAX_FRAME_SIDE
from hf_frameseg.video.read import (
    DEFAULT_NUM_FRAMES,
    DURATION_TOLERANCE_SECONDS,
    MAX_FRAMES_BYTES,
    MAX_TIMEOUT_SECONDS,
    TIMEOUT_SECONDS,
    check_damaged,
    read_frames,
)
from hf_frameseg.video.readers import reader_names
from hf_frameseg.video.sampling import VARIANT_OFFSET_FRAMES, VARIANTS, check_variant_offset

FORMAT_VERSION = "3.0.0"
"""Raise it whenever the content of the cache changes for the same input; old caches are then not used."""

BLANK_SIDE = 64
"""Side of the black frames of a missing video whose size is not known, in pixels."""


@dataclass(frozen=True)
class FrameSettings:
    """Say which frames of a video are kept, and how.

    Args:
        num_frames: Frames F.
        frame_size: Side of the square the frames are squashed to, in pixels; None keeps the native size.
        short_side: Instead of `frame_size`: length of the shorter side in pixels; the aspect ratio is kept.
        frame_format: "jpeg" (quality 95) or "raw" (uint8, for small frames).
        grid_kind: Where the frames lie in time, see `FrameGrid`.
        grid_phase: Shift of the frames as a fraction of their distance, see `FrameGrid`.
        variant_offset_frames: Distance of the left and right variants from the middle one in source frames.
        variant_offset_seconds: The same in seconds; given, it takes the place of `variant_offset_frames`.
        reader: Which decoder, see `read_frames`.
        duration_tolerance_seconds: How much shorter than annotated a file may be.
        timeout_seconds: Time that each reader has for one video, see `read_frames`.
        damaged: What to do about damaged pictures, see `read_frames`.
    """

    num_frames: int = DEFAULT_NUM_FRAMES
    frame_size: int | None = None
    short_side: int | None = None
    frame_format: str = "jpeg"
    grid_kind: str = "middle"
    grid_phase: float = 0.0
    variant_offset_frames: int = VARIANT_OFFSET_FRAMES
    variant_offset_seconds: float | None = None
    reader: str = "auto"
    duration_tolerance_seconds: float = DURATION_TOLERANCE_SECONDS
    timeout_seconds: float | None = TIMEOUT_SECONDS
    damaged: str = "raise"

    def __post_init__(self) -> None:
        """Check the choices."""
        check_frame_format(self.frame_format)
        check_damaged(self.damaged)
        reader_names(self.reader)  # refuses what is no reader
        _check_at_least("num_frames", self.num_frames, 1)
        for name in ("frame_size", "short_side"):
            if getattr(self, name) is not None:
                _check_at_least(name, getattr(self, name), 1)
                self._check_size(name, getattr(self, name))
        if self.frame_size is not None and self.short_side is not None:
            raise ValueError(
                f"expected frame_size or short_side, got both ({self.frame_size} and {self.short_side}); leave one out"
            )
        self.grid(1.0)  # refuses what is no grid
        check_variant_offset(self.variant_offset_frames, self.variant_offset_seconds)
        if not self.duration_tolerance_seconds >= 0:
            raise ValueError(
                f"expected duration_tolerance_seconds of at least 0, got {self.duration_tolerance_seconds!r}"
            )
        if self.timeout_seconds is not None and not 0 < self.timeout_seconds <= MAX_TIMEOUT_SECONDS:
            raise ValueError(
                f"expected timeout_seconds above 0 and up to {MAX_TIMEOUT_SECONDS:g}, or None for no limit, got "
                f"{self.timeout_seconds!r}"
            )

    def _check_size(self, name: str, side: int) -> None:
        """Refuse pictures that would not fit into memory before any is decoded."""
        if side > MAX_FRAME_SIDE or side**2 > MAX_FRAME_PIXELS:
            most = min(MAX_FRAME_SIDE, math.isqrt(MAX_FRAME_PIXELS))
            raise ValueError(f"expected {name} to be at most {most} pixels, got {side}")
        num_bytes = self.num_frames * len(VARIANTS) * side**2 * 3
        if num_bytes > MAX_FRAMES_BYTES:
            raise ValueError(
                f"expected at most {MAX_FRAMES_BYTES} bytes of frames for a video, got {num_bytes} from num_frames "
                f"{self.num_frames} and {name} {side}; ask for fewer or smaller ones"
            )

    def grid(self, duration_seconds: float) -> FrameGrid:
        """Return the frame grid of a video of this length."""
        return FrameGrid(duration_seconds, self.num_frames, self.grid_kind, self.grid_phase)

    def key(self) -> dict[str, Any]:
        """Return what the columns of a readable video depend on, besides the file and its duration; JSON values."""
        choices = asdict(self)
        del choices["timeout_seconds"]  # decides whether there are columns, not what is in them
        return {"format_version": FORMAT_VERSION, **choices}

    def readable(self) -> str:
        """Return what a folder's name shows of it, e.g. `25f-378px-jpeg`."""
        size = "native" if self.frame_size is None else f"{self.frame_size}px"
        size = size if self.short_side is None else f"short{self.short_side}px"
        grid = "" if self.grid_kind == "middle" else f"{self.grid_kind}-"
        return f"{self.num_frames}f-{grid}{size}-{self.frame_format}"


def prepare_video(path: str | Path, duration_seconds: float, settings: FrameSettings | Any) -> dict[str, Any]:
    """Return the columns of a row that come from the video.

    Args:
        path: The video file.
        duration_seconds: Annotated length T; defines the frame grid.
        settings: What to keep; the config of a builder will do.

    Returns:
        `frames`, `frame_shape`, `frame_times_seconds` and `frames_missing` (False); and `file_seconds`, the length of
        the file, and `damaged_share`, that of damaged pictures, which are reported and then left out.

    Raises:
        VideoReadError: If the file cannot be read.
    """
    size = settings.frame_size
    if settings.short_side is not None:
        size = _size_of(path, duration_seconds, settings)
    video = read_frames(
        path,
        FrameGrid(duration_seconds, settings.num_frames, settings.grid_kind, settings.grid_phase),
        frame_size=size,
        variant_offset_frames=settings.variant_offset_frames,
        variant_offset_seconds=settings.variant_offset_seconds,
        **_reading(settings),
    )
    columns = encode_frames(video.frames, settings.frame_format)
    return {
        **columns,
        "frame_times_seconds": video.times_seconds.tolist(),
        "frames_missing": False,
        "file_seconds": video.duration_seconds,
        "damaged_share": float(video.damaged.mean()),
    }


def _size_of(path: str | Path, duration_seconds: float, settings: FrameSettings | Any) -> tuple[int, int]:
    """Return (height, width) with the wanted shorter side, from one upright picture of the video."""
    picture = read_frames(path, FrameGrid(duration_seconds, 1), variant_offset_frames=0, **_reading(settings))
    height, width = picture.frames.shape[2:4]
    scale = settings.short_side / min(height, width)
    return max(round(height * scale), 1), max(round(width * scale), 1)


def _reading(settings: FrameSettings | Any) -> dict[str, Any]:
    """Return the arguments of `read_frames` that do not choose frames."""
    names = ("reader", "duration_tolerance_seconds", "timeout_seconds", "damaged")
    return {name: getattr(settings, name) for name in names}


def blank_columns(duration_seconds: float, settings: FrameSettings) -> dict[str, Any]:
    """Return the columns of a video that could not be read: black frames, marked as missing.

    Args:
        duration_seconds: Annotated length T.
        settings: What would have been kept.

    Returns:
        The columns of `prepare_video` but `file_seconds`, with the grid's own times and `frames_missing` True.
    """
    side = settings.frame_size or settings.short_side or BLANK_SIDE
    shape = (settings.num_frames, len(VARIANTS), side, side, 3)
    times = np.repeat(settings.grid(duration_seconds).times_seconds[:, None], len(VARIANTS), axis=1)
    columns = encode_frames(np.zeros(shape, dtype=np.uint8), settings.frame_format)
    return {**columns, "frame_times_seconds": times.tolist(), "frames_missing": True}


def _check_at_least(name: str, value: int, lowest: int) -> None:
    """Refuse what is not a whole number from `lowest` on."""
    if type(value) is not int or value < lowest:
        raise ValueError(f"expected {name} to be a whole number of at least {lowest}, got {value!r}")
