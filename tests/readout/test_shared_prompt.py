"""Beams that share one computation of the prompt give the answers of beams that each compute their own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from hf_frameseg.batches.encoding import encode_prompts
from hf_frameseg.batches.prompts import PROMPTS
from hf_frameseg.digits import BinaryLabels
from hf_frameseg.readout import generate_frame_logits

NUM_FRAMES = 5
QUERIES = ["a dog", "a red circle that moves to and fro", "x"]


@pytest.fixture(scope="module", params=["xgenmm", "llava", "qwen2vl"])
def model_and_processor(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    get = request.getfixturevalue
    return {
        "xgenmm": lambda: (get("tiny_model"), get("tiny_processor")),
        "llava": lambda: (get("tiny_llava_model"), get("make_llava_processor")()),
        "qwen2vl": lambda: (get("tiny_qwen_model"), get("tiny_qwen_processor")),
    }[request.param]()


@pytest.fixture(scope="module")
def inputs(model_and_processor: tuple[Any, Any]) -> dict[str, torch.Tensor]:
    """Three queries of different length about different frames, left padded."""
    rng = np.random.default_rng(0)
    frames = [rng.integers(256, size=(NUM_FRAMES, 16, 16, 3), dtype=np.uint8) for _ in QUERIES]
    return encode_prompts(model_and_processor[1], PROMPTS["paper"], QUERIES, frames)


def decode(model_and_processor: tuple[Any, Any], inputs: dict[str, torch.Tensor], **options: Any) -> Any:
    model, processor = model_and_processor
    labels = BinaryLabels.from_tokenizer(processor.tokenizer)
    return generate_frame_logits(model, inputs, labels, NUM_FRAMES, **options)


@pytest.mark.parametrize("num_beams", [2, 4])
@pytest.mark.parametrize("options", [{}, {"length_penalty": 0.0}])
def test_the_answer_is_that_of_beams_with_a_prompt_each(
    model_and_processor: tuple[Any, Any], inputs: dict[str, torch.Tensor], num_beams: int, options: dict[str, Any]
) -> None:
    assert not inputs["attention_mask"].all()  # rows are padded
    shared = decode(model_and_processor, inputs, num_beams=num_beams, **options)
    apart = decode(model_and_processor, inputs, num_beams=num_beams, share_prompt=False, **options)
    assert torch.equal(shared.mask, apart.mask)
    torch.testing.assert_close(shared.frame_logits, apart.frame_logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(shared.sequence_scores, apart.sequence_scores, atol=1e-5, rtol=1e-5)
    assert shared.frame_logits.std(dim=0).max() > 1e-3  # rows and positions differ, so a mix-up would show


def tokens_computed(model: Any, run: Any) -> int:
    """Count the positions that go through the language model."""
    counted = []
    language_model = model.get_decoder()
    hook = language_model.register_forward_hook(
        lambda module, args, kwargs, output: counted.append(output.last_hidden_state.shape[:2].numel()),
        with_kwargs=True,
    )
    try:
        run()
    finally:
        hook.remove()
    return sum(counted)


@pytest.mark.parametrize("share", [True, False])
def test_the_prompt_is_computed_once(
    model_and_processor: tuple[Any, Any], inputs: dict[str, torch.Tensor], share: bool
) -> None:
    rows, length = inputs["input_ids"].shape
    run = lambda: decode(model_and_processor, inputs, num_beams=4, share_prompt=share)  # noqa: E731
    answer = 4 * rows * (NUM_FRAMES + 1)  # the last prompt token and the digits, of every beam
    prompt = (1 if share else 4) * rows * (length - 1)
    assert tokens_computed(model_and_processor[0], run) == prompt + answer


@pytest.mark.parametrize("options", [{"use_cache": False}, {"cache_implementation": "static"}, {"num_beams": 1}])
def test_other_arguments_leave_the_prompt_to_generate(
    model_and_processor: tuple[Any, Any], inputs: dict[str, torch.Tensor], options: dict[str, Any]
) -> None:
    expected = decode(model_and_processor, inputs, **{"num_beams": 2} | options, share_prompt=False)
    found = decode(model_and_processor, inputs, **{"num_beams": 2} | options)
    assert torch.equal(found.mask, expected.mask)
    assert torch.equal(found.frame_logits, expected.frame_logits)


def test_inputs_and_model_are_left_as_they_are(
    model_and_processor: tuple[Any, Any], inputs: dict[str, torch.Tensor]
) -> None:
    before = {name: tensor.clone() for name, tensor in inputs.items()}
    first = decode(model_and_processor, inputs, num_beams=2)
    again = decode(model_and_processor, inputs, num_beams=2)
    assert torch.equal(first.frame_logits, again.frame_logits)
    assert all(torch.equal(inputs[name], before[name]) for name in before)


def test_the_attention_mask_may_be_of_floats(
    model_and_processor: tuple[Any, Any], inputs: dict[str, torch.Tensor]
) -> None:
    expected = decode(model_and_processor, inputs, num_beams=2)
    found = decode(model_and_processor, inputs | {"attention_mask": inputs["attention_mask"].float()}, num_beams=2)
    torch.testing.assert_close(found.frame_logits, expected.frame_logits, atol=1e-5, rtol=1e-5)


def test_a_prompt_of_one_token_is_left_to_generate(tiny_model: Any, tiny_processor: Any) -> None:
    labels = BinaryLabels.from_tokenizer(tiny_processor.tokenizer)
    pad = tiny_processor.tokenizer.pad_token_id
    ids = torch.tensor([[pad, pad, 70], [70, 71, 72]])
    inputs = {"input_ids": ids, "attention_mask": (ids != pad).long()}
    shared, apart = (
        generate_frame_logits(tiny_model, inputs, labels, 3, num_beams=2, share_prompt=share) for share in (True, False)
    )
    assert torch.equal(shared.frame_logits, apart.frame_logits)


def test_a_prompt_that_ends_in_an_image_is_left_to_generate(tiny_model: Any, tiny_processor: Any) -> None:
    labels = BinaryLabels.from_tokenizer(tiny_processor.tokenizer)
    image = tiny_model.config.image_token_id
    inputs = {
        "input_ids": torch.tensor([[70, image, image]]),
        "attention_mask": torch.ones(1, 3, dtype=torch.long),
        "pixel_values": torch.zeros(1, 3, 16, 16),
    }
    shared, apart = (
        generate_frame_logits(tiny_model, inputs, labels, 3, num_beams=2, share_prompt=share) for share in (True, False)
    )
    assert torch.equal(shared.frame_logits, apart.frame_logits)
