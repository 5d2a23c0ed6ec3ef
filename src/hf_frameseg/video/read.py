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
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from hf_frameseg.moments import FrameGrid
from hf_frameseg.video.file import (
    VideoReadError,
    VideoRefusedError,
    check_picture_size,
    failure_line,
    shown_name,
)
from hf_frameseg.video.index import VideoIndex, index_video
from hf_frameseg.video.pyav_reader import DamagedPicture
from hf_frameseg.video.readers import READERS, Pictures, Reader, load_reader, reader_names
from hf_frameseg.video.sampling import MIDDLE_VARIANT, select_frames
from hf_frameseg.video.settings import MAX_FRAMES_BYTES, TIMEOUT_SECONDS, FrameSettings
from hf_frameseg.video.worker import WorkerError, thread_worker

Result = TypeVar("Result")

_INDEX_READER = "pyav"  # the process that lists the frames


@dataclass(frozen=True, eq=False)
class VideoFrames:
    """Hold the frames that stand for a video, one for each window; those of `read_variants` three.

    Args:
        frames: RGB pictures, shape (F, H, W, 3), uint8; with variants (F, 3, H, W, 3), axis 1 left, middle, right.
        times_seconds: Start of display of each picture, shape (F,); with variants (F, 3).
        duration_seconds: Length of the file, which may differ from the grid's.
        grid: The windows the frames were chosen for.
        reader: Name of the reader that decoded them.
        damaged: Which pictures are known to be damaged, of the shape of the times, bool; none (the default) unless
            `damaged="keep"` was asked for.
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
    path: str | Path, grid: FrameGrid | None = None, frames: FrameSettings | None = None, **choices: Any
) -> VideoFrames:
    """Read the frames that stand for a video: one for each window of the grid, the middle one of its variants.

    Only the chosen frames are decoded for their own sake and kept in memory, each resized as soon as it is there.

    Args:
        path: Any file FFmpeg can read.
        grid: The F windows, of the whole video or a `part` of it; its end (from the annotations) is trusted. None lays
            the grid of the settings over the file's own duration.
        frames: Which frames, at what size, and how the file is read. None takes the paper's.
        **choices: Fields of `FrameSettings` to set differently, such as `num_frames` or `frame_size`.

    Returns:
        Frames (F, H, W, 3) with their times (F,).

    Raises:
        FileNotFoundError: If there is no such file.
        VideoReadError: If no reader can read the file, or it is shorter than the grid or exceeds a limit; its
            `attempts` hold the error of each reader.
        ImportError: If the library of the one reader asked for is missing.
        ValueError: If a choice is out of range, or the grid has another number of frames than was asked for.
    """
    return _read(path, grid, _settings(grid, frames, choices), MIDDLE_VARIANT)


def read_variants(
    path: str | Path, grid: FrameGrid | None = None, frames: FrameSettings | None = None, **choices: Any
) -> VideoFrames:
    """Read what a training draws from: the left, middle and right variant of each window of the grid.

    Args:
        path: As for `read_frames`, like the others.
        grid: The F windows.
        frames: Which frames, how far the variants lie apart, at what size, and how the file is read.
        **choices: Fields of `FrameSettings` to set differently.

    Returns:
        Frames (F, 3, H, W, 3) with their times (F, 3); the middle ones are those of `read_frames`.

    Raises:
        VideoReadError: As `read_frames`, which raises the same errors.
    """
    return _read(path, grid, _settings(grid, frames, choices))


def _read(path: str | Path, grid: FrameGrid | None, settings: FrameSettings, variant: int | None = None) -> VideoFrames:
    """Read one variant of every window, or all of them."""
    readers = reader_names(settings.reader)
    index = _index(path, settings.timeout_seconds)
    grid = settings.grid(index.duration_seconds) if grid is None else grid
    _check_length(index, grid, settings.duration_tolerance_seconds)
    offsets = (settings.variant_offset_frames, settings.variant_offset_seconds)
    positions = select_frames(index.times_seconds, grid, *offsets)
    positions = positions if variant is None else positions[:, variant]
    attempts: list[tuple[str, str]] = []
    for name in readers:
        try:
            reading = (name, READERS.get(name), index, positions, settings)
            pictures, are_damaged = _run(name, settings.timeout_seconds, index.path, _decode, *reading)
        except VideoRefusedError:
            raise
        except VideoReadError as error:
            attempts.append((name, str(error)))
        except ImportError as error:
            if settings.reader != "auto":
                raise
            attempts.append((name, f"{shown_name(index.path)}: {error}"))
        else:
            times_seconds = index.times_seconds[positions]
            return VideoFrames(pictures, times_seconds, index.duration_seconds, grid, name, are_damaged)
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
    FrameSettings(timeout_seconds=timeout_seconds)  # refuses what is no limit
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


def _settings(grid: FrameGrid | None, frames: FrameSettings | None, choices: dict[str, Any]) -> FrameSettings:
    """Return the settings that hold for a grid."""
    asked = choices.get("num_frames", None if frames is None else frames.num_frames)
    if grid is not None and asked not in (None, grid.num_frames):
        raise ValueError(f"expected num_frames = {grid.num_frames} of the grid, got {asked}; pass only one of both")
    of_grid = {} if grid is None else {"num_frames": grid.num_frames}
    return (frames or FrameSettings()).changed(**{**choices, **of_grid})


def _decode(
    name: str, reader: Reader | None, index: VideoIndex, positions: NDArray[np.int64], settings: FrameSettings
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Return the frames at the positions (F,) or (F, 3), and which of them are damaged.

    Without a reader, import "module:function".
    """
    reader = load_reader(name) if reader is None else reader
    try:
        frames, are_damaged = _collect(reader(index, np.unique(positions)), index, positions, settings)
    except VideoReadError:
        raise
    except Exception as error:
        raise VideoReadError(failure_line(index.path, f"decoded by {name}", error)) from error
    if settings.damaged == "raise" and are_damaged.any():
        raise VideoReadError(_damage_line(name, index, positions, are_damaged))
    return frames, are_damaged


def _collect(
    pictures: Pictures, index: VideoIndex, positions: NDArray[np.int64], settings: FrameSettings
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
        shown_size = settings.size_of(*_square_size(picture, index.pixel_aspect))
        if frames is not None and settings.short_side is not None:
            shown_size = frames.shape[-3:-1]  # that of the first picture, where the size changes on the way
        check_picture_size(index.path, *shown_size)
        resized = resize_frame(picture, shown_size)
        if frames is None:
            if positions.size * resized.size > MAX_FRAMES_BYTES:
                raise VideoRefusedError(
                    f"{name}: frames of {resized.shape[:2]} pixels fill over {MAX_FRAMES_BYTES} bytes; give frame_size"
                )
            frames = np.empty((*positions.shape, *resized.shape), dtype=np.uint8)
        if resized.shape != frames.shape[-3:]:
            raise VideoRefusedError(
                f"{name}: picture size changes from {frames.shape[-3:-1]} to {resized.shape[:2]}; give frame_size"
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


def _check_length(index: VideoIndex, grid: FrameGrid, tolerance_seconds: float) -> None:
    """Refuse a file that ends too long before the grid does."""
    if index.duration_seconds < grid.end_seconds - tolerance_seconds:
        raise VideoReadError(
            f"{shown_name(index.path)}: the file lasts {index.duration_seconds:.2f} s, the annotations say "
            f"{grid.end_seconds:g} s; replace the file or raise duration_tolerance_seconds ({tolerance_seconds:g})"
        )
