"""What a query is: the seven fields of QVHighlights, which every reader of this room returns, and their checks."""

from __future__ import annotations

import hashlib
from typing import Any

from hf_frameseg._numbers import is_number, is_whole
from hf_frameseg.moments import (
    CLIP_SECONDS,
    MAX_RATING,
    MAX_VIDEO_SECONDS,
    NUM_ANNOTATORS,
    num_clips,
)
from hf_frameseg.targets import moments_from_windows

QUERY_FIELDS = ("qid", "query", "duration", "vid")
LABEL_FIELDS = ("relevant_windows", "relevant_clip_ids", "saliency_scores")
RATING_FIELDS = LABEL_FIELDS[1:]

MIN_DURATION_SECONDS = 0.001
MAX_QID_CHARACTERS = 200


class AnnotationError(ValueError):
    """Say in one line, with file and line number, what is wrong with an annotation."""


def check_text(name: str, value: Any) -> None:
    """Refuse what cannot be a query or a vid.

    Args:
        name: What it is, for the message.
        value: The value.

    Raises:
        ValueError: If it is no text, is blank, or holds half a character (a lone surrogate), which no file can store.
    """
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"expected {name} to be a non-empty text, got {value!r:.80}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"expected {name} to be a text of whole characters, got {value!a:.80}") from None


def check_qid(value: Any, other: Any = None) -> None:
    """Refuse what cannot be a query id, or is of another kind than the others of its file.

    Args:
        value: The value: a whole number, or a text such as `s34-d28_0`.
        other: A query id of the same file; None if there is none yet.

    Raises:
        ValueError: If it is neither a 64-bit integer nor a short text of whole characters, or if one of `value` and
            `other` is a number and the other a text.
    """
    if isinstance(value, str):
        check_text("qid", value)
        if len(value) > MAX_QID_CHARACTERS:
            raise ValueError(f"expected qid to have up to {MAX_QID_CHARACTERS} characters, got {len(value)}")
    elif not is_whole(value, -(2**63), 2**63 - 1):
        raise ValueError(f"expected qid to be a 64-bit integer or a text, got {value!r:.80}")
    if other is not None and isinstance(other, str) != isinstance(value, str):
        raise ValueError(
            f"expected qids of one kind, got {value!r:.80} after {other!r:.80}; write all of them as whole numbers, or "
            "all as texts"
        )


def qid_seed(qid: int | str) -> int:
    """Return the number from 0 to 2**64 - 1 that stands for a query wherever a random number is drawn for it.

    Args:
        qid: Its id.

    Returns:
        Of a number, the number modulo 2**64; of a text, the start of its checksum, the same in every process.

    Example:
        >>> qid_seed(7), qid_seed(-1) == 2**64 - 1, qid_seed("7") == qid_seed(7)
        (7, True, False)
    """
    if isinstance(qid, str):
        return int.from_bytes(hashlib.sha256(qid.encode()).digest()[:8], "big")
    return int(qid) % 2**64


def check_duration(value: Any) -> None:
    """Refuse what cannot be the duration of a video.

    Args:
        value: The value.

    Raises:
        ValueError: If it is no number, below a millisecond or above the limit of a video.
    """
    if not is_number(value) or not MIN_DURATION_SECONDS <= value <= MAX_VIDEO_SECONDS:
        raise ValueError(
            f"expected duration to be a number of seconds from {MIN_DURATION_SECONDS:g} to {MAX_VIDEO_SECONDS:g}, "
            f"got {value!r:.80}"
        )


def check_windows(windows: Any, duration_seconds: float) -> None:
    """Refuse what cannot be the relevant windows of a query.

    Args:
        windows: The value of `relevant_windows`.
        duration_seconds: Length of the video.

    Raises:
        ValueError: If it is no list of `[start, end]` inside the video.
    """
    _check_list("relevant_windows", windows)
    moments_from_windows(windows, duration_seconds)


def check_ratings(clip_ids: Any, scores: Any, duration_seconds: float) -> None:
    """Refuse what cannot be the ratings of a query in QVHighlights.

    Args:
        clip_ids: Ids of the rated 2-second clips.
        scores: For each of them three ratings from 0 to 4.
        duration_seconds: Length of the video.

    Raises:
        ValueError: If they do not fit the video, each other or the scale.
    """
    _check_list("relevant_clip_ids", clip_ids)
    _check_list("saliency_scores", scores)
    count = num_clips(duration_seconds)  # the scorer's: without an incomplete one at the end, and at least one
    for clip_id in clip_ids:
        if not is_whole(clip_id, 0, count - 1):
            raise ValueError(
                f"relevant clip id {clip_id!r:.80} is no {CLIP_SECONDS:g}-second clip of a {duration_seconds:g} s "
                f"video; expected ids from 0 to {count - 1}"
            )
    if len(scores) != len(clip_ids):
        raise ValueError(f"expected one saliency entry per relevant clip ({len(clip_ids)}), got {len(scores)}")
    for entry in scores:
        if not isinstance(entry, list) or not are_three_ratings(entry):
            raise ValueError(f"expected {NUM_ANNOTATORS} saliency scores from 0 to {MAX_RATING}, got {entry!r:.80}")


def are_three_ratings(ratings: Any) -> bool:
    """Tell whether a list is what the three annotators of QVHighlights can have given to one clip.

    Args:
        ratings: The list.

    Returns:
        Whether it holds three whole numbers from 0 to 4.
    """
    return len(ratings) == NUM_ANNOTATORS and all(is_whole(one, 0, MAX_RATING) for one in ratings)


def _check_list(name: str, value: Any) -> None:
    """Refuse a field that is no list."""
    if not isinstance(value, list):
        raise ValueError(f"expected {name} to be a list, got {value!r:.80}")
