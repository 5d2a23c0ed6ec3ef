"""Which source frames stand for a video: by presentation time, never by index times average frame rate.

A container's average rate is wrong for variable frame rates and rounds 29.97 to 30, and both errors grow along the
video. The times that frames are shown at are exact in every case.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hf_frameseg.moments import FrameGrid

VARIANTS = ("left", "middle", "right")
"""Names of the three source frames that can stand for one window, in the order of the variant axis."""

MIDDLE_VARIANT = VARIANTS.index("middle")
"""Index of the frame that evaluation and inference use."""

VARIANT_OFFSET_FRAMES = 3
"""Distance of the outer variants from the middle one in source frames, as in the paper."""

TIME_TOLERANCE_SECONDS = 1e-3
"""A frame that starts this much after an instant counts as on display at it.

Window centres fall exactly on frame starts all the time (3 s at 30 frames per second), and containers round times, some
to whole milliseconds: without a tolerance the rounding would decide between two frames.
"""


def select_frames(
    presentation_times_seconds: ArrayLike,
    grid: FrameGrid,
    variant_offset_frames: int = VARIANT_OFFSET_FRAMES,
) -> NDArray[np.int64]:
    """Choose the source frames of every window of the grid.

    The middle variant is the frame on display at the window's centre: the last one that starts at or before it. The
    left and right variants lie `variant_offset_frames` source frames to either side, but never outside the frame's own
    window: a frame of the neighbouring window could carry the other label. A video that ends before a window leaves
    its last frame on display. arXiv "Moment and Highlight Detection via MLLM Frame Segmentation", section III-B.

    Args:
        presentation_times_seconds: Start of display of every source frame in seconds, ascending, shape (N,). The first
            frame shown defines second 0 (`read_frames` sees to that).
        grid: The F windows.
        variant_offset_frames: Distance of the outer variants in source frames, at least 0.

    Returns:
        Source frame indices, shape (F, 3), int64; the last axis is (left, middle, right), ascending.

    Raises:
        ValueError: If the times are empty, not finite or not ascending, or the offset is negative.

    Example:
        >>> import numpy as np
        >>> select_frames(np.arange(80) / 10, FrameGrid(duration_seconds=8, num_frames=2)).tolist()
        [[17, 20, 23], [57, 60, 63]]
    """
    times = _as_times(presentation_times_seconds)
    if variant_offset_frames != int(variant_offset_frames) or variant_offset_frames < 0:
        raise ValueError(f"expected variant_offset_frames to be a whole number >= 0, got {variant_offset_frames!r}")
    last = len(times) - 1
    middle = np.clip(np.searchsorted(times, grid.times_seconds + TIME_TOLERANCE_SECONDS, side="right") - 1, 0, last)
    # First frame that starts in [start, end), and the one before the first that starts at or after the end.
    starts_seconds, ends_seconds = grid.windows_seconds.T
    first_own = np.searchsorted(times, starts_seconds - TIME_TOLERANCE_SECONDS, side="left")
    last_own = np.searchsorted(times, ends_seconds - TIME_TOLERANCE_SECONDS, side="left") - 1
    # With less than one source frame per window the middle one started in an earlier window: it stands alone.
    left = np.clip(middle - int(variant_offset_frames), np.minimum(first_own, middle), last)
    right = np.clip(middle + int(variant_offset_frames), 0, np.maximum(last_own, middle))
    return np.stack([left, middle, right], axis=1).astype(np.int64)


def _as_times(presentation_times_seconds: ArrayLike) -> NDArray[np.float64]:
    """Return checked presentation times as float64."""
    times = np.asarray(presentation_times_seconds, dtype=np.float64)
    if times.ndim != 1 or len(times) == 0:
        raise ValueError(f"expected presentation times of shape (N,), N >= 1, in seconds, got shape {times.shape}")
    if not np.isfinite(times).all() or (np.diff(times) < 0).any():
        raise ValueError("expected finite, ascending presentation times in seconds; sort them in display order first")
    return times
