"""The recipe for many machines, on two workers here and submitted to a stand-in for Slurm."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from datasets import load_dataset
from hf_frameseg.datasets.load import load_rows
from hf_frameseg.datasets.synthetic import write_dataset

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "prepare_many_machines.py"

pytest.importorskip("datatrove", reason="datatrove is not installed: pip install 'hf_frameseg[scale]'")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("prepare_many_machines", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "synthetic"
    counts = {"num_train_videos": 5, "num_val_videos": 1, "num_test_videos": 0}
    return write_dataset(folder, progress=False, size_pixels=16, fps=1, **counts)


@pytest.fixture
def run(script: ModuleType, data: Path, tmp_path: Path) -> Callable[..., None]:
    """Give the command."""

    def call(*more: str) -> None:
        choices = ["--data_dir", str(data), "--split", "train", "--cache_dir", str(tmp_path / "shared")]
        script.main([*choices, "--num_frames", "5", "--frame_size", "16", *more])

    return call


def dataset_bytes(data: Path, cache: Path) -> bytes:
    """Return the file of the data set in a cache, made by one process if it is not there."""
    dataset = load_rows("qvhighlights", data, "train", num_frames=5, frame_size=16, cache_dir=cache)
    return b"".join(Path(file["filename"]).read_bytes() for file in dataset.cache_files)


def test_two_workers_make_the_data_set_of_one_machine(
    run: Callable[..., None], data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run("--tasks", "3", "--workers", "2", "--output_dir", str(tmp_path / "shards"))
    assert "the data set is in" in capfd.readouterr().out
    assert list((tmp_path / "shared").rglob("*.part")) == []
    assert dataset_bytes(data, tmp_path / "shared") == dataset_bytes(data, tmp_path / "alone")
    shards = load_dataset(str(tmp_path / "shards"), split="train", cache_dir=str(tmp_path / "cache"))
    alone = load_rows("qvhighlights", data, "train", num_frames=5, frame_size=16, cache_dir=tmp_path / "alone")
    assert shards.features == alone.features
    assert list(shards) == list(alone)


def test_machines_started_by_hand(run: Callable[..., None], data: Path, tmp_path: Path) -> None:
    shares = ("--tasks", "3", "--workers", "1", "--machines", "2")
    run(*shares, "--machine", "1")
    assert len(list((tmp_path / "shared").rglob("*.part"))) == 3  # tasks 1 and 2: videos 1, 2 and 4
    run(*shares, "--machine", "0")
    assert len(list((tmp_path / "shared").rglob("*.part"))) == 5
    run("--tasks", "3", "--workers", "1")
    assert dataset_bytes(data, tmp_path / "shared") == dataset_bytes(data, tmp_path / "alone")
    run("--tasks", "3", "--workers", "1")  # nothing is left to do


def test_slurm_gets_an_array_and_a_job_after_it(
    run: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    submitted = tmp_path / "submitted"
    submitted.mkdir()
    sbatch = tmp_path / "bin" / "sbatch"
    sbatch.parent.mkdir()
    sbatch.write_text(
        "#!/bin/bash\n"
        f"number=$((100 + $(ls {submitted} | wc -l)))\n"
        f'(echo "arguments: $@"; cat "${{@: -1}}") > {submitted}/$number\n'
        'echo "Submitted batch job $number"\n'
    )
    sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", f"{sbatch.parent}{os.pathsep}{os.environ['PATH']}")
    run("--tasks", "4", "--workers", "2", "--slurm_partition", "cpu", "--slurm_time", "01:00:00")
    jobs = {job.name: job.read_text() for job in submitted.iterdir()}
    runs = {number: text for number, text in jobs.items() if "launch_pickled_pipeline" in text}  # others add up times
    decode, assemble = sorted(runs)
    assert "--job-name=decode" in runs[decode]
    assert "--array=0-3%2" in runs[decode]
    assert "--time=01:00:00" in runs[decode]
    assert "--job-name=assemble" in runs[assemble]
    assert f"--dependency=afterok:{decode}" in runs[assemble].splitlines()[0]


def test_bad_arguments_end_with_one_line(run: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run("--machine", "2", "--machines", "2")
    assert "expected --machine from 0 to 1, got 2" in capsys.readouterr().err
