"""Tests of the logits processor: what is allowed at each step, and that nothing else changes."""

from __future__ import annotations

import math

import pytest
import torch

from hf_frameseg.readout import BinaryMaskLogitsProcessor

ZERO, ONE, END, OTHER_END = 4, 7, 2, 9
VOCABULARY = 11
PROMPT_LENGTH = 5


def processor(num_frames: int | torch.Tensor, num_beams: int = 1, end_ids: tuple[int, ...] = (END,)):
    return BinaryMaskLogitsProcessor((ZERO, ONE), end_ids, num_frames, PROMPT_LENGTH, num_beams)


def step_inputs(rows: int, step: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return tokens of a prompt and `step` digits, and random scores, for `rows` rows."""
    generator = torch.Generator().manual_seed(seed)
    input_ids = torch.randint(0, VOCABULARY, (rows, PROMPT_LENGTH + step), generator=generator)
    return input_ids, torch.randn(rows, VOCABULARY, generator=generator)


def allowed_ids(scores: torch.Tensor) -> list[set[int]]:
    """Return the ids each row may still choose."""
    return [set(torch.isfinite(row).nonzero().flatten().tolist()) for row in scores]


@pytest.mark.parametrize("rows", [1, 2, 12])
@pytest.mark.parametrize("num_frames", [1, 3])
def test_digits_for_every_frame_then_only_the_end(rows: int, num_frames: int) -> None:
    process = processor(num_frames)
    for step in range(num_frames + 4):
        allowed = allowed_ids(process(*step_inputs(rows, step)))
        assert allowed == [{ZERO, ONE} if step < num_frames else {END}] * rows


def test_all_end_ids_may_end() -> None:
    assert allowed_ids(processor(2, end_ids=(END, OTHER_END))(*step_inputs(1, 2))) == [{END, OTHER_END}]


@pytest.mark.parametrize("step", [0, 2, 3, 7])
def test_pure(step: int) -> None:
    process = processor(3)
    input_ids, scores = step_inputs(4, step)
    ids_before, scores_before = input_ids.clone(), scores.clone()
    first = process(input_ids, scores)
    assert torch.equal(input_ids, ids_before)
    assert torch.equal(scores, scores_before)
    assert first.data_ptr() != scores.data_ptr()
    process(*step_inputs(2, 5))  # another call in between leaves no trace
    assert torch.equal(process(input_ids, scores), first)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_allowed_scores_pass_unchanged(dtype: torch.dtype) -> None:
    input_ids, scores = step_inputs(3, 1)
    scores = scores.to(dtype)
    out = processor(2)(input_ids, scores)
    assert out.dtype == dtype
    assert torch.equal(out[:, [ZERO, ONE]], scores[:, [ZERO, ONE]])
    others = [token for token in range(VOCABULARY) if token not in (ZERO, ONE)]
    assert (out[:, others] == -math.inf).all()


def test_prompt_content_and_padding_do_not_matter() -> None:
    input_ids, scores = step_inputs(2, 1)
    padded = input_ids.clone()
    padded[0, :3] = ZERO  # digits in the prompt are not counted
    padded[1, :4] = END
    process = processor(2)
    assert torch.equal(process(padded, scores), process(input_ids, scores))


def test_frames_per_sample_with_beams() -> None:
    process = processor(torch.tensor([1, 3]), num_beams=2)
    expected = [
        [{ZERO, ONE}] * 4,
        [{END}, {END}, {ZERO, ONE}, {ZERO, ONE}],
        [{END}, {END}, {ZERO, ONE}, {ZERO, ONE}],
        [{END}] * 4,
    ]
    for step, allowed in enumerate(expected):
        assert allowed_ids(process(*step_inputs(4, step))) == allowed


def test_wrong_number_of_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="expected 4 rows.*num_beams"):
        processor(torch.tensor([1, 3]), num_beams=2)(*step_inputs(2, 0))


def test_fewer_tokens_than_the_prompt_are_refused() -> None:
    with pytest.raises(ValueError, match="prompt_length=5.*inputs_embeds"):
        processor(2)(torch.zeros(1, 3, dtype=torch.long), torch.zeros(1, VOCABULARY))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((4,), (2,), 3, 5), "two digit ids"),
        (((4, 7), (), 3, 5), "at least one end id"),
        (((4, 7), (2,), 0, 5), "num_frames >= 1"),
        (((4, 7), (2,), torch.tensor([3, 0]), 5), "num_frames >= 1"),
        (((4, 7), (2,), 3, -1), "prompt_length >= 0"),
        (((4, 7), (2,), 3, 5, 0), "num_beams >= 1"),
    ],
)
def test_bad_arguments_are_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BinaryMaskLogitsProcessor(*arguments)
