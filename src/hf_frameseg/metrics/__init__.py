"""Scores of a QVHighlights submission: exact, vectorised, numpy only.

`evaluate_submission` returns the official dictionary, `evaluate_per_query` the arrays behind it, `validate_submission`
what is wrong with a submission, `bootstrap_intervals` how sure a score is. The `evaluate` module lives in
`hf_frameseg.metrics.qvhighlights` and is not imported here.
"""

from hf_frameseg.metrics.bootstrap import Interval, bootstrap_intervals, paired_differences, query_scores
from hf_frameseg.metrics.highlight import MIN_RATINGS, highlight_average_precision, highlight_hits, top_clip
from hf_frameseg.metrics.retrieval import (
    IOU_THRESHOLDS,
    LENGTH_RANGES_SECONDS,
    MAX_WINDOWS,
    average_precision,
    top_window_iou,
    window_iou,
    windows_in_range,
)
from hf_frameseg.metrics.submission import HEADLINE_COLUMNS, evaluate_per_query, evaluate_submission, headline
from hf_frameseg.metrics.validation import ParsedSubmission, Violation, parse_submission, validate_submission

__all__ = [
    "HEADLINE_COLUMNS",
    "IOU_THRESHOLDS",
    "LENGTH_RANGES_SECONDS",
    "MAX_WINDOWS",
    "MIN_RATINGS",
    "Interval",
    "ParsedSubmission",
    "Violation",
    "average_precision",
    "bootstrap_intervals",
    "evaluate_per_query",
    "evaluate_submission",
    "headline",
    "highlight_average_precision",
    "highlight_hits",
    "paired_differences",
    "parse_submission",
    "query_scores",
    "top_clip",
    "top_window_iou",
    "validate_submission",
    "window_iou",
    "windows_in_range",
]
