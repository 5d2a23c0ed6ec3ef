"""Which pictures a video stream shows, and when: from its packets where they can tell, else by decoding it.

A packet need not be a picture. VP8 and VP9 store references that are never shown, MPEG-4 stores "nothing changed", a
packed AVI stores two pictures in one packet, and where a container has no presentation times FFmpeg guesses them. Only
what is known to be one picture a packet, with a time of its own, is listed without decoding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hf_frameseg.data.video_file import (
    MAX_SOURCE_FRAMES,
    VideoReadError,
    decode,
    limited_decoder,
    open_container,
    over_limit,
    read_packets,
    shown_name,
)

if TYPE_CHECKING:
    from av import Packet
    from av.container import InputContainer
    from av.video.stream import VideoStream

_TIMED_CONTAINERS = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "mpegts", "flv", "ivf", "nut"}
"""Formats that store when each picture is shown. Others store the order of decoding, or a time here and there."""


class Picture(NamedTuple):
    """Hold what is known of one picture, times in units of the stream's time base."""

    pts: int
    length: int
    key: bool


@dataclass(frozen=True)
class PictureList:
    """Hold the pictures of a stream.

    Args:
        pictures: In the order in which they are shown, with ascending times.
        num_hidden: Packets that an edit list hides.
        by_count: The decoder gives the pictures other time stamps than these: the picture at position i is the i-th
            that comes out.
        starts_with_key: The first packet is a key frame, and nothing is shown before it.
        first_pts: Time of the first packet, None if it has none.
    """

    pictures: list[Picture]
    num_hidden: int
    by_count: bool
    starts_with_key: bool
    first_pts: int | None


def list_pictures(path: Path, container: InputContainer, stream: VideoStream) -> PictureList:
    """List the pictures of a stream.

    Args:
        path: The file.
        container: The same, just opened.
        stream: Its video stream.

    Returns:
        The pictures, which may be none.

    Raises:
        VideoReadError: If there are too many, or they have no times.
    """
    packets = _Packets(container, stream, path)
    pictures = packets.pictures()
    by_count = False
    if pictures is None:
        pictures, by_count = _decoded_pictures(path, stream.index)
    return PictureList(pictures, packets.num_hidden, by_count, packets.starts_with_key(), packets.first_pts)


class _Packets:
    """Read all packets of a stream, in decoding order.

    Args:
        container: The file, just opened.
        stream: Its video stream.
        path: Its path, for messages.
    """

    def __init__(self, container: InputContainer, stream: VideoStream, path: Path) -> None:
        context = stream.codec_context
        self._codec = context.codec.canonical_name
        self._shows = _SHOWS.get(self._codec, _shows_unknown)
        if context.codec.intra_only:
            self._shows = _shows_one
        self._is_timed = container.format.name in _TIMED_CONTAINERS
        self.num_hidden = 0
        self._shown: list[Picture] = []
        self._all: list[tuple[int | None, bool]] = []
        self._certain = True
        for packet in read_packets(container, stream):
            if packet is None:
                break
            self._add(packet)
            if len(self._all) > MAX_SOURCE_FRAMES:
                raise VideoReadError(over_limit(path, "more frames", f"up to {MAX_SOURCE_FRAMES} frames"))
        self._reorders = bool(context.has_b_frames)

    def _add(self, packet: Packet) -> None:
        """Note one packet."""
        self._all.append((packet.pts, packet.is_keyframe))
        self.num_hidden += packet.is_discard
        if not self._certain or packet.is_discard:
            return
        shows = self._shows(packet)
        if shows is None or packet.pts is None:
            self._certain = False
        elif shows:
            self._shown.append(Picture(packet.pts, packet.duration or 0, packet.is_keyframe))

    @property
    def first_pts(self) -> int | None:
        """Return the time of the first packet."""
        return self._all[0][0] if self._all else None

    def pictures(self) -> list[Picture] | None:
        """Return the pictures as they are shown, None if only a decoder can tell."""
        shown = sorted(self._shown)
        if not self._certain or (self._reorders and not self._is_timed):
            return None
        if len({picture.pts for picture in shown}) < len(shown):
            return None
        # Times that rise in the order of decoding, though the codec may reorder: they may be the times of decoding.
        if self._reorders and len(shown) > 1 and shown == self._shown:
            return None
        return shown

    def starts_with_key(self) -> bool:
        """Tell whether the first packet is a key frame that nothing is shown before."""
        if not self._all:
            return False
        first, key = self._all[0]
        return key and (first is None or first == min(pts for pts, _ in self._all if pts is not None))


def _shows_one(packet: Packet) -> bool | None:
    """One packet, one picture."""
    return True


def _shows_unknown(packet: Packet) -> bool | None:
    """Only a decoder can tell."""
    return None


def _shows_vp8(packet: Packet) -> bool | None:
    """Read the bit "show_frame" (RFC 6386, section 9.1)."""
    return bool(memoryview(packet)[0] >> 4 & 1)


def _shows_vp9(packet: Packet) -> bool | None:
    """Read the start of the uncompressed header of each frame (VP9 bitstream specification, section 6.2)."""
    data = memoryview(packet)
    num_shown = sum(_vp9_frame_is_shown(data[at]) for at in _vp9_frame_starts(data))
    return bool(num_shown) if num_shown <= 1 else None


def _vp9_frame_starts(data: memoryview) -> list[int]:
    """Return where the frames of a packet start: a superframe ends with a table of their sizes (annex B)."""
    starts, marker = [0], data[-1]
    num_frames, size_bytes = (marker & 7) + 1, (marker >> 3 & 3) + 1
    table = len(data) - 2 - num_frames * size_bytes
    if marker & 0xE0 == 0xC0 and table > 0 and data[table] == marker:
        for first in range(table + 1, len(data) - 1 - size_bytes, size_bytes):
            starts.append(starts[-1] + int.from_bytes(data[first : first + size_bytes], "little"))
    return [start for start in starts if start < len(data)]


def _vp9_frame_is_shown(first_byte: int) -> bool:
    """Tell whether a frame, or the one that it repeats, is shown: marker (2 bits), profile (2), then the flags."""
    profile = (first_byte >> 5 & 1) | (first_byte >> 4 & 1) << 1
    flags = first_byte << 1 if profile == 3 else first_byte  # profile 3 has a reserved bit more
    return bool(flags & 0b1000 or flags & 0b0010)


def _shows_mpeg4(packet: Packet) -> bool | None:
    """Look for one picture with content: "nothing changed" takes up to 20 bytes, and DivX packs two into one packet."""
    data = bytes(packet)
    return True if len(data) > 20 and data.count(b"\0\0\1\xb6") == 1 else None


_SHOWS: dict[str, Callable[[Packet], bool | None]] = {
    "h264": _shows_one,
    "hevc": _shows_one,
    "av1": _shows_one,
    "mpeg1video": _shows_one,
    "mpeg2video": _shows_one,
    "vp8": _shows_vp8,
    "vp9": _shows_vp9,
    "mpeg4": _shows_mpeg4,
}
"""Codec -> whether a packet shows a picture, None if only a decoder can tell; codecs that are not here need one."""


def _decoded_pictures(path: Path, stream_index: int) -> tuple[list[Picture], bool]:
    """Decode a stream and return its pictures, and whether they have to be counted."""
    pictures: list[Picture] = []
    stamps: list[tuple[int | None, int | None]] = []
    with open_container(path) as container:
        stream = container.streams[stream_index]
        context = limited_decoder(stream)
        for packet in read_packets(container, stream):
            for frame in decode(context, packet)[0]:
                stamps.append((frame.pts, frame.dts))
                pictures.append(Picture(0, frame.duration or 0, frame.key_frame))
    times = _times(path, stamps)
    by_count = [pts for pts, _ in stamps] != times
    return [picture._replace(pts=pts) for picture, pts in zip(pictures, times, strict=True)], by_count


def _times(path: Path, stamps: list[tuple[int | None, int | None]]) -> list[int]:
    """Return ascending times of decoded pictures from their time stamps (presentation, decoding)."""
    times = [pts if pts is not None else dts for pts, dts in stamps]
    if any(time is None for time in times):
        raise VideoReadError(f"{shown_name(path)}: a frame has no presentation time; convert the file to mp4 first")
    # Guessed stamps are often swapped between neighbours, but what comes out of a decoder is in order.
    ordered = sorted(times)
    if len(set(ordered)) == len(ordered):
        return ordered
    by_decoding = [dts for _, dts in stamps]
    known = np.array([dts for dts in by_decoding if dts is not None], dtype=np.int64)
    if len(known) > 1 and (np.diff(known) > 0).all() and None not in by_decoding[: len(known)]:
        return known.tolist() + _continued(known, len(stamps) - len(known))
    raise VideoReadError(
        f"{shown_name(path)}: two frames have the same presentation time; convert the file to mp4 first"
    )


def _continued(times: NDArray[np.int64], num_more: int) -> list[int]:
    """Return further times in the usual distance."""
    step = int(np.median(np.diff(times)))
    return [int(times[-1]) + step * (i + 1) for i in range(num_more)]
