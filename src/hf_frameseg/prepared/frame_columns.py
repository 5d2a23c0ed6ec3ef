"""The frame columns of a prepared data set: how frames are stored in a row and read back.

`frames` and `frame_shape` are the only columns whose content depends on the format:

- `raw`: one blob of uint8 values. Nothing to decode; for small frames.
- `jpeg`: `F * 3` encoded images, window by window, variants inside. About 10 times smaller; only the variants that are
  asked for are decoded.

Pillow encodes, simplejpeg decodes: its pixels are Pillow's to the bit (both are libjpeg-turbo with the accurate
transform and smooth chroma) in two thirds of the time at 384 pixels and a quarter at 64. It cannot encode as well: at
quality 95 it leaves no choice but libjpeg-turbo's fast transform, 0.3 to 0.9 dB below Pillow's.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hf_frameseg._text import printable
from hf_frameseg.moments import FrameGrid
from hf_frameseg.video.file import MAX_FRAME_PIXELS, MAX_FRAME_SIDE
from hf_frameseg.video.sampling import MIDDLE_VARIANT, VARIANTS

if TYPE_CHECKING:
    from datasets import Dataset

FRAME_FORMATS = ("jpeg", "raw")
"""Formats of the `frames` column."""

JPEG_QUALITY = 95

JPEG_SUBSAMPLING = "4:2:0"
"""Half the colour resolution in both directions, as most video files and JPEGs have it. "4:4:4" takes a third more disk
and keeps colour edges (table in docs/scale.md). Small pictures of sharp colours lose most: keep those raw."""

_CHANNELS = 3  # red, green, blue
_REPAIR = "the data is damaged, prepare it again"


def encode_frames(frames: NDArray[np.uint8], frame_format: str) -> dict[str, Any]:
    """Return the frame columns of a row.

    Args:
        frames: Pictures, shape (F, 3, H, W, 3), uint8.
        frame_format: "jpeg" or "raw".

    Returns:
        `frames` in the given format and `frame_shape`, which is [F, 3, H, W, 3].

    Raises:
        ValueError: If the format is unknown or the array is not what it should be.
    """
    if frames.ndim != 5 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
        raise ValueError(f"expected uint8 frames of shape (F, 3, H, W, 3), got {frames.dtype} {frames.shape}")
    check_frame_format(frame_format)
    if frame_format == "raw":
        stored: Any = frames.tobytes()
    else:
        pictures = frames.reshape(-1, *frames.shape[2:])
        stored = [{"bytes": _to_jpeg(picture), "path": None} for picture in pictures]
    return {"frames": stored, "frame_shape": list(frames.shape)}


Decoded = dict[tuple[int, int, int], tuple[bytes, NDArray[np.uint8]]]
"""JPEGs that were decoded for rows of a batch, with the pictures, by the `id` of the JPEG, height and width."""


def row_frames(
    row: Mapping[str, Any], variants: ArrayLike | None = None, decoded: Decoded | None = None
) -> NDArray[np.uint8]:
    """Return one picture per window of a row, in either format.

    Args:
        row: A row of a prepared data set.
        variants: Which variant to take for each window, shape (F,), 0 to 2 for left, middle, right. None takes the
            middle ones.
        decoded: What was decoded for other rows of a batch; what is decoded for this one is added. Rows of one video
            that were read together share their JPEGs, and each is decoded once.

    Returns:
        Pictures, shape (F, H, W, 3), uint8, writable and not shared with the row.

    Raises:
        ValueError: If the row or `variants` does not have the expected shape.

    Example:
        >>> import numpy as np
        >>> row = encode_frames(np.arange(3, dtype=np.uint8).repeat(12).reshape(1, 3, 2, 2, 3), "raw")
        >>> row_frames(row, [2])[0, 0, 0].tolist()
        [2, 2, 2]
    """
    shape = row_shape(row)
    num_frames, num_variants, height, width, channels = shape
    chosen = np.full(num_frames, MIDDLE_VARIANT) if variants is None else np.asarray(variants)
    if chosen.shape != (num_frames,) or chosen.min() < 0 or chosen.max() >= num_variants:
        raise ValueError(
            f"expected one variant from 0 to {num_variants - 1} for each of the {num_frames} frames, "
            f"got {chosen.tolist()}"
        )
    frames = row["frames"]
    if frames is None:
        raise ValueError(
            f"{_name(row)}: expected frames, got none: another row holds them; open the data by its builder"
        )
    if isinstance(frames, bytes):
        if len(frames) != math.prod(shape):
            raise ValueError(f"{_name(row)}: expected {math.prod(shape)} bytes of frames, got {len(frames)}; {_REPAIR}")
        return np.frombuffer(frames, dtype=np.uint8).reshape(shape)[np.arange(num_frames), chosen]
    if len(frames) != num_frames * num_variants:
        raise ValueError(f"{_name(row)}: expected {num_frames * num_variants} pictures, got {len(frames)}; {_REPAIR}")
    decoded = {} if decoded is None else decoded
    pictures = np.empty((num_frames, height, width, channels), dtype=np.uint8)
    for frame, variant in enumerate(chosen.tolist()):
        try:
            encoded = frames[frame * num_variants + variant]["bytes"]
            if (key := (id(encoded), height, width)) in decoded:
                pictures[frame] = decoded[key][1]
            else:
                _from_jpeg(encoded, pictures[frame])
                decoded[key] = encoded, pictures[frame]
        except (ValueError, TypeError) as error:
            place = f"{_name(row)}, frame {frame}, variant {variant}"
            raise ValueError(f"{place}: expected a JPEG of {height} x {width} pixels: {error}; {_REPAIR}") from error
    return pictures


def row_shape(row: Mapping[str, Any]) -> tuple[int, int, int, int, int]:
    """Return the shape of a row's pictures: every array that is made for them has it.

    Args:
        row: A row of a prepared data set.

    Returns:
        (F, 3, H, W, 3).

    Raises:
        ValueError: If the row claims another kind of shape: what is in the array would then not be its pictures.

    Example:
        >>> row_shape({"frame_shape": [25, 3, 8, 6, 3]})
        (25, 3, 8, 6, 3)
    """
    claimed = row["frame_shape"]
    try:
        num_frames, num_variants, height, width, channels = (int(length) for length in claimed)
    except (TypeError, ValueError, OverflowError):
        num_frames = num_variants = height = width = channels = 0
    fixed = num_frames >= 1 and (num_variants, channels) == (len(VARIANTS), _CHANNELS)
    small = min(height, width) >= 1 and max(height, width) <= MAX_FRAME_SIDE and height * width <= MAX_FRAME_PIXELS
    if not fixed or not small:
        limits = f"pictures of at most {MAX_FRAME_SIDE} pixels a side and {MAX_FRAME_PIXELS} in all"
        raise ValueError(
            f"{_name(row)}: expected a frame_shape [F, 3, H, W, 3], {limits}, got {printable(f'{claimed!r:.80}')}; "
            f"{_REPAIR}"
        )
    return num_frames, num_variants, height, width, channels


def check_num_frames(rows: Dataset | Sequence[Mapping[str, Any]], num_frames: int) -> None:
    """Refuse a prepared data set, or rows of one, that holds another number of frames per video.

    Args:
        rows: A prepared data set or some of its rows.
        num_frames: Number of frames F that the caller works with.

    Raises:
        ValueError: If a row has another number of frames.

    Example:
        >>> check_num_frames([{"frame_shape": [25, 3, 8, 8, 3]}], 25)
    """
    # A whole data set hands out this one column without touching the frames.
    shapes = rows.select_columns("frame_shape") if hasattr(rows, "select_columns") else rows
    found = sorted({row_shape(row)[0] for row in shapes} - {num_frames})
    if found:
        raise ValueError(
            f"expected {num_frames} frames per video, the prepared data has {found[0]}; "
            f"prepare it again with num_frames={num_frames} or set num_frames={found[0]} here"
        )


def check_frame_format(frame_format: str) -> None:
    """Refuse an unknown frame format.

    Args:
        frame_format: "jpeg" or "raw".

    Raises:
        ValueError: If it is neither.
    """
    if frame_format not in FRAME_FORMATS:
        raise ValueError(f"expected frame_format to be one of {list(FRAME_FORMATS)}, got {frame_format!r}")


def _name(row: Mapping[str, Any]) -> str:
    """Say which row it is."""
    return f"video {printable(row['vid'])}" if "vid" in row else "a row without vid"


def _to_jpeg(picture: NDArray[np.uint8]) -> bytes:
    """Encode one RGB picture."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="JPEG", quality=JPEG_QUALITY, subsampling=JPEG_SUBSAMPLING)
    return buffer.getvalue()


def _from_jpeg(encoded: bytes, picture: NDArray[np.uint8]) -> None:
    """Decode one RGB picture into an array of its size."""
    import simplejpeg

    size = simplejpeg.decode_jpeg_header(encoded)[:2]
    if size != picture.shape[:2]:
        raise ValueError(f"it has {size[0]} x {size[1]}")
    # The fast transform and the fast chroma would save 5 % and be off by up to 40 grey levels.
    simplejpeg.decode_jpeg(encoded, colorspace="RGB", fastdct=False, fastupsample=False, buffer=picture)


def grid_columns(grid: FrameGrid) -> dict[str, list[float]]:
    """Return the columns of a row that hold the frame grid.

    Args:
        grid: The grid that the row's frames were sampled on.

    Returns:
        `grid_times` (F numbers) and `grid_edges` (F + 1 numbers).
    """
    return {"grid_times": grid.times.tolist(), "grid_edges": grid.edges.tolist()}
