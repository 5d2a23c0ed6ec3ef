"""Configuration of xGen-MM (BLIP-3); defaults are those of xgen-mm-phi3-mini-instruct-interleave-r-v1.5."""

from __future__ import annotations

import copy
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from .convert_xgenmm import convert_reference_config, is_reference_config


@strict
class XGenMMResamplerConfig(PreTrainedConfig):
    """Describe the Perceiver resampler that turns the patches of one image into a few tokens.

    Args:
        hidden_size: Width of the latents and of the vision features they read.
        intermediate_size: Width of the feed-forward layers.
        num_hidden_layers: Number of attention + feed-forward blocks.
        num_attention_heads: Heads of each attention.
        head_dim: Width of one head; heads * head_dim may differ from `hidden_size`.
        num_latents: Tokens per image.
        layer_norm_eps: Epsilon of every LayerNorm (torch's default, not SigLIP's 1e-6).
        hidden_act: Activation of the feed-forward layers (erf GELU, not SigLIP's tanh one).
        initializer_range: Standard deviation of fresh weights and latents; None takes the whole model's.
    """

    model_type = "xgenmm_resampler"
    base_config_key = "resampler_config"

    hidden_size: int = 1152
    intermediate_size: int = 4608
    num_hidden_layers: int = 6
    num_attention_heads: int = 16
    head_dim: int = 96
    num_latents: int = 128
    layer_norm_eps: float = 1e-5
    hidden_act: str = "gelu"
    initializer_range: float | None = None


@strict
class XGenMMConfig(PreTrainedConfig):
    """Describe an xGen-MM model: SigLIP vision tower, Perceiver resampler per image, Phi-3 language model.

    The pooling head of SigLIP is never built (`vision_use_head` is set to False): the resampler reads patches.

    Args:
        vision_config: SigLIP vision configuration or dict.
        resampler_config: Perceiver resampler configuration or dict.
        text_config: Phi-3 configuration or dict; `vocab_size` counts the image tokens too (one merged vocabulary).
        image_token_id: Id of `<image>`; the processor writes it `resampler_config.num_latents` times per image.
        initializer_range: Standard deviation of fresh weights outside the two towers: resampler, its latents and
            the language-model head. None takes `text_config.initializer_range`.
        tie_word_embeddings: Must stay False, the head has its own weight and a bias.

    Raises:
        huggingface_hub.errors.StrictDataclassClassValidationError: If the parts do not fit together.

    Example:
        >>> config = XGenMMConfig(text_config={"num_hidden_layers": 2, "initializer_range": 0.1})
        >>> config.text_config.vocab_size, config.text_config.sliding_window, config.initializer_range
        (32015, 2047, 0.1)
    """

    model_type = "xgenmm"
    keys_to_ignore_at_inference = ["cache"]
    sub_configs_defaults = {
        "vision_config": SubConfigSpec(
            config_class=AutoConfig,
            model_type="siglip_vision_model",
            init_kwargs={
                "hidden_size": 1152,
                "intermediate_size": 4304,
                "num_hidden_layers": 27,
                "num_attention_heads": 16,
                "patch_size": 14,
                "image_size": 384,
                "vision_use_head": False,
            },
        ),
        "resampler_config": XGenMMResamplerConfig,
        "text_config": SubConfigSpec(
            config_class=AutoConfig, model_type="phi3", init_kwargs={"vocab_size": 32015, "sliding_window": 2047}
        ),
    }

    vision_config: dict | PreTrainedConfig | None = None
    resampler_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    image_token_id: int = 32012
    initializer_range: float | None = None
    tie_word_embeddings: bool = False

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> XGenMMConfig:
        """Build from the content of a config.json, in the port's form or in that of the reference's remote code.

        Args:
            config_dict: Content of the file.
            **kwargs: As in `PreTrainedConfig.from_dict`.

        Raises:
            ValueError: If the file belongs to another kind of model, or an entry in the reference's form is unknown.
        """
        model_type = config_dict.get("model_type", cls.model_type)
        if model_type != cls.model_type:
            raise ValueError(
                f"Expected a config.json of model_type {cls.model_type!r}, got {model_type!r}: load this checkpoint "
                "with AutoModelForImageTextToText, which picks the class that fits."
            )
        if is_reference_config(config_dict):
            config_dict = convert_reference_config(config_dict)
        return super().from_dict(config_dict, **kwargs)

    @classmethod
    def from_reference(cls, config_dict: dict[str, Any]) -> XGenMMConfig:
        """Build from a config.json of the reference's remote code; `from_pretrained` does this by itself.

        Args:
            config_dict: Content of the file. What it leaves out has the remote code's defaults.

        Raises:
            ValueError: If a part is of another kind than the port has, or an entry is unknown.

        Example:
            >>> config = XGenMMConfig.from_reference({"text_config": {"initial_tokenizer_len": 32012}})
            >>> config.text_config.vocab_size, config.image_token_id
            (32015, 32012)
        """
        return cls.from_dict(convert_reference_config(config_dict))

    def __post_init__(self, **kwargs: Any) -> None:
        """Fill the parts' defaults under what was given, and switch the unused pooling head off."""
        for key, spec in self.sub_configs_defaults.items():
            given = getattr(self, key)
            if isinstance(given, dict):
                # A partial dict means "the released model, but": start from the spec, not from the class default
                # (a Phi-3 without sliding_window would silently attend to more than the checkpoint ever did).
                setattr(self, key, {**spec.init_kwargs, **given})
        super().__post_init__(**kwargs)
        if self.initializer_range is None:
            self.initializer_range = self.text_config.initializer_range
        # Copies: a configuration handed in may be shared with another model.
        if self.resampler_config.initializer_range is None:
            self.resampler_config = copy.deepcopy(self.resampler_config)
            self.resampler_config.initializer_range = self.initializer_range
        if getattr(self.vision_config, "vision_use_head", False):
            self.vision_config = copy.deepcopy(self.vision_config)
            self.vision_config.vision_use_head = False

    def validate_architecture(self) -> None:
        """Check that the three parts fit together; part of the `@strict` validation."""
        vision_width, resampler_width = self.vision_config.hidden_size, self.resampler_config.hidden_size
        if vision_width != resampler_width:
            raise ValueError(
                f"resampler_config.hidden_size must equal vision_config.hidden_size ({vision_width}), "
                f"got {resampler_width}: the latents attend to the vision features in one width."
            )
        if not 0 <= self.image_token_id < self.text_config.vocab_size:
            raise ValueError(
                f"image_token_id must be below text_config.vocab_size ({self.text_config.vocab_size}), "
                f"got {self.image_token_id}: set image_token_id or enlarge the merged vocabulary."
            )
        if self.tie_word_embeddings or self.text_config.tie_word_embeddings:
            raise ValueError(
                "tie_word_embeddings must be False, got True: the xGen-MM head has its own weight and bias."
            )


__all__ = ["XGenMMConfig", "XGenMMResamplerConfig"]
