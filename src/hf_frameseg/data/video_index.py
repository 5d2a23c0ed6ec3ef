"""When each frame of a video file is shown, found out without decoding it, and the limits a file has to respect."""

from __future__ import annotations

import re
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
MAX_DURATION_SECONDS = 4 * 3600.0
MAX_SOURCE_FRAMES = 1_000_000


class VideoReadError(RuntimeError):
    """Say in one line why a video gives no frames."""


@dataclass(frozen=True, eq=False)
class VideoIndex:
    """Hold what the packets of a video say, without decoding it.

    Args:
        path: The file.
        pts: Presentation time stamps of the frames that are shown, ascending, shape (N,), int64, in `time_base` units.
        time_base: Seconds per unit of `pts`.
        key_positions: Display positions of the key frames, ascending.
        num_hidden: Further frames in the file that an edit list hides.
        duration_seconds: From the start of the first frame to the end of the last.
    """

    path: Path
    pts: NDArray[np.int64]
    time_base: Fraction
    key_positions: NDArray[np.int64]
    num_hidden: int
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
    import av

    try:
        with av.open(str(path)) as container:
            stream = best_stream(container, path)
            packets = _list_packets(container, stream, path)
            time_base = Fraction(stream.time_base)
    except av.FFmpegError as error:
        raise VideoReadError(failure_line(path, "opened", error)) from error
    shown = [packet for packet in packets if not packet.hidden]
    if not shown:
        raise VideoReadError(f"{path.name}: the video stream holds no frame; replace the file")
    pts = np.unique(np.array([packet.pts for packet in shown], dtype=np.int64))
    keys = np.searchsorted(pts, sorted(packet.pts for packet in shown if packet.key))
    duration_seconds = _duration_seconds(pts, {packet.pts: packet.length for packet in shown}, time_base)
    if not 0 < duration_seconds <= MAX_DURATION_SECONDS:
        raise VideoReadError(
            _over_limit(path, f"{duration_seconds:g} s", f"above 0 and up to {MAX_DURATION_SECONDS:g} s")
        )
    return VideoIndex(path, pts, time_base, keys, len(packets) - len(shown), duration_seconds)


def probe_duration(path: str | Path) -> float:
    """Return a video's length in seconds, from the first frame shown to the end of the last.

    Container headers are not asked: some have none, and some count a longer sound track.

    Args:
        path: Any file FFmpeg can read.

    Returns:
        Seconds, above 0.

    Raises:
        FileNotFoundError: If there is no such file.
        VideoReadError: If the file cannot be opened, has no video or exceeds a limit.
    """
    return index_video(path).duration_seconds


def best_stream(container: InputContainer, path: Path) -> VideoStream:
    """Return the stream that FFmpeg (and so decord) prefers, if its declared size is sane."""
    stream = container.streams.best("video")
    if stream is None:
        raise VideoReadError(f"{path.name}: the file has no video stream; replace it by a video")
    if stream.codec_context is None:
        raise VideoReadError(f"{path.name}: FFmpeg has no decoder for this video; convert it to H.264 first")
    width, height = stream.codec_context.width, stream.codec_context.height
    if not (0 < width <= MAX_FRAME_SIDE and 0 < height <= MAX_FRAME_SIDE):
        raise VideoReadError(_over_limit(path, f"{width} x {height} pixels", f"sides of 1 to {MAX_FRAME_SIDE} pixels"))
    return stream


def failure_line(path: Path, verb: str, error: BaseException) -> str:
    """Return one line for a library's error, which may span many."""
    # decord puts "[time of day] source file:line: " before its texts: no use to anyone, and never twice the same.
    text = re.sub(r"\[\d\d:\d\d:\d\d\] \S+:\d+: ", "", " ".join(str(error).split()))
    return f"{path.name}: could not be {verb}: {text[:300]}"


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
    last_length = lengths[int(pts[-1])]
    if last_length <= 0 and len(pts) > 1:
        last_length = int(np.median(np.diff(pts)))
    return float((int(pts[-1] - pts[0]) + last_length) * time_base)


def _over_limit(path: Path, found: str, allowed: str) -> str:
    """Return the line for a file outside the named limits."""
    return f"{path.name}: the file claims {found}, expected {allowed}; cut or scale it first"
