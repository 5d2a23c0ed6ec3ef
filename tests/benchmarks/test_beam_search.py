"""The benchmark of beams that share a prompt, on few tokens: that it runs, and what it must not judge then."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "beam_search.py"


def test_a_quick_run_compares_equal_answers_and_judges_nothing() -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), "--quick"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["same_answers"] is True
    assert result["judged"] is False
    for num_beams in (2, 4):
        apart, shared = (result[f"seconds_{num_beams}_beams_{way}"] for way in ("apart", "shared"))
        assert abs(result[f"speedup_{num_beams}_beams"] - apart / shared) < 0.05 * apart / shared
