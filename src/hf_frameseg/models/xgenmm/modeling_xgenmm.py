"""xGen-MM (BLIP-3): SigLIP patches -> Perceiver resampler per image -> Phi-3 with a biased head."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache
from transformers.generation import GenerationMixin
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, BaseModelOutputWithPooling, CausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel, slice_logits_to_keep
from transformers.utils import can_return_tuple, torch_compilable_check

from .configuration_xgenmm import XGenMMConfig, XGenMMResamplerConfig
from .convert_xgenmm import MERGED_KEYS


@dataclass
class XGenMMModelOutputWithPast(BaseModelOutputWithPast):
    """Hold the language model's output and the image tokens it read.

    Args:
        image_hidden_states: (N, K, D) resampled tokens of the N images, None without images.
    """

    image_hidden_states: torch.FloatTensor | None = None


@dataclass
class XGenMMCausalLMOutputWithPast(CausalLMOutputWithPast):
    """Hold loss, logits (B, L, V), cache and the image tokens.

    Args:
        image_hidden_states: (N, K, D) resampled tokens of the N images, None without images.
    """

    image_hidden_states: torch.FloatTensor | None = None


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attend with plain matrix products, softmax in float32: (N, heads, K, d) -> (N, K, heads, d)."""
    weights = torch.matmul(query, key.transpose(2, 3)) * scaling
    weights = weights.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


class XGenMMPerceiverAttention(nn.Module):
    """Let the latents attend to the image patches and to themselves."""

    def __init__(self, config: XGenMMResamplerConfig) -> None:
        super().__init__()
        self.config = config
        self.head_dim = config.head_dim
        self.scaling = config.head_dim**-0.5
        self.is_causal = False
        inner_size = config.num_attention_heads * config.head_dim
        self.norm_media = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.norm_latents = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.q_proj = nn.Linear(config.hidden_size, inner_size, bias=False)
        self.kv_proj = nn.Linear(config.hidden_size, 2 * inner_size, bias=False)
        self.out_proj = nn.Linear(inner_size, config.hidden_size, bias=False)

    def forward(self, latents: torch.Tensor, media: torch.Tensor) -> torch.Tensor:
        """Return the update (N, K, D) of `latents` (N, K, D) from `media` (N, P, D), before the residual."""
        latents = self.norm_latents(latents)
        context = torch.cat([self.norm_media(media), latents], dim=1)
        key, value = self.kv_proj(context).chunk(2, dim=-1)
        query, key, value = (
            states.unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for states in (self.q_proj(latents), key, value)
        )
        attend: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        attended, _ = attend(self, query, key, value, None, scaling=self.scaling, dropout=0.0, is_causal=False)
        return self.out_proj(attended.flatten(2))


class XGenMMPerceiverMLP(nn.Module):
    """Apply norm, widen, erf GELU, narrow."""

    def __init__(self, config: XGenMMResamplerConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.activation_fn = ACT2FN[config.hidden_act]
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Return the update (N, K, D), before the residual."""
        return self.fc2(self.activation_fn(self.fc1(self.norm(hidden_states))))


class XGenMMPerceiverLayer(GradientCheckpointingLayer):
    """Update the latents by attention, then by the feed-forward part; the media stay as they are."""

    def __init__(self, config: XGenMMResamplerConfig) -> None:
        super().__init__()
        self.attn = XGenMMPerceiverAttention(config)
        self.mlp = XGenMMPerceiverMLP(config)

    def forward(self, latents: torch.Tensor, media: torch.Tensor) -> torch.Tensor:
        """Return the new latents (N, K, D)."""
        latents = latents + self.attn(latents, media)  # the residual is the un-normalised latents
        return latents + self.mlp(latents)


def _refuse_incomplete_loading(model: nn.Module, source: Any, info: dict[str, Any], allow_mismatched: bool) -> None:
    """Raise with the list of all weights that found no place, or whose place stayed empty."""
    unexpected = set(info["unexpected_keys"])
    if not hasattr(model, "lm_head"):  # the base model, rightly without the head
        unexpected = {key for key in unexpected if not key.startswith("lm_head.")}
    mismatched = [] if allow_mismatched else sorted(info["mismatched_keys"])
    halves = {key: " with ".join(f"lang_model.{name}" for name in names) for key, names in MERGED_KEYS.items()}
    problems = [
        f"missing {name}" + (f" (in the Hub's layout {halves[name]})" if name in halves else "")
        for name in _grouped(info["missing_keys"])
    ]
    problems += [f"unexpected {name}" for name in _grouped(unexpected)]
    problems += [f"{key} has shape {tuple(found)}, expected {tuple(own)}" for key, found, own in mismatched]
    if problems:
        raise ValueError(
            f"The checkpoint {source} does not fit {type(model).__name__}: {'; '.join(problems)}. Expected the layout "
            "that save_pretrained writes, or the Hub's of xGen-MM (vlm.*, or without that prefix): check that all "
            "files are there and that config.json belongs to them."
        )


def _grouped(keys: Iterable[str]) -> list[str]:
    """Write keys that differ only in their layer's number as one, with all the numbers."""
    groups: dict[str, list[str]] = {}
    for key in keys:
        number = re.search(r"(?<=\.)\d+(?=\.)", key)
        pattern = key if number is None else f"{key[: number.start()]}{{}}{key[number.end() :]}"
        groups.setdefault(pattern, []).extend([number[0]] if number else [])
    return [
        pattern.replace("{}", numbers[0] if len(numbers) == 1 else f"{{{','.join(sorted(numbers, key=int))}}}")
        for pattern, numbers in sorted((pattern, numbers or [""]) for pattern, numbers in groups.items())
    ]


class XGenMMPreTrainedModel(PreTrainedModel):
    """Share loading, saving and weight initialisation between the xGen-MM models."""

    config_class = XGenMMConfig
    base_model_prefix = "model"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _no_split_modules = ["XGenMMPerceiverLayer"]
    _skip_keys_device_placement = ["cache"]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_attention_backend = True

    # SigLIP's attention pooling: in the Hub's file, and nobody reads its output. Dropped on purpose, never silently
    # with something else: from_pretrained refuses every other key without a place.
    _keys_to_ignore_on_load_unexpected = [r"^model\.vision_tower\.head\."]

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike | None,
        *args: Any,
        output_loading_info: bool = False,
        ignore_mismatched_sizes: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Load weights in the port's layout or, for the model with its head, in the reference's; see `PreTrainedModel`.

        Args:
            pretrained_model_name_or_path: Folder or Hub repository.
            *args: As in `PreTrainedModel.from_pretrained`.
            output_loading_info: Whether to return (model, loading info).
            ignore_mismatched_sizes: Whether weights of another shape may stay freshly drawn.
            **kwargs: As in `PreTrainedModel.from_pretrained`.

        Returns:
            The model in evaluation mode.

        Raises:
            ValueError: If a weight is missing, left over or of another shape; the message lists all of them.
            OSError: If a file is cut or damaged.
        """
        try:
            model, info = super().from_pretrained(
                pretrained_model_name_or_path, *args, output_loading_info=True, ignore_mismatched_sizes=True, **kwargs
            )
        except Exception as error:
            if type(error).__name__ != "SafetensorError":  # by name: safetensors is not imported here
                raise
            raise OSError(
                f"Expected whole safetensors files in {pretrained_model_name_or_path}, got a cut or damaged one "
                f"({error}): compare the file sizes with their source and download again."
            ) from error
        _refuse_incomplete_loading(model, pretrained_model_name_or_path, info, ignore_mismatched_sizes)
        return (model, info) if output_loading_info else model

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
        """Save in the port's layout, wherever the weights came from; see `PreTrainedModel.save_pretrained`.

        Args:
            save_directory: Folder to write.
            *args: As in `PreTrainedModel.save_pretrained`.
            **kwargs: As in `PreTrainedModel.save_pretrained`, but `save_original_format` must not be True.

        Raises:
            ValueError: If the reference's layout is asked for.
        """
        if kwargs.pop("save_original_format", False):
            raise ValueError(
                "save_original_format must be False, got True: the port is saved in its own layout only, the merged "
                "vocabulary has lost the reference's dead rows."
            )
        super().save_pretrained(save_directory, *args, save_original_format=False, **kwargs)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Draw from N(0, config.initializer_range); vision tower and language model follow their own rules."""
        super()._init_weights(module)
        if isinstance(module, XGenMMPerceiverResampler):
            init.normal_(module.latents, mean=0.0, std=self.config.initializer_range or 0.02)


class XGenMMPerceiverResampler(XGenMMPreTrainedModel):
    """Turn the P patch features of each image into K tokens of the language model's width.

    Every image goes through alone: frames never mix here, and nothing marks a frame's number.

    Args:
        config: Shape of the resampler.
        output_size: Width of the tokens, `hidden_size` of the language model.
    """

    config_class = XGenMMResamplerConfig
    input_modalities = ("image",)

    def __init__(self, config: XGenMMResamplerConfig, output_size: int) -> None:
        super().__init__(config)
        self.latents = nn.Parameter(torch.empty(config.num_latents, config.hidden_size))
        self.layers = nn.ModuleList([XGenMMPerceiverLayer(config) for _ in range(config.num_hidden_layers)])
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.projection = nn.Linear(config.hidden_size, output_size)
        self.post_init()

    def forward(self, media: torch.Tensor) -> torch.Tensor:
        """Return (N, K, output_size) tokens of `media` (N, P, D)."""
        latents = self.latents.expand(media.shape[0], -1, -1)
        for layer in self.layers:
            latents = layer(latents, media)
        return self.projection(self.norm(latents))


class XGenMMModel(XGenMMPreTrainedModel):
    """Run vision tower, resampler and language model; return hidden states, no logits."""

    def __init__(self, config: XGenMMConfig) -> None:
        super().__init__(config)
        self.vision_tower = AutoModel.from_config(config.vision_config)
        self.resampler = XGenMMPerceiverResampler(config.resampler_config, config.text_config.hidden_size)
        self.language_model = AutoModel.from_config(config.text_config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Return the token embedding of the language model."""
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the token embedding of the language model."""
        self.language_model.set_input_embeddings(value)

    @can_return_tuple
    def get_image_features(self, pixel_values: torch.Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        """Encode images.

        Args:
            pixel_values: (N, 3, H, W) all images of the batch, sample after sample.
            **kwargs: `return_dict`.

        Returns:
            `last_hidden_state` (N, P, D_vision), after SigLIP's last LayerNorm, and `pooler_output` (N, K, D_text),
            the tokens that take the place of the K `<image>` ids of each image.
        """
        if pixel_values.ndim != 4:
            raise ValueError(
                f"pixel_values must be (images, channels, height, width), got shape {tuple(pixel_values.shape)}: "
                "flatten samples and frames with pixel_values.flatten(0, 1)."
            )
        vision = self.config.vision_config
        expected = (vision.num_channels, vision.image_size, vision.image_size)
        if tuple(pixel_values.shape[1:]) != expected:
            # Not left to the tower: a few pixels more give the same number of patches, of a picture cut at the edge.
            raise ValueError(
                f"pixel_values must hold images of {expected} (channels, height, width), got "
                f"{tuple(pixel_values.shape[1:])}: resize with XGenMMImageProcessor(size=...) of the model's size."
            )
        # A frozen tower needs no graph: without this its activations would be kept for nothing.
        needs_graph = pixel_values.requires_grad or any(p.requires_grad for p in self.vision_tower.parameters())
        with torch.set_grad_enabled(needs_graph and torch.is_grad_enabled()):
            features = self.vision_tower(pixel_values, return_dict=True).last_hidden_state
        return BaseModelOutputWithPooling(last_hidden_state=features, pooler_output=self.resampler(features))

    def get_placeholder_mask(
        self, input_ids: torch.Tensor | None, inputs_embeds: torch.Tensor, image_features: torch.Tensor
    ) -> torch.Tensor:
        """Return the (B, L, 1) positions that take image tokens, after checking that their number fits."""
        image_token_id = self.config.image_token_id
        if input_ids is None:
            token = torch.tensor(image_token_id, device=inputs_embeds.device)
            mask = (inputs_embeds == self.get_input_embeddings()(token)).all(-1)
        else:
            mask = input_ids == image_token_id
        expected = image_features.shape[0] * image_features.shape[1]
        torch_compilable_check(
            mask.sum() == expected,
            lambda: (
                f"Expected {expected} <image> ids (id {image_token_id}) for {image_features.shape[0]} images of "
                f"{image_features.shape[1]} tokens, got {int(mask.sum())}: expand the prompt with XGenMMProcessor and "
                "do not truncate it."
            ),
        )
        return mask.unsqueeze(-1)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        pixel_values: torch.FloatTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        use_cache: bool | None = None,
        mm_encoder_outputs: dict[str, BaseModelOutputWithPooling] | None = None,
        **kwargs: Any,
    ) -> XGenMMModelOutputWithPast:
        """Compute hidden states (B, L, D) of a batch whose `<image>` ids are already expanded.

        Args:
            input_ids: (B, L) token ids; exactly one of `input_ids` and `inputs_embeds`.
            pixel_values: (N, 3, H, W) all images of the batch, sample after sample; samples may differ in number.
            attention_mask: (B, L) 1 for tokens, 0 for padding.
            position_ids: (B, L) RoPE positions; default 0..L-1, padding included, which RoPE cannot tell from
                positions counted without padding.
            cache: Keys and values of earlier tokens.
            inputs_embeds: (B, L, D) embeddings; `<image>` rows must hold the embedding of `image_token_id`.
            use_cache: Whether to return the cache.
            mm_encoder_outputs: `{"image": get_image_features(...)}` instead of `pixel_values`; `generate` encodes
                the images once this way and repeats them per beam, sample by sample.
            **kwargs: Passed to the language model (`output_hidden_states`, `output_attentions`, ...).

        Returns:
            Hidden states, cache and image tokens.

        Raises:
            ValueError: If both or none of two alternatives are given, or images and `<image>` ids do not fit.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Expected exactly one of input_ids and inputs_embeds: pass one and leave the other None.")
        image_outputs = (mm_encoder_outputs or {}).get("image")
        if pixel_values is not None:
            if image_outputs is not None:
                raise ValueError("Expected pixel_values or mm_encoder_outputs, got both: pass one of them.")
            image_outputs = self.get_image_features(pixel_values, return_dict=True)
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        image_features = None
        if image_outputs is not None:
            image_features = image_outputs.pooler_output.to(inputs_embeds.device, inputs_embeds.dtype)
            mask = self.get_placeholder_mask(input_ids, inputs_embeds, image_features)
            inputs_embeds = inputs_embeds.masked_scatter(mask, image_features)
        outputs = self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=cache,
            use_cache=use_cache,
            **kwargs,
        )
        return XGenMMModelOutputWithPast(
            last_hidden_state=outputs.last_hidden_state,
            cache=outputs.cache,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            image_hidden_states=image_features,
        )


class XGenMMForConditionalGeneration(XGenMMPreTrainedModel, GenerationMixin):
    """xGen-MM with its language-model head (which, unlike Phi-3's own, has a bias).

    Example:
        >>> tiny = XGenMMConfig(
        ...     vision_config=dict(
        ...         image_size=16, patch_size=8, hidden_size=8, intermediate_size=16,
        ...         num_hidden_layers=1, num_attention_heads=2,
        ...     ),
        ...     resampler_config=dict(
        ...         hidden_size=8, intermediate_size=16, num_hidden_layers=1,
        ...         num_attention_heads=2, head_dim=4, num_latents=2,
        ...     ),
        ...     text_config=dict(
        ...         vocab_size=12, hidden_size=8, intermediate_size=16, num_hidden_layers=1,
        ...         num_attention_heads=2, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        ...     ),
        ...     image_token_id=3,
        ... )
        >>> model = XGenMMForConditionalGeneration(tiny)
        >>> model(input_ids=torch.tensor([[5, 3, 3, 6]]), pixel_values=torch.zeros(1, 3, 16, 16)).logits.shape
        torch.Size([1, 4, 12])
    """

    def __init__(self, config: XGenMMConfig) -> None:
        super().__init__(config)
        self.model = XGenMMModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=True)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Return the token embedding of the language model."""
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the token embedding of the language model."""
        self.model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        """Return the language-model head."""
        return self.lm_head

    def get_image_features(self, pixel_values: torch.Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        """Encode images; see `XGenMMModel.get_image_features`."""
        return self.model.get_image_features(pixel_values, **kwargs)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        pixel_values: torch.FloatTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        mm_encoder_outputs: dict[str, BaseModelOutputWithPooling] | None = None,
        **kwargs: Any,
    ) -> XGenMMCausalLMOutputWithPast:
        """Compute logits, and the next-token loss if `labels` are given; see `XGenMMModel.forward` for the rest.

        Args:
            input_ids: (B, L) token ids, `<image>` ids expanded.
            pixel_values: (N, 3, H, W) all images of the batch, sample after sample.
            attention_mask: (B, L) 1 for tokens, 0 for padding.
            position_ids: (B, L) RoPE positions.
            cache: Keys and values of earlier tokens.
            inputs_embeds: (B, L, D) embeddings instead of `input_ids`.
            labels: (B, L) ids, -100 where no loss is wanted; shifted by one inside. Needs all logits.
            use_cache: Whether to return the cache.
            logits_to_keep: 0 keeps all logits; k > 0 the last k positions; a (K,) tensor these positions, a (B, K)
                tensor these positions per sample. Logits then have K positions.
            mm_encoder_outputs: Encoded images instead of `pixel_values`.
            **kwargs: Passed to the language model and the loss (`num_items_in_batch`, ...).

        Returns:
            Loss, logits (B, L or K, V), cache and image tokens.

        Raises:
            ValueError: If `labels` come with fewer logits than labels.
        """
        outputs = self.model(
            input_ids=input_ids,
            pixel_values=pixel_values,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=cache,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            mm_encoder_outputs=mm_encoder_outputs,
            return_dict=True,
            **kwargs,
        )
        logits = self.lm_head(slice_logits_to_keep(outputs.last_hidden_state, logits_to_keep))
        loss = None
        if labels is not None:
            if labels.shape != logits.shape[:-1]:
                raise ValueError(
                    f"labels must have one entry per logit, got labels {tuple(labels.shape)} and logits "
                    f"{tuple(logits.shape[:-1])}: leave logits_to_keep at 0, or compute the loss from the kept logits."
                )
            loss = self.loss_function(
                logits=logits, labels=labels, vocab_size=self.config.text_config.vocab_size, **kwargs
            )
        return XGenMMCausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            cache=outputs.cache,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            image_hidden_states=outputs.image_hidden_states,
        )


__all__ = [
    "XGenMMCausalLMOutputWithPast",
    "XGenMMForConditionalGeneration",
    "XGenMMModel",
    "XGenMMModelOutputWithPast",
    "XGenMMPerceiverResampler",
    "XGenMMPreTrainedModel",
]
