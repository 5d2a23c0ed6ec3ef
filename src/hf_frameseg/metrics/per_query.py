"""Score every query of a submission for itself; `metrics/submission.py` says what is accepted and what is refused."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_frameseg._text import short
from hf_frameseg.metrics import _rows, highlight, retrieval
from hf_frameseg.metrics._rows import Row

PerQuery = dict[str, NDArray[Any]]
Groups = Mapping[Hashable, list[Row]]

_TASKS = {
    "moments": ("mr_ap", "pred_relevant_windows", "the ground truth has no windows"),
    "highlights": ("hl_argmax", "pred_saliency_scores", "nobody rated the clips of the ground truth"),
}
"""Task -> array that is there if it was scored, key of a submission that asks for it, what else may be lacking."""


def evaluate_per_query(submission: Sequence[Row], ground_truth: Sequence[Row], match_number: bool = True) -> PerQuery:
    """Score every query for itself; the means of these arrays are the numbers of `evaluate_submission`.

    Args:
        submission: As in `evaluate_submission`.
        ground_truth: As in `evaluate_submission`.
        match_number: As in `evaluate_submission`.

    Returns:
        Arrays over the Q queries in the order of the submission, fractions in [0, 1]:
        `qid` (Q,);
        for moments `mr_ap` (Q, 10) at IoU 0.5 ... 0.95, `r1_iou` (Q,) of the first listed window (its mean is mIoU),
        `r1_gt_index` (Q,), and `short_mr_ap`, `short_r1_iou`, the same for `middle` and `long`, NaN for queries
        without a ground-truth window of that length;
        for highlights `hl_argmax` (Q,), `hl_ap_Fair` (Q, 3) per annotator, `hl_hit_Fair` (Q,), the same for `Good`
        and `VeryGood`, NaN (`hl_argmax` -1) for queries that nobody rated.
        The arrays of a task are absent if the first row lacks its key, or if no query has what it needs: windows, or
        ratings that people gave (`saliency_source` is not there or "annotators"). See `tasks_left_out`.

    Raises:
        ValueError: As in `evaluate_submission`.

    Example:
        >>> truth = [{"qid": 1, "relevant_windows": [[0, 4]]}, {"qid": 2, "relevant_windows": [[0, 4]]}]
        >>> rows = [{"qid": 2, "pred_relevant_windows": [[0.0, 4.0, 0.9]]}, {"qid": 1, "pred_relevant_windows": []}]
        >>> result = evaluate_per_query(rows, truth)
        >>> result["qid"].tolist(), result["r1_iou"].tolist()
        ([2, 1], [1.0, 0.0])
    """
    predicted = _rows.rows_by_qid(submission, "submission")
    annotated = _rows.rows_by_qid(ground_truth, "ground truth")
    qids = _rows.shared_qids(predicted, annotated, match_number)
    first_row = predicted[qids[0]][0]
    result: PerQuery = {"qid": _rows.qid_array(qids)}
    rated = _rows.rated([annotated[qid][-1] for qid in qids])
    highlights_only = rated.any() or all(_rows.is_scaled(annotated[qid][-1]) for qid in qids)
    if "pred_relevant_windows" in first_row and (_any_has_windows(qids, annotated) or not highlights_only):
        result |= _retrieval_per_query(qids, predicted, annotated)
    if "pred_saliency_scores" in first_row and rated.any():
        result |= _highlight_per_query(qids, predicted, annotated, rated)
    return result


def tasks_left_out(submission: Sequence[Row], per_query: Mapping[str, NDArray[Any]]) -> dict[str, str]:
    """Say which task was not scored, or not for every query, and why.

    Args:
        submission: What was scored.
        per_query: What `evaluate_per_query` returned for it.

    Returns:
        "moments" or "highlights" -> the reason; nothing for what was scored in full.

    Example:
        >>> truth = [{"qid": 1, "relevant_windows": [[0, 4]]}]
        >>> rows = [{"qid": 1, "pred_relevant_windows": [[0.0, 4.0, 0.9]], "pred_saliency_scores": [0.5]}]
        >>> tasks_left_out(rows, evaluate_per_query(rows, truth))
        {'highlights': 'nobody rated the clips of the ground truth'}
    """
    reasons = {}
    first = next((row for row in submission if row["qid"] == per_query["qid"][0]), {})
    for task, (array, key, lacking) in _TASKS.items():
        if array not in per_query:
            reasons[task] = lacking if key in first else f"the first row has no {key}"
    if "hl_argmax" in per_query and (unrated := int((per_query["hl_argmax"] < 0).sum())):
        total = len(per_query["qid"])
        reasons["highlights"] = f"{unrated} of {total} queries have no ratings; the others are scored"
    return reasons


def query_table(per_query: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Flatten the arrays of `evaluate_per_query` into columns.

    Args:
        per_query: What `evaluate_per_query` returned.

    Returns:
        Column -> (Q,), fractions in [0, 1], not rounded:
        `qid`;
        for moments `mr_ap@0.5` ... `mr_ap@0.95` and their mean `mr_ap`, `r1_iou` of the first listed window,
        `r1_gt_index` of the ground-truth window it is compared with (-1: no window predicted), and `short_mr_ap`,
        `short_r1_iou`, the same for `middle` and `long`, NaN for queries without a ground-truth window of that length;
        for highlights `hl_argmax` (the best clip), `hl_ap_Fair` (mean of the annotators), `hl_hit_Fair` (0 or 1), the
        same for `Good` and `VeryGood`.
        The mean of a column over its numbers, times 100, is the official score.

    Example:
        >>> import numpy as np
        >>> table = query_table({"qid": np.array([7]), "mr_ap": np.eye(1, 10), "r1_iou": np.array([0.5]),
        ...                      "r1_gt_index": np.array([0])})
        >>> table["mr_ap@0.5"].tolist(), table["mr_ap"].tolist()
        ([1.0], [0.1])
    """
    columns: dict[str, NDArray[Any]] = {"qid": per_query["qid"]}
    if "mr_ap" in per_query:
        columns |= {f"mr_ap@{limit}": per_query["mr_ap"][:, t] for t, limit in enumerate(retrieval.IOU_THRESHOLDS)}
        columns["mr_ap"] = per_query["mr_ap"].mean(axis=1)
        columns |= {name: per_query[name] for name in ("r1_iou", "r1_gt_index")}
        for name in retrieval.LENGTH_RANGES_SECONDS:
            if f"{name}_mr_ap" in per_query:
                columns[f"{name}_mr_ap"] = per_query[f"{name}_mr_ap"].mean(axis=1)
                columns[f"{name}_r1_iou"] = per_query[f"{name}_r1_iou"]
    if "hl_argmax" in per_query:
        columns["hl_argmax"] = per_query["hl_argmax"]
        for name in highlight.MIN_RATINGS:
            columns[f"hl_ap_{name}"] = per_query[f"hl_ap_{name}"].mean(axis=1)
            columns[f"hl_hit_{name}"] = per_query[f"hl_hit_{name}"]
    return columns


def _retrieval_per_query(qids: Sequence[Hashable], predicted: Groups, annotated: Groups) -> PerQuery:
    """Score moments, in full and per length range."""
    rows = [[_rows.predicted_windows(row) for row in predicted[qid]] for qid in qids]
    truths = [[_rows.annotated_windows(row) for row in annotated[qid]] for qid in qids]
    ap, iou, index = _score_moments(rows, truths)
    result: PerQuery = {"mr_ap": ap, "r1_iou": iou, "r1_gt_index": index}
    for name, range_seconds in retrieval.LENGTH_RANGES_SECONDS.items():
        kept = _in_range(truths, range_seconds)
        selected = [q for q, group in enumerate(kept) if group]
        range_ap, range_iou = np.full_like(ap, np.nan), np.full_like(iou, np.nan)
        if selected:
            range_ap[selected], range_iou[selected], _ = _score_moments(
                [rows[q] for q in selected], [kept[q] for q in selected]
            )
        result |= {f"{name}_mr_ap": range_ap, f"{name}_r1_iou": range_iou}
    return result


def _in_range(
    groups: Sequence[Sequence[NDArray[np.float64]]], range_seconds: tuple[float, float]
) -> list[list[NDArray[np.float64]]]:
    """Keep the windows of a length range, in each group the rows that have some."""
    rows = [windows for group in groups for windows in group]
    inside = retrieval.in_range(np.concatenate(rows), range_seconds)
    parts = iter(np.split(inside, np.cumsum([len(windows) for windows in rows])[:-1]))
    return [[windows[keep] for windows in group if (keep := next(parts)).any()] for group in groups]


def _score_moments(
    rows: Sequence[Sequence[NDArray[np.float64]]], truths: Sequence[Sequence[NDArray[np.float64]]]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Score groups of rows with one qid: AP over all of them, R1 on the last, as the official code does."""
    ap = retrieval.average_precision([_join(group) for group in rows], [_join(group) for group in truths])
    return ap, *retrieval.top_window_iou([group[-1] for group in rows], [group[-1] for group in truths])


def _join(group: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Concatenate, without a copy in the usual case of one row per qid."""
    return group[0] if len(group) == 1 else np.concatenate(group)


def _any_has_windows(qids: Sequence[Hashable], annotated: Groups) -> bool:
    """Tell whether there is a ground-truth window at all."""
    return any(_rows.has_windows(row) for qid in qids for row in annotated[qid])


def _highlight_per_query(
    qids: Sequence[Hashable], predicted: Groups, annotated: Groups, rated: NDArray[np.bool_]
) -> PerQuery:
    """Score highlights on the last row of each qid; NaN where nobody rated the clips."""
    asked = [qids[q] for q in np.flatnonzero(rated)]
    scores = [_rows.predicted_saliency(predicted[qid][-1]) for qid in asked]
    ratings = [_rows.annotated_ratings(annotated[qid][-1]) for qid in asked]
    minimum = np.array(list(highlight.MIN_RATINGS.values()))
    for qid, values, clips in zip(asked, scores, ratings, strict=True):
        if not np.isfinite(values).all() and _decides(values[: len(clips)], clips, minimum):
            raise ValueError(
                f"qid {short(qid)}: pred_saliency_scores holds NaN or infinity at clip "
                f"{int(np.flatnonzero(~np.isfinite(values))[0])}; expected finite numbers; check the model's logits "
                "(float16 overflows at 65504)"
            )
    ap = highlight.highlight_average_precision(scores, ratings, minimum)
    hits = highlight.highlight_hits(scores, ratings, minimum)
    result: PerQuery = {"hl_argmax": _spread(highlight.top_clip(scores), rated, -1)}
    for m, name in enumerate(highlight.MIN_RATINGS):
        result |= {
            f"hl_ap_{name}": _spread(np.ascontiguousarray(ap[:, m]), rated, np.nan),
            f"hl_hit_{name}": _spread(hits[:, m], rated, np.nan),
        }
    return result


def _spread(values: NDArray[Any], rated: NDArray[np.bool_], fill: float) -> NDArray[Any]:
    """Put the values of the rated queries to their places among all."""
    spread = np.full((len(rated), *values.shape[1:]), fill, dtype=values.dtype)
    spread[rated] = values
    return spread


def _decides(values: NDArray[np.float64], clips: NDArray[np.float64], minimum: NDArray[np.int64]) -> bool:
    """Tell whether non-finite values inside the video meet labels of both kinds, that is, a ranking."""
    positive = clips[:, :, None] >= minimum
    mixed = positive.any(axis=0) & ~positive.all(axis=0)
    return bool(mixed.any() and not np.isfinite(values).all())
