"""Scores of a QVHighlights submission: exact, vectorised, numpy only.

`evaluate_submission` returns the official dictionary, `evaluate_per_query` the arrays behind it, `mean_iou` the number
it lacks, `query_table` one row per query, `validate_submission` what is wrong with a submission, `bootstrap_intervals`
how sure a score is and `paired_differences` which of two submissions is better. The `evaluate` module lives in
`hf_frameseg.metrics.qvhighlights` and is not imported here.
"""

from hf_frameseg._imports import lazy

_MODULE_OF = {
    "evaluate_submission": "submission",
    "evaluate_per_query": "per_query",
    "tasks_left_out": "per_query",
    "HEADLINE_COLUMNS": "summary",
    "count_queries": "summary",
    "headline": "summary",
    "mean_iou": "summary",
    "recall_at": "summary",
    "summarize_per_query": "summary",
    "query_table": "per_query",
    "ParsedSubmission": "files",
    "read_ground_truth": "files",
    "read_submission": "files",
    "Violation": "validation",
    "validate_submission": "validation",
    "MAX_RESAMPLES": "bootstrap",
    "Interval": "bootstrap",
    "Outcomes": "bootstrap",
    "bootstrap_intervals": "bootstrap",
    "bootstrap_means": "bootstrap",
    "paired_differences": "bootstrap",
    "paired_outcomes": "bootstrap",
    "query_scores": "bootstrap",
    "IOU_THRESHOLDS": "retrieval",
    "LENGTH_RANGES_SECONDS": "retrieval",
    "MAX_WINDOWS": "retrieval",
    "average_precision": "retrieval",
    "top_window_iou": "retrieval",
    "window_iou": "retrieval",
    "windows_in_range": "retrieval",
    "MIN_RATINGS": "highlight",
    "highlight_average_precision": "highlight",
    "highlight_hits": "highlight",
    "top_clip": "highlight",
    "evaluate_highlights": "highlight_ranking",
    "positive_clips": "highlight_ranking",
    "ranking_average_precision": "highlight_ranking",
}

__getattr__, __dir__ = lazy(__name__, _MODULE_OF)
