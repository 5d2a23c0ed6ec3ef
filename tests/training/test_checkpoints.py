"""Whole and broken checkpoints, and what the trainer does so that a kill at any moment costs no more than a step."""

from __future__ import annotations

import copy
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import TrainerCallback
from transformers.trainer_utils import get_last_checkpoint

from hf_frameseg.batches.collator import FrameSegmentationCollator
from hf_frameseg.digits import BinaryLabels
from hf_frameseg.training.arguments import SegmentationSeq2SeqTrainingArguments
from hf_frameseg.training.checkpoints import (
    holds_adapter,
    last_whole_checkpoint,
    steps_taken,
    weights_problem,
    what_is_missing,
)
from hf_frameseg.training.trainer import SegmentationSeq2SeqTrainer

FILES = ["optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"]


def checkpoint(folder: Path, *, adapter: bool = False, processes: int = 1) -> Path:
    """The files of the trainer, of random numbers."""
    folder.mkdir(parents=True)
    name = "adapter_model.safetensors" if adapter else "model.safetensors"
    save_file({"a": torch.rand(5, 4), "b": torch.rand(7)}, folder / name, metadata={"format": "pt"})
    (folder / "adapter_config.json" if adapter else folder / "config.json").write_text("{}")
    torch.save({"state": {0: {"exp_avg": torch.rand(50)}}}, folder / "optimizer.pt")
    torch.save({"last_epoch": 3}, folder / "scheduler.pt")
    for rank in range(processes):
        torch.save({"cpu": torch.rand(9)}, folder / ("rng_state.pth" if processes == 1 else f"rng_state_{rank}.pth"))
    (folder / "processes.json").write_text(json.dumps({"world_size": processes}))
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": int(folder.name.split("-")[1])}))
    return folder


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


@pytest.mark.parametrize("adapter", [False, True])
@pytest.mark.parametrize("processes", [1, 2])
def test_a_whole_checkpoint_misses_nothing(tmp_path: Path, adapter: bool, processes: int) -> None:
    folder = checkpoint(tmp_path / "checkpoint-3", adapter=adapter, processes=processes)
    assert what_is_missing(folder, processes) is None
    assert steps_taken(folder) == 3
    assert holds_adapter(folder) is adapter


@pytest.mark.parametrize("adapter", [False, True])
def test_whatever_is_lost_or_cut_is_named(tmp_path: Path, adapter: bool) -> None:
    weights = "adapter_model.safetensors" if adapter else "model.safetensors"
    whole = checkpoint(tmp_path / "checkpoint-3", adapter=adapter)
    for name in [weights, *FILES]:
        for break_it in (Path.unlink, cut, lambda path: os.truncate(path, 0), lambda path: os.truncate(path, 20)):
            broken = shutil.copytree(whole, tmp_path / "broken" / "checkpoint-3")
            break_it(broken / name)
            reason = what_is_missing(broken)
            assert reason is not None, name
            assert name in reason or reason in ("its weights are missing", "the optimiser's state is missing")
            shutil.rmtree(broken)


def test_every_length_of_a_cut_file_is_noticed(tmp_path: Path) -> None:
    whole = checkpoint(tmp_path / "checkpoint-3")
    for name in ("model.safetensors", "rng_state.pth"):
        broken = whole / name
        content = broken.read_bytes()
        for length in range(0, len(content), max(1, len(content) // 60)):
            broken.write_bytes(content[:length])
            assert what_is_missing(whole) == f"{name} is cut off or damaged", length
        broken.write_bytes(content + b"x" if name.startswith("model") else bytes(len(content)))  # a power cut: zeros
        assert what_is_missing(whole) == f"{name} is cut off or damaged"
        broken.write_bytes(content)
    assert what_is_missing(whole) is None


def test_the_random_state_of_every_process_counts(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "checkpoint-3", processes=3)
    assert what_is_missing(folder, world_size=2) is None  # another number of processes may go on
    (folder / "rng_state_2.pth").unlink()
    for world_size in (1, 2, 3, 4):
        assert what_is_missing(folder, world_size) == "rng_state_2.pth is missing"
    (folder / "processes.json").unlink()  # as transformers writes it
    assert what_is_missing(folder, world_size=3) == "rng_state_2.pth is missing"


def test_shards_are_counted(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "checkpoint-3")
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    names = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    assert what_is_missing(folder) == "model-00002-of-00002.safetensors is missing"
    shutil.copy(folder / names["a"], folder / names["b"])
    assert what_is_missing(folder) is None
    cut(folder / names["b"])
    assert weights_problem(folder) == "model-00002-of-00002.safetensors is cut off or damaged"
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a"')
    assert what_is_missing(folder) is not None


def test_an_adapter_needs_its_configuration(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "checkpoint-3", adapter=True)
    (folder / "adapter_config.json").write_text("{")
    assert what_is_missing(folder) == "adapter_config.json is missing or no JSON object"


def test_what_deepspeed_and_fsdp_write_is_whole_without_an_optimizer_file(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "checkpoint-3")
    parts = folder / "global_step3"
    parts.mkdir()
    (folder / "optimizer.pt").rename(parts / "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt")
    (folder / "scheduler.pt").unlink()
    (folder / "latest").write_text("global_step3")
    assert what_is_missing(folder) is None
    cut(next(parts.iterdir()))
    assert "optim_states.pt is cut off" in (what_is_missing(folder) or "")
    shutil.rmtree(parts)
    assert what_is_missing(folder) == "the optimiser's state is missing"
    (folder / "optimizer_0").mkdir()
    torch.save({}, folder / "scheduler.pt")
    assert what_is_missing(folder) is None


def test_the_newest_whole_one_is_found_and_the_others_are_named(tmp_path: Path) -> None:
    assert last_whole_checkpoint(tmp_path / "none") == (None, {})
    for step in (2, 9, 10, 11):
        checkpoint(tmp_path / f"checkpoint-{step}")
    (tmp_path / "checkpoint-100x").mkdir()
    (tmp_path / "checkpoint-12").mkdir()
    (tmp_path / "checkpoint-11" / "optimizer.pt").unlink()
    (tmp_path / "checkpoint-10" / "checkpoint-is-incomplete.txt").write_text("of transformers")
    found, skipped = last_whole_checkpoint(tmp_path)
    assert found == tmp_path / "checkpoint-9"
    assert skipped == {
        tmp_path / "checkpoint-12": "trainer_state.json is missing",
        tmp_path / "checkpoint-11": "the optimiser's state is missing",
        tmp_path / "checkpoint-10": "its writing was interrupted",
    }
    assert get_last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-12")  # why transformers' own will not do


# The trainer


class At(TrainerCallback):
    """Do something after the optimiser step of a number."""

    def __init__(self, step: int, action: Callable[[], Any]) -> None:
        self.step, self.action = step, action
        self.steps: list[int] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.steps.append(state.global_step)
        if state.global_step == self.step:
            self.action()


@pytest.fixture
def make_trainer(
    tiny_model: Any, tiny_processor: Any, tiny_rows: list[dict[str, Any]], tmp_path: Path
) -> Callable[..., SegmentationSeq2SeqTrainer]:
    def build(**options: Any) -> SegmentationSeq2SeqTrainer:
        defaults: dict[str, Any] = {
            "output_dir": str(tmp_path / "run"),
            "use_cpu": True,
            "report_to": "none",
            "disable_tqdm": True,
            "max_steps": 3,
            "per_device_train_batch_size": 1,
            "save_steps": 1,
            "learning_rate": 1e-2,
        }
        labels = BinaryLabels.from_tokenizer(tiny_processor.tokenizer)
        return SegmentationSeq2SeqTrainer(
            model=copy.deepcopy(tiny_model),
            args=SegmentationSeq2SeqTrainingArguments(**(defaults | options)),
            data_collator=FrameSegmentationCollator(processor=tiny_processor, labels=labels, prompt="compact"),
            train_dataset=tiny_rows,
            eval_dataset=tiny_rows[:2],
        )

    return build


def test_a_finished_training_trains_no_further(
    make_trainer: Callable[..., SegmentationSeq2SeqTrainer], tmp_path: Path
) -> None:
    trainer = make_trainer(max_steps=3)  # of the four of an epoch
    trainer.train()
    trained = copy.deepcopy(trainer.model.state_dict())
    for steps in (3, 2):
        again = make_trainer(max_steps=steps)
        watch = At(0, lambda: None)
        again.add_callback(watch)
        again.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-3"))
        assert watch.steps == []
        assert again.state.global_step == 3
        assert all(torch.equal(value, trained[name]) for name, value in again.model.state_dict().items())


def test_what_the_trainer_writes_is_whole(
    make_trainer: Callable[..., SegmentationSeq2SeqTrainer], tmp_path: Path
) -> None:
    make_trainer(max_steps=1).train()
    assert what_is_missing(tmp_path / "run" / "checkpoint-1") is None


def test_an_earlier_checkpoint_does_not_vouch_for_half_a_new_one(
    make_trainer: Callable[..., SegmentationSeq2SeqTrainer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_trainer(max_steps=1).train()
    folder = tmp_path / "run" / "checkpoint-1"
    save_file({"a": torch.rand(3)}, folder / "adapter_model.safetensors")  # of a training of another kind
    trainer = make_trainer(max_steps=1)

    def killed(output_dir: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(trainer, "_save_optimizer_and_scheduler", killed)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert what_is_missing(folder) == "trainer_state.json is missing"
    assert not (folder / "adapter_model.safetensors").exists()


def test_a_sigterm_leaves_a_checkpoint_and_stops(
    make_trainer: Callable[..., SegmentationSeq2SeqTrainer], tmp_path: Path
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    trainer = make_trainer(
        max_steps=9, save_strategy="no", enable_jit_checkpoint=True, eval_strategy="epoch", prediction_loss_only=True
    )
    assert signal.getsignal(signal.SIGTERM) is before  # nothing to save yet: it ends the process at once
    watch = At(2, lambda: os.kill(os.getpid(), signal.SIGTERM))
    trainer.callback_handler.callbacks.insert(0, watch)
    trainer.train()
    assert watch.steps == [1, 2]
    assert trainer.stopped_by_sigterm
    assert what_is_missing(tmp_path / "run" / "checkpoint-2") is None
    assert not any("eval_loss" in entry for entry in trainer.state.log_history)
    assert signal.getsignal(signal.SIGTERM) is before

    again = make_trainer(max_steps=9, save_strategy="no", enable_jit_checkpoint=True)
    again.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    assert not again.stopped_by_sigterm
    straight = make_trainer(max_steps=9, save_strategy="no")
    straight.train()
    for name, value in again.model.state_dict().items():
        assert torch.equal(value, straight.model.state_dict()[name]), name
