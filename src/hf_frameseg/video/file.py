"""A video file as FFmpeg opens it, through PyAV: its limits, its best stream, its errors in one line."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from hf_frameseg._text import printable

if TYPE_CHECKING:
    from av import Packet, VideoFrame
    from av.container import InputContainer
    from av.video.codeccontext import VideoCodecContext
    from av.video.stream import VideoStream

# Guards against files that claim absurd sizes: far above real videos, low enough not to take a machine down.
VIDEO_SUFFIXES = (
    *(".mp4", ".mkv", ".webm", ".avi", ".mov"),
    *(".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp", ".3g2", ".mts", ".m2ts", ".ts", ".ogv", ".vob", ".asf", ".f4v"),
    *(".qt", ".divx", ".m2v", ".m1v", ".mpe", ".mpv", ".m2t", ".tod", ".mod", ".ogm", ".ogg", ".ogx", ".rm", ".rmvb"),
    *(".mxf", ".dv", ".dif", ".mj2", ".mjpg", ".mjpeg", ".nut", ".ivf", ".y4m", ".amv", ".nsv", ".wtv", ".mk3d"),
    *(".h261", ".h263", ".h264", ".264", ".avc", ".h265", ".265", ".hevc", ".vvc", ".obu", ".vc1", ".gxf", ".gif"),
)
"""Accepted video files, as FFmpeg's readers of videos call theirs; of several files for one vid the first suffix in
this order counts."""

MAX_FRAME_SIDE = 8192
MAX_FRAME_PIXELS = 36_000_000  # 8K has 33.2 million; a decoder holds up to 17 pictures
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


def shown_name(path: Path) -> str:
    """Return a file's name as a message shows it."""
    return printable(path.name)


def check_is_file(path: Path) -> None:
    """Refuse what is not an ordinary file: a pipe or a device could keep a reader waiting for ever.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: If there is none.
        VideoReadError: If it is something else.
    """
    if path.is_file():
        return
    if not path.exists():
        raise FileNotFoundError(f"no video file at {printable(path)}; check the path")
    kind = "a folder" if path.is_dir() else "a pipe or a device"
    raise VideoRefusedError(f"{shown_name(path)}: expected a file, got {kind}; copy the video into a file first")


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
        raise VideoReadError(
            f"{shown_name(path)}: the file is a playlist ({container.format.name}); replace it by a video"
        )
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
        raise VideoReadError(f"{shown_name(path)}: the file has no video stream; replace it by a video")
    if stream.codec_context is None:
        raise VideoReadError(f"{shown_name(path)}: FFmpeg has no decoder for this video; convert it to H.264 first")
    check_picture_size(path, stream.codec_context.height, stream.codec_context.width)
    return stream


def limited_decoder(stream: VideoStream) -> VideoCodecContext:
    """Return the decoder of a stream, on one thread, limited in the size of its pictures, and open about damage."""
    context = stream.codec_context
    if not context.is_open:
        context.thread_count = 1
        options = {"max_pixels": str(MAX_FRAME_PIXELS)}  # pictures may be larger than the header says
        if context.codec.canonical_name == "mjpeg":
            options["err_detect"] = "explode"  # else (FFmpeg 8.1) the rest of the picture is of another one, unflagged
        elif context.codec.canonical_name == "vp8":
            context.thread_type, context.thread_count = "SLICE", 2  # on one thread (8.1) it drops its own errors
        context.options = options
    return context


def read_packets(container: InputContainer, stream: VideoStream) -> Iterator[Packet | None]:
    """Read the packets of a stream from where the container is.

    AVI says "the last picture stays" with an empty packet, which a decoder would take for the end of the file.

    Args:
        container: The open file.
        stream: The stream.

    Yields:
        Packets with content, then None for the end of the file.
    """
    for packet in container.demux(stream):
        if packet.size:
            yield packet
    yield None


def decode(context: VideoCodecContext, packet: Packet | None) -> tuple[list[VideoFrame], bool]:
    """Decode a packet.

    Args:
        context: The decoder.
        packet: The packet; None asks for what the decoder holds back to put it in order.

    Returns:
        The frames that come out, and whether the decoder refused the packet: the others can still be decoded.
    """
    from av.error import EOFError as EndOfStream
    from av.error import FFmpegError

    try:
        return context.decode(packet), False
    except EndOfStream:
        return [], False
    except FFmpegError:
        return [], True


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
        raise VideoRefusedError(over_limit(path, f"{width} x {height} pixels", allowed))


def over_limit(path: Path, found: str, allowed: str) -> str:
    """Return the line for a file outside the named limits.

    Args:
        path: The file.
        found: What it claims.
        allowed: What it may.

    Returns:
        The line.
    """
    return f"{shown_name(path)}: the file claims {found}, expected {allowed}; cut or scale it first"


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
    return f"{shown_name(path)}: could not be {verb}: {printable(text[:300])}"
