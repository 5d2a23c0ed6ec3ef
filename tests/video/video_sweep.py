"""Videos of every kind whose pictures state their own number, and what must come of reading them.

    python tests/video/video_sweep.py                  # all cases, compared with the ffmpeg command too: 20 minutes
    python tests/video/video_sweep.py --match damage   # some of them

PyAV writes the files; what it cannot write is changed by hand afterwards. `tests/video/test_sweep.py` reads a part
of them in `make test`, without the command. A file must be read rightly or refused in one line: never another picture
than the one on display, never another number of pictures, and no time that is not one of the file's.
"""

from __future__ import annotations

import argparse
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from hf_frameseg.video.file import VideoReadError, decode, limited_decoder, open_container, read_packets
from hf_frameseg.video.index import index_video
from hf_frameseg.video.read import VideoFrames, read_variants, resize_frame

RATE = 25
HEIGHT, WIDTH = 64, 80  # decord (3.4) gives pictures 96 wide a fourth channel
LIMIT = 2.0  # grey levels, mean over a picture
Mutation = Callable[[bytes, np.random.Generator], bytes]


@dataclass(frozen=True)
class Codec:
    """Hold how to encode."""

    name: str
    options: dict[str, str] = field(default_factory=dict)
    pixel_format: str = "yuv420p"
    size: tuple[int, int] = (HEIGHT, WIDTH)


_X264 = {"threads": "1", "preset": "veryfast"}
_X265 = "log-level=error:pools=1:keyint=20:min-keyint=20:scenecut=0"
CODECS = {
    "h264": Codec("libx264", {**_X264, "g": "20", "bf": "0"}),
    "h264_b": Codec("libx264", {**_X264, "g": "20", "bf": "3", "b_strategy": "0"}),
    "h264_open": Codec("libx264", {**_X264, "x264-params": "open-gop=1:keyint=20:min-keyint=20:bframes=4"}),
    "h264_refresh": Codec("libx264", {**_X264, "x264-params": "intra-refresh=1:keyint=20"}),
    "h264_intra": Codec("libx264", {**_X264, "g": "1"}),
    "h264_pyramid": Codec("libx264", {**_X264, "x264-params": "bframes=7:b-pyramid=normal:b-adapt=0:keyint=40:ref=4"}),
    "h264_interlaced": Codec("libx264", {**_X264, "x264-params": "interlaced=1:keyint=20"}),
    "hevc_open": Codec("libx265", {"preset": "ultrafast", "x265-params": f"{_X265}:open-gop=1:bframes=3"}),
    "hevc_closed": Codec("libx265", {"preset": "ultrafast", "x265-params": f"{_X265}:open-gop=0"}),
    "av1": Codec("libsvtav1", {"preset": "8", "g": "20", "crf": "5", "svtav1-params": "lp=1"}),
    "vp8": Codec("libvpx", {"deadline": "good", "cpu-used": "5", "g": "20"}),
    "vp9": Codec("libvpx-vp9", {"deadline": "good", "cpu-used": "5", "g": "20"}),
    "vp9_hidden": Codec(
        "libvpx-vp9",
        {"deadline": "good", "cpu-used": "5", "auto-alt-ref": "1", "lag-in-frames": "12", "g": "30"},
    ),
    "mpeg4": Codec("mpeg4", {"g": "12", "q:v": "3"}),
    "mpeg4_b": Codec("mpeg4", {"g": "12", "bf": "2", "q:v": "3"}),
    "mpeg2": Codec("mpeg2video", {"g": "12", "b": "4M"}),
    "mpeg2_b": Codec("mpeg2video", {"g": "12", "bf": "2", "b": "4M"}),
    "mpeg1_b": Codec("mpeg1video", {"g": "12", "bf": "2", "b": "4M"}),
    "msmpeg4v3": Codec("msmpeg4", {"g": "12", "b": "2M"}),
    "msmpeg4v2": Codec("msmpeg4v2", {"g": "12", "b": "2M"}),
    "wmv1": Codec("wmv1", {"g": "12", "b": "2M"}),
    "wmv2": Codec("wmv2", {"g": "12", "b": "2M"}),
    "flv1": Codec("flv", {"g": "12", "b": "2M"}),
    "h263": Codec("h263", {"g": "12", "b": "2M"}, size=(144, 176)),
    "mjpeg": Codec("mjpeg", {"b": "4M"}, "yuvj420p"),
    "ffv1": Codec("ffv1", {"g": "10"}),
    "ffv1_old": Codec("ffv1", {"level": "1", "g": "10", "context": "1"}),
    "prores": Codec("prores_ks", {}, "yuv422p10le"),
    "huffyuv": Codec("huffyuv", {}, "yuv422p"),
    "gif": Codec("gif", {}, "rgb8"),
    "png": Codec("png", {}, "rgb24"),
    "qtrle": Codec("qtrle", {"g": "10"}, "rgb24"),
    "zmbv": Codec("zmbv", {"g": "10"}, "bgr0"),
    "svq1": Codec("svq1", {"g": "10"}, "yuv410p"),
    "msvideo1": Codec("msvideo1", {"g": "10"}, "rgb555le"),
    "cinepak": Codec("cinepak", {"g": "10"}, "rgb24"),
    "flashsv": Codec("flashsv", {"g": "10"}, "bgr24"),
    "raw": Codec("rawvideo", {}, "yuv420p"),
}
CONTAINERS = {
    "h264": "mp4 mov mkv ts flv avi",
    "h264_b": "mp4 mov mkv ts m2ts flv avi h264",
    "h264_open": "mp4 mkv ts flv",
    "h264_refresh": "mp4 mkv ts",
    "h264_intra": "mp4 avi",
    "h264_pyramid": "mp4 mkv ts avi",
    "h264_interlaced": "mp4 mkv ts",
    "hevc_open": "mp4 mkv ts mov",
    "hevc_closed": "mp4 mkv hevc",
    "av1": "mp4 mkv webm ivf",
    "vp8": "webm mkv ivf avi",
    "vp9": "webm mkv mp4 ivf",
    "vp9_hidden": "webm mkv mp4",
    "mpeg4": "mp4 mov avi mkv 3gp ts m4v asf",
    "mpeg4_b": "mp4 mov avi mkv ts m4v",
    "mpeg2": "mpg vob ts mkv mp4 avi m2v",
    "mpeg2_b": "mpg vob ts mkv mp4 avi m2v mov",
    "mpeg1_b": "mpg avi mkv m1v",
    "msmpeg4v3": "avi mkv asf",
    "msmpeg4v2": "avi mkv asf",
    "wmv1": "wmv avi mkv",
    "wmv2": "wmv avi mkv",
    "flv1": "flv avi mkv",
    "h263": "3gp avi mov",
    "mjpeg": "avi mov mkv mp4",
    "ffv1": "mkv avi",
    "ffv1_old": "mkv avi",
    "prores": "mov mkv",
    "huffyuv": "avi mkv",
    "gif": "gif",
    "png": "mov mkv avi",
    "qtrle": "mov",
    "zmbv": "avi mkv",
    "svq1": "mov",
    "msvideo1": "avi",
    "cinepak": "avi mov",
    "flashsv": "flv",
    "raw": "avi mkv nut",
}
GUESSED = {"avi", "mpg", "vob", "m2v", "m1v", "m4v", "h264", "hevc", "asf", "wmv"}
"""Containers that hold no presentation times, or not all: one frame's difference is a guess, not an error."""


@dataclass(frozen=True)
class Case:
    """Hold one file.

    Args:
        kind: What it is an example of.
        codec: Key of `CODECS`.
        suffix: The container.
        seed: Of whatever is random.
        times: Frame i is shown at `times[i]` ticks of 1/25 s.
        sound_start: When sound starts, in ticks; None has none.
        hidden: Every how many packets one is made not to be shown, 0 for none.
        container_options: For the muxer.
        aspect: Width of a pixel in heights.
        rotation: Degrees counterclockwise, mirrored.
        mutation: Change of the bytes afterwards.
        is_damaged: The mutation hurts pictures: what is right is what a decode from the start gives.
        is_known: What each picture shows is known; else what a decode from the start gives is right.
    """

    kind: str
    codec: str
    suffix: str
    seed: int = 0
    times: tuple[int, ...] = tuple(range(80))
    sound_start: int | None = None
    hidden: int = 0
    container_options: dict[str, str] = field(default_factory=dict)
    aspect: Fraction | None = None
    rotation: tuple[int, bool] | None = None
    mutation: Mutation | None = None
    is_damaged: bool = False
    is_known: bool = True

    @property
    def name(self) -> str:
        """Return a name for the file."""
        changed = "" if self.mutation is None else f"-{self.mutation.__name__}"
        return f"{self.kind.replace(' ', '_')}-{self.codec}{changed}-{self.seed}.{self.suffix}"


def draw(number: int, height: int, width: int) -> np.ndarray:
    """Draw a number below 65536 as 4 x 4 black or white blocks."""
    bits = np.array([number >> bit & 1 for bit in range(16)], dtype=np.uint8).reshape(4, 4)
    rows, columns = np.arange(height) * 4 // height, np.arange(width) * 4 // width
    return np.repeat(bits[rows][:, columns, None] * 255, 3, axis=2).astype(np.uint8)


def read_number(picture: np.ndarray) -> int:
    """Read a drawn number after any amount of compression."""
    blocks = [block for row in np.array_split(picture, 4) for block in np.array_split(row, 4, axis=1)]
    return sum(1 << bit for bit, block in enumerate(blocks) if block.mean() > 127)


def number_of(position: int) -> int:
    """Return the number that frame `position` shows: neighbours differ in many blocks."""
    return (position * 40503 + 1) & 0xFFFF


# ---------------------------------------------------------------------------------------------------------------------
# Writing


def write(case: Case, folder: Path) -> Path:
    """Write the file of a case."""
    path = folder / case.name
    codec = CODECS[case.codec]
    with av.open(str(path), "w", options=case.container_options) as container:
        stream = container.add_stream(codec.name, rate=RATE, options=codec.options)
        stream.height, stream.width = codec.size
        stream.pix_fmt = codec.pixel_format
        stream.codec_context.time_base = Fraction(1, RATE)
        if case.aspect is not None:
            stream.codec_context.sample_aspect_ratio = case.aspect
        if case.rotation is not None:
            stream.set_display_rotation(case.rotation[0], hflip=case.rotation[1])
        packets = list(_encode(stream, case, codec))
        if case.sound_start is not None:
            packets += _sound(container, case)
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            container.mux(packet)
    if case.mutation is not None:
        path.write_bytes(
            case.mutation(path.read_bytes(), np.random.default_rng([case.seed, zlib.crc32(case.name.encode())]))
        )
    return path


def _encode(stream: Any, case: Case, codec: Codec) -> Iterator[Any]:
    """Encode the pictures; change packets where the case wants some not to be shown."""
    num_packets = 0
    for position in range(len(case.times) + 1):
        frame = None
        if position < len(case.times):
            frame = av.VideoFrame.from_ndarray(draw(number_of(position), *codec.size), format="rgb24")
            frame.pts, frame.time_base = case.times[position], Fraction(1, RATE)
        for packet in stream.encode(frame):
            num_packets += 1
            if case.hidden and num_packets % case.hidden == 0 and not packet.is_keyframe:
                packet = _hide(packet, codec.name)
            yield packet


def _hide(packet: Any, codec: str) -> Any:
    """Return the packet with "show" taken away (VP8), or one that says "nothing changed" (MPEG-4)."""
    data = bytearray(bytes(packet))
    if codec == "mpeg4":
        # 0, 0, 1, 0xb6; P (01), no second passed (0), marker, 5 bits of time, marker, not coded (0), filled up.
        data = bytearray(b"\0\0\1\xb6" + bytes([0b01010000, 0b01011111]))
    else:
        data[0] &= ~(1 << 4)
    changed = av.Packet(bytes(data))
    changed.pts, changed.dts, changed.time_base = packet.pts, packet.dts, packet.time_base
    changed.stream, changed.duration = packet.stream, packet.duration
    return changed


def _sound(container: Any, case: Case) -> list[Any]:
    """Encode silence that lasts to the end of the pictures."""
    codec, rate = ("libopus", 48000) if case.suffix == "webm" else ("mp2", 44100)
    codec, rate = ("aac", 44100) if case.suffix in {"mp4", "mov", "flv", "mkv"} else (codec, rate)
    stream = container.add_stream(codec, rate=rate, layout="mono")
    size = stream.codec_context.frame_size or (960 if codec == "libopus" else 1152)
    packets, at = [], case.sound_start * rate // RATE
    planar = "fltp" if codec == "aac" else "s16"
    kind = np.float32 if planar == "fltp" else np.int16
    while at < case.times[-1] * rate // RATE:
        frame = av.AudioFrame.from_ndarray(np.zeros((1, size), kind), format=planar, layout="mono")
        frame.rate, frame.pts, frame.time_base = rate, at, Fraction(1, rate)
        packets += stream.encode(frame)
        at += size
    return packets + stream.encode(None)


def no_key_table(content: bytes, rng: np.random.Generator) -> bytes:
    """Take MP4's table of key frames away: every packet then claims to be one."""
    return content.replace(b"stss", b"free")


def no_order_table(content: bytes, rng: np.random.Generator) -> bytes:
    """Take MP4's table of presentation times away: only those of decoding are left."""
    return content.replace(b"ctts", b"free").replace(b"elst", b"free")


def all_keys(content: bytes, rng: np.random.Generator) -> bytes:
    """Let AVI's index claim that every packet is a key frame."""
    changed, at = bytearray(content), content.rindex(b"idx1")
    (size,) = struct.unpack_from("<I", content, at + 4)
    for entry in range(at + 8, at + 8 + size, 16):
        changed[entry + 4] |= 0x10
    return bytes(changed)


def no_index(content: bytes, rng: np.random.Generator) -> bytes:
    """Take AVI's or Matroska's index away."""
    return content.replace(b"idx1", b"JUNK").replace(b"\x1c\x53\xbb\x6b", b"\xec\x53\xbb\x6b")


def exif(content: bytes, rng: np.random.Generator) -> bytes:
    """Put an orientation of 6 into the EXIF part of every picture of a Motion-JPEG AVI, as cameras do."""
    tiff = b"II*\0" + struct.pack("<IH", 8, 1) + struct.pack("<HHIHH", 0x112, 3, 1, 6, 0) + struct.pack("<I", 0)
    part = b"Exif\0\0" + tiff
    part = b"\xff\xe1" + struct.pack(">H", len(part) + 2) + part
    out, at = bytearray(), content.index(b"movi") + 4
    out += content[:at]
    while content[at : at + 4] == b"00dc":
        (size,) = struct.unpack_from("<I", content, at + 4)
        picture = content[at + 8 : at + 8 + size]
        picture = picture[:2] + part + picture[2:]
        out += b"00dc" + struct.pack("<I", len(picture)) + picture + b"\0" * (len(picture) % 2)
        at += 8 + size + size % 2
    return bytes(out)  # FFmpeg makes an index where there is none


def damage(content: bytes, rng: np.random.Generator) -> bytes:
    """Change 1 to 50 bytes of the pictures."""
    changed = np.frombuffer(content, np.uint8).copy()
    at = rng.integers(*_pictures(content), size=rng.integers(1, 51))
    changed[at] = rng.integers(256, size=at.shape)
    return changed.tobytes()


def damage_few(content: bytes, rng: np.random.Generator) -> bytes:
    """Change 1 to 3 bytes in one place of the pictures."""
    changed = bytearray(content)
    at, size = int(rng.integers(*_pictures(content))), int(rng.integers(1, 4))
    changed[at : at + size] = rng.bytes(size)
    return bytes(changed)


def _pictures(content: bytes) -> tuple[int, int]:
    """Return where the pictures are in a file: all but the head, in MP4 what is not described elsewhere."""
    if b"mdat" not in content:
        return len(content) // 20, len(content) - 3
    first, table = content.index(b"mdat") + 4, content.rfind(b"moov") - 4
    return first, table - 3 if table > first else len(content) - 3


# ---------------------------------------------------------------------------------------------------------------------
# Cases


def cases() -> Iterator[Case]:
    """Yield all cases."""
    for codec, suffixes in CONTAINERS.items():
        for suffix in suffixes.split():
            yield Case("plain", codec, suffix)
    yield from _late_cases()
    yield from _shape_cases()
    yield from _index_cases()
    yield from _hidden_cases()
    yield from _uneven_cases()
    for seed in range(4):
        for codec, suffix in DAMAGED:
            yield Case("damage", codec, suffix, seed, mutation=damage, is_damaged=True)
            if seed < 2:
                yield Case("damage", codec, suffix, seed, mutation=damage_few, is_damaged=True)


DAMAGED = [
    ("h264_b", "mp4"),
    ("h264", "mp4"),
    ("h264_open", "mkv"),
    ("h264_pyramid", "mp4"),
    ("h264_b", "ts"),
    ("h264_b", "avi"),
    ("hevc_open", "mp4"),
    ("hevc_closed", "mkv"),
    ("hevc_open", "ts"),
    ("av1", "mp4"),
    ("vp8", "webm"),
    ("vp9", "webm"),
    ("vp9_hidden", "webm"),
    ("mpeg4", "mp4"),
    ("mpeg4_b", "avi"),
    ("mpeg4_b", "mp4"),
    ("mpeg2_b", "mpg"),
    ("mpeg2_b", "ts"),
    ("mpeg1_b", "mpg"),
    ("msmpeg4v3", "avi"),
    ("wmv2", "wmv"),
    ("flv1", "flv"),
    ("mjpeg", "avi"),
    ("ffv1", "mkv"),
]


def _late_cases() -> Iterator[Case]:
    """One of two streams starts late, or both do, or the only one."""
    late, on_time = tuple(range(40, 120)), tuple(range(80))
    for codec, suffix in [
        *(("h264_b", suffix) for suffix in ("mp4", "mov", "mkv", "ts", "flv")),
        *(("h264", suffix) for suffix in ("mp4", "mkv")),
        ("hevc_open", "mp4"),
        ("vp8", "webm"),
        ("vp9", "webm"),
        ("av1", "mp4"),
        ("mpeg4", "mp4"),
        ("mpeg2_b", "mpg"),
        ("mpeg2_b", "ts"),
        ("wmv2", "wmv"),
    ]:  # not AVI: its muxer writes the first picture at 0
        yield Case("sound first", codec, suffix, times=late, sound_start=0)
        yield Case("pictures first", codec, suffix, times=on_time, sound_start=20)
        yield Case("both late", codec, suffix, times=late, sound_start=40)
        if suffix not in GUESSED:
            yield Case("late", codec, suffix, times=late)
    for codec in ("h264_b", "h264", "hevc_open", "mpeg4", "av1"):
        options = {"avoid_negative_ts": "disabled"}
        yield Case("edit list", codec, "mp4", times=tuple(range(-30, 80)), container_options=options)


def _shape_cases() -> Iterator[Case]:
    """Pixels that are not square, rotation, and both."""
    aspects = [Fraction(32, 27), Fraction(8, 9), Fraction(64, 45), Fraction(4, 3), Fraction(1, 2), Fraction(5, 1)]
    for number, aspect in enumerate(aspects):
        for codec, suffix in [("h264", "mp4"), ("h264_b", "mkv"), ("hevc_open", "ts"), ("mpeg4", "avi")]:
            yield Case("aspect", codec, suffix, number, aspect=aspect)
    for number, rotation in enumerate((degrees, flip) for degrees in (90, 180, 270, 0) for flip in (False, True)):
        yield Case("rotation", "h264", "mp4", number, rotation=rotation)
        yield Case("rotation", "hevc_open", "mov", number, rotation=rotation)
        yield Case("rotation and aspect", "h264_b", "mp4", number, rotation=rotation, aspect=Fraction(3, 2))
    yield Case("exif", "mjpeg", "avi", mutation=exif)


def _index_cases() -> Iterator[Case]:
    """Tables that are missing or wrong."""
    for codec in ("mpeg4", "mpeg4_b", "h264", "h264_b", "h264_open", "hevc_open", "vp9", "av1", "mpeg2_b", "mjpeg"):
        yield Case("no key table", codec, "mp4", mutation=no_key_table)
    for codec in ("h264_b", "h264", "mpeg4_b", "hevc_open", "h264_pyramid"):
        yield Case("no order table", codec, "mp4", mutation=no_order_table)
    keyed = "mpeg4 mpeg4_b msmpeg4v3 msmpeg4v2 wmv1 wmv2 flv1 h264 h264_b mpeg2_b zmbv msvideo1 cinepak vp8 mjpeg ffv1"
    for codec in keyed.split():
        yield Case("all-key index", codec, "avi", mutation=all_keys)
        yield Case("no index", codec, "avi", mutation=no_index)
    for codec in ("h264_b", "vp8", "mpeg4_b", "vp9"):
        yield Case("no index", codec, "mkv", mutation=no_index)
    for codec in ("h264_b", "hevc_open", "av1"):
        for flags in ("frag_keyframe+empty_moov", "faststart", "frag_keyframe+empty_moov+default_base_moof"):
            yield Case(f"mp4 {flags}", codec, "mp4", container_options={"movflags": flags})


def _hidden_cases() -> Iterator[Case]:
    """Packets that show nothing."""
    for every in (5, 7, 11):
        for codec, suffixes in (("vp8", "webm mkv ivf avi"), ("mpeg4", "avi mp4 mkv ts")):
            for suffix in suffixes.split():
                # In MPEG-4 the pictures after it are predicted from another one than they were made for.
                yield Case("hidden", codec, suffix, every, hidden=every, is_known=codec != "mpeg4")


def _uneven_cases() -> Iterator[Case]:
    """Uneven times, and frames that are left out."""
    for seed in range(2):
        rng = np.random.default_rng(seed)
        uneven = tuple(np.cumsum(rng.choice([1, 1, 1, 2, 3, 9], 80)).tolist())
        uneven = tuple(time - uneven[0] for time in uneven)
        for codec, suffix in [
            ("h264_b", "mp4"),
            ("h264_b", "mkv"),
            ("h264", "flv"),
            ("h264", "avi"),
            ("mpeg4", "avi"),
            ("mpeg4_b", "mp4"),
            ("hevc_open", "mp4"),
            ("vp8", "webm"),
            ("vp9", "mkv"),
            ("av1", "mp4"),
            ("mjpeg", "avi"),
            ("mjpeg", "mov"),
            ("msmpeg4v3", "avi"),
            ("wmv2", "wmv"),
            ("gif", "gif"),
            ("h264_b", "ts"),
        ]:
            yield Case("uneven", codec, suffix, seed, times=uneven)


# ---------------------------------------------------------------------------------------------------------------------
# What is right


@dataclass(frozen=True)
class Shown:
    """Hold what a decode from the start shows: times in seconds (NaN where they are not known) and RGB pictures."""

    times: list[float]
    pictures: list[np.ndarray]


def decoded_from_start(path: Path) -> Shown:
    """Decode everything in order with PyAV, whatever is flagged."""
    index = index_video(path)
    pictures: list[np.ndarray] = []
    times: list[float] = []
    at = dict(zip(index.pts.tolist(), index.times_seconds.tolist(), strict=True))
    with open_container(path) as container:
        stream = container.streams[index.stream_index]
        context = limited_decoder(stream)
        for packet in read_packets(container, stream):
            for frame in decode(context, packet)[0]:
                pictures.append(_to_rgb(frame))
                times.append(at.get(frame.pts, np.nan))
    if index.by_count and len(pictures) == len(index.pts):
        times = index.times_seconds.tolist()
    return Shown(times, pictures)


def _to_rgb(frame: Any) -> np.ndarray:
    """Convert a frame as FFmpeg's filters do."""
    graph = av.filter.Graph()
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format.name, time_base=Fraction(1, RATE)
    )
    convert, sink = graph.add("format", "rgb24"), graph.add("buffersink")
    source.link_to(convert)
    convert.link_to(sink)
    graph.configure()
    graph.push(frame)
    return graph.pull().to_ndarray()


def decoded_by_command(path: Path) -> Shown | None:
    """Decode everything in order with the ffmpeg command, upright; None if it cannot."""
    command = ["ffmpeg", "-nostdin", "-hide_banner", "-threads", "1", "-i", str(path), "-map", "0:v:0"]
    command += ["-vf", "showinfo", "-fps_mode", "passthrough", "-pix_fmt", "rgb24", "-f", "rawvideo", "-"]
    done = subprocess.run(command, capture_output=True, check=False, timeout=120)
    log = done.stderr.decode(errors="replace")
    found = re.findall(r"pts:\s*(\S+)\s+pts_time:(\S+).*? s:(\d+)x(\d+)", log)
    if not found:
        return None
    width, height = int(found[0][2]), int(found[0][3])
    times = [float(time) if time != "NOPTS" else np.nan for _, time, _, _ in found]
    frame_bytes = width * height * 3
    num_frames = min(len(done.stdout) // frame_bytes, len(times))
    pictures = np.frombuffer(done.stdout[: num_frames * frame_bytes], np.uint8).reshape(-1, height, width, 3)
    return Shown(times[:num_frames], list(pictures))


def expected_times(case: Case) -> np.ndarray:
    """Return when each frame is shown, in seconds from the start of the file."""
    times = np.array([time for time in case.times if time >= 0])
    start = times[0] if case.sound_start is None else min(times[0], case.sound_start)
    return (times - start) / RATE


# ---------------------------------------------------------------------------------------------------------------------
# Checking


def check(case: Case, path: Path, reader: str, num_frames: int, by_command: Shown | None = None) -> str:
    """Read a file and compare it with what is right.

    Args:
        case: What the file is.
        path: The file.
        reader: Name of the reader.
        num_frames: Windows.
        by_command: What the ffmpeg command shows.

    Returns:
        "right", "right, unlike the command: ..." (damaged files only), "refused: ..." or "wrong: ...".
    """
    try:
        result = read_variants(path, num_frames=num_frames, reader=reader, timeout_seconds=None)
    except VideoReadError as error:
        line = str(error)
        return f"refused: {line}" if line.startswith(f"{path.name}: ") and "\n" not in line else f"wrong: {line!r}"
    problems = [] if case.is_damaged or not case.is_known else _against_truth(case, path, result)
    if case.is_damaged or not case.is_known:
        problems += _against_shown(case, path, result, decoded_from_start(path))
    if by_command is not None and case.kind != "exif":  # FFmpeg 5.1 does not turn by EXIF
        others = _against_shown(case, path, result, by_command)
        if others and case.is_damaged and not problems:  # another release patches up another way
            return f"right, unlike the command: {'; '.join(others)}"
        problems += others
    return f"wrong: {'; '.join(dict.fromkeys(problems))}" if problems else "right"


def _against_truth(case: Case, path: Path, result: VideoFrames) -> list[str]:
    """Compare numbers and times with what was written."""
    times = expected_times(case)
    first = len(case.times) - len(times)  # an edit list hides those before
    # Sound starts a little before it is due: encoders need to get going.
    slack = 1 / RATE if case.suffix in GUESSED or case.sound_start is not None else 0.0
    problems = []
    hides = bool(case.hidden)
    if not hides and len(index_video(path).pts) != len(times):
        problems.append(f"{len(index_video(path).pts)} frames, not {len(times)}")
    positions = {number_of(position): position - first for position in range(first, len(case.times))}
    for i, j in np.ndindex(result.times_seconds.shape):
        picture, time = _stored(result.frames[i, j], case), result.times_seconds[i, j]
        position = positions.get(read_number(picture))
        if position is None:
            problems.append(f"no such number at {time:.3f}")
        elif abs(time - times[position]) > slack + 2e-3:
            problems.append(f"frame {position} at {time:.3f}, not {times[position]:.3f}")
        elif j == 1:
            asked = result.grid.times[i]
            after = times[position + 1] if position + 1 < len(times) else np.inf
            if not hides and not (times[position] - slack - 2e-3 <= max(asked, times[0]) <= after + slack + 2e-3):
                problems.append(f"frame {position} for {asked:.3f}, shown {times[position]:.3f}-{after:.3f}")
    shape = result.frames.shape[2:4]
    if shape != upright_size(case):
        problems.append(f"size {shape}, not {upright_size(case)}")
    return problems


def upright_size(case: Case) -> tuple[int, int]:
    """Return (height, width) of an upright picture with square pixels."""
    height, width = CODECS[case.codec].size
    aspect = case.aspect or Fraction(12 if case.codec == "h263" else 11, 11)  # H.263 has it for this size
    if aspect > 1:
        width = round(width * aspect)
    else:
        height = round(height / aspect)
    turned = case.kind == "exif" or (case.rotation is not None and case.rotation[0] % 180 == 90)
    return (width, height) if turned else (height, width)


def _stored(picture: np.ndarray, case: Case) -> np.ndarray:
    """Return an upright picture as it was stored: a matrix turns counterclockwise, then mirrors."""
    if case.kind == "exif":
        return np.rot90(picture)
    if case.rotation is None:
        return picture
    degrees, flip = case.rotation
    return np.rot90(picture[:, ::-1] if flip else picture, -degrees // 90)


def _against_shown(case: Case, path: Path, result: VideoFrames, shown: Shown) -> list[str]:
    """Compare pictures and their number with a decode from the start."""
    index = index_video(path)
    problems = []
    if abs(len(index.pts) - len(shown.pictures)) > _lost_frames(case, index, shown):
        problems.append(f"{len(index.pts)} frames, a decode from the start has {len(shown.pictures)}")
    times = np.array(shown.times)
    for i, j in np.ndindex(result.times_seconds.shape):
        time = result.times_seconds[i, j]
        step = 1.5 / RATE if case.suffix in GUESSED or case.is_damaged else 2e-3
        near = np.flatnonzero(np.abs(times - time) <= step)
        # The command guesses, too, and other releases count the start otherwise: by order, where nothing is lost.
        if not case.is_damaged and len(times) == len(index.pts):
            near = np.flatnonzero(index.times_seconds == time)
        if not len(near) and case.hidden and time == index.times_seconds[-1]:
            continue  # MPEG-4's last picture comes out once more at the end, to last as long as "nothing changed" says
        if not len(near):
            problems.append(f"no frame at {time:.3f}")
            continue
        size = result.frames.shape[2:4]
        distance = min(_distance(result.frames[i, j], shown.pictures[k], size) for k in near)
        if distance > LIMIT:
            problems.append(f"{distance:.0f} levels off at {time:.3f}")
    return problems


def _lost_frames(case: Case, index: Any, shown: Shown) -> int:
    """Return how many listed frames damage may have cost; what shows "nothing changed" comes out again at the end."""
    if case.is_damaged or case.kind == "edit list":  # FFmpeg 5.1 shows what is hidden in AV1
        return len(index.pts)
    return 1 if case.codec.startswith("mpeg4") and case.hidden else 0


def _distance(picture: np.ndarray, other: np.ndarray, size: tuple[int, int]) -> float:
    """Return the mean distance of two pictures in grey levels."""
    return float(np.abs(picture.astype(int) - resize_frame(other, size)).mean())


def main(argv: list[str] | None = None) -> int:
    """Read all cases with all readers, and print what came of them by kind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--match", default="", help="Only cases whose name holds this.")
    parser.add_argument("--readers", nargs="+", default=["pyav"], help="Which readers.")
    parser.add_argument("--frames", type=int, nargs="+", default=[7, 25], help="Windows.")
    parser.add_argument("--keep", type=Path, help="Folder for the files that were read wrongly.")
    args = parser.parse_args(argv)
    has_command = shutil.which("ffmpeg") is not None
    outcomes: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    num_files = num_wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        for case in cases():
            if args.match not in case.name:
                continue
            try:
                path = write(case, Path(folder))
            except Exception as error:
                print(f"cannot write {case.name}: {error!r}", flush=True)
                continue
            num_files += 1
            by_command = decoded_by_command(path) if has_command else None
            for reader in args.readers:
                for num_frames in args.frames:
                    outcome = check(case, path, reader, num_frames, by_command)
                    word = outcome.partition(":")[0]
                    outcomes[case.kind, reader][word] += 1
                    if not word.startswith("right") and (reader == "pyav" or word == "wrong"):
                        print(f"{case.name} {reader} F={num_frames}: {outcome[:300]}", flush=True)
                    if word == "wrong":
                        num_wrong += 1
                        if args.keep is not None:
                            shutil.copy(path, args.keep)
            path.unlink()
    print(f"\n{num_files} files")
    for (kind, reader), counts in outcomes.items():
        print(f"{kind:50s} {reader:12s} " + "  ".join(f"{word} {count}" for word, count in sorted(counts.items())))
    return int(num_wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
