"""Two processes do what one does: the same step, the same scores. Started as the demo is, over gloo on CPU."""

from __future__ import annotations

import importlib.util
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from datasets import Dataset
from hf_frameseg.shards.files import save_shards

ROOT = Path(__file__).resolve().parents[2]
WORKER = Path(__file__).with_name("distributed_worker.py")
CONFIG = ROOT / "examples" / "accelerate_cpu2.yaml"


@pytest.fixture(scope="module")
def runs(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_model: Any,
    tiny_processor: Any,
    make_row: Callable[..., dict[str, Any]],
) -> tuple[Path, Path]:
    """Folders with the results of one process and of two, of the same work on eight rows, 13, and a stream of 23."""
    folder = tmp_path_factory.mktemp("distributed")
    tiny_model.save_pretrained(folder / "model")
    tiny_processor.save_pretrained(folder / "model")
    windows = [[[0.0, 2.0]], [[2.0, 6.0]], [[0.0, 2.0], [6.0, 10.0]], [[4.0, 10.0]]] * 2
    queries = ["a red circle "[: 4 + number % 9] for number in range(1, 24)]
    rows = [make_row(qid, windows[qid % 8 - 1], query=query) for qid, query in enumerate(queries, start=1)]
    texts = [{**row, "qid": f"s{row['qid']}-d0"} for row in rows]
    save_shards(Dataset.from_list(texts), folder / "stream", "val", group_bytes=100_000)
    (folder / "rows.pickle").write_bytes(pickle.dumps(rows))

    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(CONFIG)]
    environment = os.environ | {
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]),
    }
    two = subprocess.Popen(
        [*launch, str(WORKER), str(folder), str(folder / "two"), "4"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    threads = torch.get_num_threads()
    try:
        spec = importlib.util.spec_from_file_location("distributed_worker", WORKER)
        worker = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(worker)
        torch.set_num_threads(1)  # as in the two processes: on some processors the last bit depends on it
        worker.run(folder, folder / "one", 8)
        output, _ = two.communicate(timeout=300)
    finally:
        torch.set_num_threads(threads)
        two.terminate()
    assert two.returncode == 0, output
    return folder / "one", folder / "two"


STEPS = {"step": 1, "accumulated": 1, "penalty": 1, "ragged": 4, "ragged_accumulated": 8}


def distance(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """Relative distance of two sets of tensors, each taken as one vector."""
    assert a.keys() == b.keys()
    difference = sum((a[key] - b[key]).double().square().sum() for key in a)
    return float((difference / sum(a[key].double().square().sum() for key in a)).sqrt())


@pytest.mark.parametrize("name", ["step", "accumulated", "penalty", "ragged", "ragged_accumulated"])
def test_two_processes_take_the_step_of_one(runs: tuple[Path, Path], name: str) -> None:
    one = torch.load(runs[0] / f"{name}_0.pt")
    two = [torch.load(runs[1] / f"{name}_{rank}.pt") for rank in (0, 1)]
    assert one["world_size"] == (1, 1, 1)
    assert [result["world_size"] for result in two] == [(2, 2, 2), (2, 2, 2)]  # really two, and they know of each other
    assert len(one["gradients"]) == len(two[0]["gradients"]) == len(one["log"]) == len(two[0]["log"]) == STEPS[name]
    for left, right in zip(one["gradients"], two[0]["gradients"], strict=True):
        assert distance(left, right) < 1e-6
    assert distance(one["weights"], two[0]["weights"]) < 1e-6
    assert all(torch.equal(two[0]["weights"][key], two[1]["weights"][key]) for key in one["weights"])
    for left, right in zip(one["log"], two[0]["log"], strict=True):
        for key in ("loss", "loss_lm", "loss_bce", "loss_tversky", "loss_generalized_dice"):
            assert right[key] == pytest.approx(left[key], rel=1e-6)


def test_accumulation_changes_nothing(runs: tuple[Path, Path]) -> None:
    for folder in runs:
        step, accumulated = (torch.load(folder / f"{name}_0.pt") for name in ("step", "accumulated"))
        assert distance(step["gradients"][0], accumulated["gradients"][0]) < 1e-6


def test_scores_of_one_and_two_processes_are_the_same_file(runs: tuple[Path, Path]) -> None:
    # Seven rows: the second process has one less, and its batches are those that one process makes.
    for name in ("one_by_one.json", "one_by_one.jsonl", "batches.json", "batches.jsonl"):
        assert (runs[0] / name).read_bytes() == (runs[1] / name).read_bytes(), name


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_is_evaluated_row_by_row_whatever_the_layout(runs: tuple[Path, Path], workers: int) -> None:
    plain = torch.load(runs[0] / "stream_0_0.pt", weights_only=False)
    assert plain["qids"] == [f"s{number}-d0" for number in range(1, 24)]
    for folder, rank in ((runs[0], 0), (runs[1], 0), (runs[1], 1)):
        found = torch.load(folder / f"stream_{workers}_{rank}.pt", weights_only=False)
        order = [found["qids"].index(qid) for qid in plain["qids"]]
        assert sorted(order) == list(range(23))
        assert abs(found["logits"][order] - plain["logits"]).max() < 1e-5
        for key in ("eval_loss", "eval_loss_lm", "eval_loss_bce"):
            assert found["metrics"][key] == pytest.approx(plain["metrics"][key], rel=1e-5)


def test_sharded_parameters_are_gathered_to_decode(runs: tuple[Path, Path]) -> None:
    one, *two = (
        torch.load(folder / f"sharded_{rank}.pt", weights_only=False)
        for folder, rank in ((runs[0], 0), (runs[1], 0), (runs[1], 1))
    )
    assert max(found["weights"] for found in two) < 0.6 * one["weights"]  # really spread, and again after decoding
    for found in two:
        assert abs(found["logits"] - one["logits"]).max() < 1e-5
        assert found["metrics"]["eval_loss"] == pytest.approx(one["metrics"]["eval_loss"], rel=1e-6)


def test_evaluation_losses_are_means_over_the_seven_rows(runs: tuple[Path, Path]) -> None:
    for name in ("one_by_one", "batches"):
        one, two = (json.loads((folder / f"{name}_losses.json").read_text()) for folder in runs)
        assert {"eval_loss", "eval_loss_lm", "eval_loss_bce"} <= one.keys()
        assert two == pytest.approx(one, rel=1e-6)
