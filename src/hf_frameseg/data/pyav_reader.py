"""The PyAV reader: the fastest of the three and the default, and what knows how pictures are stored."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hf_frameseg.data.video_index import (
    MAX_FRAME_PIXELS,
    VideoIndex,
    VideoReadError,
    VideoRefusedError,
    check_picture_size,
    no_frame_error,
    open_container,
)

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from av.filter import Graph
    from av.video.codeccontext import VideoCodecContext
    from av.video.stream import VideoStream

_MAX_REORDERED_FRAMES = 32  # H.264 and HEVC reorder up to 16


def decode_with_pyav(index: VideoIndex, positions: NDArray[np.int64]) -> Iterator[NDArray[np.uint8]]:
    """Decode the frames at ascending display positions with PyAV.

    Args:
        index: The video.
        positions: Display positions, distinct, shape (N,).

    Yields:
        RGB pictures (H, W, 3).
    """
    to_rgb = _ToRgb(index)
    num_read = 0
    if index.by_count:
        with open_container(index.path) as container:
            yield from map(to_rgb, _counted_frames(container, index, positions))
        return
    for frame in _seek_frames(index, positions):
        yield to_rgb(frame)
        num_read += 1
    if num_read < len(positions):  # some containers seek too far: from the start, then
        with open_container(index.path) as container:
            for frame in _wanted_frames(container, index, positions[num_read:]):
                yield to_rgb(frame)
                num_read += 1
    if num_read < len(positions):
        raise no_frame_error("pyav", index, positions[num_read])


def refuse_mirrored(name: str, index: VideoIndex) -> None:
    """Refuse a file with a stored orientation that decord and torchcodec get wrong: all but quarter turns.

    Args:
        name: The reader.
        index: The video.

    Raises:
        VideoReadError: If it is stored mirrored.
        VideoRefusedError: If it is turned by something else.
    """
    try:
        with open_container(index.path) as container:
            frame = next(_wanted_frames(container, index, np.zeros(1, dtype=np.int64)), None)
    except Exception:
        return  # the reader will say what is wrong with it
    if frame is not None and _orientation(frame, index.path).mirrored:
        raise VideoReadError(f"{index.path.name}: could not be decoded by {name}: it cannot mirror; use pyav")


def _seek_frames(index: VideoIndex, positions: NDArray[np.int64]) -> Iterator[VideoFrame]:
    """Decode from the last key frame before each position; end early when a frame does not come."""
    import av

    groups = np.searchsorted(index.key_positions, positions, side="right") - 1
    with open_container(index.path) as container:
        for group in np.unique(groups):
            wanted = positions[groups == group]
            if group >= 0:
                key_pts = int(index.pts[index.key_positions[group]])
                try:
                    container.seek(key_pts, stream=container.streams[index.stream_index], backward=True)
                except av.FFmpegError:
                    return
            num_read = 0
            for frame in _wanted_frames(container, index, wanted):
                yield frame
                num_read += 1
            if num_read < len(wanted):
                return


def _wanted_frames(container: InputContainer, index: VideoIndex, positions: NDArray[np.int64]) -> Iterator[VideoFrame]:
    """Decode from where the container is; end early when a frame does not come."""
    stream = container.streams[index.stream_index]
    context = _prepared(stream)
    # In H.264 nothing depends on a non-reference frame: those between need no decoding. (In HEVC nothing of the same
    # temporal layer does.)
    can_skip = context.name == "h264"
    waiting = deque(index.pts[positions].tolist())
    wanted, unsent, ready = frozenset(waiting), set(waiting), {}
    for packet in container.demux(stream):
        if can_skip:
            context.skip_frame = "DEFAULT" if packet.pts in unsent else "NONREF"
        unsent.discard(packet.pts)
        frames = packet.decode()
        if not unsent and packet.size:
            frames = [*frames, *context.decode(None)]  # those it holds back to put them in order
        ready |= {frame.pts: frame for frame in frames if frame.pts in wanted}
        while waiting and waiting[0] in ready:
            yield ready.pop(waiting.popleft())
        if not unsent or len(ready) > _MAX_REORDERED_FRAMES:
            return


def _counted_frames(container: InputContainer, index: VideoIndex, positions: NDArray[np.int64]) -> Iterator[VideoFrame]:
    """Decode from the start and count: for files whose time stamps are not those of the frames (`by_count`)."""
    stream = container.streams[index.stream_index]
    context = _prepared(stream)
    wanted, last = frozenset(positions.tolist()), int(positions[-1])
    num_sent = num_shown = 0
    for packet in container.demux(stream):
        frames = packet.decode()
        num_sent += packet.size > 0 and not packet.is_discard
        at_end = num_shown + len(frames) > last
        if at_end and packet.size:
            frames = [*frames, *context.decode(None)]
        numbered = list(enumerate(frames, num_shown))
        num_shown += len(frames)
        if at_end and num_shown != num_sent:  # one was lost, and those behind it have other positions
            break
        yield from (frame for position, frame in numbered if position in wanted)
        if at_end:
            return
    raise VideoReadError(
        f"{index.path.name}: could not be decoded by pyav: {num_shown} of {num_sent} frames came out of the decoder, "
        "and only their number tells their times; convert the file to mp4 first"
    )


def _prepared(stream: VideoStream) -> VideoCodecContext:
    """Return the decoder of a stream, limited."""
    context = stream.codec_context
    if not context.is_open:
        context.thread_count = 1
        context.options = {"max_pixels": str(MAX_FRAME_PIXELS)}  # pictures may be larger than the header says
    return context


class _ToRgb:
    """Convert PyAV's frames to upright RGB."""

    def __init__(self, index: VideoIndex) -> None:
        self._index = index
        self._graph: Graph | None = None
        self._kind: tuple[Any, ...] = ()
        self._orientation = _Orientation(False, 0)

    def __call__(self, frame: VideoFrame) -> NDArray[np.uint8]:
        """Return the picture, shape (H, W, 3)."""
        kind = (frame.width, frame.height, frame.format.name, frame.rotation)
        if kind != self._kind:
            check_picture_size(self._index.path, frame.height, frame.width)
            self._graph = _rgb_graph(frame, self._index.time_base)
            self._orientation = _orientation(frame, self._index.path)
            self._kind = kind
        self._graph.push(frame)
        picture = self._graph.pull().to_ndarray()
        if self._orientation.mirrored:
            picture = picture[:, ::-1]
        return np.ascontiguousarray(np.rot90(picture, self._orientation.quarter_turns))


def _rgb_graph(frame: VideoFrame, time_base: Fraction) -> Graph:
    """Return the filter graph for frames like this one; decord and torchcodec convert in such a graph too.

    `frame.to_ndarray` places the colour of 10-bit and of odd-sized pictures differently, by up to 150 grey levels at an
    edge (PyAV 18).
    """
    from av.filter import Graph

    graph = Graph()
    graph.threads = 1
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format.name, time_base=time_base)
    convert, sink = graph.add("format", "rgb24"), graph.add("buffersink")
    source.link_to(convert)
    convert.link_to(sink)
    graph.configure()
    return graph


class _Orientation(NamedTuple):
    """Hold how to set a stored picture upright: mirror it left to right first, then turn it counterclockwise."""

    mirrored: bool
    quarter_turns: int


def _orientation(frame: VideoFrame, path: Path) -> _Orientation:
    """Return the orientation that the file or the frame states.

    Once for all frames alike: one whose `side_data` has been asked for is kept until the garbage collector comes along.
    """
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return _Orientation(False, 0)
    # x' = ax + cy and y' = bx + dy for stored (x, y), y downwards: libavutil/display.h
    a, b, _, c, d = islice(np.frombuffer(matrix, dtype="=i4").tolist(), 5)
    if a == b == c == d == 0:
        return _Orientation(False, 0)  # not filled in: players ignore it
    determinant = a * d - b * c
    if determinant < 0:
        a, b = -a, -b
    degrees = math.degrees(math.atan2(b, a))
    quarter_turns = round(degrees / 90)
    if determinant == 0 or abs(degrees - 90 * quarter_turns) > 1:
        raise VideoRefusedError(f"{path.name}: rotated by {degrees:.0f} degrees; only multiples of 90 can be read")
    return _Orientation(determinant < 0, -quarter_turns % 4)
