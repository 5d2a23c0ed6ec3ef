"""The PyAV reader: the fastest of the three, the default, and the only one that knows which pictures are damaged."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hf_frameseg.video.file import (
    VideoReadError,
    check_picture_size,
    decode,
    limited_decoder,
    open_container,
    read_packets,
    shown_name,
)
from hf_frameseg.video.index import VideoIndex, no_frame_error
from hf_frameseg.video.picture_list import SPARSELY_TIMED
from hf_frameseg.video.picture_orientation import UPRIGHT, orientation_of

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from av.filter import Graph
    from av.video.codeccontext import VideoCodecContext

_MAX_REORDERED_FRAMES = 16  # H.264 and HEVC allow no more

_SEEKABLE = {"h264", "hevc", "vp8", "vp9", "av1", "mpeg1video", "mpeg2video", "mpeg4", "ffv1"}
"""Codecs whose key frames need nothing from before, and whose decoders tell which frames they are."""


_START_ANYWHERE = {"mpeg1video", "mpeg2video", "mpeg4", "h263", "flv1", "wmv1", "wmv2"}
_START_ANYWHERE |= {"msmpeg4v1", "msmpeg4v2", "msmpeg4v3"}
"""Codecs whose decoders predict from grey where they have seen no key frame; the others then give nothing."""

_UNFLAGGED = {"hevc", "vp8", "vp9", "av1", "ffv1"}
"""Codecs whose decoders log an error and patch the picture up without a flag. (That of H.264 flags, and logs more.)"""


class DamagedPicture(NamedTuple):
    """Hold a picture that is known to be damaged, or to stand for one that is lost.

    Args:
        picture: RGB, shape (H, W, 3), uint8.
    """

    picture: NDArray[np.uint8]


def decode_with_pyav(index: VideoIndex, positions: NDArray[np.int64]) -> Iterator[NDArray[np.uint8] | DamagedPicture]:
    """Decode the frames at ascending display positions with PyAV.

    A seek is trusted only if a key frame comes out first; else everything is decoded from the start.

    Args:
        index: The video.
        positions: Display positions, distinct, shape (N,).

    Yields:
        RGB pictures (H, W, 3).
    """
    to_rgb = _ToRgb(index)
    num_read = 0
    for shown in () if index.by_count else _seek_frames(index, positions):
        yield to_rgb(shown)
        num_read += 1
    if num_read < len(positions):
        yield from map(to_rgb, _straight_frames(index, positions[num_read:]))


class _Shown(NamedTuple):
    """Hold a decoded frame, and whether it, or something that it was predicted from, is damaged."""

    frame: VideoFrame
    is_damaged: bool


def _seek_frames(index: VideoIndex, positions: NDArray[np.int64]) -> Iterator[_Shown]:
    """Decode from the last key frame before each position; end early at a wrong key frame or a missing frame."""
    import av

    groups = np.searchsorted(index.key_positions, positions, side="right") - 1
    with open_container(index.path) as container:
        stream = container.streams[index.stream_index]
        if index.container in SPARSELY_TIMED or not _can_seek(limited_decoder(stream)):
            return
        for group in np.unique(groups):
            wanted = index.pts[positions[groups == group]].tolist()
            if group >= 0:
                try:
                    container.seek(int(index.pts[index.key_positions[group]]), stream=stream, backward=True)
                except av.FFmpegError:
                    return
            num_read = 0
            keys = index.pts[index.key_positions].tolist() if group >= 0 else ()
            for shown in _Decoding(container, index, wanted).wanted_frames(first_keys=frozenset(keys)):
                yield shown
                num_read += 1
            if num_read < len(wanted):
                return


def _can_seek(context: VideoCodecContext) -> bool:
    """Tell whether a wrong frame after a seek can be noticed: a palette may be in the first packet only."""
    codec = context.codec
    return context.pix_fmt != "pal8" and (codec.intra_only or codec.canonical_name in _SEEKABLE)


def _straight_frames(index: VideoIndex, positions: NDArray[np.int64]) -> Iterator[_Shown]:
    """Decode from the start; where a frame is lost in a damaged file, the one before stays on display."""
    num_read = 0
    with open_container(index.path) as container:
        if index.by_count:
            _refuse_headless(index)
            frames = _at_positions(_Decoding(container, index).frames(), positions)
        else:
            wanted = index.pts[positions].tolist()
            frames = _Decoding(container, index, wanted).wanted_frames(fill_lost=True)
        for shown in frames:
            yield shown
            num_read += 1
    if num_read < len(positions):
        raise no_frame_error("pyav", index, int(positions[num_read]))


def _refuse_headless(index: VideoIndex) -> None:
    """Refuse a file that begins without a key frame: the frames lost there would shift the count of all others."""
    if not index.starts_with_key:
        raise VideoReadError(
            f"{shown_name(index.path)}: could not be decoded by pyav: the file starts in the middle, and only their "
            "number tells their times; convert the file to mp4 first"
        )


def _at_positions(frames: Iterable[_Shown], positions: NDArray[np.int64]) -> Iterator[_Shown]:
    """Return the frames at ascending positions, by counting those that come out."""
    wanted, last = frozenset(positions.tolist()), int(positions[-1])
    numbered = zip(range(last + 1), frames, strict=False)
    return (shown for position, shown in numbered if position in wanted)


class _Decoding:
    """Decode from where a container is, and find out which frames are damaged.

    FFmpeg flags a picture that it had to patch up, or refuses its packet. It does not flag the pictures predicted from
    it. So all pictures that are decoded after damage, up to the next sound key frame, count as damaged.

    Args:
        container: The open file.
        index: The same.
        wanted: Time stamps of the frames that are asked for; an empty list asks for all.
    """

    def __init__(self, container: InputContainer, index: VideoIndex, wanted: Iterable[int] = ()) -> None:
        self._container = container
        self._stream = container.streams[index.stream_index]
        self._context = limited_decoder(self._stream)
        # At the start a packet says whether it is a key frame: an edit list may hide the frame. After a seek, where
        # packets can be wrong, the frame says it.
        self._needs_key = self._context.codec.canonical_name in _START_ANYWHERE
        self._wanted = frozenset(wanted)
        self._is_flagged = self._context.codec.canonical_name not in _UNFLAGGED
        self._num_sent = 0
        self._sent: dict[int | None, int] = {}  # time stamp -> number of its packet in the order of decoding
        self._damage: list[int] = []  # numbers of damaged packets
        self._keys: list[tuple[int, int | None]] = []  # number and time stamp of sound key frames

    def wanted_frames(self, first_keys: frozenset[int] = frozenset(), fill_lost: bool = False) -> Iterator[_Shown]:
        """Decode the wanted frames in ascending order.

        Args:
            first_keys: Time stamps of the key frames that may come out first; an empty set allows any frame.
            fill_lost: Whether the frame before a lost one stands in for it; if not, the iteration ends there.

        Yields:
            The frames; ends early when one does not come, or when the first to come out is no key frame.
        """
        waiting, ready = deque(sorted(self._wanted)), {}
        before, num_later = None, 0
        for number, shown in enumerate(self.frames()):
            pts = shown.frame.pts
            if number == 0 and first_keys and not (shown.frame.key_frame and pts in first_keys):
                return  # the seek ended elsewhere, or FFmpeg guesses other times from there on
            if pts in self._wanted:
                ready[pts] = shown
            before = shown if before is None or (pts is not None and pts < waiting[0]) else before
            num_later += pts is not None and pts > waiting[0]
            while waiting and (waiting[0] in ready or (fill_lost and self._has_passed(num_later))):
                before = ready.pop(waiting.popleft(), _Shown(before.frame, True))
                num_later = 0
                yield before
            if not waiting or num_later > _MAX_REORDERED_FRAMES:
                return
        if before is not None and fill_lost and self._damage:
            yield from (ready.get(pts, _Shown(before.frame, True)) for pts in waiting)

    def _has_passed(self, num_later: int) -> bool:
        """Tell whether so many later frames have come out that a missing one is lost to damage."""
        return bool(self._damage) and num_later > _MAX_REORDERED_FRAMES

    def frames(self) -> Iterator[_Shown]:
        """Decode all frames that come out, in the order of display."""
        held: deque[VideoFrame] = deque()
        for frame in self._decode():
            held.append(frame)
            number = self._sent.get(frame.pts, self._num_sent)
            if frame.is_corrupt:
                self._damage.append(number)
            elif frame.key_frame:
                self._keys.append((number, frame.pts))
            # A frame can be shown before the one it is predicted from: wait until that one has come out.
            while len(held) > (_MAX_REORDERED_FRAMES if self._context.has_b_frames else 0):
                yield self._judged(held.popleft())
        while held:
            yield self._judged(held.popleft())

    def _decode(self) -> Iterator[VideoFrame]:
        """Decode packet after packet, until all that is wanted has come out."""
        unsent = set(self._wanted)
        # In H.264 no frame depends on a non-reference frame, so those that nobody wants are not decoded. (In HEVC
        # only frames of the same temporal layer do not depend on it.)
        can_skip = unsent and self._context.name == "h264"
        length_bytes = _length_bytes(self._context) if can_skip else 0
        num_errors = _num_errors()
        for packet in read_packets(self._container, self._stream):
            if packet is not None:
                self._needs_key &= self._num_sent > 0 or not packet.is_keyframe
                if can_skip:
                    is_needless = packet.pts not in unsent and _is_disposable(bytes(packet), length_bytes)
                    self._context.skip_frame = "NONREF" if is_needless else "DEFAULT"
                unsent.discard(packet.pts)
                self._sent[packet.pts] = self._num_sent = self._num_sent + 1
            frames, is_refused = decode(self._context, packet)
            num_errors, num_errors_before = _num_errors(), num_errors
            if is_refused or (num_errors > num_errors_before and not self._is_flagged):
                self._damage.append(self._num_sent)
            yield from frames
            if packet is not None and self._wanted and not unsent:
                yield from decode(self._context, None)[0]  # the frames that the decoder holds back to reorder them
                return

    def _judged(self, frame: VideoFrame) -> _Shown:
        """Return a frame and whether it is damaged."""
        if not self._damage and (self._keys or not self._needs_key):
            return _Shown(frame, False)
        number = self._sent.get(frame.pts, self._num_sent + 1)
        # A frame that is decoded after a key frame but shown before it may be predicted from frames before both.
        keys = [key for key, pts in self._keys if key <= number and (None in (pts, frame.pts) or pts <= frame.pts)]
        is_damaged = any(max(keys, default=0) < damage < number for damage in self._damage)
        return _Shown(frame, frame.is_corrupt or is_damaged or (self._needs_key and not keys))


def _length_bytes(context: VideoCodecContext) -> int:
    """Return how many bytes give the length of a unit of an H.264 packet (ISO 14496-15); 0: start codes divide them."""
    head = context.extradata or b""
    return (head[4] & 3) + 1 if len(head) > 4 and head[0] == 1 else 0


def _is_disposable(data: bytes, length_bytes: int) -> bool:
    """Tell whether an H.264 packet is whole and nothing refers to it.

    Told to skip what nothing refers to, FFmpeg (8.1) also skips a broken packet, and says nothing.
    """
    headers, at = [], 0
    if not length_bytes:
        headers = [unit[0] for unit in data.split(b"\0\0\1")[1:] if unit]
    while length_bytes and at < len(data):
        start = at + length_bytes
        at = start + int.from_bytes(data[at:start], "big")
        if not start < at <= len(data):
            return False
        headers.append(data[start])
    slices = [header for header in headers if 1 <= header & 31 <= 5]
    return bool(slices) and not any(header & 0xE0 for header in slices)  # a forbidden bit, and the priority


def _num_errors() -> int:
    """Count the errors that FFmpeg has logged in this process."""
    import av.logging

    if av.logging.get_level() is None:
        av.logging.set_level(av.logging.PANIC)  # PyAV (18) counts errors at any level but none, and shows none at this
    return av.logging.get_last_error()[0]


class _ToRgb:
    """Convert PyAV's frames to upright RGB."""

    def __init__(self, index: VideoIndex) -> None:
        self._index = index
        self._graph: Graph | None = None
        self._kind: tuple[Any, ...] = ()
        self._orientation = UPRIGHT

    def __call__(self, shown: _Shown) -> NDArray[np.uint8] | DamagedPicture:
        """Return the picture, shape (H, W, 3)."""
        frame = shown.frame
        kind = (frame.width, frame.height, frame.format.name, frame.rotation)
        if kind != self._kind:
            check_picture_size(self._index.path, frame.height, frame.width)
            self._graph = _rgb_graph(frame, self._index.time_base)
            self._orientation = orientation_of(frame, self._index.path)
            self._kind = kind
        self._graph.push(frame)
        picture = self._orientation.upright(self._graph.pull().to_ndarray())
        return DamagedPicture(picture) if shown.is_damaged else picture


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
