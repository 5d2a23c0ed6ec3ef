"""Which source frames stand for a video: by presentation time, never by index times average frame rate.

A container's average rate is wrong for variable frame rates and rounds 29.97 to 30, and both errors grow along the
video. The times that frames are shown at are exact in every case.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hf_frameseg.moments import MAX_VIDEO_SECONDS, FrameGrid

VARIANTS = ("left", "middle", "right")
"""Names of the three source frames that can stand for one window, in the order of the variant axis."""

MIDDLE_VARIANT = VARIANTS.index("middle")
"""Index of the frame that evaluation and inference use."""

VARIANT_OFFSET_FRAMES = 3
"""Distance of the outer variants from the middle one in source frames, as in the paper."""

MAX_OFFSET_FRAMES = 1_000_000
"""More frames than a video may have."""

TIME_TOLERANCE_SECONDS = 1e-3
"""A frame that starts this much after an instant counts as on display at it.

Window centres fall exactly on frame starts all the time (3 s at 30 frames per second), and containers round times, some
to whole milliseconds: without a tolerance the rounding would decide between two frames.
"""


def select_frames(
    presentation_times_seconds: ArrayLike,
    grid: FrameGrid,
    variant_offset_frames: int = VARIANT_OFFSET_FRAMES,
    variant_offset_seconds: float | None = None,
) -> NDArray[np.int64]:
    """Choose the source frames of every window of the grid.

    The middle variant is the frame on display at the grid's sampling time: the last one that starts at or before it (at
    the very end of a uniform grid: the last one that starts before the end). The left and right variants lie some
    source frames, or some seconds, to either side, but never outside the frame's own window: a frame of the next window
    could carry the other label. A video that ends before a window leaves its last frame on display; the first frame of
    one that starts later stands for what is before it. arXiv "Moment and Highlight Detection via MLLM Frame
    Segmentation", section III-B.

    Args:
        presentation_times_seconds: Start of display of every source frame in seconds from the start of the file,
            ascending, shape (N,); the first may be above 0.
        grid: The F windows and their sampling times.
        variant_offset_frames: Distance of the outer variants in source frames, at least 0.
        variant_offset_seconds: Distance of the outer variants in seconds, at least 0: the frames on display that much
            before and after the sampling time. Takes the place of `variant_offset_frames`; None leaves it there.

    Returns:
        Source frame indices, shape (F, 3), int64; the last axis is (left, middle, right), ascending.

    Raises:
        ValueError: If the times are empty, not finite or not ascending, an offset is out of range, or both are given.

    Example:
        >>> import numpy as np
        >>> select_frames(np.arange(80) / 10, FrameGrid.middle(duration_seconds=8, num_frames=2)).tolist()
        [[17, 20, 23], [57, 60, 63]]
        >>> select_frames(np.arange(80) / 10, FrameGrid.middle(8, 2), variant_offset_seconds=1.0).tolist()
        [[10, 20, 30], [50, 60, 70]]
    """
    times = _as_times(presentation_times_seconds)
    check_variant_offset(variant_offset_frames, variant_offset_seconds)
    last = len(times) - 1
    # First frame that starts in [start, end), and the one before the first that starts at or after the end.
    starts_seconds, ends_seconds = grid.windows.T
    first_own = np.searchsorted(times, starts_seconds - TIME_TOLERANCE_SECONDS, side="left")
    last_own = np.searchsorted(times, ends_seconds - TIME_TOLERANCE_SECONDS, side="left") - 1
    middle = np.clip(np.minimum(_on_display(times, grid.times), last_own), 0, last)
    if variant_offset_seconds is None:
        left, right = middle - int(variant_offset_frames), middle + int(variant_offset_frames)
    else:
        left = _on_display(times, grid.times - variant_offset_seconds)
        right = _on_display(times, grid.times + variant_offset_seconds)
    # With less than one source frame per window the middle one started in an earlier window: it stands alone.
    left = np.clip(left, np.minimum(first_own, middle), middle)
    right = np.clip(right, middle, np.maximum(last_own, middle))
    return np.stack([left, middle, right], axis=1).astype(np.int64)


def check_variant_offset(variant_offset_frames: int, variant_offset_seconds: float | None = None) -> None:
    """Refuse offsets that `select_frames` cannot use.

    Args:
        variant_offset_frames: Distance of the outer variants in source frames.
        variant_offset_seconds: Distance in seconds, or None.

    Raises:
        ValueError: If one is out of range, or both are given.
    """
    if not 0 <= variant_offset_frames <= MAX_OFFSET_FRAMES or variant_offset_frames != int(variant_offset_frames):
        raise ValueError(
            f"expected variant_offset_frames to be a whole number >= 0, at most {MAX_OFFSET_FRAMES}, got "
            f"{variant_offset_frames!r}"
        )
    if variant_offset_seconds is None:
        return
    if not 0 <= variant_offset_seconds <= MAX_VIDEO_SECONDS:
        raise ValueError(
            f"expected variant_offset_seconds of at least 0 or None, at most {MAX_VIDEO_SECONDS:g}, got "
            f"{variant_offset_seconds!r}"
        )
    if variant_offset_frames != VARIANT_OFFSET_FRAMES:
        raise ValueError(
            f"expected one offset, got variant_offset_frames={variant_offset_frames} and "
            f"variant_offset_seconds={variant_offset_seconds}; leave one of them out"
        )


def _on_display(times: NDArray[np.float64], at_seconds: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the position of the last frame that starts at or before each instant, -1 where there is none."""
    return np.searchsorted(times, at_seconds + TIME_TOLERANCE_SECONDS, side="right") - 1


def _as_times(presentation_times_seconds: ArrayLike) -> NDArray[np.float64]:
    """Return checked presentation times as float64."""
    times = np.asarray(presentation_times_seconds, dtype=np.float64)
    if times.ndim != 1 or len(times) == 0:
        raise ValueError(f"expected presentation times of shape (N,), N >= 1, in seconds, got shape {times.shape}")
    if not np.isfinite(times).all() or (np.diff(times) < 0).any():
        raise ValueError("expected finite, ascending presentation times in seconds; sort them in display order first")
    return times
