"""Queries of any data set as rows of the seven fields of `annotations/schema.py`.

A reader of a file format returns what the file states of each query, as a `MomentEntry`. `to_rows` makes rows of them
and follows these rules:

- **Windows.** `on_bad_window="repair"` swaps a window whose start is after its end, cuts off what lies outside the
  video, and drops a query that has no window left. It counts and logs each of these. The real files of Charades-STA
  and ActivityNet Captions have such windows. `"raise"` refuses them.
- **Saliency.** Only QVHighlights has ratings. For other data sets the rule `window` makes them up: all three annotators
  rate a 2-second clip 4 if its centre lies in a window. A window that contains no centre rates the clip at its middle.
  `saliency_source` says where the ratings of a row come from; highlight scores mean something for `annotators` only.
- **Other ratings.** A `RatingScale` says how clips were rated elsewhere (TVSum: 1 to 5 by twenty people, per second).
  For training the ratings are converted to 2-second clips and the scale from 0 to 4, and `saliency_source` is "scaled".
  Such queries need no windows.
- **Durations.** They come from the file, from the data set or from the videos. The end of the last window stands in for
  a video that cannot be read: enough to name its queries in the report of what is missing.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_frameseg._numbers import is_number
from hf_frameseg._text import printable
from hf_frameseg.annotations.ratings import (
    OTHER_SCALE_HINT,
    RatingScale,
    is_list,
    rate_by_windows,
    three_ratings,
    window_clips,
)
from hf_frameseg.annotations.schema import (
    AnnotationError,
    check_duration,
    check_qid,
    check_ratings,
    check_text,
)
from hf_frameseg.moments import CLIP_SECONDS
from hf_frameseg.targets import ANNOTATED_SALIENCY, SCALED_SALIENCY, WINDOW_SALIENCY

logger = logging.getLogger(__name__)

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
        rated_clips: Ratings as QVHighlights has them, instead of `clip_ratings`: ids of 2-second clips, and for each of
            them three ratings.
    """

    where: str
    vid: str
    query: str
    windows: Sequence[Sequence[float]]
    duration_seconds: float | None = None
    qid: int | str | None = None
    clip_ratings: Sequence[Any] | None = None
    rated_clips: tuple[Any, Any] | None = None


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
        scale: How the clips were rated, if not from 0 to 4 in clips of 2 seconds; then queries need no windows.

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
    """Find how long each video is at least.

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
    if is_list(windows) and not windows and entry.clip_ratings is not None:
        if scale is not None:
            return []
        raise ValueError(f"has ratings and no windows; add windows; {OTHER_SCALE_HINT}: then windows may be missing")
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
        return *_rated(clips, ()), SCALED_SALIENCY
    if entry.rated_clips is not None:
        clip_ids, scores = entry.rated_clips
        check_ratings(clip_ids, scores, duration)
        return clip_ids, scores, ANNOTATED_SALIENCY
    if entry.clip_ratings is None:
        return *rate_by_windows(windows, duration), WINDOW_SALIENCY
    clips = three_ratings(entry.clip_ratings, duration)
    return *_rated(clips, window_clips(windows, duration)), ANNOTATED_SALIENCY


def _rated(clips: Sequence[list[float]], relevant: Iterable[int]) -> tuple[list[int], list[list[float]]]:
    """Return the ids and ratings of the relevant clips: those named, and those that somebody rated above the lowest."""
    clip_ids = sorted({*relevant, *(clip for clip, ratings in enumerate(clips) if any(ratings))})
    return clip_ids, [clips[clip] for clip in clip_ids]


def _log_repairs(name: str, repairs: Mapping[str, int], num_left_out: int) -> None:
    """Say in one line what was repaired."""
    if repairs:
        logger.warning(
            "%s: repaired windows: %d with start after end swapped, %d cut at the video's start or end, %d empty ones "
            "dropped; %d queries without a window dropped",
            *(printable(name), repairs["swapped"], repairs["cut"], repairs["empty"], num_left_out),
        )
