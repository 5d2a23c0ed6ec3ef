"""Scores of a QVHighlights submission: exact, vectorised, numpy only.

`evaluate_submission` returns the official dictionary, `evaluate_per_query` the arrays behind it, `mean_iou` the number
it lacks, `query_table` one row per query, `validate_submission` what is wrong with a submission, `bootstrap_intervals`
how sure a score is and `paired_differences` which of two submissions is better. The `evaluate` module lives in
`hf_frameseg.metrics.qvhighlights` and is not imported here.
"""

from hf_frameseg.metrics.bootstrap import (
    MAX_RESAMPLES,
    Interval,
    Outcomes,
    bootstrap_intervals,
    bootstrap_means,
    paired_differences,
    paired_outcomes,
    query_scores,
)
from hf_frameseg.metrics.files import ParsedSubmission, parse_submission, read_ground_truth, read_submission
from hf_frameseg.metrics.highlight import MIN_RATINGS, highlight_average_precision, highlight_hits, top_clip
from hf_frameseg.metrics.highlight_ranking import evaluate_highlights, positive_clips, ranking_average_precision
from hf_frameseg.metrics.query_table import query_table
from hf_frameseg.metrics.retrieval import (
    IOU_THRESHOLDS,
    LENGTH_RANGES_SECONDS,
    MAX_WINDOWS,
    average_precision,
    top_window_iou,
    window_iou,
    windows_in_range,
)
from hf_frameseg.metrics.submission import (
    HEADLINE_COLUMNS,
    count_queries,
    evaluate_per_query,
    evaluate_submission,
    headline,
    mean_iou,
    recall_at,
    summarize_per_query,
    tasks_left_out,
)
from hf_frameseg.metrics.validation import Violation, validate_submission

__all__ = [
    "HEADLINE_COLUMNS",
    "IOU_THRESHOLDS",
    "LENGTH_RANGES_SECONDS",
    "MAX_RESAMPLES",
    "MAX_WINDOWS",
    "MIN_RATINGS",
    "Interval",
    "Outcomes",
    "ParsedSubmission",
    "Violation",
    "average_precision",
    "bootstrap_intervals",
    "bootstrap_means",
    "count_queries",
    "evaluate_highlights",
    "evaluate_per_query",
    "evaluate_submission",
    "headline",
    "highlight_average_precision",
    "highlight_hits",
    "mean_iou",
    "paired_differences",
    "paired_outcomes",
    "parse_submission",
    "positive_clips",
    "query_scores",
    "query_table",
    "ranking_average_precision",
    "read_ground_truth",
    "read_submission",
    "recall_at",
    "summarize_per_query",
    "tasks_left_out",
    "top_clip",
    "top_window_iou",
    "validate_submission",
    "window_iou",
    "windows_in_range",
]
