"""Which part of a model learns, for every model of the tests."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from peft import get_peft_model

from hf_frameseg.training.trainable import language_model_lora, vision_tower


@pytest.mark.parametrize("name", ["tiny_model", "tiny_llava_model", "tiny_qwen_model"])
def test_lora_stands_on_every_linear_layer_of_the_language_model_alone(
    request: pytest.FixtureRequest, name: str
) -> None:
    model = copy.deepcopy(request.getfixturevalue(name))
    linears = {path for path, layer in model.named_modules() if isinstance(layer, torch.nn.Linear)}
    config = language_model_lora(model, r=2, lora_alpha=4)
    assert (config.r, config.lora_alpha, config.modules_to_save) == (2, 4, None)
    adapted = get_peft_model(model, config).named_modules()
    found = {path.removeprefix("base_model.model.") for path, layer in adapted if hasattr(layer, "lora_A")}
    assert found == {path for path in linears if path.startswith("model.language_model.")} != set()


@pytest.mark.parametrize("name", ["tiny_model", "tiny_llava_model", "tiny_qwen_model"])
def test_the_vision_tower_is_found(request: pytest.FixtureRequest, name: str) -> None:
    model = request.getfixturevalue(name)
    found = {path for path, module in model.named_modules() if module is vision_tower(model)}
    assert found in ({"model.vision_tower"}, {"model.visual"})


def test_modules_can_be_trained_in_full(tiny_model: Any) -> None:
    assert language_model_lora(tiny_model, modules_to_save=["resampler"]).modules_to_save == ["resampler"]
    with pytest.raises(ValueError, match="has no module 'resampeler': name another in --lora_modules_to_save"):
        language_model_lora(tiny_model, modules_to_save=["resampeler"])


def test_a_model_of_other_parts_is_refused() -> None:
    class Other(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = torch.nn.Linear(2, 2)

    with pytest.raises(ValueError, match="Other has no vision_tower or visual to freeze; use --freeze_vision false"):
        vision_tower(Other())
    with pytest.raises(ValueError, match="Other has no linear layers in model.language_model for LoRA"):
        language_model_lora(Other())
