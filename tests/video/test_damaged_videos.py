"""Damaged video files: each ends in frames or in a VideoReadError within the time limit, whatever the libraries do."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from hf_frameseg.video.file import VideoReadError
from hf_frameseg.video.read import read_variants

_TIMEOUT_SECONDS = 20.0
_RATE_30 = {"pts": np.arange(60), "time_base": Fraction(1, 30)}
_B_FRAMES = {"bf": "3", "g": "20"}
SOURCES = {
    "h264.mp4": {**_RATE_30, "options": _B_FRAMES},
    "h264_faststart.mp4": {**_RATE_30, "options": _B_FRAMES, "container_options": {"movflags": "faststart"}},
    "hevc.mp4": {**_RATE_30, "codec": "libx265", "options": {"x265-params": "log-level=error:keyint=20:pools=1"}},
    "h264.mkv": {**_RATE_30, "options": _B_FRAMES},
    "mpeg4.avi": {**_RATE_30, "codec": "mpeg4"},
    "vp8.webm": {"pts": np.arange(60) * 33, "codec": "libvpx", "options": {"deadline": "realtime"}},
    "h264.ts": {"pts": np.arange(60) * 3000 + 90_000, "time_base": Fraction(1, 90_000), "options": _B_FRAMES},
}


def cut(content: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    return content[: rng.integers(len(content))]


def flip_few(content: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    return _flip(content, rng.integers(len(content), size=rng.integers(1, 9)), rng)


def flip_many(content: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    return _flip(content, rng.integers(len(content), size=len(content) // 50), rng)


def flip_headers(content: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """Damage the description of the stream: its box in MP4, the first bytes elsewhere."""
    start = max(content.find(b"moov"), 0)
    end = min(start + 1500, len(content))
    return _flip(content, rng.integers(start, end, size=rng.integers(1, 20)), rng)


def _flip(content: bytes, at: np.ndarray, rng: np.random.Generator) -> bytes:
    damaged = np.frombuffer(content, np.uint8).copy()
    damaged[at] = rng.integers(256, size=at.shape)
    return damaged.tobytes()


def blank_part(content: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    start, end = np.sort(rng.integers(len(content), size=2))
    return content[:start] + bytes(int(end - start)) + content[end:]


def shuffle_blocks(content: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    size = int(rng.integers(64, 2048))
    blocks = [content[at : at + size] for at in range(0, len(content), size)]
    return b"".join(blocks[i] for i in rng.permutation(len(blocks)))


def other_body(content: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """Take the head of one codec's file and the body of another's."""
    at = int(rng.integers(200, 3000))
    return content[:at] + other[at:]


def other_codec(content: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """Name another codec in the header."""
    names = (b"avc1", b"hev1", b"mp4v", b"V_MPEG4/ISO/AVC", b"V_VP8", b"FMP4")
    for name in names:
        content = content.replace(name, names[rng.integers(len(names))][: len(name)].ljust(len(name)))
    return content


def without_index(content: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """Hide the boxes that say where the frames are."""
    return content.replace(b"moov", b"free").replace(b"idx1", b"JUNK").replace(b"\x1c\x53\xbb\x6b", b"\xec\x53\xbb\x6b")


def huge_numbers(content: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """Let tables of an MP4 file claim four billion entries, sizes or times."""
    damaged = bytearray(content)
    for name in (b"stts", b"stsz", b"ctts", b"mdhd", b"elst", b"stsd", b"tkhd"):
        at = content.find(name)
        if at >= 0 and rng.random() < 0.5:
            offset = at + 4 + 4 * int(rng.integers(1, 6))
            damaged[offset : offset + 4] = rng.choice([0xFFFFFFFF, 0x7FFFFFFF, 0]).astype(">u4").tobytes()
    return bytes(damaged)


def empty(content: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    return b""


def text(content: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    lines = (b"<html><body>404 Not Found</body></html>\n", b"#EXTM3U\nhttp://127.0.0.1:9/a.ts\n", b"hello\n")
    return lines[rng.integers(len(lines))] * int(rng.integers(1, 300))


def noise(content: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    return rng.bytes(int(rng.integers(1, 20_000)))


MUTATIONS = (
    cut,
    flip_few,
    flip_many,
    flip_headers,
    blank_part,
    shuffle_blocks,
    other_body,
    other_codec,
    without_index,
    huge_numbers,
    empty,
    text,
    noise,
)


@pytest.fixture(scope="module")
def sources(tmp_path_factory, write_video):
    folder = tmp_path_factory.mktemp("sources")
    return {name: write_video(folder / name, **case).read_bytes() for name, case in SOURCES.items()}


def outcome(path: Path, reader: str) -> str:
    """Return how reading a file ends; anything but frames or a VideoReadError of one line is an error here too."""
    try:
        frames = read_variants(
            path, num_frames=5, frame_size=16, reader=reader, timeout_seconds=_TIMEOUT_SECONDS
        ).frames
    except VideoReadError as error:
        line = str(error)
        assert "\n" not in line
        assert line.startswith(f"{path.name}: ")
        return next((word for word in ("crashed", "gave no answer") if word in line), "refused")
    assert frames.shape == (5, 3, 16, 16, 3)
    return "frames"


def read_damaged(sources: dict[str, bytes], folder: Path, number: int, reader: str) -> str:
    """Damage file `number` of the endless row of damaged files, and read it."""
    rng = np.random.default_rng([5, number])
    names = list(sources)
    name = names[rng.integers(len(names))]
    mutation = MUTATIONS[number % len(MUTATIONS)]
    path = folder / f"{number:03d}_{mutation.__name__}_{name}"
    path.write_bytes(mutation(sources[name], sources[names[rng.integers(len(names))]], rng))
    return outcome(path, reader)


def test_damaged_files_end_in_frames_or_a_reported_failure(tmp_path, sources):
    outcomes = Counter(read_damaged(sources, tmp_path, number, "auto") for number in range(39))
    assert outcomes.total() == 39
    assert outcomes["frames"] > 3  # some damage does no harm, and the files were videos
    assert outcomes["refused"] > 10


@pytest.mark.slow
def test_two_hundred_damaged_files(tmp_path, sources, reader):
    for each in ("auto", reader) if reader == "pyav" else (reader,):
        outcomes = Counter(read_damaged(sources, tmp_path, number, each) for number in range(200))
        print(each, dict(outcomes))
        assert outcomes.total() == 200
        assert outcomes["frames"] > 20


REAL = ("av1_video.mkv", "h264_10bits.mp4", "h265_video.mp4", "nasa_13013.mp4", "unordered.mov", "video_90.mov")


@pytest.mark.parametrize("name", [*REAL, "corrupted.mp4"])
def test_real_files_end_in_frames_or_a_reported_failure(shared_dir: Path, name, reader):
    assert outcome(shared_dir / "videos" / name, reader) == ("frames" if name in REAL else "refused")
