"""Score a QVHighlights submission exactly as the official evaluator does, in about a second and without its crashes.

The official evaluator is `standalone_eval/eval.py` of github.com/jayleicn/moment_detr at b7e553a. Its numbers are
reproduced to the last digit, oddities included; `docs/scoring.md` explains them. Where it crashes, this is the choice:

| input | official code | here |
|--|--|--|
| a query without predicted windows | crash | a miss: AP 0, R1 IoU 0, r1_gt_index -1; never dropped from the mean |
| a length range without a ground-truth window | crash | None (JSON null) for each number of that range |
| qids differ, `match_number=True` | crash | ValueError with the first missing and unknown qids |
| no shared qid, empty lists | crash | ValueError |
| window without score; string or null in a window | crash | ValueError naming the qid |
| string or null saliency; empty saliency list | crash | ValueError naming the qid |
| NaN or infinite saliency where it decides an AP | crash | ValueError naming the qid |
| (n, 1) nested saliency shorter than the clips | crash | read as a flat list and padded, as the full-length one is |
| a later row lacks a key the first row has | crash | ValueError naming the qid |
| ground truth without ratings | crash | moments are scored, highlights are not (`tasks_left_out`) |
| ground truth without windows | crash | highlights are scored, moments are not |
| ground truth with neither; a row without windows, or with clip ids alone | crash | ValueError naming the qid |
| a labelled clip beyond int(duration / 2), which is at least 1 | crash | ValueError naming the qid |
| ratings and clip ids that do not fit together | crash | ValueError naming the qid |

And these it accepts, so they are scored here with its very numbers (`validate_submission` lists them):

| input | score |
|--|--|
| the first row lacks a key | that task is skipped, whatever the other rows hold |
| duplicate qids | mAP takes the windows of all rows (10 each), R1 and highlights the last row |
| more than 10 windows | the first 10 listed count |
| inverted window as long as a ground-truth window; NaN boundary | IoU NaN, which mAP counts as a match |
| other inverted or empty windows | no match |
| saliency list too long / too short | cut (its argmax still counts, as a miss) / padded with 0.0 |
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hf_frameseg.metrics._rows import Row
from hf_frameseg.metrics.per_query import evaluate_per_query
from hf_frameseg.metrics.summary import summarize_per_query


def evaluate_submission(
    submission: Sequence[Row], ground_truth: Sequence[Row], match_number: bool = True
) -> dict[str, Any]:
    """Score a submission and return the official nested dictionary.

    Args:
        submission: Rows with `qid` and `pred_relevant_windows` ([[start, end, score], ...] in seconds, best first)
            and/or `pred_saliency_scores` (one number per 2-second clip). The first row decides which tasks are scored.
        ground_truth: Annotation rows with `qid`, `duration`, `relevant_windows`, `relevant_clip_ids`,
            `saliency_scores`.
        match_number: Require both to hold the same qids. False scores the shared ones.

    Returns:
        `brief`, `HL-min-Fair`, `HL-min-Good`, `HL-min-VeryGood`, `full`, `long`, `middle`, `short`, in percent rounded
        to two decimals. None stands for a length range without any ground-truth window.

    Raises:
        ValueError: The input cannot be scored; the message names the qid and the repair (table above).

    Example:
        >>> truth = {"qid": 1, "duration": 10, "relevant_windows": [[0, 4]], "relevant_clip_ids": [0, 1],
        ...          "saliency_scores": [[4, 3, 4], [2, 2, 1]]}
        >>> row = {"qid": 1, "pred_relevant_windows": [[0.0, 5.0, 0.9]], "pred_saliency_scores": [0.9, 0.7, 0.1, 0, 0]}
        >>> result = evaluate_submission([row], [truth])
        >>> result["full"]["MR-R1"]["0.75"], result["brief"]["MR-full-mAP"], result["brief"]["MR-long-mAP"]
        (100.0, 70.0, None)
    """
    return summarize_per_query(evaluate_per_query(submission, ground_truth, match_number))
