"""The frame columns of a prepared data set: how frames are stored in a row and read back.

`frames` and `frame_shape` are the only columns whose content depends on the format:

- `raw`: one blob of uint8 values. Nothing to decode; for small frames.
- `jpeg`: `F * 3` encoded images, window by window, variants inside. About 10 times smaller; only the variants that are
  asked for are decoded.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hf_frameseg.data.sampling import MIDDLE_VARIANT

if TYPE_CHECKING:
    from datasets import Dataset

FRAME_FORMATS = ("jpeg", "raw")
"""Formats of the `frames` column."""

JPEG_QUALITY = 95


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


def row_frames(row: Mapping[str, Any], variants: ArrayLike | None = None) -> NDArray[np.uint8]:
    """Return one picture per window of a row, in either format.

    Args:
        row: A row of a prepared data set.
        variants: Which variant to take for each window, shape (F,), 0 to 2 for left, middle, right. None takes the
            middle ones.

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
    num_frames, num_variants, height, width, channels = row["frame_shape"]
    chosen = np.full(num_frames, MIDDLE_VARIANT) if variants is None else np.asarray(variants)
    if chosen.shape != (num_frames,) or chosen.min() < 0 or chosen.max() >= num_variants:
        raise ValueError(
            f"expected one variant from 0 to {num_variants - 1} for each of the {num_frames} frames, "
            f"got {chosen.tolist()}"
        )
    frames = row["frames"]
    if isinstance(frames, bytes):
        stored = np.frombuffer(frames, dtype=np.uint8).reshape(num_frames, num_variants, height, width, channels)
        return stored[np.arange(num_frames), chosen]
    return np.stack([_from_jpeg(frames[i * num_variants + int(v)]["bytes"]) for i, v in enumerate(chosen)])


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
    found = sorted({row["frame_shape"][0] for row in shapes} - {num_frames})
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


def _to_jpeg(picture: NDArray[np.uint8]) -> bytes:
    """Encode one RGB picture."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def _from_jpeg(encoded: bytes) -> NDArray[np.uint8]:
    """Decode one RGB picture."""
    from PIL import Image

    with Image.open(io.BytesIO(encoded)) as image:
        return np.array(image.convert("RGB"))
