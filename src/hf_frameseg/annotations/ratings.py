"""Ratings of clips: those of QVHighlights, those of other scales, and those that windows stand in for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_frameseg._numbers import is_number, is_whole
from hf_frameseg.annotations.schema import are_three_ratings
from hf_frameseg.moments import CLIP_SECONDS, MAX_RATING, NUM_ANNOTATORS, num_clips

OTHER_SCALE_HINT = (
    "if clips were rated otherwise, state rating_scale=(LOWEST, HIGHEST) and clip_seconds (frameseg: --rating-scale "
    "LOWEST HIGHEST --clip-seconds S)"
)
"""Repair that a message names where ratings may be on another scale than the file's reader took."""


@dataclass(frozen=True)
class RatingScale:
    """Say how the clips of a data set were rated, where that is not how QVHighlights does it.

    Args:
        lowest: Rating of a clip that nobody would show, such as 1 for TVSum.
        highest: The best rating, such as 5.
        clip_seconds: Length of a clip.
        num_raters: Raters of each clip; None takes what the file has, the same for all of its clips.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> tvsum = RatingScale(1, 5, clip_seconds=1, num_raters=20)
    """

    lowest: float
    highest: float
    clip_seconds: float = CLIP_SECONDS
    num_raters: int | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not (is_number(self.lowest) and is_number(self.highest) and self.lowest < self.highest):
            raise ValueError(
                f"expected a rating scale from a lowest to a highest number, got {self.lowest!r:.40} and "
                f"{self.highest!r:.40}; write (1, 5), for example"
            )
        if not is_number(self.clip_seconds) or not 0.1 <= self.clip_seconds <= 3600:
            raise ValueError(f"expected clip_seconds from 0.1 to 3600, got {self.clip_seconds!r:.40}")
        if self.num_raters is not None and not is_whole(self.num_raters, 1):
            raise ValueError(f"expected num_raters to be a whole number of at least 1, got {self.num_raters!r:.40}")

    @classmethod
    def of(cls, bounds: Any, clip_seconds: float = CLIP_SECONDS, num_raters: int | None = None) -> RatingScale:
        """Make a scale from a pair of bounds.

        Args:
            bounds: Lowest and highest rating.
            clip_seconds: Length of a clip.
            num_raters: Raters of each clip.

        Returns:
            The scale.

        Raises:
            ValueError: If it is no pair, or a number is out of range.
        """
        if not is_list(bounds) or len(bounds) != 2:
            raise ValueError(f"expected rating_scale=(LOWEST, HIGHEST), got {bounds!r:.80}; write (1, 5), for example")
        return cls(*bounds, clip_seconds, num_raters)

    def read(self, ratings: Any, duration_seconds: float) -> NDArray[np.float64]:
        """Check the ratings of one video.

        Args:
            ratings: For each clip a rating, or one per rater.
            duration_seconds: Length of the video.

        Returns:
            Ratings (C, A) of the complete clips, on the scale of the file.

        Raises:
            ValueError: If they do not fit the video or the scale.
        """
        count = num_clips(duration_seconds, self.clip_seconds)
        if not _covers_clips(ratings, duration_seconds, self.clip_seconds):
            got = f"{len(ratings)} of them" if is_list(ratings) else repr(ratings)
            raise ValueError(
                f"expected {count} ratings, one for each {self.clip_seconds:g}-second clip of {duration_seconds:g} s, "
                f"got {got:.80}; correct them, or clip_seconds"
            )
        rows = [rating if is_list(rating) else [rating] for rating in ratings][:count]
        raters = self.num_raters or len(rows[0])
        for row in rows:
            if len(row) != raters or not raters:
                raise ValueError(f"expected {max(raters, 1)} ratings for each clip, got {row!r:.80}")
            if not all(is_number(rating) and self.lowest <= rating <= self.highest for rating in row):
                raise ValueError(f"expected ratings from {self.lowest:g} to {self.highest:g}, got {row!r:.80}")
        return np.array(rows, dtype=np.float64)

    def to_clips(self, ratings: NDArray[np.float64], duration_seconds: float) -> NDArray[np.float64]:
        """Convert ratings to 2-second clips and the scale from 0 to 4, on which frames are trained.

        Args:
            ratings: What `read` returned, (C, A).
            duration_seconds: Length of the video.

        Returns:
            Ratings from 0 to 4 of each 2-second clip by each rater: the mean of the file's clips over the time that
            they share with it.

        Example:
            >>> RatingScale(1, 5, clip_seconds=1).to_clips(np.array([[1.0], [5.0], [5.0], [5.0]]), 4).tolist()
            [[2.0], [4.0]]
        """
        edges = np.arange(len(ratings) + 1) * self.clip_seconds
        total = np.concatenate([np.zeros((1, ratings.shape[1])), np.cumsum(ratings * self.clip_seconds, axis=0)])
        times = np.minimum(np.arange(num_clips(duration_seconds) + 1) * CLIP_SECONDS, edges[-1])
        up_to = np.stack([np.interp(times, edges, of_rater) for of_rater in total.T], axis=1)
        shared = np.diff(times)[:, None]
        # The last complete clip of the file also rates what comes after it.
        mean = np.where(shared > 0, np.diff(up_to, axis=0) / np.where(shared > 0, shared, 1.0), ratings[-1])
        return (mean - self.lowest) / (self.highest - self.lowest) * MAX_RATING


def window_clips(windows: Sequence[Sequence[float]], duration_seconds: float) -> list[int]:
    """List the clips that the rule `window` calls relevant.

    Args:
        windows: `[[start, end], ...]` in seconds, inside the video.
        duration_seconds: Length of the video; only complete 2-second clips count, and at least one.

    Returns:
        Clip ids, ascending.

    Example:
        >>> window_clips([[2.5, 6.0], [7.2, 7.8]], duration_seconds=9.5)  # clip centres 1, 3, 5, 7 s
        [1, 2, 3]
    """
    last = num_clips(duration_seconds) - 1
    relevant: set[int] = set()
    for start, end in windows:
        # Clip c has its centre at (c + 0.5) * CLIP_SECONDS; half-open as everywhere.
        first, stop = (math.ceil(side / CLIP_SECONDS - 0.5) for side in (start, end))
        inside = range(first, min(stop, last + 1))
        relevant.update(inside or [min(int((start + end) / 2 / CLIP_SECONDS), last)])
    return sorted(relevant)


def rate_by_windows(windows: Sequence[Sequence[float]], duration_seconds: float) -> tuple[list[int], list[list[int]]]:
    """Make up the ratings that a file lacks, by the rule `window`: all annotators rate a clip in a window 4.

    Args:
        windows: `[[start, end], ...]` in seconds, inside the video.
        duration_seconds: Length of the video.

    Returns:
        Ids of the clips and their ratings.

    Example:
        >>> rate_by_windows([[2, 4]], duration_seconds=10)
        ([1], [[4, 4, 4]])
    """
    clip_ids = window_clips(windows, duration_seconds)
    return clip_ids, [[MAX_RATING] * NUM_ANNOTATORS for _ in clip_ids]


def three_ratings(ratings: Any, duration_seconds: float) -> list[list[int]]:
    """Check one video's ratings on the scale of QVHighlights.

    Args:
        ratings: For each 2-second clip a rating from 0 to 4, or three.
        duration_seconds: Length of the video.

    Returns:
        Three ratings for each complete clip.

    Raises:
        ValueError: If they do not fit the video or the scale.
    """
    count = num_clips(duration_seconds)
    if not _covers_clips(ratings, duration_seconds, CLIP_SECONDS):
        got = f"{len(ratings)} of them" if is_list(ratings) else f"{ratings!r:.80}"
        raise ValueError(
            f"expected saliency to be a list of {count} ratings, one per {CLIP_SECONDS:g}-second clip, got {got}; "
            f"{OTHER_SCALE_HINT}"
        )
    threes = []
    for rating in ratings:
        three = [rating] * NUM_ANNOTATORS if type(rating) is int else rating
        if not is_list(three) or not are_three_ratings(three):
            raise ValueError(
                f"expected each saliency rating to be a whole number from 0 to {MAX_RATING}, or {NUM_ANNOTATORS} "
                f"of them, got {rating!r:.80}; {OTHER_SCALE_HINT}"
            )
        threes.append(list(three))
    return threes[:count]


def is_list(value: Any) -> bool:
    """Tell a list from a text, which has a length too.

    Args:
        value: Anything.

    Returns:
        Whether it is a sequence, but no text.
    """
    return isinstance(value, Sequence) and not isinstance(value, str)


def _covers_clips(ratings: Any, duration_seconds: float, clip_seconds: float) -> bool:
    """Tell whether there is a rating for each complete clip; an incomplete last one may be rated too."""
    lengths = (num_clips(duration_seconds, clip_seconds), math.ceil(duration_seconds / clip_seconds))
    return is_list(ratings) and len(ratings) in lengths
