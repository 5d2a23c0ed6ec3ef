"""Which pictures a video stream shows, and when: from its packets where they can tell, else by decoding it.

A packet need not be a picture. VP8 and VP9 store references that are never shown, MPEG-4 stores "nothing changed", a
packed AVI stores two pictures in one packet, and where a container has no presentation times FFmpeg guesses them. Only
what is known to be one picture a packet, with a time of its own, is listed without decoding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from hf_frameseg.video.file import (
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

SPARSELY_TIMED = {"mpeg", "mpegvideo", "m4v", "h264", "hevc"}
"""Formats that give only some frames a time, or none; FFmpeg's guesses are a few frames off, after a seek others."""

_GUESSED_FRAMES = 4

_COUNTED = {"avi"}
"""Formats whose packets are numbered, the i-th for the i-th picture shown; FFmpeg adds the decoder's delay to that."""


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
    """

    pictures: list[Picture]
    num_hidden: int
    by_count: bool
    starts_with_key: bool


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
    return PictureList(pictures, packets.num_hidden, by_count, packets.starts_with_key())


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
        self._is_counted = container.format.name in _COUNTED
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
        if shows is None or packet.pts is None or (self._is_counted and packet.pts != packet.dts):
            self._certain = False
        elif shows:
            self._shown.append(Picture(packet.pts, packet.duration or 0, packet.is_keyframe))

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
    stamps: list[_Stamp] = []
    packets: list[tuple[int | None, int | None]] = []
    with open_container(path) as container:
        stream = container.streams[stream_index]
        context = limited_decoder(stream)
        for packet in read_packets(container, stream):
            if packet is not None:
                packets.append((packet.pts, packet.dts))
            frames, _ = decode(context, packet)
            stamps += [_Stamp(frame.pts, frame.dts, frame.duration or 0, frame.key_frame) for frame in frames]
        times = _times(path, stamps, packets, container.format.name)
    by_count = [stamp.pts for stamp in stamps] != times
    return [Picture(time, stamp.length, stamp.key) for time, stamp in zip(times, stamps, strict=True)], by_count


class _Stamp(NamedTuple):
    """Hold what a decoder says about a frame."""

    pts: int | None
    dts: int | None
    length: int
    key: bool


def _times(path: Path, stamps: list[_Stamp], packets: list[tuple[int | None, int | None]], container: str) -> list[int]:
    """Return ascending times of decoded pictures."""
    found = [stamp.pts if stamp.pts is not None else stamp.dts for stamp in stamps]
    if container in SPARSELY_TIMED and (times := _regular_times(found, [stamp.length for stamp in stamps])):
        return times
    delay = 0
    if container in _COUNTED and packets and None not in packets[0]:
        delay = packets[0][0] - packets[0][1]
        in_order = [dts for _, dts in packets]
        if len(in_order) == len(stamps) and None not in in_order:
            found, delay = in_order, 0
    if None in found:
        raise VideoReadError(f"{shown_name(path)}: a frame has no presentation time; convert the file to mp4 first")
    # Guessed stamps are often swapped between neighbours, but what comes out of a decoder is in order.
    ordered = sorted(time - delay for time in found)
    if len(set(ordered)) < len(ordered):
        raise VideoReadError(
            f"{shown_name(path)}: two frames have the same presentation time; convert the file to mp4 first"
        )
    return ordered


def _regular_times(found: list[int | None], lengths: list[int]) -> list[int] | None:
    """Return times at which frames follow each other without a gap, None if those that were found do not fit."""
    if len(found) < 2 or min(lengths[:-1]) <= 0:  # the last may have none
        return None
    first = found[0] or 0
    times = [first + length for length in accumulate(lengths[:-1], initial=0)]
    slack = _GUESSED_FRAMES * max(lengths)
    fits = all(time is None or abs(time - regular) <= slack for time, regular in zip(found, times, strict=True))
    return times if fits else None
