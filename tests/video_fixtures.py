"""Videos whose pictures state their own frame number, so that reading the wrong frame cannot go unnoticed."""

from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from hf_frameseg.video.readers import READERS, load_reader
from hf_frameseg.video.worker import thread_worker

_ROWS, _COLUMNS = 2, 5  # ten bits


def draw_number(number: int, height: int = 64, width: int = 80) -> np.ndarray:
    """Draw a number below 1024 as ten black or white blocks."""
    bits = np.array([number >> bit & 1 for bit in range(_ROWS * _COLUMNS)], dtype=np.uint8).reshape(_ROWS, _COLUMNS)
    rows = np.arange(height) * _ROWS // height
    columns = np.arange(width) * _COLUMNS // width
    return np.repeat(bits[rows][:, columns, None] * 255, 3, axis=2).astype(np.uint8)


def _read_number(picture: np.ndarray) -> int:
    """Read a number drawn by `draw_number` after any amount of compression."""
    blocks = [np.array_split(half, _COLUMNS, axis=1) for half in np.array_split(picture, _ROWS, axis=0)]
    return sum(1 << bit for bit, block in enumerate(block for half in blocks for block in half) if block.mean() > 127)


def _write_video(
    path: Path,
    pts: np.ndarray,
    time_base: Fraction = Fraction(1, 1000),
    size: tuple[int, int] = (64, 80),
    quarter_turns: int = 0,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    pixel_aspect: Fraction | None = None,
) -> Path:
    """Write one numbered picture per presentation time; picture i is turned counterclockwise before."""
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=30, options={"preset": "veryfast", **(options or {})})
        stream.height, stream.width = size if quarter_turns % 2 == 0 else size[::-1]
        stream.pix_fmt = pixel_format
        stream.codec_context.time_base = stream.time_base = time_base
        if pixel_aspect is not None:
            stream.codec_context.sample_aspect_ratio = pixel_aspect
        for number, time in enumerate(pts):
            picture = np.ascontiguousarray(np.rot90(draw_number(number, *size), quarter_turns))
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = int(time), time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="session")
def write_video() -> Callable[..., Path]:
    return _write_video


@pytest.fixture(scope="session")
def read_number() -> Callable[[np.ndarray], int]:
    return _read_number


@pytest.fixture(params=READERS)
def reader(request: pytest.FixtureRequest) -> str:
    """Return the name of each video reader that can be loaded here."""
    try:
        thread_worker(load_reader, request.param).call(abs, -1, timeout_seconds=60)
    except ImportError as error:
        pytest.skip(str(error))
    return request.param


@pytest.fixture(scope="session")
def annotation() -> Callable[..., dict]:
    """Make a correct annotation of a 10 s video, with fields replaced."""

    def make(**fields: object) -> dict:
        row = {"qid": 1, "query": "a red circle", "duration": 10, "vid": "v0", "relevant_windows": [[2, 6]]}
        return {**row, "relevant_clip_ids": [1, 2], "saliency_scores": [[0, 1, 2], [4, 4, 4]], **fields}

    return make


@pytest.fixture(scope="session")
def write_annotations() -> Callable[[Path, list[dict]], Path]:
    def write(path: Path, rows: list[dict]) -> Path:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
        return path

    return write
