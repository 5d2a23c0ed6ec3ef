"""The `evaluate` module: loaded from its folder, imported as a class."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import evaluate
import pytest

import hf_frameseg.metrics
from hf_frameseg.metrics.qvhighlights import QVHighlightsMetric

Rows = list[dict[str, Any]]


@pytest.fixture
def case(metric_data: Path, read_rows: Callable) -> tuple[Rows, Rows, dict[str, Any]]:
    result = json.loads((metric_data / "t01_synthetic_gt.result.json").read_text(encoding="utf-8"))
    predictions = read_rows(metric_data / "t01_synthetic_gt.preds.jsonl.gz")
    return predictions, read_rows(metric_data / "gt_synthetic.jsonl.gz"), result


def test_loaded_from_its_folder_it_gives_the_official_result(
    case: tuple[Rows, Rows, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # evaluate copies the module into this folder and imports the copy from there
    monkeypatch.setattr(evaluate.config, "HF_MODULES_CACHE", tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    predictions, references, expected = case
    folder = Path(hf_frameseg.metrics.__file__).parent / "qvhighlights"
    metric = evaluate.load(str(folder), cache_dir=str(tmp_path), keep_in_memory=True)
    assert metric.compute(predictions=predictions, references=references) == expected


def test_batches_may_come_in_any_order(case: tuple[Rows, Rows, dict[str, Any]]) -> None:
    predictions, references, expected = case
    metric = QVHighlightsMetric(keep_in_memory=True)
    for start in range(0, 60, 7):
        metric.add_batch(predictions=predictions[::-1][start : start + 7], references=references[start : start + 7])
    assert metric.compute() == expected


def test_rows_may_come_one_by_one_with_additional_keys(case: tuple[Rows, Rows, dict[str, Any]]) -> None:
    predictions, references, expected = case
    metric = QVHighlightsMetric(keep_in_memory=True)
    for prediction, reference in zip(predictions, references, strict=True):
        metric.add(prediction={**prediction, "note": "x"}, reference={**reference, "frames": [1, 2]})
    assert metric.compute() == expected


def test_a_key_that_no_row_has_leaves_its_task_out(case: tuple[Rows, Rows, dict[str, Any]]) -> None:
    predictions, references, expected = case
    windows_only = [{key: row[key] for key in ("qid", "pred_relevant_windows")} for row in predictions]
    result = QVHighlightsMetric(keep_in_memory=True).compute(predictions=windows_only, references=references)
    assert {key: result[key] for key in ("full", "long", "middle", "short")} == {
        key: expected[key] for key in ("full", "long", "middle", "short")
    }
    assert "HL-min-VeryGood" not in result


def test_match_number_is_passed_on(case: tuple[Rows, Rows, dict[str, Any]]) -> None:
    predictions, references, _ = case
    metric = QVHighlightsMetric(keep_in_memory=True)
    with pytest.raises(ValueError, match="same qids"):
        metric.compute(predictions=predictions[:59], references=references[1:])
    result = QVHighlightsMetric(keep_in_memory=True).compute(
        predictions=predictions[:59], references=references[1:], match_number=False
    )
    assert result["brief"]["MR-full-mAP"] > 0


def test_mean_iou_comes_on_request(case: tuple[Rows, Rows, dict[str, Any]]) -> None:
    predictions, references, expected = case
    metric = QVHighlightsMetric(keep_in_memory=True)
    result = metric.compute(predictions=predictions, references=references, with_mean_iou=True)
    assert result == {**expected, "frameseg": {"mIoU": 70.21}}


def test_text_qids_and_further_thresholds() -> None:
    rows = [{"qid": qid, "pred_relevant_windows": [[0.0, 4.0, 0.9]]} for qid in ("s1_0", "7")]
    truth = [{"qid": row["qid"], "duration": 10, "relevant_windows": [[0, 10]]} for row in rows]
    metric = QVHighlightsMetric(keep_in_memory=True)
    result = metric.compute(predictions=rows, references=truth, r1_thresholds=[0.3, 0.5], with_mean_iou=True)
    assert result["frameseg"] == {"mIoU": 40.0, "R1@0.3": 100.0, "R1@0.5": 0.0}
    with pytest.raises(ValueError, match="same qids"):
        QVHighlightsMetric(keep_in_memory=True).compute(predictions=[{**rows[0], "qid": 7}], references=truth[1:])
