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

from hf_frameseg.data.annotations import MAX_SALIENCY_SCORE, NUM_ANNOTATORS, AnnotationError, check_qid
from hf_frameseg.data.video_index import MAX_DURATION_SECONDS
from hf_frameseg.moments import CLIP_SECONDS, num_clips

logger = logging.getLogger(__name__)

ANNOTATED_SALIENCY = "annotators"
"""`saliency_source` of rows with ratings made by people."""

WINDOW_SALIENCY = "window"
"""`saliency_source` of rows whose ratings the rule `window` made up."""

ON_BAD_WINDOW = ("repair", "raise")
"""What to do about a window that is inverted, empty or not inside the video."""


@dataclass(frozen=True)
class MomentEntry:
    """Hold one query as a file states it.

    Args:
        where: File and place in it, for errors: `file:line`.
        vid: Name of the video.
        query: The sentence.
        windows: `[[start, end], ...]` in seconds.
        duration_seconds: Length of the video; None where the file does not say it.
        qid: Query id, a whole number or a text; None numbers the entries of the file from 0.
        clip_ratings: For each 2-second clip of the video (an incomplete last one may be left out) a rating from 0 to 4,
            or three; None where there are none.
    """

    where: str
    vid: str
    query: str
    windows: Sequence[Sequence[float]]
    duration_seconds: float | None = None
    qid: int | str | None = None
    clip_ratings: Sequence[Any] | None = None


def to_rows(
    entries: Sequence[MomentEntry],
    path: str | Path,
    durations_seconds: Mapping[str, float] | None = None,
    on_bad_window: str = "repair",
) -> list[dict[str, Any]]:
    """Check entries and turn them into rows.

    Args:
        entries: What a file states, in its order.
        path: The file, for messages.
        durations_seconds: vid -> length in seconds, for entries that do not say it.
        on_bad_window: "repair" or "raise", see the top of the module.

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
            windows = _windows(entry.windows, duration, on_bad_window, repairs)
            clip_ids, scores, source = _saliency(entry, windows, duration)
        except ValueError as error:
            raise AnnotationError(f"{entry.where}: {error}") from None
        qids[qid] = entry.where
        row = {"qid": qid, "query": entry.query.strip(), "duration": duration, "vid": entry.vid}
        labels = {"relevant_windows": windows, "relevant_clip_ids": clip_ids, "saliency_scores": scores}
        if windows:
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
        sides = [side for window in windows if isinstance(window, Sequence) for side in window if _is_number(side)]
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
    if not (folder / files[split]).is_file():
        raise FileNotFoundError(f"no annotations for {split} in {folder}; expected {files[split]}")
    return folder / files[split]


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
    splits = tuple(split for split, name in files.items() if (Path(data_dir) / name).is_file())
    if not splits:
        split_file(data_dir, files, next(iter(files)))  # says what is missing
    return splits


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
        for name, text in (("query", entry.query), ("video", entry.vid)):
            if not isinstance(text, str) or not text.strip():
                raise AnnotationError(f"{entry.where}: expected {name} to be a non-empty text, got {text!r:.80}")
        if entry.duration_seconds is None:
            continue
        try:
            duration = _check_duration(entry.duration_seconds)
        except ValueError as error:
            raise AnnotationError(f"{entry.where}: {error}") from None
        if stated.setdefault(entry.vid, duration) != duration:
            raise AnnotationError(
                f"{entry.where}: video {entry.vid} lasts {duration:g} s here and {stated[entry.vid]:g} s before; "
                "correct one of them"
            )
    return stated


def _duration(entry: MomentEntry, durations: Mapping[str, float]) -> float:
    """Return the length of the entry's video."""
    duration = durations.get(entry.vid)
    if duration is None:
        raise ValueError(
            f"the duration of video {entry.vid!r:.80} is not known; state it in the file, pass durations_seconds, or "
            "load the data set with its videos, which are then asked"
        )
    return _check_duration(duration)


def _check_duration(duration: Any) -> float:
    """Return a duration, refusing what no video has."""
    if not _is_number(duration) or not 0 < duration <= MAX_DURATION_SECONDS:
        raise ValueError(
            f"expected duration to be a number of seconds above 0 and up to {MAX_DURATION_SECONDS:g}, got "
            f"{duration!r:.80}"
        )
    return float(duration)


def _windows(windows: Any, duration: float, on_bad_window: str, repairs: Counter[str]) -> list[list[float]]:
    """Return the windows, repaired where that is wanted."""
    if not isinstance(windows, Sequence) or isinstance(windows, str) or not windows:
        raise ValueError(f"expected windows to be a list of [start, end] in seconds, got {windows!r:.80}")
    kept = []
    for window in windows:
        if not isinstance(window, Sequence) or len(window) != 2 or not all(_is_number(side) for side in window):
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
    entry: MomentEntry, windows: Sequence[Sequence[float]], duration: float
) -> tuple[list[int], list[list[int]], str]:
    """Return relevant clip ids, their ratings and where the ratings come from."""
    clip_ids = window_clips(windows, duration)
    if entry.clip_ratings is None:
        return clip_ids, [[MAX_SALIENCY_SCORE] * NUM_ANNOTATORS for _ in clip_ids], WINDOW_SALIENCY
    ratings, count = entry.clip_ratings, num_clips(duration)
    lengths = (count, math.ceil(duration / CLIP_SECONDS))
    if not isinstance(ratings, Sequence) or isinstance(ratings, str) or len(ratings) not in lengths:
        raise ValueError(
            f"expected saliency to be a list of {count} ratings, one per {CLIP_SECONDS:g}-second clip, got "
            f"{ratings!r:.80}"
        )
    # An incomplete last clip may be rated, but no score looks at it.
    scores = [_three_ratings(rating) for rating in ratings][:count]
    clip_ids = sorted({*clip_ids, *(clip for clip, three in enumerate(scores) if any(three))})
    return clip_ids, [scores[clip] for clip in clip_ids], ANNOTATED_SALIENCY


def _three_ratings(rating: Any) -> list[int]:
    """Return a clip's rating as one per annotator."""
    three = [rating] * NUM_ANNOTATORS if type(rating) is int else rating
    valid = isinstance(three, Sequence) and not isinstance(three, str) and len(three) == NUM_ANNOTATORS
    if not valid or not all(type(score) is int and 0 <= score <= MAX_SALIENCY_SCORE for score in three):
        raise ValueError(
            f"expected each saliency rating to be a whole number from 0 to {MAX_SALIENCY_SCORE}, or {NUM_ANNOTATORS} "
            f"of them, got {rating!r:.80}"
        )
    return list(three)


def _is_number(value: Any) -> bool:
    """Tell whether a value is a finite number (`True` is none)."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _log_repairs(name: str, repairs: Mapping[str, int], num_left_out: int) -> None:
    """Say in one line what was repaired."""
    if repairs:
        logger.warning(
            "%s: repaired windows: %d with start after end swapped, %d cut at the video's start or end, %d empty ones "
            "dropped; %d queries without a window dropped",
            *(name, repairs["swapped"], repairs["cut"], repairs["empty"], num_left_out),
        )
