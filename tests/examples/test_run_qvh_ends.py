"""However a run of the example script ends, what it has computed is not lost, and nothing false is left behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from hf_frameseg.annotations.qvhighlights import read_annotations
from hf_frameseg.inference import MomentRetriever
from hf_frameseg.metrics import evaluate_submission
from hf_frameseg.sharing.adapter_folder import load_adapter
from hf_frameseg.training.checkpoints import what_is_missing
from hf_frameseg.training.evaluation import MomentRetrievalMetrics
from hf_frameseg.training.trainer import SegmentationSeq2SeqTrainer

Run = Callable[..., dict[str, Any]]
PISSA = ["--lora_r=4", "--lora_init=pissa_niter_4", "--lora_modules_to_save=resampler"]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    name = "adapter_model.safetensors" if (folder / "adapter_config.json").is_file() else "model.safetensors"
    return load_file(folder / name)


def same(first: Path, second: Path) -> bool:
    left, right = weights(first), weights(second)
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


# The precision


@pytest.mark.parametrize("more", [[], ["--lora_init=pissa_niter_4"]], ids=["lora", "pissa"])
def test_an_adapter_trained_in_bfloat16_is_saved_and_scores_as_the_run(
    qvh_run: Run, qvh_data: Path, tmp_path: Path, more: list[str]
) -> None:
    results = qvh_run(tmp_path, "--bf16=true", "--lora_r=4", *more)
    assert load_adapter(tmp_path / "model")[2].dtype == "bfloat16"
    retriever = MomentRetriever.from_pretrained(tmp_path / "model", batch_size=1)
    truth = read_annotations(qvh_data / "highlight_val_release.jsonl")
    submitted = [json.loads(line) for line in (tmp_path / "hl_val_submission.jsonl").read_text().splitlines()]
    answers = [retriever(qvh_data / "videos" / f"{row['vid']}.mp4", row["query"]) for row in truth]
    for row, answer in zip(submitted, answers, strict=True):
        assert answer.saliency == pytest.approx(row["pred_saliency_scores"], abs=0.02 if more else 2e-3)
    if not more:  # PiSSA in bfloat16 rounds
        served = [replace(answer, qid=row["qid"]).to_submission() for answer, row in zip(answers, truth, strict=True)]
        scored = evaluate_submission(served, truth)["brief"]
        assert scored == results["model, windows by runs"]["brief"]  # which is how a retriever makes windows


# A training is not lost


def fail(*args: Any, **kwargs: Any) -> None:
    raise ZeroDivisionError("out of luck")


STEPS = {
    "decode": "controls.decode_rows",
    "score": "evaluation.MomentRetrievalMetrics.score",
    "write metrics": "results.ResultsFolder.write_metrics",
    "decode controls": "controls.with_blank_frames",
    "write figures": "results.ResultsFolder.write_figures",
}


@pytest.mark.parametrize("step", [*STEPS, "table"])
def test_the_model_is_saved_before_what_may_fail(
    qvh: ModuleType,
    qvh_run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if step == "table":
        monkeypatch.setattr(qvh, "results_table", fail)
    else:
        monkeypatch.setattr(f"hf_frameseg.training.{STEPS[step]}", fail)
    with pytest.raises(ZeroDivisionError):
        qvh_run(tmp_path, "--lora_r=2", "--controls=true", "--num_figures=1")
    load_adapter(tmp_path / "model")
    assert f"broken off; the trained model is in {tmp_path / 'model'}" in capsys.readouterr().out
    assert (tmp_path / "hl_val_frames.jsonl").is_file() == (step != "decode")
    assert (tmp_path / "metrics.json").is_file() == (step not in ("decode", "score", "write metrics"))


def test_a_failed_training_says_how_to_go_on(
    qvh_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    step = SegmentationSeq2SeqTrainer.training_step

    def out_of_memory(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step == 1:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    monkeypatch.setattr(SegmentationSeq2SeqTrainer, "training_step", out_of_memory)
    with pytest.raises(KeyboardInterrupt):
        qvh_run(tmp_path)
    said = capsys.readouterr().out
    assert f"broken off; go on from {tmp_path / 'checkpoint-1'} with the same command and {QVH_RESUME}" in said
    assert not (tmp_path / "model").exists()


QVH_RESUME = "--resume_from_checkpoint true"


def test_a_metric_that_fails_in_the_training_leaves_the_checkpoint(
    qvh_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MomentRetrievalMetrics, "__call__", fail)
    with pytest.raises(ZeroDivisionError):
        qvh_run(tmp_path, "--eval_strategy=steps", "--eval_steps=2")
    # Scores are computed apart from the decode, which is written first.
    assert what_is_missing(tmp_path / "checkpoint-1") is None
    assert qvh_run(tmp_path, "--resume_from_checkpoint=true").keys() == {"model", "model, windows by runs"}


def test_a_refused_adapter_is_kept_and_the_scores_are_written(
    qvh: ModuleType, qvh_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def differs(*args: Any, **kwargs: Any) -> None:
        raise ValueError("it differs by 0.2 in a logit")

    monkeypatch.setattr("hf_frameseg.sharing.adapter_folder.compare", differs)
    with pytest.raises(SystemExit, match=r"run_qvh.py: error: it differs by 0.2 .*the adapter is kept in (.*refused)"):
        qvh_run(tmp_path, "--lora_r=2", "--controls=true")
    load_adapter(tmp_path / "model.refused")
    assert not (tmp_path / "model").exists()
    assert "blank frames" in json.loads((tmp_path / "metrics.json").read_text())


def test_scores_of_an_earlier_model_do_not_lie_beside_a_new_one(
    qvh_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    qvh_run(tmp_path, "--num_figures=1", "--save_strategy=no")
    monkeypatch.setattr("hf_frameseg.training.controls.decode_rows", fail)
    with pytest.raises(ZeroDivisionError):
        qvh_run(tmp_path, "--max_steps=1", "--save_strategy=no")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_a_model_that_is_replaced_is_replaced_whole(
    qvh_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    qvh_run(tmp_path, "--save_strategy=no", "--do_eval=false")
    before = weights(tmp_path / "model")
    with monkeypatch.context() as patch:
        patch.setattr("hf_frameseg.sharing.config.FrameSegmentationConfig.save", fail)
        with pytest.raises(ZeroDivisionError):
            qvh_run(tmp_path, "--save_strategy=no", "--max_steps=1")
    after = weights(tmp_path / "model")
    assert all(torch.equal(before[name], after[name]) for name in before)
    qvh_run(tmp_path, "--save_strategy=no", "--do_eval=false", "--max_steps=1")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


# A SIGTERM


class Terminate(TrainerCallback):
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 1:
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_sigterm_ends_the_run_with_a_checkpoint_and_no_scores(
    qvh: ModuleType,
    qvh_run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    build = qvh.build_trainer

    def with_signal(*args: Any) -> Any:
        trainer = build(*args)
        trainer.callback_handler.callbacks.insert(0, Terminate())
        return trainer

    options = ["--enable_jit_checkpoint=true", "--save_strategy=no", "--max_steps=3"]
    with monkeypatch.context() as patch:
        patch.setattr(qvh, "build_trainer", with_signal)
        with pytest.raises(SystemExit) as ended:
            qvh_run(tmp_path / "cut", *options)
    assert ended.value.code == 128 + signal.SIGTERM
    assert [path.name for path in (tmp_path / "cut").iterdir()] == ["checkpoint-1"]
    said = capsys.readouterr().out.splitlines()
    assert said[-1] == f"[run_qvh] terminated after step 1 of 3; go on with {QVH_RESUME}"
    qvh_run(tmp_path / "cut", *options, "--resume_from_checkpoint=true")
    qvh_run(tmp_path / "straight", *options)
    assert same(tmp_path / "cut" / "model", tmp_path / "straight" / "model")

    monkeypatch.setattr(qvh, "build_trainer", with_signal)
    with pytest.raises(SystemExit) as ended:  # in the last step: the model is whole
        qvh_run(tmp_path / "last", *options, "--max_steps=1")
    assert ended.value.code == 128 + signal.SIGTERM
    assert sorted(path.name for path in (tmp_path / "last").iterdir()) == ["checkpoint-1", "model"]


# Going on


BREAKS: dict[str, Callable[[Path], Any]] = {
    "killed": lambda folder: (folder / "trainer_state.json").unlink(),
    "no optimizer": lambda folder: (folder / "optimizer.pt").unlink(),
    "no scheduler": lambda folder: (folder / "scheduler.pt").unlink(),
    "no random state": lambda folder: (folder / "rng_state.pth").unlink(),
    "half an optimizer": lambda folder: os.truncate(folder / "optimizer.pt", 3000),
    "half of the weights": lambda folder: os.truncate(next(folder.glob("*model.safetensors")), 3000),
    "no weights": lambda folder: next(folder.glob("*model.safetensors")).unlink(),
    "half a state": lambda folder: os.truncate(folder / "trainer_state.json", 100),
    "empty": lambda folder: [path.unlink() for path in folder.iterdir()],
}

BROKEN = [("whole model", name) for name in BREAKS]
BROKEN += [("adapter", name) for name in ("killed", "half of the weights", "no random state")]


@pytest.fixture(scope="module", params=["whole model", "adapter"])
def three_steps(
    request: pytest.FixtureRequest,
    qvh: ModuleType,
    qvh_options: dict[str, Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, list[str]]:
    """A run of three steps that kept every checkpoint, and its arguments."""
    folder = tmp_path_factory.mktemp("three") / "run"
    more = ["--max_steps=3", *(PISSA if request.param == "adapter" else [])]
    words = [f"--{name}={value}" for name, value in qvh_options.items()]
    qvh.main([*words, f"--output_dir={folder}", *more])
    return folder, more


@pytest.mark.parametrize(("three_steps", "name"), BROKEN, indirect=["three_steps"])
def test_a_broken_checkpoint_is_skipped_and_named(
    qvh_run: Run, three_steps: tuple[Path, list[str]], tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, more = three_steps
    output = shutil.copytree(whole, tmp_path / "run")
    BREAKS[name](output / "checkpoint-3")
    qvh_run(output, *more, "--resume_from_checkpoint=true", "--do_eval=false")
    assert f"skipped {output / 'checkpoint-3'}, which is not whole: " in capsys.readouterr().out
    assert what_is_missing(output / "checkpoint-3") is None
    assert same(output / "checkpoint-3", whole / "checkpoint-3")
    assert same(output / "model", whole / "model")


def test_without_a_whole_checkpoint_the_training_begins_again(
    qvh_run: Run, three_steps: tuple[Path, list[str]], tmp_path: Path
) -> None:
    whole, more = three_steps
    output = shutil.copytree(whole, tmp_path / "run")
    for number in (1, 2, 3):
        (output / f"checkpoint-{number}" / "trainer_state.json").unlink()
    qvh_run(output, *more, "--resume_from_checkpoint=true", "--do_eval=false")
    assert same(output / "model", whole / "model")


def test_a_finished_run_only_scores(qvh_run: Run, three_steps: tuple[Path, list[str]], tmp_path: Path) -> None:
    whole, more = three_steps
    output = shutil.copytree(whole, tmp_path / "run")
    before = (output / "checkpoint-3" / "trainer_state.json").stat().st_mtime_ns
    (output / "note.txt").write_text("mine")
    (output / "hl_test_submission.jsonl").write_text("of another split")
    qvh_run(output, *more, "--resume_from_checkpoint=true")  # three steps are one of an epoch of three
    qvh_run(output, *more, "--max_steps=2", "--resume_from_checkpoint=true")  # inside an epoch, and behind the end
    assert (output / "checkpoint-3" / "trainer_state.json").stat().st_mtime_ns == before
    assert not (output / "checkpoint-4").exists()
    assert same(output / "model", whole / "model")
    assert (output / "hl_test_submission.jsonl").is_file()
    assert json.loads((output / "metrics.json").read_text()) == json.loads((whole / "metrics.json").read_text())


def test_two_trainings_do_not_mix(qvh_run: Run, three_steps: tuple[Path, list[str]], tmp_path: Path) -> None:
    whole, more = three_steps
    with pytest.raises(SystemExit, match="checkpoint-3 is of an earlier training: go on with it .--resume_from_"):
        qvh_run(whole, *more)
    other = ["--lora_r=0"] if "--lora_r=4" in more else PISSA
    with pytest.raises(
        SystemExit, match="checkpoint-3 holds (an adapter|a whole model), which does not go with --lora_r"
    ):
        qvh_run(whole, "--max_steps=3", *other, "--resume_from_checkpoint=true")
    if "--lora_r=4" in more:
        with pytest.raises(SystemExit, match="of an adapter with lora_alpha 16 and not 8: use the arguments it was"):
            qvh_run(whole, *more, "--lora_alpha=8", "--resume_from_checkpoint=true")
        lonely = shutil.copytree(whole / "checkpoint-3", tmp_path / "checkpoint-3")
        with pytest.raises(SystemExit, match="cannot resume .*is not beside it"):
            qvh_run(tmp_path / "out", *more, f"--resume_from_checkpoint={lonely}")
        shutil.copy(whole / "initial_adapter.safetensors", tmp_path)
        os.truncate(tmp_path / "initial_adapter.safetensors", 2000)
        with pytest.raises(SystemExit, match="cannot resume .*is not beside it"):
            qvh_run(tmp_path / "out", *more, f"--resume_from_checkpoint={lonely}")


# What is done


def test_without_training_the_base_is_scored_and_no_model_is_written(qvh_run: Run, tmp_path: Path) -> None:
    trained = qvh_run(tmp_path / "trained", "--controls=true")
    results = qvh_run(tmp_path / "base", "--do_train=false", "--controls=true")
    assert results["model"]["brief"] == trained["base without fine-tuning"]["brief"]
    assert list(results) == [name for name in trained if name != "base without fine-tuning"]
    assert not (tmp_path / "base" / "model").exists()
    assert not list((tmp_path / "base").glob("checkpoint-*"))


def test_without_training_a_checkpoint_is_scored_as_it_is(qvh_run: Run, tmp_path: Path) -> None:
    constant = "--lr_scheduler_type=constant"  # so that two steps begin as one does
    qvh_run(tmp_path / "run", *PISSA, constant, "--do_eval=false")
    assert not (tmp_path / "run" / "metrics.json").exists()
    expected = qvh_run(tmp_path / "short", *PISSA, constant, "--max_steps=1")
    checkpoint = tmp_path / "run" / "checkpoint-1"
    (checkpoint / "optimizer.pt").unlink()
    options = [*PISSA, constant, f"--resume_from_checkpoint={checkpoint}"]
    with pytest.raises(SystemExit, match=r"the optimiser's state is missing \(--do_train false scores it as it is\)"):
        qvh_run(tmp_path / "scored", *options)
    results = qvh_run(tmp_path / "scored", *options, "--do_train=false")
    assert {name: row["brief"] for name, row in results.items()} == {n: row["brief"] for n, row in expected.items()}
    assert same(tmp_path / "scored" / "model", tmp_path / "short" / "model")


# The control row of the base


@pytest.mark.parametrize("more", [["--lora_r=4", "--lora_modules_to_save=resampler"], PISSA], ids=["lora", "pissa"])
def test_the_base_is_decoded_with_the_adapter_off(
    qvh: ModuleType, qvh_run: Run, tmp_path: Path, more: list[str]
) -> None:
    results = qvh_run(tmp_path / "run", *more, "--controls=true", "--learning_rate=0.1")
    base = qvh_run(tmp_path / "base", "--do_train=false")
    assert results["base without fine-tuning"]["brief"] == base["model"]["brief"]
    frames = {
        name: [json.loads(line) for line in path.read_text().splitlines()]
        for name, path in {
            "off": tmp_path / "run" / "frames" / "hl_val_base_without_fine-tuning.jsonl",
            "base": tmp_path / "base" / "hl_val_frames.jsonl",
            "trained": tmp_path / "run" / "hl_val_frames.jsonl",
        }.items()
    }
    scores = {name: torch.tensor([row["log_odds"] for row in rows]) for name, rows in frames.items()}
    assert torch.allclose(scores["off"], scores["base"], atol=1e-4)
    assert not torch.allclose(scores["trained"], scores["base"], atol=1e-2)
    loaded = load_adapter(tmp_path / "run" / "model")[0]
    assert loaded is not None
