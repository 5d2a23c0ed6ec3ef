"""Every violation is found in its line, and nothing that passes fails to score."""

from __future__ import annotations

import copy
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hf_frameseg.metrics import evaluate_submission, read_submission, validate_submission

TRUTH = [
    {
        "qid": qid,
        "duration": 12,
        "relevant_windows": [[2, 6]],
        "relevant_clip_ids": [1, 2],
        "saliency_scores": [[4, 2, 0], [3, 3, 4]],
    }
    for qid in (1, 2, 3)
]
ROWS = [
    {
        "qid": qid,
        "pred_relevant_windows": [[2.0, 5.0, 0.9], [8.0, 12.0, 0.4]],
        "pred_saliency_scores": [0.1, 0.9, 0.8, 0.0, 0.2, 0.3],
    }
    for qid in (1, 2, 3)
]
GONE = object()


def with_change(key: str, value: Any) -> list[dict[str, Any]]:
    """Change the second of three valid rows."""
    rows = copy.deepcopy(ROWS)
    if value is GONE:
        del rows[1][key]
    else:
        rows[1][key] = value
    return rows


def codes(rows: list[Any], **options: Any) -> list[tuple[str, bool, int | None]]:
    return [(found.code, found.is_error, found.line) for found in validate_submission(rows, TRUTH, **options)]


def test_a_valid_submission_has_no_violation() -> None:
    assert codes(ROWS) == []


@pytest.mark.parametrize(
    ("key", "value", "code", "is_error"),
    [
        ("pred_relevant_windows", GONE, "missing-key", True),
        ("pred_saliency_scores", GONE, "missing-key", True),
        ("pred_relevant_windows", "none", "bad-windows", True),
        ("pred_relevant_windows", None, "bad-windows", True),
        ("pred_relevant_windows", [], "no-window", False),
        ("pred_relevant_windows", [[2.0, 5.0]], "bad-window", True),
        ("pred_relevant_windows", [[2.0, 5.0, None]], "bad-window", True),
        ("pred_relevant_windows", [["2", "5", 0.9]], "bad-window", True),
        ("pred_relevant_windows", [[2.0, 5.0, float("nan")]], "bad-window", True),
        ("pred_relevant_windows", [[2.0, float("inf"), 0.9]], "bad-window", True),
        ("pred_relevant_windows", [[2.0, 10**400, 0.9]], "bad-window", True),
        ("pred_relevant_windows", [5.0], "bad-window", True),
        ("pred_relevant_windows", [[5.0, 2.0, 0.9]], "inverted-window", True),
        ("pred_relevant_windows", [[5.0, 5.0, 0.9]], "empty-window", False),
        ("pred_relevant_windows", [[2, 5, 0.9]], "integer-window", False),
        ("pred_relevant_windows", [[2.0, 5.0, 0.9, 7.0]], "long-window", False),
        ("pred_relevant_windows", [[2.0, 12.5, 0.9]], "outside-video", False),
        ("pred_relevant_windows", [[-1.0, 5.0, 0.9]], "outside-video", False),
        ("pred_relevant_windows", [[2.0, 5.0, 0.4], [8.0, 12.0, 0.9]], "unsorted-scores", False),
        ("pred_relevant_windows", [[2.0, 5.0, 0.5]] * 11, "too-many-windows", False),
        ("pred_saliency_scores", [], "bad-saliency", True),
        ("pred_saliency_scores", 0.5, "bad-saliency", True),
        ("pred_saliency_scores", [0.1, None, 0.3, 0.4, 0.5, 0.6], "bad-saliency", True),
        ("pred_saliency_scores", [[0.1]] * 6, "bad-saliency", True),
        ("pred_saliency_scores", [float("-inf")] * 6, "bad-saliency", True),
        ("pred_saliency_scores", [0.1] * 5, "saliency-length", False),
        ("pred_saliency_scores", [0.1] * 7, "saliency-length", False),
        ("qid", 1, "duplicate-qid", True),
        ("qid", GONE, "missing-key", True),
        ("qid", [2], "bad-qid", True),
        ("qid", 2.0, "bad-qid", True),
        ("qid", "2", "unknown-qid", True),
        ("qid", 99, "unknown-qid", True),
    ],
)
def test_each_violation_is_reported_in_its_line(key: str, value: Any, code: str, is_error: bool) -> None:
    found = [violation for violation in codes(with_change(key, value)) if violation[2] is not None]
    assert found == [(code, is_error, 2)]


def test_a_row_that_is_no_object_is_reported() -> None:
    assert codes([*ROWS, [1, 2]]) == [("not-an-object", True, 4)]


def test_missing_qids_are_reported_once_unless_a_subset_is_scored() -> None:
    assert codes(ROWS[:1]) == [("missing-qid", True, None)]
    assert codes(ROWS[:1], match_number=False) == []
    assert codes([{**ROWS[0], "qid": 99}], match_number=False) == [("no-shared-qid", True, None)]
    assert codes([]) == [("no-rows", True, None)]


def test_without_any_prediction_key_every_row_is_reported() -> None:
    assert codes([{"qid": row["qid"]} for row in ROWS]) == [("missing-key", True, line) for line in (1, 2, 3)]


def test_a_duplicate_names_the_line_of_the_first() -> None:
    (violation,) = validate_submission([*ROWS, ROWS[1]], TRUTH)
    assert (violation.line, violation.message) == (4, "qid already stands in line 2")


def test_only_the_first_window_of_a_kind_is_shown() -> None:
    rows = with_change("pred_relevant_windows", [[5.0, 2.0, 0.9], [6.0, 2.0, 0.8], [3.0, 4.0, 0.7]])
    (violation,) = validate_submission(rows, TRUTH)
    assert str(violation) == (
        "line 2 (qid 2): error: expected start < end, got [5.0, 2.0, 0.9] as window 0; "
        "swap the ends or remove the window [inverted-window]"
    )


def test_lines_that_are_not_json_objects_keep_their_numbers() -> None:
    lines = [json.dumps(ROWS[0]), "", "{'qid': 2}", "[1]", json.dumps(ROWS[2]), b'{"qid": "\xff"}', "[" * 100_000]
    data = b"\n".join(line.encode() if isinstance(line, str) else line for line in lines)
    parsed = read_submission(io.BytesIO(data))
    assert [(found.line, found.code) for found in parsed.violations] == [
        (3, "not-json"),
        (4, "not-an-object"),
        (6, "not-json"),
        (7, "not-json"),
    ]
    assert parsed.line_numbers == [1, 5]
    parsed.rows[1]["qid"] = True
    found = validate_submission(parsed.rows, TRUTH, line_numbers=parsed.line_numbers, match_number=False)
    assert [(violation.line, violation.code) for violation in found] == [(5, "bad-qid")]


def test_qids_of_another_type_are_told_from_unknown_ones() -> None:
    rows = [{**ROWS[0], "qid": "1"}, {**ROWS[1], "qid": "two"}, ROWS[2]]
    found = validate_submission(rows, TRUTH, match_number=True)
    assert [(violation.code, violation.fix) for violation in found] == [
        ("unknown-qid", "write it with that type"),
        ("unknown-qid", "remove the row or score the right split"),
        ("missing-qid", "predict every query, or score the subset on purpose"),
    ]


def test_a_huge_value_is_shown_as_a_short_one() -> None:
    (found,) = validate_submission(with_change("pred_saliency_scores", "x" * 10**6), TRUTH)
    assert len(str(found)) < 250


def test_numpy_rows_are_as_good_as_lists() -> None:
    rows = [{key: np.array(value) if key != "qid" else np.int64(value) for key, value in row.items()} for row in ROWS]
    assert codes(rows) == []
    assert evaluate_submission(rows, TRUTH) == evaluate_submission(ROWS, TRUTH)


def test_recorded_inputs_that_break_the_official_code_are_reported(metric_data: Path) -> None:
    from_ground_truth = ("GT ", "no GT window")
    for case in json.loads((metric_data / "crashes.json").read_text(encoding="utf-8")):
        if case["error"] is None or case["name"].startswith(from_ground_truth):
            continue
        found = validate_submission(case["submission"], case["ground_truth"], match_number=case["match_number"])
        assert {violation.code for violation in found} - {"integer-window"}, case["name"]


def test_published_predictions_have_no_error(shared_dir: Path, read_rows: Callable) -> None:
    folder = shared_dir / "goldens" / "metric"
    found = validate_submission(
        read_rows(folder / "c01_sample_val.preds.jsonl.gz"), read_rows(folder / "gt_val.jsonl.gz")
    )
    assert {violation.code for violation in found} == {"saliency-length", "outside-video"}
    assert not any(violation.is_error for violation in found)
