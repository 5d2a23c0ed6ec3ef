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

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_frameseg.metrics import _rows, highlight, retrieval
from hf_frameseg.metrics._rows import Row
from hf_frameseg.metrics._text import short

PerQuery = dict[str, NDArray[Any]]
Groups = Mapping[Hashable, list[Row]]

HEADLINE_COLUMNS: dict[str, str] = {
    "R1@0.5": "MR-full-R1@0.5",
    "R1@0.7": "MR-full-R1@0.7",
    "mAP": "MR-full-mAP",
    "mAP@0.5": "MR-full-mAP@0.5",
    "mAP@0.75": "MR-full-mAP@0.75",
    "HL-mAP": "HL-min-VeryGood-mAP",
    "HIT@1": "HL-min-VeryGood-Hit1",
}
"""Column of the papers' tables -> official key under `brief`."""


_TASKS = {
    "moments": ("mr_ap", "pred_relevant_windows", "the ground truth has no windows"),
    "highlights": ("hl_argmax", "pred_saliency_scores", "nobody rated the clips of the ground truth"),
}
"""Task -> array that is there if it was scored, key of a submission that asks for it, what else may be lacking."""


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


def tasks_left_out(
    submission: Sequence[Row], ground_truth: Sequence[Row], per_query: Mapping[str, NDArray[Any]]
) -> dict[str, str]:
    """Say which task was not scored, or not for every query, and why.

    Args:
        submission: What was scored.
        ground_truth: What it was scored against.
        per_query: What `evaluate_per_query` returned for them.

    Returns:
        "moments" or "highlights" -> the reason; nothing for what was scored in full.

    Example:
        >>> truth = [{"qid": 1, "relevant_windows": [[0, 4]]}]
        >>> rows = [{"qid": 1, "pred_relevant_windows": [[0.0, 4.0, 0.9]], "pred_saliency_scores": [0.5]}]
        >>> tasks_left_out(rows, truth, evaluate_per_query(rows, truth))
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


def summarize_per_query(per_query: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """Average the scores of the queries into the official nested dictionary.

    Args:
        per_query: What `evaluate_per_query` returned.

    Returns:
        As `evaluate_submission`.

    Example:
        >>> truth = [{"qid": 1, "relevant_windows": [[0, 4]]}, {"qid": 2, "relevant_windows": [[0, 4]]}]
        >>> rows = [{"qid": 2, "pred_relevant_windows": [[0.0, 4.0, 0.9]]}, {"qid": 1, "pred_relevant_windows": []}]
        >>> summarize_per_query(evaluate_per_query(rows, truth))["brief"]["MR-full-R1@0.5"]
        50.0
    """
    details: dict[str, Any] = {}
    brief: dict[str, float | None] = {}
    if "mr_ap" in per_query:
        moments = _retrieval_result(per_query)
        details |= moments
        brief |= _retrieval_brief(moments)
    if "hl_argmax" in per_query:
        highlights = _highlight_result(per_query)
        details |= highlights
        brief |= {f"{name}-{key[3:]}": value for name, part in highlights.items() for key, value in part.items()}
    return {"brief": brief, **dict(sorted(details.items()))}


def headline(result: Mapping[str, Any]) -> dict[str, float | None]:
    """Pick the columns of the papers' tables from an official result.

    Args:
        result: What `evaluate_submission` returned, or the same read from JSON.

    Returns:
        R1@0.5, R1@0.7, mAP, mAP@0.5, mAP@0.75, HL-mAP and HIT@1 (both VeryGood) in percent; None if not scored.

    Example:
        >>> headline({"brief": {"MR-full-mAP": 35.3, "HL-min-VeryGood-Hit1": 56.7}})["HIT@1"]
        56.7
    """
    return {column: result["brief"].get(key) for column, key in HEADLINE_COLUMNS.items()}


def check_thresholds(thresholds: Sequence[float]) -> tuple[float, ...]:
    """Refuse what is no IoU to reach.

    Args:
        thresholds: IoU thresholds of R1.

    Returns:
        Each once, in rising order.

    Raises:
        ValueError: If one is no number above 0 and up to 1.
    """
    for limit in thresholds:
        is_number = isinstance(limit, (int, float, np.integer, np.floating)) and not isinstance(limit, bool)
        if not is_number or not 0 < limit <= 1:
            raise ValueError(f"expected IoU thresholds above 0 and up to 1, got {limit!r:.80}; write 0.3, for example")
    return tuple(sorted({float(limit) for limit in thresholds}))


def recall_at(per_query: Mapping[str, NDArray[Any]], thresholds: Sequence[float]) -> dict[str, float]:
    """Give R1 at any IoU thresholds: R1@0.3 is what Charades-STA, TACoS and Ego4D-NLQ are also compared by.

    Args:
        per_query: What `evaluate_per_query` returned.
        thresholds: IoU thresholds, above 0 and up to 1; reaching one exactly counts.

    Returns:
        `R1@0.3` -> percent of the queries, rounded as the official numbers are; nothing if moments were not scored.

    Raises:
        ValueError: If a threshold is out of range.

    Example:
        >>> recall_at({"r1_iou": np.array([0.3, 0.8])}, [0.3, 0.5])
        {'R1@0.3': 100.0, 'R1@0.5': 50.0}
    """
    limits = check_thresholds(thresholds)
    if "r1_iou" not in per_query:
        return {}
    return {f"R1@{limit:g}": _percent((per_query["r1_iou"] >= limit).mean()) for limit in limits}


def mean_iou(per_query: Mapping[str, NDArray[Any]]) -> float | None:
    """Average the IoU of the first listed windows: mIoU, which the official dictionary does not hold.

    Args:
        per_query: What `evaluate_per_query` returned.

    Returns:
        mIoU in percent, rounded as the official numbers are; None if moments were not scored.

    Example:
        >>> mean_iou({"r1_iou": np.array([0.5, 0.8])})
        65.0
    """
    return _percent(per_query["r1_iou"].mean()) if "r1_iou" in per_query else None


def count_queries(per_query: Mapping[str, NDArray[Any]]) -> dict[str, int]:
    """Count the queries that were scored, and those with a ground-truth window of each length range.

    Args:
        per_query: What `evaluate_per_query` returned.

    Returns:
        `full`; if moments were scored, `short`, `middle` and `long`; `rated`, if only some queries have ratings.

    Example:
        >>> truth = [{"qid": 1, "relevant_windows": [[0, 4], [20, 40]]}, {"qid": 2, "relevant_windows": [[0, 4]]}]
        >>> rows = [{"qid": 1, "pred_relevant_windows": []}, {"qid": 2, "pred_relevant_windows": []}]
        >>> count_queries(evaluate_per_query(rows, truth))
        {'full': 2, 'short': 2, 'middle': 1, 'long': 0}
    """
    ranges = {name: per_query.get(f"{name}_r1_iou") for name in retrieval.LENGTH_RANGES_SECONDS}
    inside = {name: int((~np.isnan(iou)).sum()) for name, iou in ranges.items() if iou is not None}
    rated = int((per_query["hl_argmax"] >= 0).sum()) if "hl_argmax" in per_query else 0
    partly = {"rated": rated} if 0 < rated < len(per_query["qid"]) else {}
    return {"full": len(per_query["qid"]), **inside, **partly}


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


def _retrieval_result(per_query: PerQuery) -> dict[str, Any]:
    """Average moments into the official nesting."""
    result = {"full": _range_result(per_query["mr_ap"], per_query["r1_iou"])}
    for name in retrieval.LENGTH_RANGES_SECONDS:
        inside = ~np.isnan(per_query[f"{name}_mr_ap"][:, 0])
        result[name] = _range_result(per_query[f"{name}_mr_ap"][inside], per_query[f"{name}_r1_iou"][inside])
    return result


def _range_result(ap: NDArray[np.float64], iou: NDArray[np.float64]) -> dict[str, Any]:
    """Average one length range; None everywhere if it has no query."""
    names = [str(threshold) for threshold in retrieval.IOU_THRESHOLDS]
    if not len(ap):
        return {"MR-mAP": dict.fromkeys([*names, "average"]), "MR-R1": dict.fromkeys(names)}
    mean_ap = ap.mean(axis=0)
    hits = (iou[:, None] >= np.array(retrieval.IOU_THRESHOLDS)).mean(axis=0)
    return {
        "MR-mAP": {
            **{name: _percent(value) for name, value in zip(names, mean_ap, strict=True)},
            "average": _percent(mean_ap.mean()),
        },
        "MR-R1": {name: _percent(value) for name, value in zip(names, hits, strict=True)},
    }


def _retrieval_brief(moments: Mapping[str, Any]) -> dict[str, float | None]:
    """Pick the official brief keys, in their order."""
    mean_ap, hits = moments["full"]["MR-mAP"], moments["full"]["MR-R1"]
    return {
        "MR-full-R1@0.5": hits["0.5"],
        "MR-full-R1@0.7": hits["0.7"],
        "MR-full-mAP": mean_ap["average"],
        "MR-full-mAP@0.5": mean_ap["0.5"],
        "MR-full-mAP@0.75": mean_ap["0.75"],
        **{f"MR-{name}-mAP": moments[name]["MR-mAP"]["average"] for name in ("long", "middle", "short")},
    }


def _highlight_result(per_query: PerQuery) -> dict[str, Any]:
    """Average highlights of the rated queries into the official nesting."""
    rated = per_query["hl_argmax"] >= 0
    return {
        f"HL-min-{name}": {
            "HL-mAP": _percent(per_query[f"hl_ap_{name}"][rated].mean()),
            "HL-Hit1": _percent(per_query[f"hl_hit_{name}"][rated].mean()),
        }
        for name in highlight.MIN_RATINGS
    }


def _percent(fraction: float) -> float:
    """Round the official way: through the printed number."""
    return float(f"{100 * fraction:.2f}")
