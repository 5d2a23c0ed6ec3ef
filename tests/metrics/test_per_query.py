"""The scores of single queries as columns. `test_submission.py` compares their values with the official ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hf_frameseg.metrics import count_queries, evaluate_per_query, query_table, summarize_per_query


def test_columns_of_the_query_table_average_to_the_official_numbers(metric_data: Path, read_rows: Callable) -> None:
    submission = read_rows(metric_data / "t01_synthetic_gt.preds.jsonl.gz")
    per_query = evaluate_per_query(submission, read_rows(metric_data / "gt_synthetic.jsonl.gz"))
    table, result = query_table(per_query), summarize_per_query(per_query)
    assert {len(values) for values in table.values()} == {60}

    def mean(column: str) -> float:
        return pytest.approx(100 * np.nanmean(table[column]), abs=0.005)

    assert result["full"]["MR-mAP"] == {
        **{t: mean(f"mr_ap@{t}") for t in result["full"]["MR-R1"]},
        "average": mean("mr_ap"),
    }
    for name in ("short", "middle", "long"):
        assert result[name]["MR-mAP"]["average"] == mean(f"{name}_mr_ap")
        assert count_queries(per_query)[name] == (~np.isnan(table[f"{name}_r1_iou"])).sum()
    for name in ("Fair", "Good", "VeryGood"):
        assert result[f"HL-min-{name}"] == {"HL-mAP": mean(f"hl_ap_{name}"), "HL-Hit1": mean(f"hl_hit_{name}")}
