"""Video files to frames at known times.

One pass over the packets, without decoding, gives the presentation time of every frame (`index_video`). Sampling picks
frames by these times, and a reader (`video.readers`) decodes just them. So every reader returns the same frames at the
same times, and a reader is one small function.

Times count from the start of the file, which is that of its earliest stream, as in players and in FFmpeg's `-ss`: where
sound starts first, the first frame shown is later than 0, and stands for what is before it. What all streams start late
by, and what an edit list cuts off, is taken away.

Pictures are upright (rotation stored in the file or in EXIF is applied) and their pixels square. Of several video
streams FFmpeg's best one is read (usually the largest).

Files are opened in a process that is killed when it takes too long or crashes (`video.worker`), whatever the library
does; the next reader then tries. `timeout_seconds=None` reads in the calling process instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from hf_frameseg.moments import FrameGrid
from hf_frameseg.video.file import (
    MAX_FRAME_SIDE,
    VideoReadError,
    VideoRefusedError,
    check_picture_size,
    failure_line,
    shown_name,
)
from hf_frameseg.video.index import VideoIndex, index_video
from hf_frameseg.video.pyav_reader import DamagedPicture
from hf_frameseg.video.readers import READERS, Pictures, Reader, load_reader, reader_names
from hf_frameseg.video.sampling import VARIANT_OFFSET_FRAMES, select_frames
from hf_frameseg.video.worker import WorkerError, thread_worker

Result = TypeVar("Result")

DEFAULT_NUM_FRAMES = 25
"""Frames per video in the paper."""

DURATION_TOLERANCE_SECONDS = 2.0
"""A file may end this much before the annotated duration (one QVHighlights clip)."""

TIMEOUT_SECONDS = 120.0
"""Time that each reader has for one video: about 100 times what 150 seconds of 360p take on one core."""

MAX_TIMEOUT_SECONDS = 1e6
"""More is no limit: pass None."""

MAX_FRAMES_BYTES = 4 * 2**30
"""Limit of what `read_frames` returns; only huge frames at native size get there."""

DAMAGED = ("raise", "keep")
"""What to do about pictures that are known to be damaged."""

_INDEX_READER = "pyav"  # the process that lists the frames


@dataclass(frozen=True, eq=False)
class VideoFrames:
    """Hold the frames that stand for a video.

    Args:
        frames: RGB pictures, shape (F, 3, H, W, 3), uint8; axis 1 is (left, middle, right).
        times_seconds: Start of display of each picture, shape (F, 3).
        duration_seconds: Length of the file, which may differ from the grid's.
        grid: The windows the frames were chosen for.
        reader: Name of the reader that decoded them.
        damaged: Which pictures are known to be damaged, shape (F, 3), bool; none (the default) unless `damaged="keep"`
            was asked for.
    """

    frames: NDArray[np.uint8]
    times_seconds: NDArray[np.float64]
    duration_seconds: float
    grid: FrameGrid
    reader: str
    damaged: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        """Know of no damage where none is named."""
        if self.damaged is None:
            object.__setattr__(self, "damaged", np.zeros(self.times_seconds.shape, dtype=bool))


def read_frames(
    path: str | Path,
    grid: FrameGrid | None = None,
    *,
    num_frames: int | None = None,
    frame_size: int | tuple[int, int] | None = None,
    reader: str = "auto",
    variant_offset_frames: int = VARIANT_OFFSET_FRAMES,
    variant_offset_seconds: float | None = None,
    duration_tolerance_seconds: float = DURATION_TOLERANCE_SECONDS,
    timeout_seconds: float | None = TIMEOUT_SECONDS,
    damaged: str = "raise",
) -> VideoFrames:
    """Read the frames that stand for a video: three variants for each window of the grid.

    Only the chosen frames are kept in memory, at most `3 * F`, each resized as soon as it is decoded.

    Args:
        path: Any file FFmpeg can read.
        grid: The F windows; its duration (from the annotations) is trusted. None cuts the file's own duration.
        num_frames: F when there is no grid; 25, as in the paper, if not given.
        frame_size: None keeps the native size; an int squashes to a square; else (height, width), in pixels.
        reader: "pyav", "decord", "torchcodec" (extra `torchcodec`), a reader of your own as "module:function" (see
            `video.readers`), or "auto": those of `READERS` that are installed, each for what the one before cannot
            read.
        variant_offset_frames: Distance of the outer variants from the middle one in source frames.
        variant_offset_seconds: The same in seconds, in its place; None leaves it at frames.
        duration_tolerance_seconds: How much shorter than the grid the file may be; its last frame then stays on
            display. A longer file is fine: what comes after the grid's end is not looked at.
        timeout_seconds: Time each reader has, in a process that is killed after it. None reads in this process, without
            a limit: a file can then hang or crash it.
        damaged: "raise" refuses a file if FFmpeg had to patch up or leave out a chosen picture, or one that it was
            predicted from; "keep" takes what players show and marks it in the result.

    Returns:
        Frames (F, 3, H, W, 3) with their times.

    Raises:
        FileNotFoundError: If there is no such file.
        VideoReadError: If no reader can read the file, or it is shorter than the grid or exceeds a limit; its
            `attempts` hold the error of each reader.
        ImportError: If the library of the one reader asked for is missing.
        ValueError: If an argument is out of range.
    """
    readers = reader_names(reader)
    size = _as_size(frame_size)
    _check_timeout(timeout_seconds)
    check_damaged(damaged)
    index = _index(path, timeout_seconds)
    grid = _resolve_grid(grid, num_frames, index)
    _check_length(index, grid, duration_tolerance_seconds)
    positions = select_frames(index.times_seconds, grid, variant_offset_frames, variant_offset_seconds)
    attempts: list[tuple[str, str]] = []
    for name in readers:
        try:
            reading = (name, READERS.get(name), index, positions, size, damaged)
            frames, are_damaged = _run(name, timeout_seconds, index.path, _decode, *reading)
        except VideoRefusedError:
            raise
        except VideoReadError as error:
            attempts.append((name, str(error)))
        except ImportError as error:
            if reader != "auto":
                raise
            attempts.append((name, f"{shown_name(index.path)}: {error}"))
        else:
            times_seconds = index.times_seconds[positions]
            return VideoFrames(frames, times_seconds, index.duration_seconds, grid, name, are_damaged)
    raise VideoReadError(_join_attempts(index.path, attempts), attempts)


def probe_duration(path: str | Path, *, timeout_seconds: float | None = TIMEOUT_SECONDS) -> float:
    """Return a video's length in seconds, from the start of the file to the end of the last frame.

    The file starts with its earliest stream. Container headers are not asked for the end: some have none, and some
    count a longer sound track.

    Args:
        path: Any file FFmpeg can read.
        timeout_seconds: Time it may take, see `read_frames`.

    Returns:
        Seconds, above 0.

    Raises:
        FileNotFoundError: If there is no such file.
        VideoReadError: If the file cannot be opened, has no video or exceeds a limit.
        ValueError: If an argument is out of range.
    """
    _check_timeout(timeout_seconds)
    return _index(path, timeout_seconds).duration_seconds


def resize_frame(frame: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Squash a picture to a size: bicubic with antialiasing in float32, clamped and rounded.

    The same arithmetic as the xGen-MM image processor's, which runs in torch: 1 value of 20,000 is rounded the other
    way, by one grey level. PIL's and torch's uint8 kernels differ by up to 9.

    Args:
        frame: RGB picture, shape (H, W, 3), uint8.
        size: (height, width) in pixels.

    Returns:
        Picture of shape (height, width, 3), uint8.
    """
    if frame.shape[:2] == size:
        return frame
    from PIL import Image

    height, width = size
    resized = np.empty((height, width, 3), dtype=np.float32)
    for channel in range(3):  # PIL's float pictures have one
        picture = Image.fromarray(frame[..., channel].astype(np.float32))
        resized[..., channel] = picture.resize((width, height), Image.Resampling.BICUBIC)
    return np.rint(resized.clip(0, 255)).astype(np.uint8)


def _run(
    reader: str, timeout_seconds: float | None, path: Path, function: Callable[..., Result], *args: object
) -> Result:
    """Call a function where the reader's library is imported, with its time limit."""
    if timeout_seconds is None:
        load_reader(reader)
        return function(*args)
    try:
        return thread_worker(load_reader, reader).call(function, *args, timeout_seconds=timeout_seconds)
    except WorkerError as error:
        line = f"{shown_name(path)}: {reader} {error}"
        raise VideoReadError(line, [(reader, line)]) from None


def _index(path: str | Path, timeout_seconds: float | None) -> VideoIndex:
    """Return the index of a video."""
    path = Path(path).absolute()
    return _run(_INDEX_READER, timeout_seconds, path, index_video, path)


def _decode(
    name: str,
    reader: Reader | None,
    index: VideoIndex,
    positions: NDArray[np.int64],
    size: tuple[int, int] | None,
    damaged: str,
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Return the frames at the positions (F, 3) as (F, 3, H, W, 3), and which are damaged (F, 3).

    Without a reader, import "module:function".
    """
    reader = load_reader(name) if reader is None else reader
    try:
        frames, are_damaged = _collect(reader(index, np.unique(positions)), index, positions, size)
    except VideoReadError:
        raise
    except Exception as error:
        raise VideoReadError(failure_line(index.path, f"decoded by {name}", error)) from error
    if damaged == "raise" and are_damaged.any():
        raise VideoReadError(_damage_line(name, index, positions, are_damaged))
    return frames, are_damaged


def _collect(
    pictures: Pictures, index: VideoIndex, positions: NDArray[np.int64], size: tuple[int, int] | None
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Put decoded pictures, one per distinct position in ascending order, where they belong."""
    name = shown_name(index.path)
    frames: NDArray[np.uint8] | None = None
    are_damaged = np.zeros(positions.shape, dtype=bool)
    distinct = np.unique(positions)
    num_read = 0
    for position, picture in zip(distinct, pictures, strict=False):
        if isinstance(picture, DamagedPicture):
            are_damaged[positions == position] = True
            picture = picture.picture
        check_picture_size(index.path, *picture.shape[:2])
        shown_size = size or _square_size(picture, index.pixel_aspect)
        check_picture_size(index.path, *shown_size)
        resized = resize_frame(picture, shown_size)
        if frames is None:
            if positions.size * resized.size > MAX_FRAMES_BYTES:
                raise VideoRefusedError(
                    f"{name}: frames of {resized.shape[:2]} pixels fill over {MAX_FRAMES_BYTES} bytes; give frame_size"
                )
            frames = np.empty((*positions.shape, *resized.shape), dtype=np.uint8)
        if resized.shape != frames.shape[2:]:
            raise VideoRefusedError(
                f"{name}: picture size changes from {frames.shape[2:4]} to {resized.shape[:2]}; give frame_size"
            )
        frames[positions == position] = resized
        num_read += 1
    if num_read < len(distinct):
        raise ValueError(f"the reader gave {num_read} of {len(distinct)} frames")
    return frames, are_damaged


def _square_size(picture: NDArray[np.uint8], pixel_aspect: Fraction) -> tuple[int, int]:
    """Return (height, width) of a picture whose pixels are made square by stretching it along one side."""
    height, width = picture.shape[:2]
    if pixel_aspect > 1:
        return height, round(width * pixel_aspect)
    return round(height / pixel_aspect), width


def _damage_line(name: str, index: VideoIndex, positions: NDArray[np.int64], are_damaged: NDArray[np.bool_]) -> str:
    """Return the line for a file with damaged pictures."""
    num_chosen, damaged = len(np.unique(positions)), np.unique(positions[are_damaged])
    return (
        f"{shown_name(index.path)}: could not be decoded by {name}: {len(damaged)} of {num_chosen} pictures "
        f"({len(damaged) / num_chosen:.0%}) are damaged, the first at {index.times_seconds[damaged[0]]:.3f} s; replace "
        "the file or pass damaged='keep'"
    )


def _join_attempts(path: Path, attempts: Sequence[tuple[str, str]]) -> str:
    """Return one line for the errors of all readers, which all start with the file's name."""
    start = f"{shown_name(path)}: "
    return start + "; ".join(dict.fromkeys(text.removeprefix(start) for _, text in attempts))  # equal ones once


def _as_size(frame_size: int | Sequence[int] | None) -> tuple[int, int] | None:
    """Return a frame size as (height, width)."""
    if frame_size is None:
        return None
    size = (frame_size, frame_size) if isinstance(frame_size, int) else tuple(frame_size)
    if len(size) != 2 or not all(isinstance(side, int) and 0 < side <= MAX_FRAME_SIDE for side in size):
        raise ValueError(f"expected frame_size to be None, pixels or (height, width) in pixels, got {frame_size!r}")
    return size


def check_damaged(damaged: str) -> None:
    """Refuse what is no choice for damaged pictures.

    Args:
        damaged: One of `DAMAGED`.

    Raises:
        ValueError: If it is not.
    """
    if damaged not in DAMAGED:
        raise ValueError(f"expected damaged to be one of {list(DAMAGED)}, got {damaged!r}")


def _check_timeout(timeout_seconds: float | None) -> None:
    """Refuse a time limit that is none."""
    if timeout_seconds is not None and not 0 < timeout_seconds <= MAX_TIMEOUT_SECONDS:
        raise ValueError(
            f"expected timeout_seconds above 0 and up to {MAX_TIMEOUT_SECONDS:g}, or None, got {timeout_seconds!r}"
        )


def _resolve_grid(grid: FrameGrid | None, num_frames: int | None, index: VideoIndex) -> FrameGrid:
    """Return the given grid, or one over the file's own duration."""
    if grid is None:
        return FrameGrid(index.duration_seconds, DEFAULT_NUM_FRAMES if num_frames is None else num_frames)
    if num_frames not in (None, grid.num_frames):
        raise ValueError(
            f"expected num_frames = {grid.num_frames} of the grid, got {num_frames}; pass only one of both"
        )
    return grid


def _check_length(index: VideoIndex, grid: FrameGrid, tolerance_seconds: float) -> None:
    """Refuse a file that ends too long before the grid does."""
    if not tolerance_seconds >= 0:
        raise ValueError(f"expected duration_tolerance_seconds of at least 0, got {tolerance_seconds!r}")
    if index.duration_seconds < grid.duration_seconds - tolerance_seconds:
        raise VideoReadError(
            f"{shown_name(index.path)}: the file lasts {index.duration_seconds:.2f} s, the annotations say "
            f"{grid.duration_seconds:g} s; replace the file or raise duration_tolerance_seconds ({tolerance_seconds:g})"
        )
