"""Moments, frames and clips: the value types of the package and the arithmetic between them (numpy only).

Three units of time meet here and nowhere else:

- **seconds**: a `Moment` is a half-open interval `[start, end)` in seconds.
- **frames**: a `FrameGrid` cuts a video of `T` seconds into `F` windows. In the paper's grid they are equal: frame `i`
  stands for `[i*T/F, (i+1)*T/F)` and is sampled at the window's centre (arXiv "Moment and Highlight Detection via MLLM
  Frame Segmentation", section III-B). Other grids sample elsewhere; a window then ends midway to the next sample.
- **clips**: the 2-second units that QVHighlights annotates and scores highlights on.

Axes: F frames, C clips, N and M intervals.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

CLIP_SECONDS = 2.0
"""Length of one QVHighlights clip in seconds."""

MAX_VIDEO_SECONDS = 4 * 3600.0
"""Longest video that is read or annotated: four hours."""

MAX_DURATION_SECONDS = 86_400.0
"""Longest duration that is computed with: a day. It is above `MAX_VIDEO_SECONDS`, since the scorer takes annotations of
others unchecked, as the official evaluator does; a duration beyond a day would ask for more memory than there is, one
value per clip."""

NUM_ANNOTATORS = 3
"""People who rate each clip of QVHighlights."""

MAX_RATING = 4
"""Highest rating that one of them can give."""

MAX_CLIPS = 100_000
"""Most clips of a video."""

GRID_KINDS = ("middle", "uniform")
"""Where a `FrameGrid` can sample: in the middle of equal windows, or from the very start to the very end."""

MAX_GRID_FRAMES = 10_000
"""Most frames of one grid: far more than a model can look at, few enough for every table over them."""


@dataclass(frozen=True)
class Moment:
    """Hold one half-open interval `[start, end)` of a video.

    Args:
        start: First second that belongs to the moment.
        end: First second after the moment.
        score: Whatever ranks this moment among others, higher is better.

    Raises:
        ValueError: If a value is not finite or `start` is not below `end`.

    Example:
        >>> Moment(6, 18, score=0.5).duration_seconds
        12.0
    """

    start: float
    end: float
    score: float = 1.0

    def __post_init__(self) -> None:
        """Turn the values into floats and check them."""
        # The official evaluation server ran Python 2, where integer windows made integer IoUs: always floats.
        for name in ("start", "end", "score"):
            object.__setattr__(self, name, float(getattr(self, name)))
        if not all(math.isfinite(value) for value in (self.start, self.end, self.score)):
            raise ValueError(f"expected finite start, end and score, got {self}; drop or repair this interval")
        if not self.start < self.end:
            raise ValueError(
                f"expected start < end in seconds, got start={self.start:g}, end={self.end:g}; "
                "swap the ends or drop the empty interval"
            )

    @property
    def duration_seconds(self) -> float:
        """Return `end - start` in seconds."""
        return self.end - self.start


@dataclass(frozen=True)
class FrameGrid:
    """Choose F instants of a video, and cut it into one half-open window around each.

    Neighbouring windows meet midway between their samples, the first starts at 0 and the last ends at T. So a run of
    relevant frames becomes a moment in the same way on every grid.

    Args:
        duration_seconds: Length T of the video in seconds, above 0 and up to `MAX_DURATION_SECONDS`. Need not be a
            multiple of anything.
        num_frames: Number of frames F, at least 1 and at most `MAX_GRID_FRAMES`.
        kind: `"middle"`: the middle of F equal windows, as in the paper. `"uniform"`: equal steps from 0 to exactly T,
            as many video LLMs sample; the outer windows are half as long as the others, and a single frame stands at 0.
        phase: Shift of the samples of the `"middle"` grid as a share of T/F, above -0.5 (earlier), below 0.5 (later).

    Raises:
        ValueError: If a value is out of range, the kind is unknown, or a `"uniform"` grid is given a phase.

    Example:
        >>> grid = FrameGrid(duration_seconds=150, num_frames=25)
        >>> grid.window_seconds, grid.times_seconds[:3].tolist()
        (6.0, [3.0, 9.0, 15.0])
        >>> uniform = FrameGrid(duration_seconds=12, num_frames=4, kind="uniform")
        >>> uniform.times_seconds.tolist(), uniform.edges_seconds.tolist()
        ([0.0, 4.0, 8.0, 12.0], [0.0, 2.0, 6.0, 10.0, 12.0])
        >>> FrameGrid(duration_seconds=12, num_frames=4, phase=-0.25).times_seconds.tolist()
        [0.75, 3.75, 6.75, 9.75]
    """

    duration_seconds: float
    num_frames: int
    kind: str = "middle"
    phase: float = 0.0

    def __post_init__(self) -> None:
        """Normalise the types and check the values."""
        for name in ("duration_seconds", "phase"):
            try:
                object.__setattr__(self, name, float(getattr(self, name)))
            except OverflowError:  # a whole number of hundreds of digits, which JSON may hold
                object.__setattr__(self, name, math.inf)
        if not math.isfinite(self.num_frames) or self.num_frames != int(self.num_frames) or self.num_frames < 1:
            raise ValueError(f"expected num_frames to be a whole number >= 1, got {self.num_frames!r}")
        if self.num_frames > MAX_GRID_FRAMES:
            allowed = f"num_frames of at most {MAX_GRID_FRAMES}"
            raise ValueError(f"expected {allowed}, got {self.num_frames!r}; ask for fewer")
        object.__setattr__(self, "num_frames", int(self.num_frames))
        _check_duration(self.duration_seconds)
        if not self.window_seconds > 1e-300:  # only absurd files come here: windows would have no length in float64
            raise ValueError(f"cannot cut {self.duration_seconds!r} seconds into {self.num_frames} windows in float64")
        if self.kind not in GRID_KINDS:
            raise ValueError(f"expected kind to be one of {list(GRID_KINDS)}, got {self.kind!r}")
        if not -0.5 < self.phase < 0.5:
            raise ValueError(f"expected phase above -0.5 and below 0.5 of a window, got {self.phase!r}")
        if self.phase and self.kind != "middle":
            raise ValueError(
                f"expected phase 0 with kind {self.kind!r}, got {self.phase!r}; use kind='middle' to shift"
            )

    @property
    def window_seconds(self) -> float:
        """Return the mean length T/F of a window in seconds; in the paper's grid every window has it."""
        return self.duration_seconds / self.num_frames

    @property
    def edges_seconds(self) -> NDArray[np.float64]:
        """Return the window edges in seconds, shape (F + 1,), from 0 to exactly T."""
        # Multiply before dividing: i*T is exact for every realistic T, so only the division rounds. Adding up T/F
        # drifts, and a drifted edge gives a window that a float comparison no longer counts as a hit.
        if self.kind == "uniform":
            edges = (2 * np.arange(self.num_frames + 1) - 1) * self.duration_seconds / max(2 * self.num_frames - 2, 1)
        else:
            edges = (np.arange(self.num_frames + 1) + self.phase) * self.duration_seconds / self.num_frames
        edges[0], edges[-1] = 0.0, self.duration_seconds
        return edges

    @property
    def times_seconds(self) -> NDArray[np.float64]:
        """Return the ideal sampling times in seconds, shape (F,), ascending; the window centres in the paper's grid."""
        if self.kind == "uniform":
            times = np.arange(self.num_frames) * self.duration_seconds / max(self.num_frames - 1, 1)
            times[1:][-1:] = self.duration_seconds  # exactly, unless the frame at 0 is the only one
            return times
        halves = 2 * np.arange(self.num_frames) + 1 + 2 * self.phase
        times = halves * self.duration_seconds / (2 * self.num_frames)
        return np.minimum(times, self.duration_seconds)  # a phase a hair below 0.5 could be rounded past the end

    @property
    def windows_seconds(self) -> NDArray[np.float64]:
        """Return every frame's half-open window `[start, end)` in seconds, shape (F, 2).

        The last instant T of a uniform grid belongs to the last window.
        """
        edges = self.edges_seconds
        return np.stack([edges[:-1], edges[1:]], axis=1)


def num_clips(duration_seconds: float, clip_seconds: float = CLIP_SECONDS) -> int:
    """Count the clips of a video as the official QVHighlights evaluator does.

    Args:
        duration_seconds: Length of the video in seconds.
        clip_seconds: Length of one clip in seconds.

    Returns:
        `int(duration_seconds / clip_seconds)`, at least 1: a last incomplete clip is not counted.

    Raises:
        ValueError: If a length is not positive, the video longer than `MAX_DURATION_SECONDS`, or cut into more than
            `MAX_CLIPS`.

    Example:
        >>> num_clips(150), num_clips(7.5), num_clips(1)
        (75, 3, 1)
    """
    _check_duration(duration_seconds)
    if not (math.isfinite(clip_seconds) and clip_seconds > 0 and duration_seconds / clip_seconds <= MAX_CLIPS):
        raise ValueError(f"expected clip_seconds above 0, for at most {MAX_CLIPS} clips, got {clip_seconds!r}")
    return max(1, int(duration_seconds / clip_seconds))


def mask_to_spans(mask: ArrayLike) -> list[tuple[int, int]]:
    """Find the runs of ones.

    Args:
        mask: Relevance per frame, shape (F,), bool or 0/1.

    Returns:
        Half-open runs `(first, last + 1)` of frame indices, in time order.

    Raises:
        ValueError: If the mask is not one-dimensional or not binary.

    Example:
        >>> mask_to_spans([1, 1, 0, 1])
        [(0, 2), (3, 4)]
    """
    padded = np.concatenate([[False], as_mask(mask), [False]])
    changes = np.flatnonzero(padded[1:] != padded[:-1])
    return [(int(first), int(stop)) for first, stop in zip(changes[::2], changes[1::2], strict=True)]


def mask_to_moments(mask: ArrayLike, grid: FrameGrid, scores: ArrayLike | None = None) -> list[Moment]:
    """Turn each run of ones into the moment that its frames' windows cover.

    The ends are window edges, i.e. midpoints between neighbouring samples. Using the sampling times themselves costs a
    perfect 25-frame mask 25 points of mAP on QVHighlights val.

    Args:
        mask: Relevance per frame, shape (F,), bool or 0/1.
        grid: The frame windows.
        scores: One score per frame, shape (F,); a moment gets the mean over its run. None scores every moment 1.

    Returns:
        Moments in time order.

    Raises:
        ValueError: If `mask` or `scores` does not have F entries.

    Example:
        >>> mask_to_moments([0, 1, 1, 0], FrameGrid(8, 4), scores=[0.1, 0.9, 0.7, 0.2])
        [Moment(start=2.0, end=6.0, score=0.8)]
    """
    spans = mask_to_spans(as_mask(mask, grid.num_frames))
    edges = grid.edges_seconds
    if scores is None:
        return [Moment(edges[first], edges[stop]) for first, stop in spans]
    values = as_frame_values("scores", scores, grid.num_frames)
    return [Moment(edges[first], edges[stop], values[first:stop].mean()) for first, stop in spans]


def moments_to_mask(moments: Iterable[Moment], grid: FrameGrid) -> NDArray[np.bool_]:
    """Mark the frames whose sampling time (the window's centre in the paper's grid) lies in one of the moments.

    Inverse of `mask_to_moments`; a moment that holds no sampling time is lost.

    Args:
        moments: Half-open moments in seconds, any order, may overlap.
        grid: The frame windows.

    Returns:
        Relevance per frame, shape (F,), bool.

    Example:
        >>> moments_to_mask([Moment(2, 6)], FrameGrid(8, 4)).tolist()
        [False, True, True, False]
    """
    times = grid.times_seconds
    mask = np.zeros(grid.num_frames, dtype=bool)
    for moment in moments:
        # The sample at the very end of a uniform grid belongs to a moment that reaches the end of the video.
        end = math.inf if moment.end >= grid.duration_seconds else moment.end
        mask |= (moment.start <= times) & (times < end)
    return mask


def moments_from_windows(windows: Sequence[Sequence[float]], duration_seconds: float | None = None) -> list[Moment]:
    """Turn raw `[[start, end], ...]` windows into moments, refusing what is not a window of the video.

    Args:
        windows: Raw relevant windows in seconds, as QVHighlights spells them.
        duration_seconds: Length of the video in seconds; None skips the check against it.

    Returns:
        One moment per window, in the given order, score 1.

    Raises:
        ValueError: If a window is not a pair, is empty, inverted, not finite or outside `[0, duration_seconds]`.

    Example:
        >>> moments_from_windows([[0, 4], [10, 12]], duration_seconds=12)
        [Moment(start=0.0, end=4.0, score=1.0), Moment(start=10.0, end=12.0, score=1.0)]
    """
    moments = []
    for index, window in enumerate(windows):
        if not isinstance(window, (Sequence, np.ndarray)) or isinstance(window, str) or len(window) != 2:
            raise ValueError(f"relevant window {index}: expected [start, end] in seconds, got {window!r}")
        try:
            moment = Moment(window[0], window[1])
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"relevant window {index} = {str(list(window)):.120}: {error}") from None
        if moment.start < 0 or (duration_seconds is not None and moment.end > duration_seconds):
            limit = "the video's end" if duration_seconds is None else f"{duration_seconds:g}"
            raise ValueError(
                f"relevant window {index} = {list(window)} is outside the video: expected 0 <= start < end <= {limit} "
                "seconds; correct the window or the duration"
            )
        moments.append(moment)
    return moments


def temporal_iou(a: ArrayLike, b: ArrayLike) -> NDArray[np.float64]:
    """Compute intersection over union of every interval of `a` with every interval of `b`.

    Args:
        a: Intervals `[start, end]` in seconds, shape (N, 2).
        b: Intervals `[start, end]` in seconds, shape (M, 2).

    Returns:
        IoU in [0, 1], shape (N, M). Two empty intervals have IoU 0.

    Raises:
        ValueError: If a shape is wrong or an interval ends before it starts.

    Example:
        >>> temporal_iou([[0, 10]], [[5, 15], [10, 20], [0, 10]]).round(3).tolist()
        [[0.333, 0.0, 1.0]]
    """
    a, b = _as_intervals("a", a), _as_intervals("b", b)
    overlap = np.minimum(a[:, None, 1], b[None, :, 1]) - np.maximum(a[:, None, 0], b[None, :, 0])
    intersection = np.clip(overlap, 0, None)
    union = (a[:, 1] - a[:, 0])[:, None] + (b[:, 1] - b[:, 0])[None, :] - intersection
    return np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)


def nms(moments: Iterable[Moment], iou_threshold: float) -> list[Moment]:
    """Drop moments that overlap a better one too much (greedy non-maximum suppression).

    Args:
        moments: Candidates in any order.
        iou_threshold: A moment goes when its IoU with a kept, better one is above this, in [0, 1].

    Returns:
        The kept moments by descending score; equal scores keep their given order.

    Raises:
        ValueError: If the threshold is outside [0, 1].

    Example:
        >>> nms([Moment(0, 10, 0.5), Moment(0, 9, 0.9), Moment(20, 30, 0.1)], iou_threshold=0.7)
        [Moment(start=0.0, end=9.0, score=0.9), Moment(start=20.0, end=30.0, score=0.1)]
    """
    if not 0 <= iou_threshold <= 1:
        raise ValueError(f"expected iou_threshold in [0, 1], got {iou_threshold!r}")
    ranked = sorted(moments, key=lambda moment: -moment.score)
    intervals = np.array([[moment.start, moment.end] for moment in ranked]).reshape(-1, 2)
    iou = temporal_iou(intervals, intervals)
    kept: list[int] = []
    for candidate in range(len(ranked)):
        if not np.any(iou[candidate, kept] > iou_threshold):
            kept.append(candidate)
    return [ranked[index] for index in kept]


def interpolate_to_clips(
    frame_values: ArrayLike, grid: FrameGrid, clip_seconds: float = CLIP_SECONDS
) -> NDArray[np.float64]:
    """Read a per-frame curve at the clip centres.

    Linear between sampling times, constant before the first and after the last. Nearest-frame reading would give
    neighbouring clips equal values, and the official highlight metric punishes ties (9 points of HL-mAP at F=25).

    Args:
        frame_values: One value per frame, shape (F,).
        grid: The frame windows.
        clip_seconds: Length of one clip in seconds.

    Returns:
        One value per clip, shape (C,) with C = `num_clips(grid.duration_seconds, clip_seconds)`.

    Raises:
        ValueError: If `frame_values` does not have F entries.

    Example:
        >>> interpolate_to_clips([0.0, 1.0], FrameGrid(duration_seconds=8, num_frames=2)).tolist()
        [0.0, 0.25, 0.75, 1.0]
    """
    values = as_frame_values("frame_values", frame_values, grid.num_frames)
    clip_centers = (np.arange(num_clips(grid.duration_seconds, clip_seconds)) + 0.5) * clip_seconds
    return np.interp(clip_centers, grid.times_seconds, values)


def _check_duration(seconds: float) -> None:
    """Refuse lengths that no video has."""
    if not 0 < seconds <= MAX_DURATION_SECONDS:
        limit = f"{MAX_DURATION_SECONDS:g} (a day)"
        raise ValueError(f"expected duration_seconds to be finite and above 0, up to {limit}, got {seconds!r}")


def as_mask(mask: ArrayLike, num_frames: int | None = None) -> NDArray[np.bool_]:
    """Return a 1-d bool copy of a binary mask."""
    array = np.asarray(mask)
    if array.ndim != 1 or (num_frames is not None and len(array) != num_frames):
        raise ValueError(f"expected a mask of shape ({num_frames or 'F'},), one entry per frame, got {array.shape}")
    if array.dtype != bool and not np.isin(array, (0, 1)).all():
        raise ValueError("expected a mask of 0 and 1 only, got other values; threshold probabilities first")
    return array.astype(bool)


def as_frame_values(name: str, values: ArrayLike, num_frames: int) -> NDArray[np.float64]:
    """Return a float64 copy of one finite value per frame."""
    array = np.array(values, dtype=np.float64)
    if array.shape != (num_frames,):
        raise ValueError(f"expected {name} of shape ({num_frames},), one value per frame, got {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"expected finite {name}, got nan or inf; look for an overflow in the model's output")
    return array


def _as_intervals(name: str, values: ArrayLike) -> NDArray[np.float64]:
    """Return intervals as a float64 (N, 2) array."""
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0:
        array = array.reshape(-1, 2)
    if array.ndim != 2 or array.shape[1] != 2:
        raise ValueError(f"expected {name} of shape (N, 2) = [start, end] in seconds, got {array.shape}")
    if not (array[:, 0] <= array[:, 1]).all():
        raise ValueError(f"expected start <= end in every interval of {name}; swap inverted ones first")
    return array
