"""Training: overrides of the loss, epochs of workers, what is logged, which rows are learnt from, what is refused."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig
from torch import Tensor, nn
from transformers import Seq2SeqTrainingArguments, TrainerCallback
from transformers.trainer_utils import BestRun

from datasets import Dataset
from hf_frameseg.batches.collator import FrameSegmentationCollator
from hf_frameseg.shards.files import find_shards, save_shards
from hf_frameseg.shards.stream import FrameStream
from hf_frameseg.training.arguments import SegmentationSeq2SeqTrainingArguments
from hf_frameseg.training.checks import check_processes
from hf_frameseg.training.trainer import SegmentationSeq2SeqTrainer

Rows = list[dict[str, Any]]


@pytest.fixture
def rows(eight_rows: Rows) -> Rows:
    return eight_rows


class Gradients(TrainerCallback):
    """Keep the gradients of every optimiser step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Tensor]] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: nn.Module, **kwargs: Any) -> None:
        self.steps.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})


def gradients(trainer: Any) -> list[dict[str, Tensor]]:
    watch = Gradients()
    trainer.add_callback(watch)
    trainer.train()
    return watch.steps


def distance(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """Relative distance of two sets of tensors, each taken as one vector."""
    assert a.keys() == b.keys()
    difference = sum((a[key] - b[key]).double().square().sum() for key in a)
    return float((difference / sum(a[key].double().square().sum() for key in a)).sqrt())


def loss_lines(trainer: Any) -> list[dict[str, float]]:
    return [line for line in trainer.state.log_history if "loss" in line]


# 1. Overrides of compute_loss -----------------------------------------------------------------------------------------


class WithoutCount(SegmentationSeq2SeqTrainer):
    """The usual override: it does not pass `num_items_in_batch` on."""

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True)
        loss = loss + 0.1 * outputs["bce"].square().mean()
        return (loss, outputs) if return_outputs else loss


class PassingOn(SegmentationSeq2SeqTrainer):
    """The same with everything passed on."""

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **kwargs)
        loss = loss + 0.1 * outputs["bce"].square().mean()
        return (loss, outputs) if return_outputs else loss


class Own(SegmentationSeq2SeqTrainer):
    """A loss of its own, from the parts."""

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
        parts = self.loss_parts(model, inputs)
        loss = parts["bce"].square().mean()
        return (loss, parts) if return_outputs else loss


@pytest.mark.parametrize("kind", [WithoutCount, PassingOn, Own])
@pytest.mark.parametrize(("batch_size", "accumulation"), [(2, 4), (3, 3)])
def test_an_override_may_return_the_mean_of_its_batch(
    kind: Any, batch_size: int, accumulation: int, make_trainer: Any, rows: Rows
) -> None:
    (one,) = gradients(make_trainer(rows, kind=kind))
    many = make_trainer(
        rows, kind=kind, per_device_train_batch_size=batch_size, gradient_accumulation_steps=accumulation
    )
    (found,) = gradients(many)
    assert distance(one, found) < 1e-6


def test_an_override_follows_the_schedule_and_is_logged(make_trainer: Any, rows: Rows) -> None:
    weights = {"loss_weights": {"bce": 1}, "loss_weights_start": {"lm": 1}, "loss_warmup_steps": 2, "max_steps": 3}
    plain, override = (
        make_trainer(rows, kind=kind, learning_rate=0.0, per_device_train_batch_size=4, **weights)
        for kind in (SegmentationSeq2SeqTrainer, WithoutCount)
    )
    plain.train()
    override.train()
    for left, right in zip(loss_lines(plain), loss_lines(override), strict=True):
        for name in ("loss_lm", "loss_bce", "weight_lm", "weight_bce"):
            assert right[name] == pytest.approx(left[name], rel=1e-6)
        assert right["loss"] > left["loss"]
    assert [line["weight_bce"] for line in loss_lines(override)] == [0.0, 0.5, 1.0]
    assert loss_lines(plain)[1]["loss"] == pytest.approx(
        0.5 * loss_lines(plain)[1]["loss_lm"] + 0.5 * loss_lines(plain)[1]["loss_bce"], rel=1e-5
    )


def test_parts_of_a_subclass_are_trained_and_logged(make_trainer: Any, rows: Rows) -> None:
    class Doubled(SegmentationSeq2SeqTrainer):
        def loss_parts(self, model: Any, inputs: Any) -> dict[str, Tensor]:
            return {name: 2 * values for name, values in super().loss_parts(model, inputs).items()}

    options = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}
    plain, doubled = make_trainer(rows, **options), make_trainer(rows, kind=Doubled, **options)
    (one,), (two,) = gradients(plain), gradients(doubled)
    assert distance({name: 2 * value for name, value in one.items()}, two) < 1e-6
    assert loss_lines(doubled)[0]["loss_lm"] == pytest.approx(2 * loss_lines(plain)[0]["loss_lm"], rel=1e-6)


def test_a_loss_function_is_refused(make_trainer: Any, rows: Rows) -> None:
    with pytest.raises(ValueError, match="compute_loss_func is not supported: .* override loss_parts") as caught:
        make_trainer(rows, compute_loss_func=lambda outputs, labels, num_items_in_batch: 0)
    assert "\n" not in str(caught.value)


# 2. Arguments set later -----------------------------------------------------------------------------------------------


def test_losses_follow_arguments_that_are_set_later(make_trainer: Any, rows: Rows) -> None:
    trainer, expected = make_trainer(), make_trainer(loss_options={"bce": {"pos_weight": 9.0}})
    batch = trainer.eval_data_collator(rows)
    before = trainer.loss_parts(trainer.model, batch)["bce"]
    trainer.args.loss_options = {"bce": {"pos_weight": 9.0}}  # as a hyperparameter search does
    found = trainer.loss_parts(trainer.model, batch)
    assert torch.equal(found["bce"], expected.loss_parts(expected.model, batch)["bce"])
    assert not torch.equal(found["bce"], before)
    trainer.args.loss_weights = {"tversky": 1.0}
    assert list(trainer.loss_parts(trainer.model, batch)) == ["lm", "tversky"]
    trainer.args.loss_options = {"bce": {"weight": 1}}
    with pytest.raises(ValueError, match="loss_options for 'bce'"):
        trainer.loss_parts(trainer.model, batch)


def test_a_search_minimises_the_loss_unless_told_otherwise(
    make_trainer: Any, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def run(trainer: Any, n_trials: int, direction: str, **kwargs: Any) -> BestRun:
        metrics = {"eval_loss": 1.5, "eval_loss_lm": 4.0, "eval_mAP": 60.0}
        asked.append((trainer.compute_objective(metrics), direction))
        return BestRun("0", 0.0, {})

    backend = SimpleNamespace(ensure_available=lambda: None, default_hp_space=dict, run=run)
    monkeypatch.setattr("transformers.trainer.ALL_HYPERPARAMETER_SEARCH_BACKENDS", {"optuna": lambda: backend})
    trainer = make_trainer(rows, model_init=lambda: nn.Linear(1, 1))
    trainer.hyperparameter_search(backend="optuna")
    trainer.hyperparameter_search(
        compute_objective=lambda metrics: metrics["eval_mAP"], direction="maximize", backend="optuna"
    )
    assert asked == [(1.5, "minimize"), (60.0, "maximize")]
    with pytest.raises(ValueError, match='"maximize" would raise the loss: pass compute_objective'):
        trainer.hyperparameter_search(direction="maximize", backend="optuna")


def test_default_arguments_and_those_of_others(
    tiny_model: Any, make_trainer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # transformers makes a folder tmp_trainer
    collator = make_trainer().data_collator
    trainer = SegmentationSeq2SeqTrainer(copy.deepcopy(tiny_model), None, collator)
    assert isinstance(trainer.args, SegmentationSeq2SeqTrainingArguments)
    assert trainer.args.output_dir == "tmp_trainer"
    args = Seq2SeqTrainingArguments(str(tmp_path), use_cpu=True, report_to="none")
    with pytest.raises(ValueError, match="must be SegmentationSeq2SeqTrainingArguments, got Seq2Seq") as caught:
        SegmentationSeq2SeqTrainer(tiny_model, args, collator)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("takes_trial", [False, True])
def test_an_adapter_on_a_model_that_is_made_later(
    takes_trial: bool, make_trainer: Any, rows: Rows, tiny_model: Any
) -> None:
    trials: list[Any] = []

    def init(trial: Any) -> nn.Module:
        trials.append(trial)
        return copy.deepcopy(tiny_model)

    trainer = make_trainer(
        rows,
        model_init=init if takes_trial else lambda: copy.deepcopy(tiny_model),
        peft_config=LoraConfig(r=2, target_modules=["q_proj"]),
        max_steps=2,
    )
    trainer.train()
    assert trials == ([None, None] if takes_trial else [])
    trained = [name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad]
    assert trained
    assert all("lora_" in name for name in trained)


# 3. Logs --------------------------------------------------------------------------------------------------------------


def test_parts_do_not_leak_into_the_next_training(make_trainer: Any, rows: Rows) -> None:
    options = {"per_device_train_batch_size": 4, "learning_rate": 0.0, "logging_steps": 2}
    trainer = make_trainer(rows, max_steps=3, **options)  # the third step is never logged
    trainer.train()
    trainer.train_dataset = [{**row, "query": "another query"} for row in rows]
    trainer.train()
    fresh = make_trainer([{**row, "query": "another query"} for row in rows], max_steps=3, **options)
    fresh.train()
    assert loss_lines(trainer)[0]["loss_lm"] == pytest.approx(loss_lines(fresh)[0]["loss_lm"], rel=1e-6)


def test_parts_do_not_leak_through_a_retry_with_less_memory(
    make_trainer: Any, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    class OutOfMemory(SegmentationSeq2SeqTrainer):
        def loss_parts(self, model: Any, inputs: Any) -> dict[str, Tensor]:
            if self._train_batch_size > 4 and self.state.global_step == 1:
                raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB")
            return super().loss_parts(model, inputs)

    monkeypatch.setattr("accelerate.utils.memory.clear_device_cache", lambda **kwargs: None)
    options = {"learning_rate": 0.0, "logging_steps": 2, "max_steps": 2}
    trainer = make_trainer(rows, kind=OutOfMemory, auto_find_batch_size=True, **options)
    trainer.train()
    batch_size = trainer._train_batch_size
    assert batch_size <= 4
    fresh = make_trainer(rows, per_device_train_batch_size=batch_size, **options)
    fresh.train()
    (found,), (expected,) = loss_lines(trainer), loss_lines(fresh)
    assert found["loss_bce"] == pytest.approx(expected["loss_bce"], rel=1e-6)


# 4. Rows and epochs ---------------------------------------------------------------------------------------------------


def test_blank_frames_are_not_learnt_from(make_trainer: Any, rows: Rows, caplog: pytest.LogCaptureFixture) -> None:
    marked = [{**row, "frames_missing": row["qid"] in (2, 5)} for row in rows]
    (expected,) = gradients(make_trainer([row for row in rows if row["qid"] not in (2, 5)]))
    for some in (marked, Dataset.from_list(marked), Dataset.from_list(marked).with_format("torch")):
        caplog.clear()
        (found,) = gradients(make_trainer(some))
        assert distance(expected, found) < 1e-6
        assert "2 of 8 queries are not learnt from" in caplog.text
    trainer = make_trainer(eval_dataset=marked)
    assert trainer.predict(marked).predictions[2].tolist() == [1, 2, 3, 4, 5, 6, 7, 8]  # they count in a score
    with pytest.raises(ValueError, match=r"qid 2: its video could not be read, .*drop such rows: rows\.filter"):
        trainer.data_collator(marked)


def trained(
    make_trainer: Any, rows: Rows, workers: int, resume: str | None = None, **options: Any
) -> dict[str, Tensor]:
    torch.manual_seed(0)
    trainer = make_trainer(
        rows,
        per_device_train_batch_size=2,
        max_steps=10,
        train_sampling_strategy="random",
        dataloader_num_workers=workers,
        dataloader_persistent_workers=workers > 0,
        **options,
    )
    trainer.train(resume_from_checkpoint=resume)
    return {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}


def test_persistent_workers_draw_as_one_process_does_and_resume_exactly(
    make_trainer: Any, rows: Rows, tmp_path: Path
) -> None:
    alone = trained(make_trainer, rows[:6], 0)
    saving = {"output_dir": str(tmp_path / "saved"), "save_strategy": "steps", "save_steps": 1}
    several = trained(make_trainer, rows[:6], 2, **saving)
    assert all(torch.equal(alone[name], several[name]) for name in alone)
    for step in (3, 5):  # the end of an epoch of three steps, and the middle of one
        resumed = trained(make_trainer, rows[:6], 2, resume=str(tmp_path / "saved" / f"checkpoint-{step}"))
        assert all(torch.equal(alone[name], resumed[name]) for name in alone)


class Seen(FrameSegmentationCollator):
    """Writes down every row that it is given, in whatever process."""

    def __call__(self, rows: Rows) -> dict[str, Tensor]:
        with open(self.folder, "a") as file:  # noqa: PTH123
            file.write("".join(f"{row['qid']}\n" for row in rows))
        return super().__call__(rows)


@pytest.mark.parametrize("workers", [0, 3])
def test_an_epoch_of_a_stream_has_every_row_once(
    workers: int, make_trainer: Any, make_row: Any, tiny_processor: Any, tmp_path: Path
) -> None:
    rows = [make_row(qid, query="a red circle "[: 4 + qid % 9]) for qid in range(34)]
    save_shards(Dataset.from_list(rows), tmp_path, "train", group_bytes=100_000)
    collator = Seen(processor=tiny_processor, labels=make_trainer().binary_labels, prompt="compact")
    collator.folder = tmp_path / "seen"
    options = {"per_device_train_batch_size": 4, "max_steps": -1, "num_train_epochs": 2}
    options |= {"dataloader_num_workers": workers, "data_collator": collator}
    trainer = make_trainer(FrameStream(find_shards(tmp_path, "train"), seed=0), **options)
    trainer.train()
    assert trainer.state.global_step == 2 * 9
    seen = [int(line) for line in collator.folder.read_text().splitlines()]
    assert sorted(seen) == sorted([*range(34)] * 2)


class Epochs(FrameSegmentationCollator):
    """Keeps the epochs that it is told."""

    def set_epoch(self, epoch: int) -> None:
        super().set_epoch(epoch)
        self.__dict__.setdefault("told", []).append(epoch)


class StopEarly(TrainerCallback):
    """Cut every epoch short."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_epoch_stop = True


def test_an_epoch_that_is_cut_short_is_still_another_epoch(make_trainer: Any, rows: Rows, tiny_processor: Any) -> None:
    labels = make_trainer().binary_labels
    collator = Epochs(processor=tiny_processor, labels=labels, prompt="compact")
    options = {"per_device_train_batch_size": 4, "max_steps": -1, "num_train_epochs": 3}
    make_trainer(rows, data_collator=collator, callbacks=[StopEarly()], **options).train()
    assert collator.told == [0, 1, 2]


# 5. Launches ----------------------------------------------------------------------------------------------------------


def test_an_engine_that_would_not_run_is_refused(
    make_trainer: Any, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(rows)
    trainer.args.deepspeed_plugin = SimpleNamespace(zero_stage=2)  # DeepSpeed is not installed here
    with pytest.raises(ValueError, match="DEEPSPEED was asked for, and accelerate would train with NO instead"):
        check_processes(trainer)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")  # what `accelerate launch --use_fsdp` sets
    with pytest.raises(ValueError, match="FSDP was asked for, and accelerate would train with NO instead") as caught:
        make_trainer(rows)
    assert "\n" not in str(caught.value)


def test_several_gpus_in_one_process_are_refused(
    make_trainer: Any, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SegmentationSeq2SeqTrainingArguments, "n_gpu", 2)
    with pytest.raises(ValueError, match="cannot share a batch among 2 GPUs: start one per GPU"):
        make_trainer(rows)
