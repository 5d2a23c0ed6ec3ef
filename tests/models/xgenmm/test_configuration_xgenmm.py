"""Defaults of the released model, partial parts, errors and saving."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub.errors import StrictDataclassClassValidationError
from transformers import AutoConfig, Phi3Config, SiglipVisionConfig

from hf_frameseg.models.xgenmm import XGenMMConfig, XGenMMResamplerConfig


def test_defaults_are_the_released_model() -> None:
    config = XGenMMConfig()
    vision, resampler, text = config.vision_config, config.resampler_config, config.text_config
    assert (vision.hidden_size, vision.num_hidden_layers, vision.image_size, vision.patch_size) == (1152, 27, 384, 14)
    assert (resampler.num_latents, resampler.num_hidden_layers, resampler.hidden_act) == (128, 6, "gelu")
    assert (text.model_type, text.vocab_size, text.sliding_window) == ("phi3", 32015, 2047)
    assert (text.hidden_size, text.num_hidden_layers, text.num_key_value_heads) == (3072, 32, 32)
    assert (config.image_token_id, config.tie_word_embeddings) == (32012, False)
    assert config.get_text_config() is text


def test_a_partial_part_keeps_the_released_rest() -> None:
    config = XGenMMConfig(text_config={"num_hidden_layers": 2}, vision_config={"num_hidden_layers": 3})
    assert (config.text_config.num_hidden_layers, config.text_config.sliding_window) == (2, 2047)
    assert (config.vision_config.num_hidden_layers, config.vision_config.hidden_size) == (3, 1152)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"text_config": {"sliding_window": None, "num_hidden_layers": 2}},
        {"text_config": {"initializer_range": 0.1}, "initializer_range": 0.3},
        {"resampler_config": {"num_latents": 1, "initializer_range": 0.5}},
    ],
)
def test_saving_and_loading_keeps_everything(given: dict, tmp_path: Path) -> None:
    config = XGenMMConfig(**given)
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(loaded, XGenMMConfig)
    assert loaded.text_config.sliding_window == config.text_config.sliding_window
    where_from = {key: loaded.to_dict()[key] for key in ("transformers_version", "_name_or_path")}
    assert loaded.to_dict() == config.to_dict() | where_from


def test_initializer_range_comes_from_the_text_part_unless_given() -> None:
    config = XGenMMConfig(text_config={"initializer_range": 0.1})
    assert (config.initializer_range, config.resampler_config.initializer_range) == (0.1, 0.1)
    config = XGenMMConfig(text_config={"initializer_range": 0.1}, initializer_range=0.3)
    assert (config.initializer_range, config.resampler_config.initializer_range) == (0.3, 0.3)


def test_given_configurations_are_not_changed() -> None:
    vision, resampler = SiglipVisionConfig(hidden_size=1152), XGenMMResamplerConfig()
    config = XGenMMConfig(vision_config=vision, resampler_config=resampler)
    assert vision.vision_use_head
    assert resampler.initializer_range is None
    assert not config.vision_config.vision_use_head


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"resampler_config": {"hidden_size": 64}}, r"must equal vision_config.hidden_size \(1152\), got 64"),
        ({"image_token_id": 32015}, r"below text_config.vocab_size \(32015\), got 32015"),
        ({"text_config": Phi3Config(tie_word_embeddings=True)}, "tie_word_embeddings must be False"),
    ],
)
def test_parts_that_do_not_fit_are_refused(given: dict, message: str) -> None:
    with pytest.raises(StrictDataclassClassValidationError, match=message):
        XGenMMConfig(**given)
