"""The data benchmark runs, measures what it says, and tells a broken promise."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "data.py"
KEPT = {
    "preparation_speedup": 1.7,
    "builder_overhead": 0.15,
    "loader_over_tiny_step": 1.0,
    "loader_over_4b_step": 1.0,
}


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("benchmark_data", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["benchmark_data"] = module  # processes that make videos look their function up there
    spec.loader.exec_module(module)
    yield module
    del sys.modules["benchmark_data"]


@pytest.mark.slow
def test_quick_run_measures_everything(script: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert script.main(["--quick"]) == 0
    results = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert results["judged"] is False
    assert results["promises"].keys() == KEPT.keys()
    measured = {name: value for name, value in results.items() if name not in ("settings", "promises", "judged")}
    assert all(isinstance(value, (int, float)) for value in measured.values())
    assert all(value > 0 for name, value in measured.items() if name.endswith(("_seconds", "_per_second", "_bytes")))
    assert 0 <= results["wait_share_of_tiny_training"] <= 1
    assert 0 < results["jpeg_share_of_raw"] < 1
    assert results["raw_row_bytes"] == 25 * 3 * 64 * 64 * 3
    assert results["psnr_db"] == pytest.approx(results["plain_psnr_db"], abs=0.5)  # equal quality
    assert 1 < results["4b_step_samples_per_second_at_peak"] < 20


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({}, 0),
        ({"preparation_speedup": 1.69}, 1),
        ({"builder_overhead": 0.151}, 1),
        ({"loader_over_tiny_step": 0.99}, 1),
        ({"loader_over_4b_step": 0.99}, 1),
    ],
)
def test_a_broken_promise_is_the_exit_code(
    changes: dict[str, float],
    code: int,
    script: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def measured(*names: str) -> Any:
        return lambda *args: {name: {**KEPT, **changes}[name] for name in names}

    monkeypatch.setattr(script, "make_data", lambda *args: None)
    monkeypatch.setattr(script, "preparation", measured("preparation_speedup", "builder_overhead"))
    monkeypatch.setattr(script, "storage", measured())
    monkeypatch.setattr(script, "loading", measured("loader_over_tiny_step", "loader_over_4b_step"))
    assert script.main([]) == code
    promises = json.loads(capsys.readouterr().out.splitlines()[-1])["promises"]
    assert [name for name, kept in promises.items() if not kept] == list(changes)


def test_videos_are_made_once_and_hold_what_they_should(script: ModuleType, tmp_path: Path) -> None:
    from hf_frameseg.video.index import index_video

    script.make_data(tmp_path, 1, 2)
    path = next((tmp_path / "videos").iterdir())
    times = index_video(path).times_seconds
    assert len(times) == 60
    stamp = path.stat().st_mtime_ns
    script.make_data(tmp_path, 1, 2)
    assert path.stat().st_mtime_ns == stamp
    assert len(script.rows_of(tmp_path)) == 1
    (tmp_path / "highlight_train_release.jsonl").write_text('{"query": "of another data set"}')
    with pytest.raises(SystemExit, match="holds another data set"):
        script.make_data(tmp_path, 1, 2)
