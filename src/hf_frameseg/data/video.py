"""Video files to frames at known times.

One pass over the packets, without decoding, gives the presentation time of every frame (`index_video`). Sampling picks
frames by these times, and a reader decodes just them. So every reader returns the same frames at the same times, and
a reader is one small function: `(index, positions) -> frames`. To add one, write it and add a line to `READERS`.

Times start at the first frame shown: a late start (first time above 0) and what an edit list cuts off are taken away.
Rotation stored in the file is applied. Of several video streams FFmpeg's best one is read (usually the largest).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hf_frameseg.data.sampling import VARIANT_OFFSET_FRAMES, select_frames
from hf_frameseg.data.video_index import (
    MAX_FRAME_SIDE,
    VideoIndex,
    VideoReadError,
    best_stream,
    failure_line,
    index_video,
    probe_duration,
)
from hf_frameseg.moments import FrameGrid

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

__all__ = ["READERS", "VideoFrames", "VideoReadError", "probe_duration", "read_frames", "resize_frame"]

DEFAULT_NUM_FRAMES = 25
"""Frames per video in the paper."""

DURATION_TOLERANCE_SECONDS = 2.0
"""A file may end this much before the annotated duration (one QVHighlights clip)."""

MAX_FRAMES_BYTES = 4 * 2**30
"""Limit of what `read_frames` returns; only huge frames at native size get there."""

_BATCH_FRAMES = 16  # decoded at native size at a time


@dataclass(frozen=True, eq=False)
class VideoFrames:
    """Hold the frames that stand for a video.

    Args:
        frames: RGB pictures, shape (F, 3, H, W, 3), uint8; axis 1 is (left, middle, right).
        times_seconds: Start of display of each picture, shape (F, 3).
        duration_seconds: Length of the file, which may differ from the grid's.
        grid: The windows the frames were chosen for.
        reader: Name of the reader that decoded them.
    """

    frames: NDArray[np.uint8]
    times_seconds: NDArray[np.float64]
    duration_seconds: float
    grid: FrameGrid
    reader: str


def read_frames(
    path: str | Path,
    grid: FrameGrid | None = None,
    *,
    num_frames: int | None = None,
    frame_size: int | tuple[int, int] | None = None,
    reader: str = "decord",
    variant_offset_frames: int = VARIANT_OFFSET_FRAMES,
    duration_tolerance_seconds: float = DURATION_TOLERANCE_SECONDS,
) -> VideoFrames:
    """Read the frames that stand for a video: three variants for each window of the grid.

    Only the chosen frames are kept in memory, at most `3 * F`, each resized as soon as it is decoded.

    Args:
        path: Any file FFmpeg can read.
        grid: The F windows; its duration (from the annotations) is trusted. None cuts the file's own duration.
        num_frames: F when there is no grid; 25, as in the paper, if not given.
        frame_size: None keeps the native size; an int squashes to a square; else (height, width), in pixels.
        reader: "decord", "pyav", or "auto": decord, and PyAV for what decord cannot read.
        variant_offset_frames: Distance of the outer variants from the middle one in source frames.
        duration_tolerance_seconds: How much shorter than the grid the file may be; its last frame then stays on
            display. A longer file is fine: what comes after the grid's end is not looked at.

    Returns:
        Frames (F, 3, H, W, 3) with their times.

    Raises:
        FileNotFoundError: If there is no such file.
        VideoReadError: If the file cannot be read, is shorter than the grid or exceeds a limit.
        ValueError: If an argument is out of range.
    """
    readers = _reader_names(reader)
    size = _as_size(frame_size)
    index = index_video(path)
    grid = _resolve_grid(grid, num_frames, index)
    _check_length(index, grid, duration_tolerance_seconds)
    positions = select_frames(index.times_seconds, grid, variant_offset_frames)
    errors: list[str] = []
    for name in readers:
        try:
            frames = _collect(READERS[name](index, np.unique(positions)), positions, size)
        except VideoReadError as error:
            errors.append(str(error))
        else:
            return VideoFrames(frames, index.times_seconds[positions], index.duration_seconds, grid, name)
    raise VideoReadError("; ".join(errors))


def resize_frame(frame: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Squash a picture to a size: bicubic with antialiasing in float32, clamped and rounded.

    The same arithmetic as the xGen-MM image processor's; PIL and the uint8 kernels differ by up to 9 grey levels.

    Args:
        frame: RGB picture, shape (H, W, 3), uint8.
        size: (height, width) in pixels.

    Returns:
        Picture of shape (height, width, 3), uint8.
    """
    if frame.shape[:2] == size:
        return frame
    import torch  # only here: reading at native size needs no torch
    from torch.nn import functional

    pixels = torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1)[None].float()
    pixels = functional.interpolate(pixels, size=size, mode="bicubic", antialias=True, align_corners=False)
    return pixels[0].clamp_(0, 255).round_().to(torch.uint8).permute(1, 2, 0).numpy()


def _decode_with_decord(index: VideoIndex, positions: NDArray[np.int64]) -> Iterator[NDArray[np.uint8]]:
    """Decode the frames at ascending display positions with decord."""
    import decord

    decord.logging.set_level(decord.logging.QUIET)  # its errors arrive as exceptions
    try:
        # By default decord repeats another frame for one that it cannot decode, silently: allow none.
        reader = decord.VideoReader(str(index.path), num_threads=1, fault_tol=1e-9)
        num_frames = len(index.pts) + index.num_hidden
        if len(reader) != num_frames:
            raise VideoReadError(f"{index.path.name}: decord counts {len(reader)} frames, there are {num_frames}")
        keys = np.asarray(reader.get_key_indices(), dtype=np.int64)
        if index.num_hidden or not np.array_equal(keys, index.key_positions):
            yield from _read_straight(reader, positions, keys)
        else:
            for first in range(0, len(positions), _BATCH_FRAMES):
                yield from _from_decord(reader.get_batch(positions[first : first + _BATCH_FRAMES]))
    except VideoReadError:
        raise
    except (decord.DECORDError, decord.DECORDLimitReachedError, RuntimeError, OSError) as error:
        raise VideoReadError(failure_line(index.path, "decoded by decord", error)) from error


def _read_straight(reader: Any, positions: NDArray[np.int64], keys: NDArray[np.int64]) -> Iterator[NDArray[np.uint8]]:
    """Read from the start without a seek, for files whose key frames decord (3.4) numbers wrongly.

    decord numbers key frames in decoding order, and counts frames that an edit list hides. With open groups of pictures
    (x265's default) that is a few frames too low, and it counts from there after a seek: the pictures are then off by
    these few frames. `skip_frames` seeks too as soon as it passes one of decord's key frames: pass those one by one.
    """
    at = 0
    for position in positions.tolist():
        while at < position:
            following = keys[np.searchsorted(keys, at, side="right") :]
            step = (min(position, int(following[0]) - 1) if len(following) else position) - at
            if step > 0:
                reader.skip_frames(step)
            else:
                reader.next()
            at += max(step, 1)
        yield from _from_decord(reader.next())[None]
        at += 1


def _from_decord(pictures: Any) -> NDArray[np.uint8]:
    """Return decord's output as numpy whatever `decord.bridge.set_bridge` some other code has called."""
    return pictures.asnumpy() if hasattr(pictures, "asnumpy") else np.asarray(pictures)


def _decode_with_pyav(index: VideoIndex, positions: NDArray[np.int64]) -> Iterator[NDArray[np.uint8]]:
    """Decode the frames at ascending display positions with PyAV."""
    import av

    try:
        with ExitStack() as stack:

            def reopen() -> tuple[InputContainer, VideoStream]:
                stack.close()
                container = stack.enter_context(av.open(str(index.path)))
                stream = best_stream(container, index.path)
                stream.codec_context.thread_count = 1  # as with decord: videos are decoded in parallel, by processes
                return container, stream

            container, stream = reopen()
            decoded = container.decode(stream)
            at = 0  # display position of the last decoded frame
            for position in positions.tolist():
                keys = index.key_positions[index.key_positions <= position]
                if len(keys) and keys[-1] > at:
                    container.seek(int(index.pts[keys[-1]]), stream=stream, backward=True)
                    decoded = container.decode(stream)
                frame = _advance(decoded, index.pts[position])
                if frame is None:  # some containers seek too far: from the start, then
                    container, stream = reopen()
                    decoded = container.decode(stream)
                    frame = _advance(decoded, index.pts[position])
                if frame is None:
                    time_seconds = index.times_seconds[position]
                    raise VideoReadError(f"{index.path.name}: PyAV finds no frame at {time_seconds:.3f} s")
                at = position
                yield _upright(frame, index.path)
    except av.FFmpegError as error:
        raise VideoReadError(failure_line(index.path, "decoded by PyAV", error)) from error


def _advance(decoded: Iterator[Any], pts: int) -> Any | None:
    """Decode up to the frame with this time stamp; None if it is passed."""
    for frame in decoded:
        if frame.pts is not None and frame.pts >= pts:
            return frame if frame.pts == pts else None
    return None


def _upright(frame: Any, path: Path) -> NDArray[np.uint8]:
    """Return a PyAV frame as RGB with the stored rotation applied."""
    turns, rest = divmod(frame.rotation, 90)
    if rest:
        raise VideoReadError(f"{path.name}: rotated by {frame.rotation} degrees, only multiples of 90 can be read")
    # POINT spreads the colour planes as FFmpeg's fast 8-bit path and decord do; the default differs for 10-bit video.
    return np.rot90(frame.to_ndarray(format="rgb24", interpolation="POINT"), turns)


READERS: dict[str, Callable[[VideoIndex, NDArray[np.int64]], Iterator[NDArray[np.uint8]]]] = {
    "decord": _decode_with_decord,
    "pyav": _decode_with_pyav,
}
"""Readers by name, in the order in which "auto" tries them."""


def _reader_names(reader: str) -> tuple[str, ...]:
    """Return the readers to try."""
    if reader == "auto":
        return tuple(READERS)
    if reader not in READERS:
        raise ValueError(f"expected reader to be one of {[*READERS, 'auto']}, got {reader!r}")
    return (reader,)


def _as_size(frame_size: int | Sequence[int] | None) -> tuple[int, int] | None:
    """Return a frame size as (height, width)."""
    if frame_size is None:
        return None
    size = (frame_size, frame_size) if isinstance(frame_size, int) else tuple(frame_size)
    if len(size) != 2 or not all(isinstance(side, int) and 0 < side <= MAX_FRAME_SIDE for side in size):
        raise ValueError(f"expected frame_size to be None, pixels or (height, width) in pixels, got {frame_size!r}")
    return size


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
            f"{index.path.name}: the file lasts {index.duration_seconds:.2f} s, the annotations say "
            f"{grid.duration_seconds:g} s; replace the file or raise duration_tolerance_seconds ({tolerance_seconds:g})"
        )


def _collect(
    pictures: Iterator[NDArray[np.uint8]], positions: NDArray[np.int64], size: tuple[int, int] | None
) -> NDArray[np.uint8]:
    """Put decoded pictures, one per distinct position in ascending order, where they belong: (F, 3, H, W, 3)."""
    frames: NDArray[np.uint8] | None = None
    for position, picture in zip(np.unique(positions), pictures, strict=True):
        resized = picture if size is None else resize_frame(picture, size)
        if frames is None:
            if positions.size * resized.size > MAX_FRAMES_BYTES:
                raise VideoReadError(
                    f"frames of {resized.shape[:2]} pixels fill over {MAX_FRAMES_BYTES} bytes; give frame_size"
                )
            frames = np.empty((*positions.shape, *resized.shape), dtype=np.uint8)
        if resized.shape != frames.shape[2:]:
            raise VideoReadError(
                f"picture size changes from {frames.shape[2:4]} to {resized.shape[:2]}; give frame_size"
            )
        frames[positions == position] = resized
    return frames
