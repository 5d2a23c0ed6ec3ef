"""Objectives: their settings reach the functions, they read what they ask for, and their names are known once."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hf_frameseg.objectives import (
    OBJECTIVES,
    PAPER_POS_WEIGHT,
    AnswerOutputs,
    BinaryCrossEntropyLoss,
    FrameObjective,
    GeneralizedDiceLoss,
    LanguageModelLoss,
    Objective,
    TverskyLoss,
    functional,
    make_objectives,
    targets_of,
)


@pytest.fixture
def batch() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 8, 2, generator=generator)
    target = torch.rand(3, 8, generator=generator)
    valid = torch.tensor([[True] * 8, [True] * 5 + [False] * 3, [True] * 8])
    return logits, target, valid


@pytest.fixture
def answer(batch: tuple[Tensor, Tensor, Tensor]) -> AnswerOutputs:
    logits, _, valid = batch
    labels = torch.tensor([[-100, 3, 1], [-100, -100, 2], [-100, 0, 0]])
    return AnswerOutputs(torch.arange(60.0).reshape(3, 5, 4)[:, :3], labels, logits, valid)


@pytest.mark.parametrize(
    ("module", "function", "settings"),
    [
        (BinaryCrossEntropyLoss, functional.binary_cross_entropy, {"pos_weight": 3.0}),
        (TverskyLoss, functional.tversky, {"alpha": 0.6, "beta": 0.2, "smooth": 0.5}),
        (GeneralizedDiceLoss, functional.generalized_dice, {"smooth": 0.5, "class_weight": "uniform"}),
    ],
)
def test_settings_reach_the_function(
    module: type[FrameObjective],
    function: object,
    settings: dict,
    batch: tuple[Tensor, Tensor, Tensor],
    answer: AnswerOutputs,
) -> None:
    assert torch.equal(module(**settings).loss(*batch), function(*batch, **settings))
    assert torch.equal(module().loss(*batch), function(*batch))  # the same defaults on both faces
    assert torch.equal(module(**settings)(answer, {"frame_targets": batch[1]}), function(*batch, **settings))
    assert not torch.equal(module(**settings).loss(*batch), module().loss(*batch))
    assert all(f"{name}={value!r}" in repr(module(**settings)) for name, value in settings.items())


def test_the_language_model_loss_is_a_mean_over_the_labelled_tokens(answer: AnswerOutputs) -> None:
    found = LanguageModelLoss()(answer, {})
    log_probs = answer.logits.log_softmax(-1)
    first, second, third = log_probs[0], log_probs[1], log_probs[2]
    expected = [-(first[0, 3] + first[1, 1]) / 2, -second[1, 2], -(third[0, 0] + third[1, 0]) / 2]
    torch.testing.assert_close(found, torch.stack(expected))


def test_registry_names_are_the_names_of_weights_and_logs() -> None:
    assert list(OBJECTIVES) == ["lm", "bce", "tversky", "generalized_dice"]
    assert all(issubclass(objective, Objective) for objective in OBJECTIVES.values())


def test_objectives_come_back_named_in_the_order_of_the_registry() -> None:
    made = make_objectives(["generalized_dice", "bce"], {"bce": {"pos_weight": 2.0}})
    assert list(made) == ["bce", "generalized_dice"]
    assert made["bce"].pos_weight == 2.0
    assert make_objectives([], {}) == {}


def test_given_objectives_come_before_those_of_the_registry() -> None:
    own, other = TverskyLoss(alpha=0.9), BinaryCrossEntropyLoss
    made = make_objectives(["bce", "mine"], {"bce": {"pos_weight": 5.0}}, {"mine": own, "bce": other})
    assert made["mine"] is own
    assert made["bce"].pos_weight == 5.0


def test_losses_of_the_package_have_no_state() -> None:
    # A loss with buffers would need to be moved to the device and saved with the model.
    assert not any(objective.state_dict() for objective in make_objectives(OBJECTIVES, {}).values())


@pytest.mark.parametrize(
    ("names", "options", "given", "message"),
    [
        (["dice"], {}, {}, "unknown loss in the weights: dice; known are lm, bce, tversky, generalized_dice"),
        ([], {"dice": {}}, {}, "unknown loss in loss_options: dice; known are lm, bce"),
        ([], {"bce": {"weight": 1}}, {}, "loss_options for 'bce': .*unexpected keyword argument 'weight'"),
        ([], {"mine": {"alpha": 1}}, {"mine": TverskyLoss()}, "loss_options for 'mine': it was given as an object"),
    ],
)
def test_what_cannot_be_made_is_refused(names: list[str], options: dict, given: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_objectives(names, options, given)


@pytest.mark.parametrize("kind", [torch.nn.Linear, torch.nn.Identity(), 3])
def test_what_is_no_objective_is_refused(kind: object) -> None:
    with pytest.raises(TypeError, match="objective 'mine' must be an Objective or a class of them"):
        make_objectives([], {}, {"mine": kind})


def test_what_an_objective_raises_itself_is_not_blamed_on_its_settings() -> None:
    class Broken(FrameObjective):
        def __init__(self) -> None:
            super().__init__()
            self.weight = None + 1

    class Unready(FrameObjective):
        def __init__(self) -> None:
            self.weight = 1

    with pytest.raises(TypeError, match="unsupported operand"):
        make_objectives(["mine"], {}, {"mine": Broken})
    with pytest.raises(TypeError, match=r"'mine' has an __init__ that must begin with super\(\).__init__\(\)"):
        make_objectives(["mine"], {}, {"mine": Unready})


def test_targets_are_asked_for_once() -> None:
    class Count(Objective):
        targets = {"count": len}

    class Other(Objective):
        targets = {"count": sum}

    made = {"bce": BinaryCrossEntropyLoss(), "tversky": TverskyLoss(), "lm": LanguageModelLoss(), "count": Count()}
    assert targets_of(made).keys() == {"frame_targets", "count"}
    with pytest.raises(ValueError, match="one function for the target 'count', and the objective 'other' has another"):
        targets_of({"count": Count(), "other": Other()})
    for taken in ("labels", "frame_targets"):
        Count.targets = {taken: len}
        with pytest.raises(ValueError, match=f"one function for the target '{taken}'"):
            targets_of({"count": Count()})


def test_what_must_be_written_is_said() -> None:
    with pytest.raises(NotImplementedError, match=r"Objective needs a forward\(answer, targets\)"):
        Objective()(None, {})
    with pytest.raises(NotImplementedError, match=r"FrameObjective needs a loss\(frame_logits, target, valid\)"):
        FrameObjective().loss(torch.zeros(1, 1, 2), torch.zeros(1, 1))


def test_paper_pos_weight_is_background_over_foreground() -> None:
    assert pytest.approx(0.2996, abs=1e-4) == 1 / (1 + PAPER_POS_WEIGHT)  # 29.96 % foreground
