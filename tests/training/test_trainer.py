"""Trainer: which logits the losses read, one loss per optimiser step, logs, evaluation, adapters, checkpoints."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import TrainerCallback

from hf_frameseg.batches.collator import FrameSegmentationCollator
from hf_frameseg.batches.encoding import model_inputs
from hf_frameseg.digits import BinaryLabels
from hf_frameseg.objectives import functional
from hf_frameseg.readout import READOUTS, generate_frame_logits
from hf_frameseg.training.evaluation import MomentRetrievalMetrics

ZERO, ONE, END = 48, 49, 259
LABELS = BinaryLabels(zero_id=ZERO, one_id=ONE, end_ids=(END,))
PARTS = ["lm", "bce", "tversky", "generalized_dice"]
WEIGHTS = {"lm": 0.4, "bce": 0.3, "tversky": 0.2, "generalized_dice": 0.1}
VOCABULARY = 265

Rows = list[dict[str, Any]]


@pytest.fixture
def rows(eight_rows: Rows) -> Rows:
    """Eight rows of 5 frames over 10 s with prompts of different lengths."""
    return eight_rows


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def distance(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """Relative distance of two sets of tensors, each taken as one vector."""
    assert a.keys() == b.keys()
    difference = sum((a[key] - b[key]).double().square().sum() for key in a)
    return float((difference / sum(a[key].double().square().sum() for key in a)).sqrt())


class Gradients(TrainerCallback):
    """Keep the gradients of every optimiser step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Tensor]] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: nn.Module, **kwargs: Any) -> None:
        found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        self.steps.append(found)


# 1. The logits that are read ------------------------------------------------------------------------------------------


def planted_logits(batch: int, length: int) -> Tensor:
    """Known logits (B, L, V), different at every sample, position and token."""
    axes = (torch.arange(n, dtype=torch.float64) for n in (batch, length, VOCABULARY))
    sample, position, token = torch.meshgrid(*axes, indexing="ij")
    return 3 * torch.sin(1.7 * sample + 0.9 * position + 2.3 * token).float()


class PlantedModel(nn.Module):
    """A model whose logits are known; it has to be told which ones to keep."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.calls: list[dict[str, Any]] = []

    def forward(self, input_ids: Tensor, attention_mask: Tensor, logits_to_keep: int = 0, **kwargs: Any) -> Any:
        self.calls.append({"input_ids": input_ids, "logits_to_keep": logits_to_keep, **kwargs})
        logits = planted_logits(*input_ids.shape)[:, -logits_to_keep:] * self.scale
        return SimpleNamespace(logits=logits)


class PlantedModelWithAllLogits(PlantedModel):
    """The same without `logits_to_keep`."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **kwargs: Any) -> Any:
        return super().forward(input_ids, attention_mask, **kwargs)


def parts_by_hand(batch: dict[str, Tensor], masks: list[list[int]]) -> dict[str, list[float]]:
    """Loss parts of the planted logits: digit f of F in a row of L tokens is predicted at position L - F - 2 + f."""
    size, length = batch["input_ids"].shape
    logits = planted_logits(size, length).double()
    found: dict[str, list[float]] = {name: [] for name in PARTS}
    for row, mask in enumerate(masks):
        first = length - len(mask) - 2
        answer = [*((ZERO, ONE)[digit] for digit in mask), END]
        nll = [-logits[row, first + f].log_softmax(0)[token].item() for f, token in enumerate(answer)]
        found["lm"].append(sum(nll) / len(nll))
        log_odds = [(logits[row, first + f, ONE] - logits[row, first + f, ZERO]).item() for f in range(len(mask))]
        signed = [(x if digit else -x) for x, digit in zip(log_odds, mask, strict=True)]
        class_weights = [2.3378 if digit else 1.0 for digit in mask]
        found["bce"].append(float(np.mean(class_weights * np.log1p(np.exp(-np.array(signed))))))
        frame_logits, target = torch.tensor([log_odds]), torch.tensor([mask], dtype=torch.float32)
        for name in ("tversky", "generalized_dice"):
            found[name].append(getattr(functional, name)(frame_logits, target).item())
    return found


@pytest.mark.parametrize("planted", [PlantedModel, PlantedModelWithAllLogits])
def test_the_losses_read_the_logits_that_predict_the_digits(
    planted: type[PlantedModel], make_trainer: Any, tiny_rows: Rows, make_row: Any
) -> None:
    trainer = make_trainer(model=planted())
    mixed = [tiny_rows[0], make_row(15, [[0.0, 10.0]], num_frames=2), tiny_rows[1]]
    batch = trainer.eval_data_collator(mixed)
    expected = parts_by_hand(batch, [[0, 1, 1, 0, 0], [1, 1], [1, 0, 0, 0, 1]])
    parts = trainer.loss_parts(trainer.model, batch)
    assert list(parts) == PARTS
    for name in PARTS:
        assert parts[name].tolist() == pytest.approx(expected[name], rel=1e-5), name


def test_the_joint_loss_is_the_weighted_mean_over_the_samples(make_trainer: Any, tiny_rows: Rows) -> None:
    trainer = make_trainer(model=PlantedModel())
    batch = trainer.eval_data_collator(tiny_rows)
    by_hand = parts_by_hand(batch, [[0, 1, 1, 0, 0], [1, 0, 0, 0, 1], [0] * 5, [1] * 5])
    expected = sum(WEIGHTS[name] * np.mean(by_hand[name]) for name in PARTS)
    assert trainer.compute_loss(trainer.model, batch).item() == pytest.approx(expected, rel=1e-5)
    # An optimiser step of more batches does not change the loss of one: `training_step` weighs it.
    one_of_two = trainer.compute_loss(trainer.model, batch, num_items_in_batch=torch.tensor(8))
    assert one_of_two.item() == pytest.approx(expected, rel=1e-5)


def test_only_the_logits_of_the_answers_are_asked_for(make_trainer: Any, make_row: Any, tiny_rows: Rows) -> None:
    model = PlantedModel()
    trainer = make_trainer(model=model)
    trainer.loss_parts(model, trainer.eval_data_collator([make_row(1, num_frames=3), tiny_rows[0]]))
    (call,) = model.calls
    assert call["logits_to_keep"] == 7  # five digits and the end, and the position before
    assert call["use_cache"] is False
    assert call.keys() == {"input_ids", "pixel_values", "logits_to_keep", "use_cache"}  # no labels, no targets


class FusedModel(PlantedModel):
    """A model that writes images out itself: its logits are longer than `input_ids`."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **kwargs: Any) -> Any:
        return SimpleNamespace(logits=planted_logits(input_ids.shape[0], input_ids.shape[1] + 10) * self.scale)


def test_logits_on_another_axis_are_refused(make_trainer: Any, tiny_rows: Rows) -> None:
    trainer = make_trainer(model=FusedModel())
    with pytest.raises(ValueError, match="not on the axis of input_ids; use a processor") as caught:
        trainer.loss_parts(trainer.model, trainer.eval_data_collator(tiny_rows))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("family", ["xgenmm", "llava"])
def test_the_language_model_part_is_the_models_own_loss(
    family: str, request: pytest.FixtureRequest, make_trainer: Any, rows: Rows
) -> None:
    if family == "xgenmm":
        model, processor = request.getfixturevalue("tiny_model"), request.getfixturevalue("tiny_processor")
    else:
        model = request.getfixturevalue("tiny_llava_model")
        processor = request.getfixturevalue("make_llava_processor")()
    labels = BinaryLabels.from_tokenizer(processor.tokenizer)
    collator = FrameSegmentationCollator(processor=processor, labels=labels, prompt="compact", prefix_corruption=0.5)
    trainer = make_trainer(model=copy.deepcopy(model), data_collator=collator)
    batch = collator(rows)
    assert len(set(batch["attention_mask"].sum(1).tolist())) > 3  # rows are padded
    with torch.no_grad():
        expected = trainer.model(**model_inputs(batch), labels=batch["targets"]["labels"]).loss
        parts = trainer.loss_parts(trainer.model, batch)
    assert parts["lm"].shape == (8,)
    assert parts["lm"].mean().item() == pytest.approx(expected.item(), rel=1e-6)


# 2. One loss per optimiser step ---------------------------------------------------------------------------------------


def gradients(trainer: Any) -> list[dict[str, Tensor]]:
    watch = Gradients()
    trainer.add_callback(watch)
    trainer.train()
    return watch.steps


@pytest.mark.parametrize(("batch_size", "accumulation"), [(2, 4), (3, 3), (5, 2), (1, 8)])
def test_accumulated_batches_equal_one_batch(batch_size: int, accumulation: int, make_trainer: Any, rows: Rows) -> None:
    one = make_trainer(rows)
    (expected,) = gradients(one)
    many = make_trainer(rows, per_device_train_batch_size=batch_size, gradient_accumulation_steps=accumulation)
    (found,) = gradients(many)
    assert len(expected) > 20
    assert distance(expected, found) < 1e-6
    assert distance(weights_of(one.model), weights_of(many.model)) < 1e-6
    lines = [trainer.state.log_history[0] for trainer in (one, many)]
    for name in ("loss", *(f"loss_{part}" for part in PARTS)):
        assert lines[1][name] == pytest.approx(lines[0][name], rel=1e-6)


def test_an_accumulation_cut_short_by_the_end_of_the_epoch(make_trainer: Any, rows: Rows) -> None:
    # Steps of six and of two samples: the second is divided by two, not by six.
    one = gradients(make_trainer(rows, per_device_train_batch_size=6, max_steps=2))
    many = gradients(make_trainer(rows, per_device_train_batch_size=2, gradient_accumulation_steps=3, max_steps=2))
    assert len(one) == len(many) == 2
    assert max(distance(a, b) for a, b in zip(one, many, strict=True)) < 1e-6


def test_every_sample_counts_the_same_whatever_its_number_of_frames(make_trainer: Any, make_row: Any) -> None:
    ragged = [make_row(1, num_frames=5), make_row(2, num_frames=2, query="a dog"), make_row(3, num_frames=3)]
    (one,) = gradients(make_trainer(ragged, per_device_train_batch_size=3))
    (many,) = gradients(make_trainer(ragged, per_device_train_batch_size=1, gradient_accumulation_steps=3))
    assert distance(one, many) < 1e-6


# 3. Schedule and logs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("warmup_steps", [2, 0.5])
def test_the_schedule_goes_by_optimiser_steps(warmup_steps: float, make_trainer: Any, rows: Rows) -> None:
    trainer = make_trainer(
        rows,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        max_steps=4,
        loss_weights={"lm": 0.5, "bce": 0.5},
        loss_weights_start={"lm": 1},
        loss_warmup_steps=warmup_steps,
    )
    seen: list[float] = []
    compute_loss = trainer.compute_loss

    def watched(*args: Any, **kwargs: Any) -> Tensor:
        seen.append(trainer.current_weights["bce"])
        return compute_loss(*args, **kwargs)

    trainer.compute_loss = watched
    trainer.train()
    assert seen == [0.0, 0.0, 0.25, 0.25, 0.5, 0.5, 0.5, 0.5]
    lines = [line for line in trainer.state.log_history if "loss" in line]
    assert [line["weight_bce"] for line in lines] == [0.0, 0.25, 0.5, 0.5]
    assert [line["weight_lm"] for line in lines] == [1.0, 0.75, 0.5, 0.5]


def test_a_log_line_adds_up(make_trainer: Any, rows: Rows) -> None:
    start = {"lm": 1, "tversky": 2}
    trainer = make_trainer(
        rows, per_device_train_batch_size=4, max_steps=4, loss_weights_start=start, loss_warmup_steps=3
    )
    trainer.train()
    lines = [line for line in trainer.state.log_history if "loss" in line]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    for line in lines:
        assert {f"loss_{name}" for name in PARTS} | {f"weight_{name}" for name in PARTS} <= line.keys()
        joint = sum(line[f"weight_{name}"] * line[f"loss_{name}"] for name in PARTS)
        assert line["loss"] == pytest.approx(joint, rel=1e-5)


def test_a_log_line_is_the_mean_since_the_last_one(make_trainer: Any, rows: Rows) -> None:
    options = {"per_device_train_batch_size": 4, "max_steps": 4}
    each, pairs = make_trainer(rows, **options), make_trainer(rows, **options, logging_steps=2)
    each.train()
    pairs.train()
    single = [line["loss_bce"] for line in each.state.log_history if "loss" in line]
    double = [line["loss_bce"] for line in pairs.state.log_history if "loss" in line]
    assert double == pytest.approx([(single[0] + single[1]) / 2, (single[2] + single[3]) / 2], rel=1e-6)


def test_losses_that_only_the_start_weighs(make_trainer: Any, rows: Rows) -> None:
    weights = {"loss_weights_start": {"bce": 1}, "loss_weights": {"tversky": 1}, "loss_warmup_steps": 1}
    trainer = make_trainer(rows, max_steps=2, **weights)
    trainer.train()
    first, second = (line for line in trainer.state.log_history if "loss" in line)
    assert first["loss"] == pytest.approx(first["loss_bce"])
    assert second["loss"] == pytest.approx(second["loss_tversky"])
    assert first["loss_lm"] > 0  # reported, though it weighs nothing
    assert "loss_generalized_dice" not in first


# 4. Evaluation --------------------------------------------------------------------------------------------------------


def test_the_evaluation_loss_is_the_mean_over_all_samples(make_trainer: Any, rows: Rows) -> None:
    trainer = make_trainer(eval_dataset=rows[:7])  # batches of 4 and 3
    metrics = trainer.evaluate()
    with torch.no_grad():
        parts = trainer.loss_parts(trainer.model.eval(), trainer.eval_data_collator(rows[:7]))
    for name in PARTS:
        assert metrics[f"eval_loss_{name}"] == pytest.approx(parts[name].mean().item(), rel=1e-5)
    joint = sum(WEIGHTS[name] * parts[name].mean().item() for name in PARTS)
    assert metrics["eval_loss"] == pytest.approx(joint, rel=1e-5)


def test_the_evaluation_loss_uses_the_final_weights(make_trainer: Any, rows: Rows) -> None:
    options = {"eval_dataset": rows, "loss_weights_start": {"lm": 1}, "loss_warmup_steps": 10}
    trainer = make_trainer(**options)
    assert trainer.current_weights["bce"] == 0.0
    metrics = trainer.evaluate()
    joint = sum(WEIGHTS[name] * metrics[f"eval_loss_{name}"] for name in PARTS)
    assert metrics["eval_loss"] == pytest.approx(joint, rel=1e-5)
    at_once = trainer.compute_loss(trainer.model, trainer.eval_data_collator(rows))
    assert at_once.item() == pytest.approx(joint, rel=1e-5)


def test_the_evaluation_loss_goes_through_compute_loss(make_trainer: Any, rows: Rows) -> None:
    trainer = make_trainer(eval_dataset=rows)
    before = trainer.evaluate()["eval_loss"]
    compute_loss = trainer.compute_loss
    sizes: list[int] = []

    def doubled(model: nn.Module, inputs: dict[str, Tensor], **kwargs: Any) -> Any:
        sizes.append(len(inputs["targets"]["qid"]))
        loss, parts = compute_loss(model, inputs, **kwargs)
        return 2 * loss, {name: 2 * part for name, part in parts.items()}

    trainer.compute_loss = doubled
    assert trainer.evaluate()["eval_loss"] == pytest.approx(2 * before, rel=1e-6)
    assert sizes == [4, 4]
    batch = trainer.eval_data_collator(rows[:4])
    loss, _, _ = trainer.prediction_step(trainer.model, batch, prediction_loss_only=True)
    assert loss.item() == pytest.approx(2 * compute_loss(trainer.model, batch).item(), rel=1e-6)


def test_evaluation_sees_middle_frames_and_true_digits(make_trainer: Any, rows: Rows) -> None:
    trainer = make_trainer(eval_dataset=rows)
    (batch, _) = list(trainer.get_eval_dataloader())
    again = next(iter(trainer.get_eval_dataloader()))
    assert batch.keys() == again.keys()
    assert batch["targets"].keys() == again["targets"].keys()
    assert all(torch.equal(batch[key], again[key]) for key in batch if key != "targets")
    assert all(torch.equal(value, again["targets"][key]) for key, value in batch["targets"].items() if key != "rows")
    assert torch.equal(batch["input_ids"][:, -6:], batch["targets"]["labels"][:, -6:])  # nothing is corrupted
    training = next(iter(make_trainer(rows).get_train_dataloader()))
    assert not torch.equal(training["input_ids"][:, -6:], training["targets"]["labels"][:, -6:])
    assert not torch.equal(training["pixel_values"][:20], batch["pixel_values"])


def test_prediction_step_returns_masks_and_never_the_vocabulary(make_trainer: Any, rows: Rows) -> None:
    trainer = make_trainer()
    trainer.model.eval()
    batch = trainer.eval_data_collator(rows[:3])
    loss, predictions, targets = trainer.prediction_step(trainer.model, batch, prediction_loss_only=False)
    mask, frame_logits, numbers = predictions
    assert (loss.shape, mask.shape, frame_logits.shape, numbers.tolist()) == ((), (3, 5), (3, 5, 2), [0, 1, 2])
    assert set(mask.unique().tolist()) <= {0, 1}
    assert torch.equal(targets, batch["targets"]["frame_targets"])
    assert max(size for tensor in (loss, mask, frame_logits, numbers, targets) for size in tensor.shape) < VOCABULARY
    assert not any(tensor.requires_grad for tensor in (loss, mask, frame_logits))


def test_predict_gathers_every_query_once(make_trainer: Any, rows: Rows) -> None:
    trainer = make_trainer()
    output = trainer.predict(rows[:7])
    mask, frame_logits, qids = output.predictions
    assert (mask.shape, frame_logits.shape, qids.tolist()) == ((7, 5), (7, 5, 2), [1, 2, 3, 4, 5, 6, 7])
    assert output.label_ids.shape == (7, 5)
    assert not [name for name in output.metrics if "loss" in name]  # `evaluate` computes it
    greedy = trainer.predict(rows[:7], num_beams=1).predictions[1]
    assert not np.allclose(greedy, frame_logits)  # logits there, log-probabilities here


def test_the_number_of_beams_reaches_the_decoder(
    make_trainer: Any, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    beams: list[int] = []

    def watched(*args: Any, num_beams: int, **kwargs: Any) -> Any:
        beams.append(num_beams)
        return generate_frame_logits(*args, num_beams=num_beams, **kwargs)

    monkeypatch.setitem(READOUTS, "beam", watched)
    trainer = make_trainer(compute_metrics=MomentRetrievalMetrics(rows[:4]))
    trainer.evaluate(rows[:4])
    trainer.evaluate(rows[:4], num_beams=3)
    trainer.predict(rows[:4], num_beams=1)
    for value in (4, None):
        trainer = make_trainer(generation_num_beams=value)
        trainer.prediction_step(trainer.model, trainer.eval_data_collator(rows[:1]), prediction_loss_only=False)
        trainer.predict(rows[:4])
    assert beams == [2, 3, 1, 4, 4, 1, 1]


def test_a_length_of_answers_is_no_setting(make_trainer: Any, rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[set[str]] = []

    def watched(*args: Any, **kwargs: Any) -> Any:
        given.append(set(kwargs))
        return generate_frame_logits(*args, **kwargs)

    monkeypatch.setitem(READOUTS, "beam", watched)
    _, expected, _ = make_trainer().predict(rows[:2]).predictions
    _, found, _ = make_trainer(generation_max_length=3).predict(rows[:2]).predictions
    assert np.array_equal(found, expected)
    assert given == [{"num_frames", "num_beams"}] * 2  # any other argument would have every beam compute its own prompt


def test_loss_only_evaluation_decodes_nothing(make_trainer: Any, rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(READOUTS, "beam", None)  # would fail if called
    batch = make_trainer().eval_data_collator(rows[:2])
    trainer = make_trainer(eval_dataset=rows, compute_metrics=MomentRetrievalMetrics(rows))
    loss, predictions, targets = trainer.prediction_step(trainer.model, batch, prediction_loss_only=True)
    assert loss.item() > 0
    assert predictions is None
    assert targets is None
    trainer = make_trainer(eval_dataset=rows, compute_metrics=MomentRetrievalMetrics(rows), predict_with_generate=False)
    metrics = trainer.evaluate()
    assert metrics["eval_loss"] > 0
    assert "eval_mAP" not in metrics


def test_ragged_frames_in_an_evaluation_batch_are_refused(make_trainer: Any, make_row: Any) -> None:
    ragged = [make_row(1, num_frames=5), make_row(2, num_frames=3)]
    with pytest.raises(ValueError, match="same number of frames .*per_device_eval_batch_size=1") as caught:
        make_trainer().predict(ragged)
    assert "\n" not in str(caught.value)


def test_ragged_frames_work_one_by_one(make_trainer: Any, make_row: Any) -> None:
    ragged = [make_row(1, num_frames=5), make_row(2, [[5.0, 10.0]], num_frames=2), make_row(3, num_frames=3)]
    trainer = make_trainer(per_device_eval_batch_size=1)
    found = MomentRetrievalMetrics(ragged).predictions(*trainer.predict(ragged).predictions)
    assert [prediction.grid.num_frames for prediction in found] == [5, 2, 3]
    alone = MomentRetrievalMetrics(ragged[1:2]).predictions(*trainer.predict(ragged[1:2]).predictions)
    assert found[1].probs.tolist() == alone[0].probs.tolist()


# 5. A whole training --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("adapter", [False, True], ids=["full", "LoRA"])
def test_evaluation_and_resuming_leave_the_training_as_it_is(
    adapter: bool, make_trainer: Any, rows: Rows, tmp_path: Path
) -> None:
    # Six rows in batches of two: step 2 is in the middle of the first epoch, step 4 in the second. Order, frames and
    # digits are random.
    options = {
        "per_device_train_batch_size": 2,
        "max_steps": 4,
        "train_sampling_strategy": "random",
        "optim": "adamw_torch",
        "learning_rate": 1e-2,
        "lr_scheduler_type": "linear",
    }

    def trained(resume: str | None = None, **more: Any) -> dict[str, Tensor]:
        torch.manual_seed(0)  # LoRA draws its A from here
        peft_config = LoraConfig(target_modules=["q_proj", "v_proj"]) if adapter else None
        trainer = make_trainer(rows[:6], peft_config=peft_config, **options, **more)
        trainer.train(resume_from_checkpoint=resume)
        return weights_of(trainer.model)

    plain = trained()
    watched = trained(
        output_dir=str(tmp_path / "watched"),
        eval_dataset=rows,
        compute_metrics=MomentRetrievalMetrics(rows),
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=2,
    )
    assert all(torch.equal(plain[name], watched[name]) for name in plain)
    resumed = trained(resume=str(tmp_path / "watched" / "checkpoint-2"))
    assert all(torch.equal(plain[name], resumed[name]) for name in plain)


def test_evaluation_during_training_logs_scores_and_parts(make_trainer: Any, rows: Rows) -> None:
    trainer = make_trainer(
        rows,
        eval_dataset=rows,
        compute_metrics=MomentRetrievalMetrics(rows),
        eval_strategy="steps",
        eval_steps=1,
        max_steps=2,
    )
    trainer.train()
    lines = [line for line in trainer.state.log_history if "eval_loss" in line]
    assert [line["step"] for line in lines] == [1, 2]
    expected = {"eval_R1@0.5", "eval_R1@0.7", "eval_mAP", "eval_HL-mAP", "eval_HIT@1", "eval_loss_lm", "eval_loss_bce"}
    assert all(expected <= line.keys() for line in lines)


def test_training_lowers_the_loss(make_trainer: Any, rows: Rows) -> None:
    trainer = make_trainer(rows, max_steps=15, optim="adamw_torch", learning_rate=2e-2, eval_dataset=rows)
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    assert after["eval_loss"] < 0.7 * before["eval_loss"]


# 6. Adapters ----------------------------------------------------------------------------------------------------------


def lora(model: nn.Module) -> LoraConfig:
    """LoRA on every linear layer of the language model."""
    linears = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    return LoraConfig(r=4, target_modules=[name for name in linears if "language_model" in name])


def test_an_adapter_trains_and_nothing_else(make_trainer: Any, rows: Rows, tiny_model: nn.Module) -> None:
    trainer = make_trainer(rows, peft_config=lora(tiny_model), max_steps=2)  # B starts at 0: A moves from step 2 on
    before = weights_of(trainer.model)
    trainer.train()
    after = weights_of(trainer.model)
    trainable = {name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad}
    assert trainable
    assert all("lora_" in name for name in trainable)
    assert {name for name in before if not torch.equal(before[name], after[name])} == trainable
    assert trainer.predict(rows[:2]).predictions[0].shape == (2, 5)


def test_full_training_moves_every_weight(make_trainer: Any, rows: Rows) -> None:
    trainer = make_trainer(rows)
    before = weights_of(trainer.model)
    trainer.train()
    still = [name for name, weight in trainer.model.named_parameters() if torch.equal(before[name], weight)]
    assert still == []


@pytest.mark.parametrize("reentrant", [None, True])
@pytest.mark.parametrize("adapter", [False, True], ids=["full", "LoRA"])
def test_gradient_checkpointing_changes_nothing(
    adapter: bool, reentrant: bool | None, make_trainer: Any, rows: Rows, tiny_model: nn.Module
) -> None:
    kwargs = None if reentrant is None else {"use_reentrant": reentrant}

    def found(**options: Any) -> list[dict[str, Tensor]]:
        torch.manual_seed(0)
        return gradients(make_trainer(rows, peft_config=lora(tiny_model) if adapter else None, max_steps=2, **options))

    plain, checkpointed = found(), found(activation_checkpointing=True, activation_checkpointing_kwargs=kwargs)
    assert max(distance(a, b) for a, b in zip(plain, checkpointed, strict=True)) < 1e-6
    assert all(value.abs().max() > 0 for value in plain[1].values())


def test_a_second_adapter_is_refused(make_trainer: Any, tiny_model: nn.Module) -> None:
    model = get_peft_model(copy.deepcopy(tiny_model), lora(tiny_model))
    with pytest.raises(ValueError, match="has an adapter already: pass peft_config=None"):
        make_trainer(model=model, peft_config=lora(tiny_model))
    make_trainer(model=model)


# 7. Refusals ----------------------------------------------------------------------------------------------------------


def test_digit_ids_come_from_somewhere_or_are_asked_for(make_trainer: Any, tiny_processor: Any) -> None:
    def collate(batch: Rows) -> dict[str, Tensor]:
        raise NotImplementedError

    with pytest.raises(ValueError, match="digit ids are unknown: pass labels=BinaryLabels.from_tokenizer"):
        make_trainer(data_collator=collate)
    for processing_class in (tiny_processor, tiny_processor.tokenizer):
        trainer = make_trainer(data_collator=collate, processing_class=processing_class)
        assert trainer.binary_labels == LABELS
    assert make_trainer().binary_labels == LABELS  # the collator's


def test_a_missing_collator_is_asked_for(make_trainer: Any, tiny_processor: Any) -> None:
    with pytest.raises(ValueError, match="data_collator is missing: pass FrameSegmentationCollator"):
        make_trainer(data_collator=None, processing_class=tiny_processor)
