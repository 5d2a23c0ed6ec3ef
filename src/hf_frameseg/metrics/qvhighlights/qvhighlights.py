"""The QVHighlights scores as an `evaluate` module.

`evaluate.load` runs a copy of this file outside the package, hence the absolute import and no sibling modules.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import evaluate

import datasets
from hf_frameseg.metrics import evaluate_per_query, mean_iou, recall_at, summarize_per_query

_DESCRIPTION = """\
Moment retrieval (R1, mAP) and highlight detection (HL-mAP, HIT@1) on QVHighlights, equal to the official evaluator
(github.com/jayleicn/moment_detr, standalone_eval) in every digit.
"""

_CITATION = """\
@inproceedings{lei2021detecting,
  title={Detecting Moments and Highlights in Videos via Natural Language Queries},
  author={Lei, Jie and Berg, Tamara L. and Bansal, Mohit},
  booktitle={Advances in Neural Information Processing Systems},
  year={2021}
}
"""

_INPUTS_DESCRIPTION = """\
Args:
    predictions: One submission row per query: qid, query, vid, pred_relevant_windows ([[start, end, score], ...] in
        seconds, best first) and pred_saliency_scores (one number per 2-second clip). A key that no row has may be left
        out; its task is then not scored.
    references: As many annotation rows, in any order: qid, query, duration, vid, relevant_windows, relevant_clip_ids,
        saliency_scores. Rows meet by qid.
    match_number: Require the same qids on both sides (default) instead of scoring the shared ones.
    r1_thresholds: Further IoU thresholds of R1, such as [0.3]; they come as result["frameseg"]["R1@0.3"].
    with_mean_iou: Add mIoU, which the official dictionary does not hold, as result["frameseg"]["mIoU"].
Returns:
    The official nested dictionary: brief, full, short, middle, long, HL-min-Fair, HL-min-Good, HL-min-VeryGood.
"""

_QID = datasets.Value("string")  # as JSON: a column has one type, and qids are numbers or texts
_WINDOWS = datasets.List(datasets.List(datasets.Value("float64")))

_FEATURES = datasets.Features(
    {
        "predictions": {
            "qid": _QID,
            "query": datasets.Value("string"),
            "vid": datasets.Value("string"),
            "pred_relevant_windows": _WINDOWS,
            "pred_saliency_scores": datasets.List(datasets.Value("float64")),
        },
        "references": {
            "qid": _QID,
            "query": datasets.Value("string"),
            "duration": datasets.Value("float64"),
            "vid": datasets.Value("string"),
            "relevant_windows": _WINDOWS,
            "relevant_clip_ids": datasets.List(datasets.Value("int64")),
            "saliency_scores": datasets.List(datasets.List(datasets.Value("int64"))),
        },
    }
)


class QVHighlightsMetric(evaluate.Metric):
    """Score gathered submission rows; for several processes pass `num_process` and `process_id` as usual.

    Example:
        >>> metric = QVHighlightsMetric(keep_in_memory=True)
        >>> rows = [{"qid": 1, "pred_relevant_windows": [[0.0, 4.0, 0.9]]}]
        >>> truth = [{"qid": 1, "duration": 10, "relevant_windows": [[0, 4]]}]
        >>> metric.compute(predictions=rows, references=truth)["brief"]["MR-full-mAP"]
        100.0
    """

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS_DESCRIPTION,
            features=_FEATURES,
            reference_urls=["https://github.com/jayleicn/moment_detr/tree/main/standalone_eval"],
        )

    def add_batch(
        self,
        *,
        predictions: Sequence[Mapping[str, Any]] | None = None,
        references: Sequence[Mapping[str, Any]] | None = None,
        **kwargs: Any,
    ) -> None:
        """Add rows; keys outside the features are ignored.

        Args:
            predictions: Submission rows.
            references: As many annotation rows, in any order.
            **kwargs: Refused by `evaluate`.
        """
        super().add_batch(
            predictions=[_fit(row, "predictions") for row in predictions or ()],
            references=[_fit(row, "references") for row in references or ()],
            **kwargs,
        )

    def add(
        self, *, prediction: Mapping[str, Any] | None = None, reference: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """Add one row of each kind; keys outside the features are ignored.

        Args:
            prediction: A submission row.
            reference: An annotation row, of this or of another query.
            **kwargs: Refused by `evaluate`.
        """
        super().add(
            prediction=_fit(prediction or {}, "predictions"), reference=_fit(reference or {}, "references"), **kwargs
        )

    def _compute(
        self,
        predictions: Sequence[Mapping[str, Any]],
        references: Sequence[Mapping[str, Any]],
        match_number: bool = True,
        with_mean_iou: bool = False,
        r1_thresholds: Sequence[float] = (),
    ) -> dict[str, Any]:
        """Score the rows that `evaluate` gathered."""
        per_query = evaluate_per_query(_unfit(predictions), _unfit(references), match_number)
        ours = {"mIoU": mean_iou(per_query)} if with_mean_iou else {}
        ours |= recall_at(per_query, r1_thresholds)
        return {**summarize_per_query(per_query), **({"frameseg": ours} if ours else {})}


def _fit(row: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Give a row exactly the keys of its features: `evaluate` refuses both missing and additional ones."""
    texts = ("query", "vid")  # never null: evaluate checks that strings are strings
    fitted = {key: row.get(key, "" if key in texts else None) for key in _FEATURES[name]}
    qid = fitted["qid"]
    return {**fitted, "qid": json.dumps(qid.item() if hasattr(qid, "item") else qid)}


def _unfit(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Undo `_fit`, and what the Arrow table did to absent keys: it stores them as null."""
    decoded = ({**row, "qid": json.loads(row["qid"])} for row in rows)
    return [{key: value for key, value in row.items() if value is not None} for row in decoded]
