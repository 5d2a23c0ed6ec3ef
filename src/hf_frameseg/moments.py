"""Moments, frames and clips: the value types of the package and the arithmetic between them (numpy only).

Three units of time meet here and nowhere else:

- **seconds**: a `Moment` is a half-open interval `[start, end)` in seconds.
- **frames**: a `FrameGrid` holds `F` instants and the window that each stands for. In the paper's grid the windows of a
  video of `T` seconds are equal: frame `i` stands for `[i*T/F, (i+1)*T/F)` and is sampled at the window's centre (arXiv
  "Moment and Highlight Detection via MLLM Frame Segmentation", section III-B). Other grids sample elsewhere.
- **clips**: the 2-second units that QVHighlights annotates and scores highlights on.

Axes: F frames, C clips, N and M intervals.
"""

from __future__ import annotations

import math
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


@dataclass(frozen=True, eq=False, repr=False)
class FrameGrid:
    """Hold F instants of a video, and the half-open window that each stands for.

    The windows follow one another without a gap. Whoever computes with frames asks the grid, so a grid of any times
    works everywhere. `middle`, `uniform`, `phase` and `from_times` make the grids of a whole video; `part` lays one
    over a part of a longer video. Grids are equal when all their numbers are.

    Args:
        times: When each frame is sampled, in seconds of the video's clock, ascending, shape (F,), 1 to
            `MAX_GRID_FRAMES` of them. Read-only.
        edges: Where the windows begin, and where the last one ends, ascending, shape (F + 1,): frame `i` stands for
            `[edges[i], edges[i + 1])` and is sampled inside it (or, at the latest, at its end). Read-only.

    Raises:
        ValueError: If the shapes do not fit together, a number is not finite or beyond `MAX_DURATION_SECONDS`, the
            edges do not ascend, or a frame is sampled outside its window.

    Example:
        >>> grid = FrameGrid(times=[1, 2, 7], edges=[0, 1.5, 4.5, 10])
        >>> grid.num_frames, grid.duration_seconds, grid.windows.tolist()
        (3, 10.0, [[0.0, 1.5], [1.5, 4.5], [4.5, 10.0]])
        >>> grid == FrameGrid.from_times([1, 2, 7], duration_seconds=10)
        True
    """

    times: NDArray[np.float64]
    edges: NDArray[np.float64]

    def __post_init__(self) -> None:
        """Copy the numbers, so that nobody changes them, and check them."""
        for name in ("times", "edges"):
            array = np.array(getattr(self, name), dtype=np.float64)
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        times, edges = self.times, self.edges
        if times.ndim != 1 or not len(times) or edges.shape != (len(times) + 1,):
            raise ValueError(
                f"expected times (F,) and edges (F + 1,) in seconds, got the shapes {times.shape} and {edges.shape}"
            )
        _check_num_frames(len(times))
        if not (np.isfinite(times).all() and np.isfinite(edges).all() and edges[0] >= 0):
            raise ValueError("expected finite times and edges in seconds from 0 on, got nan, inf or less; correct them")
        _check_duration(self.end_seconds)
        if not (np.diff(edges) > 0).all():
            place = int(np.flatnonzero(np.diff(edges) <= 0)[0])
            raise ValueError(
                f"expected edges that ascend, got {edges[place]:g} before {edges[place + 1]:g} s; leave out frames "
                "without a window"
            )
        outside = (times < edges[:-1]) | (times > edges[1:])
        if outside.any():
            place = int(np.flatnonzero(outside)[0])
            raise ValueError(
                f"expected each frame inside its window, got frame {place} at {times[place]:g} s outside "
                f"[{edges[place]:g}, {edges[place + 1]:g}); sort the times, or move the edges"
            )

    @classmethod
    def middle(cls, duration_seconds: float, num_frames: int) -> FrameGrid:
        """Make the grid of the paper: F equal windows, each sampled in its middle.

        Args:
            duration_seconds: Length T of the video in seconds, above 0 and up to `MAX_DURATION_SECONDS`. Need not be a
                multiple of anything.
            num_frames: Number of frames F, at least 1 and at most `MAX_GRID_FRAMES`.

        Raises:
            ValueError: If a value is out of range.

        Example:
            >>> FrameGrid.middle(duration_seconds=150, num_frames=25).times[:3].tolist()
            [3.0, 9.0, 15.0]
        """
        return cls.phase(duration_seconds, num_frames, 0.0)

    @classmethod
    def phase(cls, duration_seconds: float, num_frames: int, phase: float) -> FrameGrid:
        """Make the grid of the paper with every sample shifted; neighbouring windows meet midway between samples.

        Args:
            duration_seconds: As for `middle`.
            num_frames: As for `middle`.
            phase: Shift as a share of T/F, above -0.5 (earlier), below 0.5 (later).

        Raises:
            ValueError: If a value is out of range.

        Example:
            >>> grid = FrameGrid.phase(12, 4, -0.25)
            >>> grid.times.tolist(), grid.edges.tolist()
            ([0.75, 3.75, 6.75, 9.75], [0.0, 2.25, 5.25, 8.25, 12.0])
        """
        seconds, count = _length_and_count(duration_seconds, num_frames)
        if not -0.5 < phase < 0.5:
            raise ValueError(f"expected phase above -0.5 and below 0.5 of a window, got {phase!r}")
        shift = float(phase)
        # Multiply before dividing: i*T is exact for every realistic T, so only the division rounds. Adding up T/F
        # drifts, and a drifted edge gives a window that a float comparison no longer counts as a hit.
        edges = (np.arange(count + 1) + shift) * seconds / count
        edges[0], edges[-1] = 0.0, seconds
        times = (2 * np.arange(count) + 1 + 2 * shift) * seconds / (2 * count)
        return cls(np.minimum(times, seconds), edges)  # a phase a hair below 0.5 could be rounded past the end

    @classmethod
    def uniform(cls, duration_seconds: float, num_frames: int) -> FrameGrid:
        """Sample in equal steps from 0 to exactly T, as many video LLMs do; a single frame stands at 0.

        The outer windows are half as long as the others.

        Args:
            duration_seconds: As for `middle`.
            num_frames: As for `middle`.

        Raises:
            ValueError: If a value is out of range.

        Example:
            >>> grid = FrameGrid.uniform(12, 4)
            >>> grid.times.tolist(), grid.edges.tolist()
            ([0.0, 4.0, 8.0, 12.0], [0.0, 2.0, 6.0, 10.0, 12.0])
        """
        seconds, count = _length_and_count(duration_seconds, num_frames)
        edges = (2 * np.arange(count + 1) - 1) * seconds / max(2 * count - 2, 1)
        edges[0], edges[-1] = 0.0, seconds
        times = np.arange(count) * seconds / max(count - 1, 1)
        times[1:][-1:] = seconds  # exactly, unless the frame at 0 is the only one
        return cls(times, edges)

    @classmethod
    def from_times(cls, times: ArrayLike, duration_seconds: float) -> FrameGrid:
        """Make the grid of given samples: windows meet midway between neighbours, the outer ones reach the ends.

        Args:
            times: When each frame is sampled, in seconds from 0 to T, strictly ascending, shape (F,). A last time that
                is T as far as its type can say (float32 rounds 10.1 up) is T.
            duration_seconds: Length T of the video in seconds.

        Raises:
            ValueError: If the times do not ascend or leave the video, or a value is out of range.

        Example:
            >>> FrameGrid.from_times([1, 2, 7], duration_seconds=10).edges.tolist()
            [0.0, 1.5, 4.5, 10.0]
        """
        seconds = _as_seconds(duration_seconds)
        array = np.array(times, dtype=np.float64)
        if array.ndim != 1 or not len(array):
            raise ValueError(f"expected times of shape (F,), F >= 1, in seconds, got shape {array.shape}")
        if not (np.isfinite(array).all() and (np.diff(array) > 0).all()):
            raise ValueError("expected finite times that ascend, in seconds; sort them and leave out doubled ones")
        given = np.asarray(times)
        if given.dtype.kind == "f" and given[-1] == given.dtype.type(seconds):
            array[-1] = seconds
        if array[0] < 0 or array[-1] > seconds:
            odd = array[0] if array[0] < 0 else array[-1]
            raise ValueError(
                f"expected times inside the video, from 0 to {seconds!r} s, got {odd.item()!r}; leave out such frames"
            )
        return cls(array, np.concatenate([[0.0], (array[:-1] + array[1:]) / 2, [seconds]]))

    def part(self, start_seconds: float, end_seconds: float) -> FrameGrid:
        """Lay the same pattern over a part of a longer video.

        A model looks at F frames at a time: it is asked about a long video in parts, each on the pattern that it was
        trained with. Times, and the moments that come of them, stay those of the whole video.

        Args:
            start_seconds: Where the part begins, in seconds of the video's clock, at least 0.
            end_seconds: Where it ends, after the start.

        Returns:
            F windows from exactly the start to exactly the end. The clips of a part are counted from its start.

        Raises:
            ValueError: If the part is empty or not inside a video of `MAX_DURATION_SECONDS`.

        Example:
            >>> part = FrameGrid.middle(30, 3).part(60, 90)
            >>> part.times.tolist(), part.edges.tolist()
            ([65.0, 75.0, 85.0], [60.0, 70.0, 80.0, 90.0])
        """
        if not 0 <= start_seconds < end_seconds <= MAX_DURATION_SECONDS:
            raise ValueError(
                f"expected a part with 0 <= start < end <= {MAX_DURATION_SECONDS:g} s, got start={start_seconds!r}, "
                f"end={end_seconds!r}"
            )
        start, end = float(start_seconds), float(end_seconds)
        scale = (end - start) / self.duration_seconds
        edges = start + (self.edges - self.start_seconds) * scale
        edges[0], edges[-1] = start, end
        times = start + (self.times - self.start_seconds) * scale
        return FrameGrid(np.clip(times, edges[:-1], edges[1:]), edges)  # a rounded time stays in its window

    def merged(self, count: int) -> FrameGrid:
        """Return the grid whose windows are `count` neighbouring ones of this each, for models that see them as one.

        Args:
            count: Windows that become one, at least 1; they must not leave any over.

        Returns:
            F / count windows with the same ends, each at the mean of the times that it holds.

        Raises:
            ValueError: If some windows would be left over.

        Example:
            >>> grid = FrameGrid.middle(12, 6).merged(2)
            >>> grid == FrameGrid.middle(12, 3), grid.times.tolist()
            (True, [2.0, 6.0, 10.0])
        """
        if count < 1 or self.num_frames % count:
            raise ValueError(
                f"expected a whole share of {self.num_frames} frames, got {count} at a time; choose a number of frames "
                "that it divides"
            )
        return FrameGrid(self.times.reshape(-1, count).mean(axis=1), self.edges[::count])

    @property
    def num_frames(self) -> int:
        """Return the number of frames F."""
        return len(self.times)

    @property
    def start_seconds(self) -> float:
        """Return where the first window begins: 0, unless this is a part of a longer video."""
        return float(self.edges[0])

    @property
    def end_seconds(self) -> float:
        """Return where the last window ends."""
        return float(self.edges[-1])

    @property
    def duration_seconds(self) -> float:
        """Return the length from start to end; that of the video, unless this is a part of a longer one."""
        return self.end_seconds - self.start_seconds

    @property
    def windows(self) -> NDArray[np.float64]:
        """Return every frame's half-open window `[start, end)` in seconds, shape (F, 2)."""
        return np.stack([self.edges[:-1], self.edges[1:]], axis=1)

    def clip_times(self) -> NDArray[np.float64]:
        """Return the middle of every clip in seconds of the video's clock; clips are counted from the start.

        Returns:
            Seconds, shape (C,) with C = `num_clips(grid.duration_seconds)`.

        Example:
            >>> FrameGrid.middle(6, 2).clip_times().tolist()
            [1.0, 3.0, 5.0]
        """
        return self.start_seconds + (np.arange(num_clips(self.duration_seconds)) + 0.5) * CLIP_SECONDS

    def __eq__(self, other: object) -> bool:
        """Tell whether all times and edges are the same."""
        if not isinstance(other, FrameGrid):
            return NotImplemented
        return np.array_equal(self.times, other.times) and np.array_equal(self.edges, other.edges)

    def __hash__(self) -> int:
        """Return the same for equal grids."""
        return hash((*self.times.tolist(), *self.edges.tolist()))

    def __repr__(self) -> str:
        """Return what fits into a message."""
        return f"FrameGrid({self.num_frames} frames, {self.start_seconds:g} to {self.end_seconds:g} s)"

    def __reduce__(self) -> tuple[type[FrameGrid], tuple[NDArray[np.float64], NDArray[np.float64]]]:
        """Make copies and pickles read-only too."""
        return FrameGrid, (self.times, self.edges)


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


def _check_duration(seconds: float) -> None:
    """Refuse lengths that no video has."""
    if not 0 < seconds <= MAX_DURATION_SECONDS:
        limit = f"{MAX_DURATION_SECONDS:g} (a day)"
        raise ValueError(f"expected duration_seconds to be finite and above 0, up to {limit}, got {seconds!r}")


def _check_num_frames(count: float) -> None:
    """Refuse numbers of frames that no grid has."""
    if not math.isfinite(count) or count != int(count) or count < 1:
        raise ValueError(f"expected num_frames to be a whole number >= 1, got {count!r}")
    if count > MAX_GRID_FRAMES:
        raise ValueError(f"expected num_frames of at most {MAX_GRID_FRAMES}, got {count!r}; ask for fewer")


def _as_seconds(duration_seconds: float) -> float:
    """Return a checked length of a video."""
    try:
        seconds = float(duration_seconds)
    except OverflowError:  # a whole number of hundreds of digits, which JSON may hold
        seconds = math.inf
    _check_duration(seconds)
    return seconds


def _length_and_count(duration_seconds: float, num_frames: int) -> tuple[float, int]:
    """Return a checked length and number of frames that go together."""
    _check_num_frames(num_frames)
    seconds = _as_seconds(duration_seconds)
    if not seconds / num_frames > 1e-300:  # only absurd files come here: windows would have no length in float64
        raise ValueError(f"cannot cut {seconds!r} seconds into {num_frames} windows in float64")
    return seconds, int(num_frames)
