"""Constrained decoding with plain `generate`: the mask and the digit logits along the chosen beam.

`generate(num_beams=K)` repeats the prompt K times and computes every copy (transformers issues 27449 and 45783), and
with 25 frames the prompt is nearly all of the work. So it is computed once here, by a `generate` of its own that stops
at once, and the beams start from its cache, repeated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers import DynamicCache

from hf_frameseg.decoding.logits_process import BinaryMaskLogitsProcessor
from hf_frameseg.labels import is_along_text

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hf_frameseg.labels import BinaryLabels

# A checkpoint's generation_config may carry processors of its own (Qwen2.5-VL ships repetition_penalty=1.05). A
# repetition penalty on a string of two digits would bend every score, so all of them are switched off by name.
_NO_OTHER_PROCESSORS: dict[str, Any] = {
    "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "min_length": 0,
    "min_new_tokens": None,
    "bad_words_ids": None,
    "sequence_bias": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "exponential_decay_length_penalty": None,
    "guidance_scale": None,
    "watermarking_config": None,
    "remove_invalid_values": False,
    "max_time": None,
    "stop_strings": None,
}

# With any other argument of `generate` (cache_implementation, custom_generate, ...) every beam computes its own prompt.
_SHARED_PROMPT_ARGUMENTS = {"length_penalty", "early_stopping", "stopping_criteria"}


@dataclass(frozen=True, eq=False)
class DecodedFrames:
    """Hold the decoded answers of a batch.

    Args:
        mask: Decoded digits, shape (B, F), bool.
        frame_logits: The model's own scores of `0` and `1` at every step of the chosen sequence, shape (B, F, 2),
            float32. Logits with one beam, log-probabilities over the vocabulary with several: the difference
            `[..., 1] - [..., 0]` is the same in both.
        sequence_scores: Sum of the answer's log-probabilities / length ** length_penalty, shape (B,); None with one
            beam, where `generate` keeps no normalised scores.
    """

    mask: torch.Tensor
    frame_logits: torch.Tensor
    sequence_scores: torch.Tensor | None


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

    Args:
        model: Any causal or image-text-to-text model of transformers, in evaluation mode.
        inputs: What `model.generate` takes, with left-padded `input_ids` and `attention_mask` of shape (B, L) that
            end where the answer begins.
        labels: Token ids of the answer.
        num_frames: Number of frames F, the same for all samples.
        num_beams: Number of beams K; 1 is greedy.
        share_prompt: Compute the prompt once for all beams: the same answer in less time
            (`benchmarks/beam_search.py`). Not done with other `generate_kwargs` than `length_penalty`,
            `early_stopping` and `stopping_criteria`, with a cache other than transformers' default, for prompts of one
            token or with an image at the end. False lets `generate` repeat the prompt: for models whose prompt tokens
            look ahead (PaliGemma's), which would miss the last one.
        **generate_kwargs: Further arguments of `generate`, except those that fix the answer's form.

    Returns:
        Mask, frame logits and sequence scores.

    Raises:
        ValueError: If the inputs are not left padded, an argument of `generate` is owned by this function, the
            model's digit logits are not finite, or a stopping criterion cut the answer short.
    """
    prompt_length = _check_prompt(inputs)
    fixed = {
        **_NO_OTHER_PROCESSORS,
        "logits_processor": [
            BinaryMaskLogitsProcessor(labels.digit_ids, labels.end_ids, num_frames, prompt_length, num_beams)
        ],
        "num_beams": num_beams,
        "num_return_sequences": 1,
        "max_new_tokens": num_frames + 1,
        "do_sample": False,
        "eos_token_id": list(labels.end_ids),
        "pad_token_id": labels.end_id,  # no row is ever padded: all answers have F + 1 tokens
        "return_dict_in_generate": True,
        "output_scores": True,
    }
    owned = sorted(fixed.keys() & generate_kwargs.keys())
    if owned:
        raise ValueError(f"generate_frame_logits fixes {', '.join(owned)} itself; leave them out of generate_kwargs")
    if share_prompt and num_beams > 1 and generate_kwargs.keys() <= _SHARED_PROMPT_ARGUMENTS:
        inputs = _with_shared_prompt(model, inputs, labels, num_beams)
    output = model.generate(**inputs, **fixed, **generate_kwargs)

    answer = output.sequences[:, prompt_length : prompt_length + num_frames]
    frame_logits = _scores_along_chosen_beam(output, labels, num_frames)
    return DecodedFrames(
        mask=torch.as_tensor(labels.mask_from_ids(answer), device=frame_logits.device),
        frame_logits=frame_logits,
        sequence_scores=getattr(output, "sequences_scores", None),
    )


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
    image_token_id = getattr(model.config, "image_token_id", None)
    ends_in_image = image_token_id is not None and bool((ids[:, -1] == image_token_id).any())
    if ends_in_image or not mask[:, :-1].any(dim=1).all() or model.generation_config.cache_implementation is not None:
        return inputs
    along_text = {key: value for key, value in inputs.items() if key == "attention_mask" or is_along_text(value, ids)}
    first = model.generate(
        **{**inputs, **{key: value[:, :-1] for key, value in along_text.items()}},
        **_NO_OTHER_PROCESSORS,
        max_new_tokens=1,  # chosen and thrown away: `generate` stops before it computes it
        num_beams=1,
        num_return_sequences=1,
        do_sample=False,
        use_cache=True,
        pad_token_id=labels.end_id,
        return_dict_in_generate=True,
    )
    cache = first.cache
    if not isinstance(cache, DynamicCache) or cache.get_seq_length() != ids.shape[1] - 1:
        return inputs
    cache.batch_repeat_interleave(num_beams)
    return {**along_text, "cache": cache}


def _scores_along_chosen_beam(output: Any, labels: BinaryLabels, num_frames: int) -> torch.Tensor:
    """Collect the digit scores from the rows that produced the chosen sequences, shape (B, F, 2)."""
    digits = torch.tensor(labels.digit_ids, device=output.scores[0].device)
    by_row = torch.stack([step.index_select(1, digits) for step in output.scores[:num_frames]], dim=1).float()
    if not torch.isfinite(by_row).all():  # before anything else: with nan scores beam search may end early
        raise ValueError("the model's digit logits are nan or inf; run it in float32 or bfloat16 and check its weights")
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
