"""The benchmark of the decoders, on few simulated curves: what it prints, and what it must find."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from hf_frameseg.proposals.settings import ProposalSettings
from hf_frameseg.proposals.windows import DECODERS

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "decoders.py"


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("decoders_benchmark", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_last_line_is_what_it_measured(script: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    result = script.main(["--num-queries", "120", "--seeds", "0", "1", "--kinds", "S"])
    out = capsys.readouterr().out
    assert json.loads(out.splitlines()[-1]) == result
    assert out.startswith("SIMULATED curves of kind S on synthetic annotations: 120 queries, 25 frames, seeds 0, 1")
    assert (result["simulated"], result["num_queries"], result["seeds"]) == (True, 120, [0, 1])
    found = {ProposalSettings.from_dict(values).decoder for values in result["settings"].values()}
    assert found == DECODERS.keys()
    rows = result["kinds"]["S"]
    for name in ("runs+fill", script.FIXED):  # what is listed below costs no R1, and never mAP
        assert rows[name]["R1@0.5"] == rows[name]["R1@0.7"] == [0.0, 0.0]
    assert rows["runs+fill"]["mAP"][0] > rows[script.FIXED]["mAP"][0] > 0
    assert rows["runs, by time"]["R1@0.5"][0] < 0
    assert rows["soft-iou"]["HL-mAP"] == [0.0, 0.0]
    assert rows["runs, saliency box"]["HL-mAP"][0] < 0


def test_same_seed_same_curves(script: ModuleType) -> None:
    rows = script.synthetic_annotations(num_videos=3)
    first, again, other = (script.simulate(rows, 10, "H", seed, script.Curves()) for seed in (0, 0, 1))
    assert [one.log_odds.tolist() for one in first] == [one.log_odds.tolist() for one in again]
    assert [one.log_odds.tolist() for one in first] != [one.log_odds.tolist() for one in other]


def test_missing_annotations_are_one_line(script: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"decoders\.py: error: no annotation file at .*none\.jsonl"):
        script.main(["--annotations", str(tmp_path / "none.jsonl")])
