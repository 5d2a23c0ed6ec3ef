"""Token layout: prompts with images to left-padded model inputs, answers behind them, and off again.

One row of L tokens with F frames, on the text axis of the processor, which is the model's own (transformers' processors
write every image out as its placeholder tokens):

    pad ... pad | system, frames, query | digit 0 ... digit F-1 | end of turn
                                          ^ answer_start          ^ last column, in every row

Rows end together even when they differ in F, so `logits_to_keep` can cut the answers out of a batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from hf_frameseg.batches.prompt_template import PromptTemplate
from hf_frameseg.digits import is_along_text

IGNORE_INDEX = -100  # label that transformers' causal language-modelling loss leaves out
TARGETS = "targets"
"""Key of a batch under which everything stands that is no input of the model: labels, targets, ids."""


def encode_prompts(
    processor: Any,
    prompt: PromptTemplate,
    queries: Sequence[str],
    frames: Sequence[np.ndarray],
    times_seconds: Sequence[Sequence[float]] | None = None,
) -> dict[str, torch.Tensor]:
    """Render and tokenize one prompt per query, left padded, without the answer.

    Left padding is asked for in this call (`padding_side="left"`) and checked; the tokenizer's own setting stays.

    Args:
        processor: Any multimodal processor of transformers with a chat template.
        prompt: The prompt.
        queries: B sentences.
        frames: B arrays (F, H, W, 3) uint8; F may differ between rows. A prompt with several pictures a window takes
            that many times F pictures.
        times_seconds: When each of the F frames is shown, B times (F,); needed by a prompt that tells it.

    Returns:
        The processor's tensors; the last column of `input_ids` (B, L) is the last prompt token of every row.

    Raises:
        ValueError: When the chat template does not interleave text and images, the processor does not write one group
            of image tokens per frame or merges more pictures than the prompt says, or it does not pad on the left, or
            the prompt lacks times.
    """
    texts = []
    num_frames = [prompt.num_frames(len(row)) for row in frames]
    times = [None] * len(queries) if times_seconds is None else times_seconds
    for query, count, row_times in zip(queries, num_frames, times, strict=True):
        messages = prompt.messages(query, count, row_times)
        texts.append(processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))
        if len(texts) == 1:
            _check_interleaved(texts[0], messages[-1]["content"])
    # The rule of `apply_chat_template(tokenize=True)`: a template that wrote the BOS token must not get a second one.
    bos = processor.tokenizer.bos_token
    encoded = processor(
        text=texts,
        **_shown(prompt, frames),
        padding=True,
        padding_side="left",
        add_special_tokens=not (bos and texts[0].startswith(bos)),
        return_tensors="pt",
    )
    batch = dict(encoded)
    if not bool(batch["attention_mask"][:, -1].all()):
        raise ValueError("the processor ignored padding_side='left': set processor.tokenizer.padding_side = 'left'")
    _check_frame_groups(processor, batch["input_ids"], num_frames, prompt)
    if prompt.is_one_video and "video_grid_thw" in batch:
        _check_merged(batch["video_grid_thw"][:, 0].tolist(), num_frames)
    return batch


def _shown(prompt: PromptTemplate, frames: Sequence[np.ndarray]) -> dict[str, Any]:
    """Return the argument of a processor that holds the frames."""
    if prompt.kind == "image":
        return {"images": [list(row) for row in frames]}
    if not prompt.is_one_video:
        size = prompt.pictures_per_window
        frames = [row[first : first + size] for row in frames for first in range(0, len(row), size)]
    return {"videos": list(frames), "do_sample_frames": False}


def model_inputs(batch: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Return what of a batch goes into the model, the answers included.

    Args:
        batch: A batch of `FrameSegmentationCollator`; left as it is.
    """
    return {key: value for key, value in batch.items() if key != TARGETS}


def drop_answers(batch: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Cut the answers off a collated batch: the inputs of `generate`.

    Args:
        batch: A batch of `FrameSegmentationCollator`, with answers or without; left as it is.

    Returns:
        The model inputs with left-padded prompts, without the targets.

    Example:
        >>> import torch
        >>> ids = torch.tensor([[9, 7, 7, 1, 0, 5], [7, 7, 7, 7, 1, 5]])  # answers "1 0 end" and "1 end"
        >>> batch = {"input_ids": ids, "attention_mask": (ids != 9).long()}
        >>> batch["targets"] = {"answer_start": torch.tensor([3, 4])}
        >>> drop_answers(batch)["attention_mask"].tolist()
        [[0, 0, 1, 1], [1, 1, 1, 1]]
    """
    out, targets = model_inputs(batch), batch.get(TARGETS, {})
    if "answer_start" not in targets:
        return out
    starts = targets["answer_start"].tolist()
    longest = max(starts)
    for key, value in out.items():
        if is_along_text(value, batch["input_ids"]):
            # The fill is hidden by the attention mask. Its id is the row's end id because some models count their image
            # tokens in `input_ids` without looking at the mask.
            fills = value[:, -1] if key == "input_ids" else torch.zeros_like(value[:, -1])
            cut = zip(value, starts, fills, strict=True)
            out[key] = torch.stack([torch.cat([fill.expand(longest - n), row[:n]]) for row, n, fill in cut])
    return out


def append_answers(
    batch: dict[str, torch.Tensor], inputs: list[list[int]], truths: list[list[int]], pad_id: int
) -> dict[str, Any]:
    """Lay rows out anew as pads, prompt, answer; `inputs` go into the ids, `truths` into the labels of `TARGETS`."""
    ids = batch["input_ids"]
    prompt_lengths = batch["attention_mask"].sum(dim=1).tolist()
    total = max(length + len(answer) for length, answer in zip(prompt_lengths, inputs, strict=True))
    labels = ids.new_full((len(inputs), total), IGNORE_INDEX)
    for row, truth in enumerate(truths):
        labels[row, total - len(truth) :] = torch.tensor(truth)
    out: dict[str, Any] = dict(batch)
    for key in [key for key, value in batch.items() if is_along_text(value, ids)]:
        laid = batch[key].new_full((len(inputs), total), pad_id if key == "input_ids" else 0)
        for row, (length, answer) in enumerate(zip(prompt_lengths, inputs, strict=True)):
            start = total - len(answer)
            laid[row, start - length : start] = batch[key][row, ids.shape[1] - length :]
            # Masks and token types go on as at the last prompt token, which is text like the answer.
            laid[row, start:] = torch.tensor(answer) if key == "input_ids" else batch[key][row, -1]
        out[key] = laid
    starts = torch.tensor([total - len(answer) for answer in inputs], dtype=torch.int64)
    return out | {TARGETS: {"labels": labels, "answer_start": starts}}


def _check_interleaved(text: str, content: list[dict[str, Any]]) -> None:
    """Refuse chat templates that gather the images in one place: "Frame 3:" would then stand before no image."""
    parts = ["".join(part["text"].split()) for part in content if part["type"] == "text"]
    if len(parts) > 2 and parts[0] and parts[1] and parts[0] + parts[1] in "".join(text.split()):
        raise ValueError(
            "the processor's chat template moves the images away from their frame lines: set processor.chat_template "
            "to one that keeps the order of text and images, or use a PromptTemplate with frame_line='{image}'"
        )


def _check_frame_groups(processor: Any, ids: torch.Tensor, num_frames: list[int], prompt: PromptTemplate) -> None:
    """Refuse a text whose image (or video) tokens cannot be one equal group (or several) per frame.

    All frames of a row have one size, hence the same number of tokens and of groups. Processors without an
    `image_token_id` (none of the multimodal chat models of transformers 5) cannot be checked.
    """
    token_id = getattr(processor, f"{prompt.kind}_token_id", None)
    if token_id is None:
        return
    image = ids == token_id
    starts = image.clone()
    starts[:, 1:] &= ~image[:, :-1]
    for tokens, groups, frames in zip(image.sum(1).tolist(), starts.sum(1).tolist(), num_frames, strict=True):
        if tokens == 0 or tokens % frames or (prompt.separates_frames and groups % frames):
            raise ValueError(
                f"expected {prompt.kind} tokens for {frames} frames, got {tokens} in {groups} group(s): the chat "
                f"template must write every {prompt.kind} of the message, and the query must not contain its token"
            )


def _check_merged(steps: list[int], num_frames: list[int]) -> None:
    """Refuse a processor that merges pictures of several frames into one step of time."""
    for found, frames in zip(steps, num_frames, strict=True):
        if found % frames:
            raise ValueError(
                f"expected a video of {frames} steps in time, one for each frame, got {found}: set the prompt's "
                "pictures_per_window to the number of pictures that the processor merges (2 for Qwen2-VL)"
            )
