"""How a video becomes frames: one value, held by what prepares data, by a trained model, and by what asks it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from hf_frameseg._numbers import is_number, is_whole
from hf_frameseg._options import options_of, setting
from hf_frameseg._text import short
from hf_frameseg.moments import CLIP_SECONDS, MAX_GRID_FRAMES, FrameGrid
from hf_frameseg.video.file import MAX_FRAME_PIXELS, MAX_FRAME_SIDE
from hf_frameseg.video.readers import reader_names
from hf_frameseg.video.sampling import MAX_OFFSET_FRAMES, VARIANT_OFFSET_FRAMES, VARIANTS, check_variant_offset

TIMEOUT_SECONDS = 120.0
"""Time that each reader has for one video: about 100 times what 150 seconds of 360p take on one core."""

MAX_TIMEOUT_SECONDS = 1e6
"""More is no limit: pass None."""

MAX_FRAMES_BYTES = 4 * 2**30
"""Limit of what `read_frames` returns; only huge frames at native size get there."""

GRID_KINDS = ("middle", "uniform")
"""Where frames lie: in the middle of equal windows, or in equal steps from the very start to the very end."""

DAMAGED = ("raise", "keep")
"""What to do about pictures that are known to be damaged."""

OF_THIS_MACHINE = ("reader", "duration_tolerance_seconds", "timeout_seconds", "damaged")
"""Fields of `FrameSettings` that say how files are read, not which frames are chosen."""

_EITHER = {
    "frame_size": "short_side",
    "short_side": "frame_size",
    "variant_offset_frames": "variant_offset_seconds",
    "variant_offset_seconds": "variant_offset_frames",
}


@dataclass(frozen=True)
class FrameSettings:
    """Say which frames stand for a video, at what size, and how its file is read.

    Each field says in its `help` what it means; `frameseg prepare --help` shows the same texts. A model that is saved
    remembers the fields that choose frames; those in `OF_THIS_MACHINE` belong to whoever reads, and are left out: a
    model of others shall not name the code that opens videos here.

    - `grid_kind`, `grid_phase`: see `moments.FrameGrid`.
    - `variant_offset_frames`, `variant_offset_seconds`: see `video.sampling.select_frames`.
    - `reader`: "auto" tries those of `video.readers.READERS` that are installed, each for what the one before cannot
      read; "pyav", "decord", "torchcodec" (extra `torchcodec`), or a reader of your own as "module:function".
    - `timeout_seconds`: each reader works in a process that is killed after it. None reads in the calling process,
      without a limit: a file can then hang or crash it.
    - `damaged`: "raise" refuses a file if FFmpeg had to patch up or leave out a chosen picture, or one that it was
      predicted from; "keep" takes what players show and marks it.

    Raises:
        ValueError: If a value is of another type or out of range; the line names the field.

    Example:
        >>> frames = FrameSettings(num_frames=4, frame_size=(24, 32))
        >>> frames.grid(8.0).num_frames
        4
        >>> frames.changed(short_side=24).size_of(48, 64)
        (24, 32)
    """

    num_frames: int = setting(25, "frames per video", "F")  # 25 in the paper
    grid_kind: str = setting("middle", "where the frames lie in time, middle or uniform", "KIND")
    grid_phase: float = setting(0.0, "shift of the frames, as a fraction of their distance", "PHASE")
    frame_size: int | tuple[int, int] | None = setting(
        None, "squash frames to a square of this side (in Python also: height, width), instead of native size", "PIXELS"
    )
    short_side: int | None = setting(None, "or scale the shorter side to this, keeping the aspect ratio", "PIXELS")
    variant_offset_frames: int = setting(VARIANT_OFFSET_FRAMES, "source frames between the variants of a frame", "N")
    variant_offset_seconds: float | None = setting(None, "or the seconds between them", "SECONDS")
    reader: str = setting("auto", "auto, pyav, decord, torchcodec or module:function", "NAME")
    # One clip. The last frame of a shorter file stays on display; what a longer one has more is not used.
    duration_tolerance_seconds: float = setting(
        CLIP_SECONDS, "how much shorter than annotated a file may be", "SECONDS"
    )
    timeout_seconds: float | None = setting(TIMEOUT_SECONDS, "time that each reader has for one video", "SECONDS")
    damaged: str = setting("raise", "pictures that FFmpeg had to patch up: raise or keep", "ACTION")

    def __post_init__(self) -> None:
        """Check every value, whatever it is: some come from the files of others."""
        if isinstance(self.frame_size, list):  # JSON knows no tuples
            object.__setattr__(self, "frame_size", tuple(self.frame_size))
        for option in options_of(type(self)):  # 2 and 2.0 seconds are equal: one cache, whoever wrote them
            if option.type is float and is_number(value := getattr(self, option.name)):
                object.__setattr__(self, option.name, float(value))
        whole = f"to be a whole number of at least 1 and at most {MAX_GRID_FRAMES}"
        self._need("num_frames", is_whole(self.num_frames, 1, MAX_GRID_FRAMES), whole)
        self._check_grid()
        self._check_sizes()
        self._check_variants()
        self._need("reader", isinstance(self.reader, str), "to be a text")
        reader_names(self.reader)  # refuses what is no reader
        tolerance, limit = self.duration_tolerance_seconds, self.timeout_seconds
        self._need("duration_tolerance_seconds", is_number(tolerance) and tolerance >= 0, "of at least 0")
        in_time = limit is None or (is_number(limit) and 0 < limit <= MAX_TIMEOUT_SECONDS)
        self._need("timeout_seconds", in_time, f"above 0 and up to {MAX_TIMEOUT_SECONDS:g}, or None for no limit")
        self._need("damaged", self.damaged in DAMAGED, f"to be one of {list(DAMAGED)}")

    def _need(self, name: str, holds: bool, what: str) -> None:
        """Refuse the value of a field in one line unless something holds."""
        if not holds:
            raise ValueError(f"expected {name} {what}, got {short(getattr(self, name))}")

    def _check_grid(self) -> None:
        """Refuse what is no grid."""
        self._need("grid_kind", self.grid_kind in GRID_KINDS, f"to be one of {list(GRID_KINDS)}")
        in_window = is_number(self.grid_phase) and -0.5 < self.grid_phase < 0.5
        self._need("grid_phase", in_window, "to be a number above -0.5 and below 0.5")
        if self.grid_phase and self.grid_kind != "middle":
            raise ValueError(
                f"expected grid_phase 0 with grid_kind {self.grid_kind!r}, got {self.grid_phase!r}; use "
                "grid_kind='middle' to shift"
            )

    def _check_sizes(self) -> None:
        """Refuse pictures that would not fit into memory before any is decoded."""
        for name, kind in (("frame_size", "a whole number or (height, width)"), ("short_side", "a whole number")):
            value = getattr(self, name)
            if value is None:
                continue
            sides = value if isinstance(value, tuple) and name == "frame_size" else (value, value)
            is_size = len(sides) == 2 and all(is_whole(side, 1, MAX_FRAME_SIDE) for side in sides)
            self._need(name, is_size, f"to be None, {kind} in pixels, from 1 to {MAX_FRAME_SIDE}")
            self._need(name, sides[0] * sides[1] <= MAX_FRAME_PIXELS, f"of at most {MAX_FRAME_PIXELS} pixels in all")
            num_bytes = self.num_frames * len(VARIANTS) * sides[0] * sides[1] * 3
            if num_bytes > MAX_FRAMES_BYTES:
                raise ValueError(
                    f"expected at most {MAX_FRAMES_BYTES} bytes of frames for a video, got {num_bytes} from num_frames "
                    f"{self.num_frames} and {name} {value}; ask for fewer or smaller ones"
                )
        if self.frame_size is not None and self.short_side is not None:
            raise ValueError(
                f"expected frame_size or short_side, got both ({self.frame_size} and {self.short_side}); leave one out"
            )

    def _check_variants(self) -> None:
        """Refuse distances that `select_frames` cannot use."""
        frames, seconds = self.variant_offset_frames, self.variant_offset_seconds
        most = f"to be a whole number >= 0, at most {MAX_OFFSET_FRAMES}"
        self._need("variant_offset_frames", is_whole(frames, 0, MAX_OFFSET_FRAMES), most)
        self._need("variant_offset_seconds", seconds is None or is_number(seconds), "to be a number or None")
        check_variant_offset(frames, seconds)

    def changed(self, **choices: Any) -> FrameSettings:
        """Return these settings with some fields set differently.

        Args:
            **choices: Fields. Of two that exclude each other (`frame_size` and `short_side`, the two offsets of the
                variants) the one that is given takes the place of the other.

        Returns:
            New settings.
        """
        for name, other in _EITHER.items():
            if choices.get(name) is not None and other not in choices:
                choices[other] = getattr(type(self), other)  # its default
        return replace(self, **choices)

    def grid(self, duration_seconds: float) -> FrameGrid:
        """Return the frame grid of a video of this length; its `part` is that of a part of a longer one."""
        if self.grid_kind == "uniform":
            return FrameGrid.uniform(duration_seconds, self.num_frames)
        return FrameGrid.phase(duration_seconds, self.num_frames, self.grid_phase)

    @property
    def known_size(self) -> tuple[int, int] | None:
        """Return (height, width) of the frames before a file is opened; a shorter side stands for a square."""
        size = self.short_side if self.frame_size is None else self.frame_size
        return (size, size) if isinstance(size, int) else size

    def size_of(self, height: int, width: int) -> tuple[int, int]:
        """Return (height, width) of the frame that is made of an upright picture with square pixels.

        Args:
            height: Height of the picture in pixels.
            width: Its width.

        Returns:
            The size in pixels.
        """
        if self.short_side is None:
            return self.known_size or (height, width)
        scale = self.short_side / min(height, width)
        return max(round(height * scale), 1), max(round(width * scale), 1)

    def key(self) -> dict[str, Any]:
        """Return what the frames of a readable video depend on, besides the file and its duration; JSON values."""
        choices = asdict(self)
        del choices["timeout_seconds"]  # decides whether there are frames, not what is in them
        return choices

    def readable(self) -> str:
        """Return what a folder's name shows of it, e.g. `25f-378px`."""
        size = "native" if self.known_size is None else f"{self.frame_size}px"
        if isinstance(self.frame_size, tuple):
            size = f"{self.frame_size[0]}x{self.frame_size[1]}px"
        elif self.short_side is not None:
            size = f"short{self.short_side}px"
        grid = "" if self.grid_kind == "middle" else f"{self.grid_kind}-"
        return f"{self.num_frames}f-{grid}{size}"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields that choose frames, as JSON values: what a model remembers."""
        return {name: value for name, value in asdict(self).items() if name not in OF_THIS_MACHINE}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FrameSettings:
        """Make settings of what `to_dict` gave, or of what a file of others holds in its place.

        Args:
            values: Some of the fields that choose frames.

        Returns:
            The settings; the others are the defaults.

        Raises:
            ValueError: If there are other fields, or one has no allowed value.
        """
        known = [one.name for one in fields(cls) if one.name not in OF_THIS_MACHINE]
        others = sorted(set(values) - set(known)) if isinstance(values, Mapping) else values
        if others or not isinstance(values, Mapping):
            raise ValueError(f"expected frames to hold some of {known}, got {short(others)}: remove what else is there")
        return cls(**values)
