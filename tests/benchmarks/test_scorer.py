"""The scorer's benchmark: that it runs, that both sides agree, and that a broken promise is one."""

from __future__ import annotations

import importlib.util
import json
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from hf_frameseg.audit.statistics import annotation_statistics
from hf_frameseg.metrics import validate_submission

KEYS = {"ratio", "seconds", "reference_seconds", "peak_mb", "queries", "python", "numpy", "cpu_count"}


@pytest.fixture(scope="module")
def scorer() -> ModuleType:
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "scorer.py"
    spec = importlib.util.spec_from_file_location("benchmark_scorer", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_tiny_run_ends_in_one_json_line(scorer: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert scorer.main(["--queries", "40", "--rounds", "1"]) == 0
    text = capsys.readouterr().out
    result = json.loads(text.splitlines()[-1])
    assert result.keys() >= KEYS | scorer.PROMISES.keys()
    assert result["queries"] == 40
    assert result["largest_difference"] <= 0.011
    assert 10 < result["peak_mb"] < 1000
    assert all(result[name] > 0 for name in ("ratio", "seconds", "reference_seconds", "import_seconds"))
    assert "promise" not in text
    assert "at least" not in text  # few queries judge nothing


@pytest.mark.parametrize(
    ("name", "value"),
    [("ratio", 19.9), ("seconds", 2.0), ("peak_mb", 300.0), ("import_seconds", 1.0), ("largest_difference", 0.02)],
)
def test_a_broken_promise_is_named_and_ends_with_1(
    scorer: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: float
) -> None:
    kept = {"ratio": 20.0, "seconds": 1.9, "peak_mb": 299.0, "import_seconds": 0.9, "largest_difference": 0.01}
    other = dict.fromkeys(("cpu_seconds", "reference_seconds", "reference_cpu_seconds", "process_seconds"), 1.0)
    machine = {"queries": scorer.QUERIES, "python": "3", "numpy": "2", "cpu": "x"}
    measured: dict[str, Any] = {**kept, **other, **machine}
    monkeypatch.setattr(scorer, "measure", lambda *_: measured)
    assert scorer.main([]) == 0
    assert "broken" not in capsys.readouterr().out
    measured[name] = value
    assert scorer.main([]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if "broken" in line][0].startswith(f"broken promise: {name} is {value:g}")
    assert json.loads(lines[-1])[name] == value


def test_the_case_is_sound_and_shaped_like_the_validation_split(scorer: ModuleType) -> None:
    submission, truth = scorer.make_case(400, seed=0)
    assert (submission, truth) == scorer.make_case(400, seed=0)
    assert truth != scorer.make_case(400, seed=1)[1]
    assert [violation for violation in validate_submission(submission, truth) if violation.is_error] == []
    for row in truth:
        windows = row["relevant_windows"]
        assert all(first[1] < second[0] for first, second in pairwise(windows))
        assert windows[0][0] >= 0
        assert windows[-1][1] <= row["duration"]
    found = annotation_statistics(truth)
    assert found["multi_window_queries"] == pytest.approx(0.34, abs=0.06)
    assert found["length_range_windows"]["short"] == pytest.approx(0.40, abs=0.06)
    assert found["length_range_windows"]["long"] == pytest.approx(0.22, abs=0.06)
    assert found["foreground_seconds"] == pytest.approx(0.28, abs=0.06)
    assert np.mean([row["duration"] == 150 for row in truth]) > 0.9


def test_differences_are_found_at_any_depth(scorer: ModuleType) -> None:
    ours = {"full": {"MR-R1": {"0.5": 50.0, "0.7": 20.0}}, "long": {"MR-R1": {"0.5": None}}}
    assert scorer.largest_difference(ours, ours) == 0
    theirs = {"full": {"MR-R1": {"0.5": 50.0, "0.7": 21.5}}, "long": {"MR-R1": {"0.5": None}}}
    assert scorer.largest_difference(ours, theirs) == 1.5
    assert scorer.largest_difference(ours, {"long": {"MR-R1": {"0.5": 0.0}}}) == float("inf")
