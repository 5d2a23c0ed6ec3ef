"""When each frame of a video file is shown, found out without decoding it, and the limits a file has to respect."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

# Guards against files that claim absurd sizes: far above real videos, low enough not to take a machine down.
MAX_FRAME_SIDE = 8192
MAX_FRAME_PIXELS = 36_000_000  # 8K has 33.2 million; a decoder holds up to 17 pictures
MAX_DURATION_SECONDS = 4 * 3600.0
MAX_SOURCE_FRAMES = 1_000_000

_PLAYLISTS = {"concat", "dash", "hls", "imf", "rtsp", "sdp"}
"""Formats whose files are small texts that make FFmpeg open other files or addresses."""


class VideoReadError(RuntimeError):
    """Say in one line why a video gives no frames.

    Args:
        message: The line.
        attempts: Each reader that was tried and its own error, in order. Empty if no reader could help: the file is no
            video, is too short or exceeds a limit.
    """

    def __init__(self, message: str, attempts: Iterable[tuple[str, str]] = ()) -> None:
        super().__init__(message)
        self.attempts = tuple(attempts)


class VideoRefusedError(VideoReadError):
    """Say in one line what is wrong with a file whichever reader is used: no other one is tried."""


@dataclass(frozen=True, eq=False)
class VideoIndex:
    """Hold what the packets of a video say, without decoding it.

    Args:
        path: The file.
        container: FFmpeg's name of its format, e.g. "matroska,webm".
        stream_index: Number of the video stream among all streams of the file.
        pts: Presentation time stamps of the frames that are shown, ascending, shape (N,), int64, in `time_base` units.
        time_base: Seconds per unit of `pts`.
        key_positions: Display positions of the key frames, ascending.
        num_hidden: Further frames in the file that an edit list hides.
        by_count: The time stamps rise in decoding order though the codec may reorder its frames (AVI has no others, and
            some MP4 files lost them): a decoder gives frames the stamps of others, and the frame at display position i
            is the i-th that comes out.
        starts_with_key: The file starts with a key frame, and no frame is shown before it. Else decoders leave out
            frames at the start, silently, and the i-th that comes out is a later one.
        duration_seconds: From the start of the first frame to the end of the last.
    """

    path: Path
    container: str
    stream_index: int
    pts: NDArray[np.int64]
    time_base: Fraction
    key_positions: NDArray[np.int64]
    num_hidden: int
    by_count: bool
    starts_with_key: bool
    duration_seconds: float

    @property
    def times_seconds(self) -> NDArray[np.float64]:
        """Return when each frame starts to be shown, from 0, shape (N,)."""
        return (self.pts - self.pts[0]) * float(self.time_base)


def index_video(path: str | Path) -> VideoIndex:
    """List the presentation times of a video's frames without decoding any.

    Args:
        path: Any file FFmpeg can read.

    Returns:
        The times, key frames and duration.

    Raises:
        FileNotFoundError: If there is no such file.
        VideoReadError: If the file cannot be opened, has no video or exceeds a limit.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no video file at {path}; check the path")
    try:
        with open_container(path) as container:
            stream = best_stream(container, path)
            packets = _list_packets(container, stream, path)
            reorders = bool(stream.codec_context.has_b_frames)
            name, stream_index, time_base = container.format.name, stream.index, stream.time_base
    except VideoReadError:
        raise
    except Exception as error:  # with damaged files PyAV raises IndexError and others, too
        raise VideoReadError(failure_line(path, "opened", error)) from error
    shown = [packet for packet in packets if not packet.hidden]
    if not shown or not time_base:
        raise VideoReadError(f"{path.name}: the video stream holds no frame; replace the file")
    in_decoding_order = np.array([packet.pts for packet in shown], dtype=np.int64)
    pts = np.unique(in_decoding_order)
    by_count = reorders and len(pts) > 1 and np.array_equal(pts, in_decoding_order)
    keys = np.unique(np.searchsorted(pts, [packet.pts for packet in shown if packet.key]))
    duration_seconds = _duration_seconds(pts, {packet.pts: packet.length for packet in shown}, time_base)
    if not 0 < duration_seconds <= MAX_DURATION_SECONDS:
        raise VideoReadError(
            _over_limit(path, f"{duration_seconds:g} s", f"above 0 and up to {MAX_DURATION_SECONDS:g} s")
        )
    return VideoIndex(
        path=path,
        container=name,
        stream_index=stream_index,
        pts=pts,
        time_base=time_base,
        key_positions=keys,
        num_hidden=len(packets) - len(shown),
        by_count=by_count,
        starts_with_key=packets[0].key and packets[0].pts == min(packet.pts for packet in packets),
        duration_seconds=duration_seconds,
    )


def open_container(path: Path) -> InputContainer:
    """Open a file with PyAV, and no other file or address that its content may name.

    Args:
        path: Any file FFmpeg can read.

    Returns:
        The container; close it.

    Raises:
        VideoReadError: If it is a playlist.
        av.FFmpegError: If FFmpeg cannot open it.
    """
    import av

    # FFmpeg takes "a:b.mp4" for an address of protocol "a", but nothing that starts with a slash.
    container = av.open(str(path.absolute()), options={"protocol_whitelist": "file"}, metadata_errors="replace")
    if container.format.name in _PLAYLISTS:
        container.close()
        raise VideoReadError(f"{path.name}: the file is a playlist ({container.format.name}); replace it by a video")
    return container


def best_stream(container: InputContainer, path: Path) -> VideoStream:
    """Return the stream that FFmpeg (and so decord) prefers, if its declared size is sane.

    Args:
        container: The open file.
        path: Its path, for the message.

    Returns:
        The video stream.

    Raises:
        VideoReadError: If there is none, or it cannot be decoded or exceeds a limit.
    """
    stream = container.streams.best("video")
    if stream is None:
        raise VideoReadError(f"{path.name}: the file has no video stream; replace it by a video")
    if stream.codec_context is None:
        raise VideoReadError(f"{path.name}: FFmpeg has no decoder for this video; convert it to H.264 first")
    check_picture_size(path, stream.codec_context.height, stream.codec_context.width)
    return stream


def check_picture_size(path: Path, height: int, width: int) -> None:
    """Refuse pictures of absurd size.

    Args:
        path: The file, for the message.
        height: Rows of a picture.
        width: Columns of a picture.

    Raises:
        VideoRefusedError: If a limit is exceeded.
    """
    if not (0 < width <= MAX_FRAME_SIDE and 0 < height <= MAX_FRAME_SIDE and width * height <= MAX_FRAME_PIXELS):
        allowed = f"sides of 1 to {MAX_FRAME_SIDE} and up to {MAX_FRAME_PIXELS} pixels"
        raise VideoRefusedError(_over_limit(path, f"{width} x {height} pixels", allowed))


def failure_line(path: Path, verb: str, error: BaseException) -> str:
    """Return one line for a library's error, which may span many.

    Args:
        path: The file.
        verb: What could not be done, e.g. "opened".
        error: The library's error.

    Returns:
        The line.
    """
    # decord puts "[time of day] source file:line: " before its texts, torchcodec "function, source file:line, ": no use
    # to anyone, and the time is never twice the same.
    text = re.sub(r"\[\d\d:\d\d:\d\d\] \S+:\d+: |\w+, \S+:\d+, ", "", " ".join(str(error).split()))
    if not text or isinstance(error, (LookupError, ArithmeticError, MemoryError, TypeError, AssertionError)):
        text = f"{type(error).__name__}: {text}".removesuffix(": ")  # texts such as "'frames'" say nothing alone
    return f"{path.name}: could not be {verb}: {text[:300]}"


def no_frame_error(name: str, index: VideoIndex, position: int) -> VideoReadError:
    """Return the error of a reader that does not find a frame.

    Args:
        name: The reader.
        index: The video.
        position: Display position of the frame.

    Returns:
        The error.
    """
    time_seconds = index.times_seconds[position]
    repair = "replace the file" if index.starts_with_key else "the file starts in the middle, cut it at a key frame"
    return VideoReadError(
        f"{index.path.name}: could not be decoded by {name}: it finds no frame at {time_seconds:.3f} s; {repair}"
    )


class _Packet(NamedTuple):
    """Hold what one frame's packet says, times in units of the stream's time base."""

    pts: int
    length: int
    key: bool
    hidden: bool


def _list_packets(container: InputContainer, stream: VideoStream, path: Path) -> list[_Packet]:
    """Return the packets of a stream in decoding order."""
    packets: list[_Packet] = []
    for packet in container.demux(stream):
        if packet.size == 0:
            continue  # PyAV's end-of-file marker
        if packet.pts is None:
            raise VideoReadError(f"{path.name}: a frame has no presentation time; convert the file to mp4 first")
        packets.append(_Packet(packet.pts, packet.duration or 0, packet.is_keyframe, packet.is_discard))
        if len(packets) > MAX_SOURCE_FRAMES:
            raise VideoReadError(_over_limit(path, "more frames", f"up to {MAX_SOURCE_FRAMES} frames"))
    return packets


def _duration_seconds(pts: NDArray[np.int64], lengths: dict[int, int], time_base: Fraction) -> float:
    """Return the time from the first frame's start to the last one's end."""
    first, last = int(pts[0]), int(pts[-1])  # Python's integers: the difference of two time stamps can pass 2**63
    last_length = lengths[last]
    if last_length <= 0 and len(pts) > 1:
        last_length = int(np.median(np.diff(pts)))
    return float((last - first + last_length) * Fraction(time_base))


def _over_limit(path: Path, found: str, allowed: str) -> str:
    """Return the line for a file outside the named limits."""
    return f"{path.name}: the file claims {found}, expected {allowed}; cut or scale it first"
