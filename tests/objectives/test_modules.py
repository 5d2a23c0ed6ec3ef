"""Loss modules: they pass their settings on, and their parts keep their names."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from hf_frameseg.objectives import (
    LOSSES,
    PAPER_POS_WEIGHT,
    BinaryCrossEntropyLoss,
    FrameSegmentationLoss,
    GeneralizedDiceLoss,
    TverskyLoss,
    functional,
)


@pytest.fixture
def batch() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 8, 2, generator=generator)
    target = torch.rand(3, 8, generator=generator)
    valid = torch.tensor([[True] * 8, [True] * 5 + [False] * 3, [True] * 8])
    return logits, target, valid


@pytest.mark.parametrize(
    ("module", "function", "settings"),
    [
        (BinaryCrossEntropyLoss, functional.binary_cross_entropy, {"pos_weight": 3.0}),
        (TverskyLoss, functional.tversky, {"alpha": 0.6, "beta": 0.2, "smooth": 0.5}),
        (GeneralizedDiceLoss, functional.generalized_dice, {"smooth": 0.5, "class_weight": "uniform"}),
    ],
)
def test_settings_reach_the_function(
    module: type[nn.Module], function: object, settings: dict, batch: tuple[Tensor, Tensor, Tensor]
) -> None:
    assert torch.equal(module(**settings)(*batch), function(*batch, **settings))
    assert torch.equal(module()(*batch), function(*batch))  # the same defaults on both faces
    assert not torch.equal(module(**settings)(*batch), module()(*batch))
    assert all(f"{name}={value!r}" in repr(module(**settings)) for name, value in settings.items())


def test_registry_names_are_the_names_of_weights_and_logs() -> None:
    assert list(LOSSES) == ["bce", "tversky", "generalized_dice"]
    assert all(issubclass(loss, nn.Module) for loss in LOSSES.values())


def test_parts_come_back_named_and_unweighted(batch: tuple[Tensor, Tensor, Tensor]) -> None:
    loss = FrameSegmentationLoss({"generalized_dice": GeneralizedDiceLoss(), "bce": BinaryCrossEntropyLoss(2.0)})
    parts = loss(*batch)
    assert list(parts) == ["generalized_dice", "bce"]
    assert torch.equal(parts["bce"], functional.binary_cross_entropy(*batch, pos_weight=2.0))
    assert torch.equal(parts["generalized_dice"], functional.generalized_dice(*batch))


def test_no_parts_is_the_language_model_alone(batch: tuple[Tensor, Tensor, Tensor]) -> None:
    assert FrameSegmentationLoss({})(*batch) == {}


def test_losses_have_no_state() -> None:
    # A loss with buffers would need to be moved to the device and saved with the model.
    assert not FrameSegmentationLoss({name: loss() for name, loss in LOSSES.items()}).state_dict()


def test_class_instead_of_module() -> None:
    with pytest.raises(TypeError, match=r"loss part 'bce' must be a module, .* call the class: LOSSES\['bce'\]\(\)"):
        FrameSegmentationLoss({"bce": BinaryCrossEntropyLoss})


def test_paper_pos_weight_is_background_over_foreground() -> None:
    assert pytest.approx(0.2996, abs=1e-4) == 1 / (1 + PAPER_POS_WEIGHT)  # 29.96 % foreground
