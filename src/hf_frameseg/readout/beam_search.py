"""Constrained decoding with plain `generate`: the mask and the digit logits along the chosen beam.

`generate(num_beams=K)` repeats the prompt K times and computes every copy (transformers issues 27449 and 45783), and
with 25 frames the prompt is nearly all of the work. So it is computed once here, by a `generate` of its own that stops
at once, and the beams start from its cache, repeated.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from transformers import DynamicCache, GenerationConfig

from hf_frameseg._text import printable
from hf_frameseg.digits import is_along_text
from hf_frameseg.readout import MAX_BEAMS
from hf_frameseg.readout.decoded_frames import DecodedFrames
from hf_frameseg.readout.logits_process import BinaryMaskLogitsProcessor

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hf_frameseg.digits import BinaryLabels

# What the caller may set of transformers' `GenerationConfig`. All else is ours or transformers' own default, whatever
# the checkpoint says. Its settings are made for talking: a repetition penalty (Qwen2.5-VL ships 1.05) would bend every
# score of a string of two digits, and `use_cache=False`, which training with checkpointing leaves behind, mix up beams.
_CALLERS_SETTINGS = {
    "length_penalty",
    "early_stopping",
    "use_cache",
    "cache_implementation",
    "cache_config",
    "prefill_chunk_size",
    "disable_compile",
    "compile_config",
}
_FIXED_ARGUMENTS = {name for name in vars(GenerationConfig()) if not name.startswith("_")} - _CALLERS_SETTINGS
_FIXED_ARGUMENTS |= {"generation_config", "logits_processor", "prefix_allowed_tokens_fn"}

# With any other argument of `generate` (cache_implementation, custom_generate, ...) every beam computes its own prompt.
_SHARED_PROMPT_ARGUMENTS = {"length_penalty", "early_stopping", "stopping_criteria"}


def generate_frame_logits(
    model: PreTrainedModel,
    inputs: Mapping[str, torch.Tensor],
    labels: BinaryLabels,
    num_frames: int,
    num_beams: int = 2,
    *,
    share_prompt: bool = True,
    **generate_kwargs: Any,
) -> DecodedFrames:
    """Decode one digit per frame and return the digit logits along the chosen beam.

    A later beam can overtake: the best final sequence may have lived in another row at an earlier step. The logits
    are therefore collected through `beam_indices`, from the row that really produced each digit (arXiv "Moment and
    Highlight Detection via MLLM Frame Segmentation", section III: beam search with 2 beams, saliency from the
    probabilities along the best beam).

    The checkpoint's own settings of generation (`generation_config.json`, and those that older ones keep in
    `config.json`) play no part, and are left as they are.

    Args:
        model: Any causal or image-text-to-text model of transformers, in evaluation mode, with an adapter inside its
            layers (LoRA and its relatives) or none.
        inputs: What `model.generate` takes, with left-padded `input_ids` and `attention_mask` of shape (B, L) that
            end where the answer begins.
        labels: Token ids of the answer.
        num_frames: Number of frames F, the same for all samples.
        num_beams: Number of beams K, up to `MAX_BEAMS`; 1 is greedy.
        share_prompt: Compute the prompt once for all beams: the same answer in less time
            (`benchmarks/beam_search.py`). Not done with other `generate_kwargs` than `length_penalty`,
            `early_stopping` and `stopping_criteria`, with a cache other than transformers' default, for prompts of one
            token or with an image at the end. False lets `generate` repeat the prompt: for models whose prompt tokens
            look ahead, and would miss the last one.
        **generate_kwargs: Further arguments of `generate`, except those that fix the answer's form.

    Returns:
        Mask, frame logits and sequence scores.

    Raises:
        ValueError: If the inputs are not left padded, the model is in training mode or of another kind, an argument is
            out of range or fixed here, the model's digit logits are not finite, or a stopping criterion cut the answer
            short.
    """
    if not 1 <= num_beams <= MAX_BEAMS:
        raise ValueError(f"expected num_beams from 1 to {MAX_BEAMS}, got {num_beams}")
    if fixed := sorted(_FIXED_ARGUMENTS & generate_kwargs.keys()):
        raise ValueError(f"generate_frame_logits fixes {', '.join(fixed)} itself; leave them out of generate_kwargs")
    model = _with_default_settings(model)
    prompt_length = _check_prompt(inputs)
    settings = GenerationConfig(
        num_beams=num_beams,
        num_return_sequences=1,
        max_new_tokens=num_frames + 1,
        do_sample=False,
        eos_token_id=list(labels.end_ids),
        pad_token_id=labels.end_id,  # no row is ever padded: all answers have F + 1 tokens
        return_dict_in_generate=True,
        output_scores=True,
        **{name: value for name, value in generate_kwargs.items() if name in _CALLERS_SETTINGS},
    )
    digits_only = BinaryMaskLogitsProcessor(labels.digit_ids, labels.end_ids, num_frames, prompt_length, num_beams)
    if share_prompt and num_beams > 1 and generate_kwargs.keys() <= _SHARED_PROMPT_ARGUMENTS:
        inputs = _with_shared_prompt(model, inputs, labels, num_beams)
    output = model.generate(
        **inputs,
        generation_config=settings,
        logits_processor=[digits_only],
        **{name: value for name, value in generate_kwargs.items() if name not in _CALLERS_SETTINGS},
    )
    answer = output.sequences[:, prompt_length : prompt_length + num_frames]
    frame_logits = _scores_along_chosen_beam(output, labels, num_frames, _name_of(model))
    return DecodedFrames(
        mask=torch.as_tensor(labels.mask_from_ids(answer), device=frame_logits.device),
        frame_logits=frame_logits,
        sequence_scores=getattr(output, "sequences_scores", None),
    )


def _with_default_settings(model: PreTrainedModel) -> PreTrainedModel:
    """Return another face of the same weights, without the checkpoint's settings of generation.

    `generate` takes from `model.generation_config` whatever it is not given, and passing None counts as not given.
    """
    if any(module.training for module in model.modules()):
        raise ValueError(
            "the model is in training mode, where dropout makes another answer each time: call model.eval()"
        )
    if hasattr(model, "get_base_model"):  # a PEFT model's own `generate` writes its settings into the model inside
        if model.active_peft_config.is_prompt_learning:
            raise ValueError(
                f"expected an adapter inside the model's layers, such as LoRA, got {model.active_peft_config.peft_type}"
                ", which puts tokens before the prompt"
            )
        model = model.get_base_model()
    model = copy.copy(
        getattr(model, "_orig_mod", model)
    )  # `torch.compile` hides it; `generate` runs it as it is anyway
    if model.config.is_encoder_decoder:
        raise ValueError(f"expected a decoder-only model, got {_name_of(model)}, whose prompt goes into an encoder")
    model.generation_config = GenerationConfig()
    return model


def _name_of(model: PreTrainedModel) -> str:
    """Return where a model was loaded from, or its kind."""
    return printable(getattr(model, "name_or_path", "") or type(model).__name__)


def _check_prompt(inputs: Mapping[str, torch.Tensor]) -> int:
    """Return the prompt's length after checking that every row ends where its answer begins."""
    missing = [name for name in ("input_ids", "attention_mask") if name not in inputs]
    if missing:
        raise ValueError(f"expected input_ids and attention_mask in inputs, missing {', '.join(missing)}")
    if not inputs["attention_mask"][:, -1].all():
        raise ValueError("expected left-padded prompts, got padding in the last column; use padding_side='left'")
    return inputs["input_ids"].shape[1]


def _with_shared_prompt(
    model: PreTrainedModel, inputs: Mapping[str, torch.Tensor], labels: BinaryLabels, num_beams: int
) -> Mapping[str, Any]:
    """Return the inputs of text with the cache of all tokens but the last, or the same inputs where that cannot be."""
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    visual = [getattr(model.config, f"{kind}_token_id", None) for kind in ("image", "video")]
    ends_in_image = any(bool((ids[:, -1] == token).any()) for token in visual if token is not None)
    if ends_in_image or not mask[:, :-1].any(dim=1).all():
        return inputs
    along_text = {key: value for key, value in inputs.items() if key == "attention_mask" or is_along_text(value, ids)}
    settings = GenerationConfig(
        max_new_tokens=1,  # chosen and thrown away: `generate` stops before it computes it
        do_sample=False,
        use_cache=True,
        pad_token_id=labels.end_id,
        return_dict_in_generate=True,
    )
    prompt = {key: value[:, :-1] for key, value in along_text.items()}
    first = model.generate(**{**inputs, **prompt}, generation_config=settings)
    cache = first.cache
    if not isinstance(cache, DynamicCache) or cache.get_seq_length() != ids.shape[1] - 1:
        return inputs
    cache.batch_repeat_interleave(num_beams)
    return {**along_text, "cache": cache}


def _scores_along_chosen_beam(output: Any, labels: BinaryLabels, num_frames: int, name: str) -> torch.Tensor:
    """Collect the digit scores from the rows that produced the chosen sequences, shape (B, F, 2)."""
    digits = torch.tensor(labels.digit_ids, device=output.scores[0].device)
    by_row = torch.stack([step.index_select(1, digits) for step in output.scores[:num_frames]], dim=1).float()
    if not torch.isfinite(by_row).all():  # before anything else: with nan scores beam search may end early
        raise ValueError(f"the digit logits of {name} are nan or inf; run it in float32 or bfloat16, check its weights")
    if by_row.shape[1] < num_frames:
        raise ValueError(
            f"generation stopped after {by_row.shape[1]} of {num_frames} digits; "
            "leave stopping criteria out of generate_kwargs"
        )
    beam_indices = getattr(output, "beam_indices", None)
    if beam_indices is None:
        return by_row
    rows = beam_indices[:, :num_frames].to(by_row.device, torch.long)  # flat rows b*K + k
    return by_row[rows, torch.arange(num_frames, device=by_row.device)]
