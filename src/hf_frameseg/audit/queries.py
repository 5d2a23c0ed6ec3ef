"""Annotation rows as arrays, checked, for the audit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_frameseg._numbers import is_number
from hf_frameseg._text import short
from hf_frameseg.metrics._rows import annotated_ratings, annotated_windows, is_rated, rows_by_qid
from hf_frameseg.metrics.highlight import MIN_RATINGS
from hf_frameseg.moments import MAX_DURATION_SECONDS

_VOTE = 10.0  # above any rating: one more annotator with a 4 outweighs every mean


@dataclass(frozen=True, eq=False)
class AuditQuery:
    """Hold one annotation: what the audit reads over and over.

    Args:
        row: The annotation itself, which the scorer reads.
        windows: Relevant windows in seconds, (G, 2).
        duration_seconds: Length of the video.
        ratings: Of each clip by each annotator, (C, A); None without ratings.
        mean_rating: Mean of the annotators per clip, (C,); None without ratings.
        votes: Annotators who gave a 4, then their mean, as one number per clip, (C,); None without ratings.
    """

    row: Mapping[str, Any]
    windows: NDArray[np.float64]
    duration_seconds: float
    ratings: NDArray[np.float64] | None = None
    mean_rating: NDArray[np.float64] | None = None
    votes: NDArray[np.float64] | None = None

    @property
    def qid(self) -> Any:
        """Return the qid as the annotation has it."""
        return self.row["qid"]


def read_queries(annotations: Sequence[Mapping[str, Any]]) -> list[AuditQuery]:
    """Read annotations; either all of them have ratings or none has.

    Args:
        annotations: QVHighlights rows; `saliency_scores` and `relevant_clip_ids` may be missing, empty or
            made up (`saliency_source`) in all.

    Returns:
        One query per row, in their order.

    Raises:
        ValueError: There is no row, a qid stands twice, or a row is malformed (names the qid).
    """
    if not annotations:
        raise ValueError("expected at least one annotation, got none; check the file or the split")
    for qid, rows in rows_by_qid(annotations, "annotation").items():
        if len(rows) > 1:
            raise ValueError(f"qid {short(qid)}: {len(rows)} annotations have this qid; give every query its own")
    has_ratings = any(is_rated(row) for row in annotations)
    return [_read(row, has_ratings) for row in annotations]


def _read(row: Mapping[str, Any], has_ratings: bool) -> AuditQuery:
    """Read one annotation."""
    windows, duration_seconds = annotated_windows(row), row.get("duration")
    if not is_number(duration_seconds) or not 0 < duration_seconds <= MAX_DURATION_SECONDS:
        raise ValueError(
            f"qid {short(row['qid'])}: expected duration to be seconds above 0 and up to {MAX_DURATION_SECONDS:g}, got "
            f"{short(duration_seconds)}; correct the annotation"
        )
    if not has_ratings:
        return AuditQuery(row, windows, float(duration_seconds))
    if not is_rated(row):
        raise ValueError(
            f"qid {short(row['qid'])}: expected ratings as in other annotations, got none; leave them out of all "
            "rows, or leave this row out"
        )
    ratings = annotated_ratings(row)
    mean_rating = ratings.mean(axis=1)
    votes = _VOTE * (ratings >= MIN_RATINGS["VeryGood"]).sum(axis=1) + mean_rating
    return AuditQuery(row, windows, float(duration_seconds), ratings, mean_rating, votes)
