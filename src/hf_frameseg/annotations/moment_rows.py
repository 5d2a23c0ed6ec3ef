"""Annotations of other data sets as rows of the QVHighlights schema (see `read_annotations`).

A reader of a file format says what each query of the file states, as a `MomentEntry`; `to_rows` does the rest, with
these rules:

- **Windows.** With `on_bad_window="repair"` a window with start after end is swapped, what lies outside the video is
  cut off, and a query without a window left is dropped. Each of these is counted and logged. The real files of
  Charades-STA and ActivityNet Captions have such windows. `"raise"` refuses them.
- **Saliency.** Only QVHighlights has ratings. The rule `window` makes up the others: every 2-second clip whose centre
  lies in a window is rated 4 by all three annotators (of a window without such a centre, the clip that holds its
  middle). `saliency_source` says where the ratings of a row come from; highlight scores mean something for `annotators`
  only.
- **Other ratings.** A `RatingScale` says how clips were rated elsewhere (TVSum: 1 to 5 by twenty people, per second).
  They are brought to 2-second clips from 0 to 4, to learn from; `saliency_source` is "scaled". Windows may be missing.
- **Durations.** Where neither the file nor the data set states them, the videos are asked. Of a video that cannot be
  asked the end of its last window is taken: enough to name its queries in the report of what is missing.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_frameseg._text import printable
from hf_frameseg.annotations.qvhighlights import (
    ANNOTATED_SALIENCY,
    WINDOW_SALIENCY,
    AnnotationError,
    check_duration,
    check_qid,
    check_ratings,
    check_text,
    find_file,
    is_number,
    window_clips,
)
from hf_frameseg.moments import CLIP_SECONDS, MAX_RATING, NUM_ANNOTATORS, num_clips

logger = logging.getLogger(__name__)

SCALED_SALIENCY = "scaled"
"""`saliency_source` of rows whose ratings were made on another scale: to learn from, not to be scored as they are."""

_OTHER_SCALE = (
    "if clips were rated otherwise, state rating_scale=(LOWEST, HIGHEST) and clip_seconds (frameseg: --rating-scale "
    "LOWEST HIGHEST --clip-seconds S)"
)

ON_BAD_WINDOW = ("repair", "raise")
"""What to do about a window that is inverted, empty or not inside the video."""


@dataclass(frozen=True)
class MomentEntry:
    """Hold one query as a file states it.

    Args:
        where: File and place in it, for errors: `file:line`.
        vid: Name of the video.
        query: The sentence.
        windows: `[[start, end], ...]` in seconds; empty for a query with highlights only.
        duration_seconds: Length of the video; None where the file does not say it.
        qid: Query id, a whole number or a text; None numbers the entries of the file from 0.
        clip_ratings: For each clip of the video (an incomplete last one may be left out) a rating, or one per rater;
            None where there are none. Without a `RatingScale` clips have 2 seconds, and ratings go from 0 to 4.
        rated_clips: In their place, ids of 2-second clips and as many ratings by three raters, as in QVHighlights.
    """

    where: str
    vid: str
    query: str
    windows: Sequence[Sequence[float]]
    duration_seconds: float | None = None
    qid: int | str | None = None
    clip_ratings: Sequence[Any] | None = None
    rated_clips: tuple[Any, Any] | None = None


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
        if self.num_raters is not None and (type(self.num_raters) is not int or self.num_raters < 1):
            raise ValueError(f"expected num_raters to be a whole number of at least 1, got {self.num_raters!r:.40}")

    @classmethod
    def of(cls, bounds: Any, clip_seconds: float = CLIP_SECONDS, num_raters: int | None = None) -> RatingScale:
        """Make a scale of a pair.

        Args:
            bounds: Lowest and highest rating.
            clip_seconds: Length of a clip.
            num_raters: Raters of each clip.

        Returns:
            The scale.

        Raises:
            ValueError: If it is no pair, or a number is out of range.
        """
        if not _is_list(bounds) or len(bounds) != 2:
            raise ValueError(f"expected rating_scale=(LOWEST, HIGHEST), got {bounds!r:.80}; write (1, 5), for example")
        return cls(*bounds, clip_seconds, num_raters)

    def read(self, ratings: Any, duration_seconds: float) -> NDArray[np.float64]:
        """Check the ratings of one video.

        Args:
            ratings: For each clip a rating, or one per rater.
            duration_seconds: Length of the video.

        Returns:
            Ratings (C, A) as they are, of the complete clips.

        Raises:
            ValueError: If they do not fit the video or the scale.
        """
        count = num_clips(duration_seconds, self.clip_seconds)
        lengths = (count, math.ceil(duration_seconds / self.clip_seconds))
        if not _is_list(ratings) or len(ratings) not in lengths:
            got = f"{len(ratings)} of them" if _is_list(ratings) else repr(ratings)
            raise ValueError(
                f"expected {count} ratings, one for each {self.clip_seconds:g}-second clip of {duration_seconds:g} s, "
                f"got {got:.80}; correct them, or clip_seconds"
            )
        rows = [rating if _is_list(rating) else [rating] for rating in ratings][:count]
        raters = self.num_raters or len(rows[0])
        for row in rows:
            if len(row) != raters or not raters:
                raise ValueError(f"expected {max(raters, 1)} ratings for each clip, got {row!r:.80}")
            if not all(is_number(rating) and self.lowest <= rating <= self.highest for rating in row):
                raise ValueError(f"expected ratings from {self.lowest:g} to {self.highest:g}, got {row!r:.80}")
        return np.array(rows, dtype=np.float64)

    def to_clips(self, ratings: NDArray[np.float64], duration_seconds: float) -> NDArray[np.float64]:
        """Bring ratings to 2-second clips and the scale from 0 to 4, what the frames learn from.

        Args:
            ratings: What `read` returned, (C, A).
            duration_seconds: Length of the video.

        Returns:
            Of each 2-second clip by each rater the mean over the time it shares with the file's clips, from 0 to 4.

        Example:
            >>> RatingScale(1, 5, clip_seconds=1).to_clips(np.array([[1.0], [5.0], [5.0], [5.0]]), 4).tolist()
            [[2.0], [4.0]]
        """
        edges = np.arange(len(ratings) + 1) * self.clip_seconds
        total = np.concatenate([np.zeros((1, ratings.shape[1])), np.cumsum(ratings * self.clip_seconds, axis=0)])
        times = np.minimum(np.arange(num_clips(duration_seconds) + 1) * CLIP_SECONDS, edges[-1])
        up_to = np.stack([np.interp(times, edges, of_rater) for of_rater in total.T], axis=1)
        shared = np.diff(times)[:, None]
        # Behind the last complete clip of the file its rating stands.
        mean = np.where(shared > 0, np.diff(up_to, axis=0) / np.where(shared > 0, shared, 1.0), ratings[-1])
        return (mean - self.lowest) / (self.highest - self.lowest) * MAX_RATING


def to_rows(
    entries: Sequence[MomentEntry],
    path: str | Path,
    durations_seconds: Mapping[str, float] | None = None,
    on_bad_window: str = "repair",
    scale: RatingScale | None = None,
) -> list[dict[str, Any]]:
    """Check entries and turn them into rows.

    Args:
        entries: What a file states, in its order.
        path: The file, for messages.
        durations_seconds: vid -> length in seconds, for entries that do not say it.
        on_bad_window: "repair" or "raise", see the top of the module.
        scale: How the clips were rated, if not from 0 to 4 in clips of 2 seconds; queries may then lack windows.

    Returns:
        One dict per query with the seven fields of `read_annotations`, and `saliency_source`.

    Raises:
        AnnotationError: If an entry is wrong, or there is none; the message starts with file and line.
        ValueError: If `on_bad_window` is unknown.

    Example:
        >>> entry = MomentEntry("a.txt:1", "v0", "a dog runs", [[2.5, 6.0]], duration_seconds=9.5)
        >>> row = to_rows([entry], "a.txt")[0]
        >>> row["relevant_windows"], row["relevant_clip_ids"], row["saliency_source"]
        ([[2.5, 6.0]], [1, 2], 'window')
    """
    if on_bad_window not in ON_BAD_WINDOW:
        raise ValueError(f"expected on_bad_window to be one of {list(ON_BAD_WINDOW)}, got {on_bad_window!r}")
    name = Path(path).name
    if not entries:
        raise AnnotationError(f"{name}: expected at least one query, got none; download it again")
    rows: list[dict[str, Any]] = []
    repairs: Counter[str] = Counter()
    qids: dict[int | str, str] = {}
    durations = {**(durations_seconds or {}), **_stated_durations(entries)}
    for number, entry in enumerate(entries):
        try:
            qid = _qid(entry, number, qids)
            duration = _duration(entry, durations)
            windows = _windows(entry, duration, on_bad_window, repairs, scale)
            clip_ids, scores, source = _saliency(entry, windows, duration, scale)
        except ValueError as error:
            raise AnnotationError(printable(f"{entry.where}: {error}")) from None
        qids[qid] = entry.where
        row = {"qid": qid, "query": entry.query.strip(), "duration": duration, "vid": entry.vid}
        labels = {"relevant_windows": windows, "relevant_clip_ids": clip_ids, "saliency_scores": scores}
        if windows or not entry.windows:
            rows.append({**row, **labels, "saliency_source": source})
    if not rows:
        raise AnnotationError(f"{name}: no window lies inside its video; check the durations")
    _log_repairs(name, repairs, len(entries) - len(rows))
    return rows


def last_window_ends(entries: Iterable[MomentEntry]) -> dict[str, float]:
    """Find the shortest length that each video can have.

    Args:
        entries: What a file states.

    Returns:
        vid -> end of the last window in seconds; one clip where that is no positive number.

    Example:
        >>> last_window_ends(MomentEntry("a:1", "v0", "a dog", [window]) for window in ([2.5, 6.0], [1.0, 3.0]))
        {'v0': 6.0}
    """
    ends: dict[str, float] = {}
    for entry in entries:
        windows = entry.windows if isinstance(entry.windows, Sequence) else ()
        sides = [side for window in windows if isinstance(window, Sequence) for side in window if is_number(side)]
        end = max(sides, default=0.0)
        if isinstance(entry.vid, str):
            ends[entry.vid] = max(ends.get(entry.vid, 0.0), end if end > 0 else CLIP_SECONDS)
    return ends


def split_file(data_dir: str | Path, files: Mapping[str, str], split: str) -> Path:
    """Return the annotation file of a split.

    Args:
        data_dir: The folder.
        files: split -> name of its file.
        split: The split.

    Returns:
        Path of an existing file.

    Raises:
        ValueError: If there is no such split.
        FileNotFoundError: If the folder or the file does not exist.
    """
    folder = Path(data_dir)
    if split not in files:
        raise ValueError(f"expected split to be one of {list(files)}, got {split!r}")
    if not folder.is_dir():
        raise FileNotFoundError(f"no such data folder: {folder}; pass the folder that holds the annotation files")
    if found := find_file(folder, files[split]):
        return found
    raise FileNotFoundError(f"no annotations for {split} in {folder}; expected {files[split]}")


def splits_there(data_dir: str | Path, files: Mapping[str, str]) -> tuple[str, ...]:
    """Return the splits whose annotation file is there.

    Args:
        data_dir: The folder.
        files: split -> name of its file.

    Returns:
        The splits, in the order of `files`.

    Raises:
        FileNotFoundError: If there are none.
    """
    splits = tuple(split for split, name in files.items() if find_file(data_dir, name))
    if not splits:
        split_file(data_dir, files, next(iter(files)))  # says what is missing
    return splits


def _qid(entry: MomentEntry, number: int, qids: Mapping[int | str, str]) -> int | str:
    """Return the query id, its own or its number."""
    qid = number if entry.qid is None else entry.qid
    check_qid(qid, next(iter(qids), None))
    if qid in qids:
        raise ValueError(f"qid {qid} is also at {qids[qid]}; every query needs its own qid")
    return qid


def _stated_durations(entries: Sequence[MomentEntry]) -> dict[str, float]:
    """Collect the durations that the file states, one per video; check the texts on the way."""
    stated: dict[str, float] = {}
    for entry in entries:
        try:
            for name, text in (("query", entry.query), ("video", entry.vid)):
                check_text(name, text)
            if entry.duration_seconds is None:
                continue
            check_duration(entry.duration_seconds)
            duration = float(entry.duration_seconds)
            if stated.setdefault(entry.vid, duration) != duration:
                before = stated[entry.vid]
                raise ValueError(
                    f"video {entry.vid} lasts {duration:g} s here and {before:g} s before; correct one of them"
                )
        except ValueError as error:
            raise AnnotationError(printable(f"{entry.where}: {error}")) from None
    return stated


def _duration(entry: MomentEntry, durations: Mapping[str, float]) -> float:
    """Return the length of the entry's video."""
    duration = durations.get(entry.vid)
    if duration is None:
        raise ValueError(
            f"the duration of video {entry.vid!r:.80} is not known; state it in the file, pass durations_seconds, or "
            "load the data set with its videos, which are then asked"
        )
    check_duration(duration)
    return float(duration)


def _windows(
    entry: MomentEntry, duration: float, on_bad_window: str, repairs: Counter[str], scale: RatingScale | None
) -> list[list[float]]:
    """Return the windows, repaired where that is wanted."""
    windows = entry.windows
    if _is_list(windows) and not windows and entry.clip_ratings is not None:
        if scale is not None:
            return []
        raise ValueError(f"has ratings and no windows; add windows; {_OTHER_SCALE}, and none are needed")
    if not isinstance(windows, Sequence) or isinstance(windows, str) or not windows:
        raise ValueError(f"expected windows to be a list of [start, end] in seconds, got {windows!r:.80}")
    kept = []
    for window in windows:
        if not isinstance(window, Sequence) or len(window) != 2 or not all(is_number(side) for side in window):
            raise ValueError(f"expected a window [start, end] in seconds, got {window!r:.80}")
        start, end = float(min(window)), float(max(window))
        inside = [max(start, 0.0), min(end, duration)]
        wrong = {"swapped": window[0] > window[1], "cut": inside != [start, end], "empty": inside[0] >= inside[1]}
        if any(wrong.values()) and on_bad_window == "raise":
            raise ValueError(
                f"expected a window with 0 <= start < end <= {duration:g} seconds, got {list(window)}; correct the "
                "window or the duration, or pass on_bad_window='repair'"
            )
        repairs.update(name for name, found in wrong.items() if found)
        if not wrong["empty"]:
            kept.append(inside)
    return kept


def _saliency(
    entry: MomentEntry, windows: Sequence[Sequence[float]], duration: float, scale: RatingScale | None
) -> tuple[list[int], list[list[float]], str]:
    """Return relevant clip ids, their ratings and where the ratings come from."""
    if scale is not None and entry.clip_ratings is not None:
        clips = scale.to_clips(scale.read(entry.clip_ratings, duration), duration).tolist()
        relevant = [clip for clip, ratings in enumerate(clips) if any(ratings)]
        return relevant, [clips[clip] for clip in relevant], SCALED_SALIENCY
    if entry.rated_clips is not None:
        clip_ids, scores = entry.rated_clips
        check_ratings(clip_ids, scores, duration)
        return clip_ids, scores, ANNOTATED_SALIENCY
    clip_ids = window_clips(windows, duration)
    if entry.clip_ratings is None:
        return clip_ids, [[MAX_RATING] * NUM_ANNOTATORS for _ in clip_ids], WINDOW_SALIENCY
    ratings, count = entry.clip_ratings, num_clips(duration)
    lengths = (count, math.ceil(duration / CLIP_SECONDS))
    if not _is_list(ratings) or len(ratings) not in lengths:
        got = f"{len(ratings)} of them" if _is_list(ratings) else f"{ratings!r:.80}"
        raise ValueError(
            f"expected saliency to be a list of {count} ratings, one per {CLIP_SECONDS:g}-second clip, got {got}; "
            f"{_OTHER_SCALE}"
        )
    # An incomplete last clip may be rated, but no score looks at it.
    scores = [_three_ratings(rating) for rating in ratings][:count]
    clip_ids = sorted({*clip_ids, *(clip for clip, three in enumerate(scores) if any(three))})
    return clip_ids, [scores[clip] for clip in clip_ids], ANNOTATED_SALIENCY


def _three_ratings(rating: Any) -> list[int]:
    """Return a clip's rating as one per annotator."""
    three = [rating] * NUM_ANNOTATORS if type(rating) is int else rating
    valid = _is_list(three) and len(three) == NUM_ANNOTATORS
    if not valid or not all(type(score) is int and 0 <= score <= MAX_RATING for score in three):
        raise ValueError(
            f"expected each saliency rating to be a whole number from 0 to {MAX_RATING}, or {NUM_ANNOTATORS} "
            f"of them, got {rating!r:.80}; {_OTHER_SCALE}"
        )
    return list(three)


def _is_list(value: Any) -> bool:
    """Tell a list from a text, which has a length too."""
    return isinstance(value, Sequence) and not isinstance(value, str)


def _log_repairs(name: str, repairs: Mapping[str, int], num_left_out: int) -> None:
    """Say in one line what was repaired."""
    if repairs:
        logger.warning(
            "%s: repaired windows: %d with start after end swapped, %d cut at the video's start or end, %d empty ones "
            "dropped; %d queries without a window dropped",
            *(printable(name), repairs["swapped"], repairs["cut"], repairs["empty"], num_left_out),
        )
