"""The benchmark of the readers: that it runs, measures each reader, and that a broken promise is one."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "readers.py"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(sys, "path", [*sys.path])  # main() adds its folder
    spec = importlib.util.spec_from_file_location("readers", SCRIPT)  # the name its processes know it by
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


def test_a_quick_run_measures_each_reader(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    assert script.main(["--quick", "--readers", "pyav", "--videos", str(tmp_path)]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["judged"] is False
    assert result["files"] == {"broken.mp4": {"pyav": "refused"}}
    assert result["shapes"].keys() == script.SHAPES.keys()
    for row in result["shapes"].values():
        assert row["wall_seconds"].keys() == {script.PLAIN, "pyav", script.HERE}
        assert all(seconds > 0 for seconds in row["wall_seconds"].values())


@pytest.mark.parametrize(("ratio", "overhead", "code"), [(1.0, 0.04, 0), (0.99, 0.04, 1), (1.0, 0.05, 1)])
def test_a_broken_promise_is_the_exit_code(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ratio: float, overhead: float, code: int
) -> None:
    row: dict[str, Any] = {"times_plain_decord": {"pyav": ratio}, "process_overhead": overhead}
    monkeypatch.setattr(script, "start_costs", lambda names: {})
    monkeypatch.setattr(script, "measure_shapes", lambda *args: dict.fromkeys(script.SHAPES, row))
    assert script.main(["--videos", str(tmp_path / "none")]) == code
