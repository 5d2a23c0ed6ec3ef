"""Objectives in the trainer: heads of their own from the first step to a checkpoint and back, and what is refused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from hf_frameseg.objectives import FrameObjective, Objective
from hf_frameseg.objectives.heads import attach_heads, heads_of
from hf_frameseg.sharing.heads import HEADS_NAME

Rows = list[dict[str, Any]]


class Count(Objective):
    """Learn how many frames are relevant, from the hidden states."""

    targets = {"count": lambda sample: sample.mask().sum()}  # noqa: RUF012
    needs_hidden_states = True

    def build(self, hidden_size: int) -> None:
        self.linear = torch.nn.Linear(hidden_size, 1)

    def forward(self, answer: Any, targets: Any) -> torch.Tensor:
        assert answer.hidden_states.shape == (*answer.frame_valid.shape, self.linear.in_features)
        return ((self.linear(answer.hidden_states)[..., 0] * answer.frame_valid).sum(1) - targets["count"]).square()


OPTIONS = {"objectives": {"count": Count}, "loss_weights": {"lm": 0.9, "count": 0.1}, "learning_rate": 0.01}


@pytest.fixture
def rows(make_row: Callable[..., dict[str, Any]]) -> Rows:
    return [make_row(qid, [[0.0, 2.0 * qid]], num_frames=5 - qid % 2) for qid in range(1, 5)]


def head_of(trainer: Any) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in trainer.model.frameseg_heads["count"].state_dict().items()}


def test_a_head_is_made_alike_whatever_was_drawn_before(make_trainer: Any, rows: Rows, tiny_model: Any) -> None:
    torch.manual_seed(5)
    first = head_of(make_trainer(rows, **OPTIONS))
    torch.manual_seed(6)
    again, other = head_of(make_trainer(rows, **OPTIONS)), head_of(make_trainer(rows, **OPTIONS, seed=1))
    assert torch.equal(first["linear.weight"], again["linear.weight"])
    assert not torch.equal(first["linear.weight"], other["linear.weight"])
    assert first["linear.weight"].dtype == torch.float32
    state = torch.get_rng_state()
    made = attach_heads(copy.deepcopy(tiny_model), {"count": Count()})
    assert torch.equal(torch.get_rng_state(), state)
    assert list(made) == ["count"]


def test_a_head_leaves_the_other_parts_as_they_are(make_trainer: Any, rows: Rows) -> None:
    plain = make_trainer(rows, loss_weights={"lm": 0.9})
    batch = plain.eval_data_collator(rows)
    expected = plain.loss_parts(plain.model, batch)["lm"]
    trainer = make_trainer(rows, **OPTIONS)
    found = trainer.loss_parts(trainer.model, trainer.eval_data_collator(rows))
    assert torch.equal(found["lm"], expected)
    assert found["count"].shape == (4,)


def test_training_goes_on_from_a_checkpoint_with_its_head(make_trainer: Any, rows: Rows, tmp_path: Path) -> None:
    options = {**OPTIONS, "max_steps": 4, "save_strategy": "steps", "save_steps": 2, "optim": "adamw_torch"}
    whole = make_trainer(rows, **options, output_dir=str(tmp_path / "whole"))
    start = head_of(whole)
    whole.train()
    assert whole.state.log_history[0]["loss_count"] > 0
    resumed = make_trainer(rows, **options, output_dir=str(tmp_path / "resumed"), seed=7)  # another head at first
    resumed.args.seed = whole.args.seed
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    for name, value in head_of(whole).items():
        assert torch.equal(value, head_of(resumed)[name])
        assert not torch.equal(value, start[name])
    half = load_file(tmp_path / "whole" / "checkpoint-2" / HEADS_NAME)
    assert half.keys() == {"count.linear.weight", "count.linear.bias"}
    assert not torch.equal(half["count.linear.weight"], head_of(whole)["linear.weight"])
    (tmp_path / "whole" / "checkpoint-2" / HEADS_NAME).unlink()
    with pytest.raises(ValueError, match=r"expected frameseg_heads.safetensors in .* with the head of count"):
        make_trainer(rows, **options).train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))


def test_the_models_own_files_stay_clean(make_trainer: Any, rows: Rows, tmp_path: Path) -> None:
    trainer = make_trainer(rows, **OPTIONS)
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    assert not [name for name in load_file(tmp_path / "saved" / "model.safetensors") if "frameseg_heads" in name]
    model, found = AutoModelForImageTextToText.from_pretrained(tmp_path / "saved", output_loading_info=True)
    assert not found["missing_keys"]
    assert not found["unexpected_keys"]
    assert heads_of(model) == {}
    make_trainer(rows).save_model(str(tmp_path / "saved"))  # a model without heads takes the place of one with them
    assert not (tmp_path / "saved" / HEADS_NAME).exists()


def test_the_best_model_comes_with_its_head(make_trainer: Any, rows: Rows, tmp_path: Path) -> None:
    each = {"save_strategy": "steps", "eval_strategy": "steps", "save_steps": 1, "eval_steps": 1, "max_steps": 3}
    options = {**OPTIONS, **each, "learning_rate": 5.0, "load_best_model_at_end": True}  # every step makes it worse
    trainer = make_trainer(rows, **options, metric_for_best_model="loss_count", eval_dataset=rows)
    trainer.train()
    best = load_file(Path(trainer.state.best_model_checkpoint) / HEADS_NAME)
    last = load_file(tmp_path / "out" / "checkpoint-3" / HEADS_NAME)
    assert torch.equal(head_of(trainer)["linear.weight"], best["count.linear.weight"])
    assert not torch.equal(best["count.linear.weight"], last["count.linear.weight"])


def test_models_that_are_made_later_get_heads_of_their_own(make_trainer: Any, rows: Rows, tiny_model: Any) -> None:
    trainer = make_trainer(rows, **OPTIONS, model_init=lambda: copy.deepcopy(tiny_model))
    first = trainer.model.frameseg_heads["count"]
    trainer.train()
    assert trainer.model.frameseg_heads["count"] is not first
    assert "count" in trainer.objectives


def test_a_head_that_comes_too_late_is_refused(make_trainer: Any, rows: Rows) -> None:
    trainer = make_trainer(rows, objectives={"count": Count})
    trainer.args.loss_weights = {"lm": 0.5, "count": 0.5}
    with pytest.raises(ValueError, match="'count' has a head, which must be there before the training: weigh it") as e:
        trainer.train()
    assert "\n" not in str(e.value)


class Scalar(FrameObjective):
    """Make the usual mistake."""

    def loss(self, frame_logits: Any, target: Any, valid: Any = None) -> torch.Tensor:
        return frame_logits.mean()


def test_a_mean_over_the_batch_is_refused(make_trainer: Any, rows: Rows) -> None:
    trainer = make_trainer(rows, objectives={"mine": Scalar()}, loss_weights={"mine": 1})
    with pytest.raises(ValueError, match=r"'mine' to return one value per sample, \(4,\), got \(\)"):
        trainer.train()


def test_targets_of_another_length_are_refused(make_trainer: Any, rows: Rows) -> None:
    class Odd(Scalar):
        targets = {"odd": lambda sample: [1, 2]}  # noqa: RUF012

    trainer = make_trainer(rows, objectives={"odd": Odd()}, loss_weights={"odd": 1})
    with pytest.raises(ValueError, match=r"the target 'odd' to have one entry for each of the 4 frames first"):
        trainer.data_collator(rows)


def test_a_target_that_the_collator_does_not_make_is_named(make_trainer: Any, rows: Rows) -> None:
    collator = make_trainer(rows).data_collator
    given = {"data_collator": lambda rows: collator(rows), "processing_class": collator.processor}
    trainer = make_trainer(rows, **OPTIONS, **given)
    with pytest.raises(ValueError, match="'count' needs the target 'count', which the collator does not make: take a"):
        trainer.train()


class Remembering(Scalar):
    """Hold something from step to step, and on the device of the model."""

    def __init__(self, start: int = 0) -> None:
        super().__init__()
        self.steps = start
        self.register_buffer("weight", torch.ones(2))

    def loss(self, frame_logits: Any, target: Any, valid: Any = None) -> torch.Tensor:
        self.steps += 1
        return (frame_logits * self.weight).mean(dim=(1, 2))


def test_an_objective_stays_the_same_from_step_to_step(make_trainer: Any, rows: Rows) -> None:
    trainer = make_trainer(rows, objectives={"mine": Remembering}, loss_weights={"mine": 1}, max_steps=3)
    trainer.train()
    assert trainer.objectives["mine"].steps == 3
    trainer.args.loss_options = {"mine": {"start": 7}}
    assert trainer.objectives["mine"].steps == 7
    assert trainer.objectives["mine"].weight.device == trainer.args.device


class PartlyFrozen(Count):
    """Read the hidden states through numbers that are not learnt."""

    def build(self, hidden_size: int) -> None:
        super().build(hidden_size)
        self.fixed = torch.nn.Parameter(torch.ones(hidden_size), requires_grad=False)
        self.places = torch.nn.Parameter(torch.arange(2), requires_grad=False)

    def forward(self, answer: Any, targets: Any) -> torch.Tensor:
        return super().forward(replace(answer, hidden_states=answer.hidden_states * self.fixed), targets)


def test_what_a_head_froze_itself_stays_frozen(make_trainer: Any, rows: Rows, tiny_model: Any) -> None:
    trainer = make_trainer(rows, **{**OPTIONS, "objectives": {"count": PartlyFrozen}})
    trainer.train()
    head = trainer.model.frameseg_heads["count"]
    assert torch.equal(head.fixed, torch.ones_like(head.fixed))
    assert {name for name, value in head.named_parameters() if value.requires_grad} == {
        "linear.weight",
        "linear.bias",
    }
    attach_heads(trainer.model, {})  # nobody trains it now
    assert not any(value.requires_grad for value in head.parameters())
    attach_heads(trainer.model, {"count": head})
    assert sum(value.requires_grad for value in head.parameters()) == 2


@pytest.mark.parametrize("name", ["a.b", "", "keys", "training", 3])
def test_a_head_of_a_name_that_no_module_can_have_is_refused(name: Any, make_trainer: Any, rows: Rows) -> None:
    with pytest.raises(ValueError, match=f"the objective {name!r} has a head, and torch keeps this name"):
        make_trainer(rows, objectives={name: Count}, loss_weights={"lm": 0.9, name: 0.1})


def test_no_head_is_missed_in_the_models_own_file(
    make_trainer: Any, rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []  # not by caplog: whether loggers of transformers pass on what they log, other tests decide
    monkeypatch.setattr("transformers.trainer.logger.warning", lambda text, *args: said.append(str(text)))
    make_trainer(rows, **OPTIONS, save_strategy="steps", save_steps=1).train()
    again = make_trainer(rows, **OPTIONS, max_steps=2)
    again.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-1"))
    again._issue_warnings_after_load(torch.nn.modules.module._IncompatibleKeys(["frameseg_heads.count.x", "lost"], []))
    assert [text for text in said if "missing keys" in text] == [
        "There were missing keys in the checkpoint model loaded: ['lost']."
    ]
