"""From the reference's files to the port: how checkpoint keys are renamed and merged, how its config.json is read.

The reference is the remote code of Salesforce/xgen-mm-phi3-mini-instruct-interleave-r-v1.5. Its weights are renamed
and merged by transformers while they are read (`register_checkpoint_conversion_mapping`); the file stays as it is.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from transformers import GenerationConfig, Phi3Config, PreTrainedConfig
from transformers.core_model_loading import ConversionOps, WeightConverter, WeightRenaming, WeightTransform

# The reference appends these to the tokenizer, in this order, when a model is set up.
REFERENCE_IMAGE_TOKENS = ("<image>", "<image placeholder>", "<|endofchunk|>")

# Hub files carry the prefix, files of the training code do not.
_PREFIX = r"^(?:vlm\.)?"
_LAYER = r"^model\.resampler\.layers\.(\d+)\."


class MergeVocabulary(ConversionOps):
    """Put the decoupled rows of the image tokens behind the rows of the text tokens.

    The reference's base matrix has more rows than the tokenizer has tokens (32064 for 32012); the rest is dead and
    left out. A part that is absent, or of another width, gives nothing that fits: the model's check of keys and
    shapes names it, which an exception in here could not do (transformers logs it and raises another).
    """

    @torch.no_grad()
    def convert(
        self,
        input_dict: dict[str, list[torch.Tensor]],
        source_patterns: list[str],
        target_patterns: list[str],
        config: PreTrainedConfig,
        **kwargs: Any,
    ) -> dict[str, torch.Tensor]:
        """Return the merged matrix or vector of `config.text_config.vocab_size` rows under its target's name."""
        if any(pattern not in input_dict for pattern in source_patterns):
            return {}
        base, extra = (input_dict[pattern][0] for pattern in source_patterns)
        if base.shape[1:] != extra.shape[1:]:
            return {target_patterns[0]: extra}
        num_base_tokens = config.text_config.vocab_size - extra.shape[0]
        if num_base_tokens != config.image_token_id:
            # The shapes would fit all the same, and <image> would be a dead row.
            raise ValueError(
                f"text_config.vocab_size must be image_token_id ({config.image_token_id}) plus the {extra.shape[0]} "
                f"decoupled rows of the checkpoint, got {config.text_config.vocab_size}: set it to "
                f"{config.image_token_id + extra.shape[0]}."
            )
        return {target_patterns[0]: torch.cat([base[:num_base_tokens], extra])}


# What the port has in one piece and the reference in two.
MERGED_KEYS = {
    "model.language_model.embed_tokens.weight": (
        "model.embed_tokens.weight",
        "model.embed_tokens.additional_embedding.weight",
    ),
    "lm_head.weight": ("lm_head.weight", "lm_head.additional_fc.weight"),
    "lm_head.bias": ("lm_head.bias", "lm_head.additional_fc.bias"),
}


def reference_weight_conversion() -> list[WeightTransform]:
    """Return what turns reference keys into the port's; the port's own keys match none of it.

    Example:
        >>> from transformers.core_model_loading import apply_renamings
        >>> renamings = [step for step in reference_weight_conversion() if isinstance(step, WeightRenaming)]
        >>> apply_renamings("vlm.vision_tokenizer.layers.3.0.to_q.weight", renamings)
        'model.resampler.layers.3.attn.q_proj.weight'
    """
    renamings = {
        rf"{_PREFIX}vision_encoder\.": "model.vision_tower.",
        rf"{_PREFIX}vision_tokenizer\.": "model.resampler.",
        # The embedding is merged below: renamed here, it could not be told from the port's own.
        rf"{_PREFIX}lang_model\.model\.(?!embed_tokens\.)": "model.language_model.",
        rf"{_LAYER}0\.norm_": r"model.resampler.layers.\1.attn.norm_",
        rf"{_LAYER}0\.to_q\.": r"model.resampler.layers.\1.attn.q_proj.",
        rf"{_LAYER}0\.to_kv\.": r"model.resampler.layers.\1.attn.kv_proj.",
        rf"{_LAYER}0\.to_out\.": r"model.resampler.layers.\1.attn.out_proj.",
        rf"{_LAYER}1\.0\.": r"model.resampler.layers.\1.mlp.norm.",
        rf"{_LAYER}1\.1\.": r"model.resampler.layers.\1.mlp.fc1.",
        rf"{_LAYER}1\.3\.": r"model.resampler.layers.\1.mlp.fc2.",
    }
    merges = {
        target: [rf"{_PREFIX}lang_model\.{re.escape(name)}" for name in names] for target, names in MERGED_KEYS.items()
    }
    return [
        *(WeightRenaming(source, target) for source, target in renamings.items()),
        *(WeightConverter(sources, target, operations=[MergeVocabulary()]) for target, sources in merges.items()),
    ]


# The reference builds its vision tower from the file of this name and takes no other.
_VISION_ENCODER = "google/siglip-so400m-patch14-384"
_VISION_KEYS = {"model_name", "anyres_grids", "anyres_patch_sampling", "image_aspect_ratio"}
_RESAMPLER_KEYS = {"vis_feature_dim", "lang_embedding_dim", "num_vis_tokens", "image_aspect_ratio"}
_TEXT_KEYS = {"initial_tokenizer_len", "rope_theta", "rope_scaling"}
_TOP_KEYS = {"vision_encoder_config", "vision_tokenizer_config", "text_config", "auto_map"}
# Every config.json of its day carried these; they say nothing about the network.
_EVERYWHERE = {
    *("torch_dtype", "torchscript", "use_bfloat16", "tf_legacy_loss", "pruned_heads", "is_decoder", "prefix"),
    *("cross_attention_hidden_size", "add_cross_attention", "tie_encoder_decoder", "tie_word_embeddings"),
    *("finetuning_task", "task_specific_params", "tokenizer_class", "use_cache"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "decoder_start_token_id"),
}


def is_reference_config(config: dict[str, Any]) -> bool:
    """Tell whether a config.json has the form of the reference's remote code."""
    text = config.get("text_config") or {}
    return (
        "vision_encoder_config" in config
        or "vision_tokenizer_config" in config
        or (isinstance(text, dict) and "initial_tokenizer_len" in text)
    )


def convert_reference_config(config: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of `XGenMMConfig` for a config.json of the reference's remote code.

    Args:
        config: The content of the file; what it leaves out has the defaults of the remote code.

    Raises:
        ValueError: If a part is of another kind than the port has, or an entry is unknown.
    """
    text, vision, resampler = (
        dict(config.get(key) or {}) for key in ("text_config", "vision_encoder_config", "vision_tokenizer_config")
    )
    _refuse_unknown("config.json", config, _TOP_KEYS)
    _refuse_unknown("vision_encoder_config", vision, _VISION_KEYS)
    _refuse_unknown("vision_tokenizer_config", resampler, _RESAMPLER_KEYS)
    phi3_keys = set(Phi3Config().to_dict())
    _refuse_unknown("text_config", text, _TEXT_KEYS | phi3_keys)
    for part, key, value, expected in (
        ("config.json", "model_type", config.get("model_type", "xgenmm"), "xgenmm"),
        ("vision_encoder_config", "model_name", vision.get("model_name", _VISION_ENCODER), _VISION_ENCODER),
        ("vision_encoder_config", "image_aspect_ratio", vision.get("image_aspect_ratio", "anyres"), "anyres"),
        ("text_config", "model_type", text.get("model_type", "phi3"), "phi3"),
    ):
        if value != expected:
            raise ValueError(
                f"{part}: {key} must be {expected!r}, got {value!r}: the port has no other; "
                "pass config=XGenMMConfig(...) to from_pretrained if the weights fit all the same."
            )
    num_text_tokens = text.pop("initial_tokenizer_len", 32012)
    text = {key: value for key, value in text.items() if key in phi3_keys | _TEXT_KEYS and not key.startswith("_")}
    for key in ("torch_dtype", "dtype", "transformers_version", "architectures"):
        text.pop(key, None)
    return {
        "model_type": "xgenmm",
        "vision_config": {},
        "resampler_config": {
            "hidden_size": resampler.get("vis_feature_dim", 1152),
            "num_latents": resampler.get("num_vis_tokens", 128),
        },
        # The reference counts the rows of the base matrix here, dead ones too.
        "text_config": {**text, "vocab_size": num_text_tokens + len(REFERENCE_IMAGE_TOKENS)},
        "image_token_id": num_text_tokens,
        "dtype": config.get("torch_dtype", config.get("dtype")),
    }


def _refuse_unknown(name: str, part: dict[str, Any], known: set[str]) -> None:
    """Raise if an entry could change the network in a way that the port does not know."""
    ignored = _EVERYWHERE | set(PreTrainedConfig().to_dict()) | set(GenerationConfig().to_dict())
    unknown = sorted(key for key in set(part) - known - ignored if not key.startswith("_"))
    if unknown:
        raise ValueError(
            f"{name}: unknown entries {', '.join(unknown)}: the port cannot tell what they change; remove them from "
            "config.json, or pass config=XGenMMConfig(...) to from_pretrained."
        )


__all__ = [
    "MERGED_KEYS",
    "REFERENCE_IMAGE_TOKENS",
    "MergeVocabulary",
    "convert_reference_config",
    "is_reference_config",
    "reference_weight_conversion",
]
