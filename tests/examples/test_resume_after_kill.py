"""Killed trainings end, after the same command again, as if nobody had killed them; see `soak_resume.py`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).with_name("soak_resume.py")
SOURCE = SOAK.parents[2] / "src"


@pytest.mark.slow
def test_trainings_killed_while_a_checkpoint_is_written_go_on_to_the_last_bit(tmp_path: Path) -> None:
    options = ["--kills=3", "--seed=3", "--in-time=0", "--kinds", "1:pissa", "2:lora", f"--folder={tmp_path}"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(SOURCE), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run([sys.executable, str(SOAK), *options], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    *lines, counts = done.stdout.splitlines()
    assert [line.endswith(": the same") for line in lines] == [True] * 3
    counts = json.loads(counts)
    assert counts["kills"] == 3
    assert counts["broken checkpoints skipped"] > 0
