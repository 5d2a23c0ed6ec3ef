"""Tests of constrained decoding on tiny random models, against brute force over all masks."""

from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch
from peft import PromptTuningConfig, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel
from transformers.generation import MaxLengthCriteria

from hf_frameseg.digits import BinaryLabels
from hf_frameseg.readout import generate_frame_logits

VOCABULARY, PAD = 20, 0
LABELS = BinaryLabels(zero_id=5, one_id=6, end_ids=(9,))
# The end id inside a prompt is normal (it closes every earlier turn) and must not end anything.
PROMPTS = ([3, 9, 12, 7], [11, 4, 9, 15, 8, 17, 2], [1, 6, 5, 5, 18])


def tiny_llama() -> PreTrainedModel:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=64,
            initializer_range=0.4,  # far from uniform: digits, beams and positions really differ
        )
    )


def tiny_gpt2() -> PreTrainedModel:
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=VOCABULARY, n_positions=64, n_embd=32, n_layer=2, n_head=4, initializer_range=0.4)
    )


@pytest.fixture(scope="module", params=[tiny_llama, tiny_gpt2], ids=["llama", "gpt2"])
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    torch.manual_seed(0)
    return request.param().eval()


@pytest.fixture(scope="module")
def llama() -> PreTrainedModel:
    torch.manual_seed(0)
    return tiny_llama().eval()


def left_padded(prompts: tuple[list[int], ...] = PROMPTS) -> dict[str, torch.Tensor]:
    """Return a left-padded batch of prompts."""
    longest = max(map(len, prompts))
    return {
        "input_ids": torch.tensor([[PAD] * (longest - len(prompt)) + prompt for prompt in prompts]),
        "attention_mask": torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]),
    }


@torch.no_grad()
def teacher_forced(model: PreTrainedModel, prompt: list[int], mask: tuple[bool, ...]) -> tuple[torch.Tensor, float]:
    """Return the model's digit logits (F, 2) along a mask and the log-probability of the whole answer."""
    answer = LABELS.answer_ids(mask)
    logits = model(torch.tensor([prompt + answer])).logits
    digit_logits = LABELS.frame_logits(logits, [len(prompt)], len(mask))[0]
    log_probs = logits[0, len(prompt) - 1 : -1].log_softmax(-1)
    return digit_logits, log_probs[range(len(answer)), answer].sum().item()


@torch.no_grad()
def reference_beam_search(model: PreTrainedModel, prompt: list[int], num_frames: int, num_beams: int) -> tuple:
    """Return the mask that a beam search without cache, padding or batching finds, and its log-probability."""

    def log_probs(digits: list[int]) -> torch.Tensor:
        return model(torch.tensor([prompt + digits])).logits[0, -1].log_softmax(-1)

    beams: list[tuple[float, list[int]]] = [(0.0, [])]
    for _ in range(num_frames):
        grown = [
            (score + next_log_probs[token].item(), [*digits, token])
            for score, digits in beams
            for next_log_probs in [log_probs(digits)]
            for token in LABELS.digit_ids
        ]
        beams = sorted(grown, reverse=True)[:num_beams]
    finished = [(score + log_probs(digits)[LABELS.end_id].item(), digits) for score, digits in beams]
    score, digits = max(finished)
    return tuple(token == LABELS.one_id for token in digits), score


def margin(frame_logits: torch.Tensor) -> torch.Tensor:
    """Return z1 - z0, which no per-step constant can change."""
    return frame_logits[..., 1] - frame_logits[..., 0]


@pytest.mark.parametrize("num_beams", [1, 2, 4, 8])
def test_frame_logits_are_the_models_own_along_the_chosen_sequence(model: PreTrainedModel, num_beams: int) -> None:
    decoded = generate_frame_logits(model, left_padded(), LABELS, num_frames=5, num_beams=num_beams)
    assert decoded.mask.shape == (3, 5)
    assert decoded.mask.dtype == torch.bool
    assert decoded.frame_logits.shape == (3, 5, 2)
    assert decoded.frame_logits.dtype == torch.float32
    for row, prompt in enumerate(PROMPTS):
        expected, log_prob = teacher_forced(model, prompt, tuple(decoded.mask[row].tolist()))
        torch.testing.assert_close(margin(decoded.frame_logits[row]), margin(expected), atol=1e-4, rtol=1e-4)
        if num_beams > 1:
            assert decoded.sequence_scores[row].item() == pytest.approx(log_prob / 6, abs=1e-4)


@pytest.mark.parametrize("num_beams", [1, 2, 4])
def test_same_mask_as_a_plain_beam_search(model: PreTrainedModel, num_beams: int) -> None:
    decoded = generate_frame_logits(model, left_padded(), LABELS, num_frames=6, num_beams=num_beams)
    for row, prompt in enumerate(PROMPTS):
        mask, log_prob = reference_beam_search(model, prompt, 6, num_beams)
        assert tuple(decoded.mask[row].tolist()) == mask
        if num_beams > 1:
            assert decoded.sequence_scores[row].item() == pytest.approx(log_prob / 7, abs=1e-4)


def test_enough_beams_find_the_best_of_all_masks(model: PreTrainedModel) -> None:
    decoded = generate_frame_logits(model, left_padded(), LABELS, num_frames=3, num_beams=8)
    for row, prompt in enumerate(PROMPTS):
        scores = {mask: teacher_forced(model, prompt, mask)[1] for mask in itertools.product((False, True), repeat=3)}
        best = max(scores, key=scores.__getitem__)
        assert tuple(decoded.mask[row].tolist()) == best
        assert decoded.sequence_scores[row].item() == pytest.approx(scores[best] / 4, abs=1e-4)


def test_greedy_takes_the_likelier_digit_at_every_step(model: PreTrainedModel) -> None:
    decoded = generate_frame_logits(model, left_padded(), LABELS, num_frames=5, num_beams=1)
    assert torch.equal(decoded.mask, margin(decoded.frame_logits) > 0)
    assert decoded.sequence_scores is None


@pytest.mark.parametrize("num_beams", [1, 2, 4])
def test_padded_batch_equals_single_runs(model: PreTrainedModel, num_beams: int) -> None:
    together = generate_frame_logits(model, left_padded(), LABELS, num_frames=5, num_beams=num_beams)
    for row, prompt in enumerate(PROMPTS):
        alone = generate_frame_logits(model, left_padded((prompt,)), LABELS, num_frames=5, num_beams=num_beams)
        assert torch.equal(alone.mask[0], together.mask[row])
        torch.testing.assert_close(alone.frame_logits[0], together.frame_logits[row], atol=1e-4, rtol=1e-4)


def test_the_chosen_sequence_changes_rows(llama: PreTrainedModel) -> None:
    # Without this the tests above could not tell `beam_indices` from reading the first row of each sample.
    decoded = generate_frame_logits(llama, left_padded(), LABELS, num_frames=6, num_beams=4)
    prompts = left_padded()
    answers = torch.where(decoded.mask, LABELS.one_id, LABELS.zero_id)
    output = llama.generate(
        **prompts,
        num_beams=4,
        max_new_tokens=7,
        do_sample=False,
        eos_token_id=LABELS.end_id,
        pad_token_id=LABELS.end_id,
        return_dict_in_generate=True,
        output_scores=True,
        prefix_allowed_tokens_fn=lambda _, ids: (
            list(LABELS.digit_ids) if len(ids) - prompts["input_ids"].shape[1] < 6 else [LABELS.end_id]
        ),
    )
    assert torch.equal(output.sequences[:, -7:-1], answers)
    first_rows = 4 * torch.arange(3)
    naive = torch.stack([step[first_rows][:, list(LABELS.digit_ids)] for step in output.scores[:6]], dim=1)
    assert not torch.allclose(margin(naive), margin(decoded.frame_logits), atol=1e-2)


@pytest.mark.parametrize(("num_frames", "num_beams"), [(1, 1), (1, 4), (2, 8), (30, 2)])
def test_any_number_of_frames_and_beams(llama: PreTrainedModel, num_frames: int, num_beams: int) -> None:
    decoded = generate_frame_logits(llama, left_padded(), LABELS, num_frames=num_frames, num_beams=num_beams)
    assert decoded.mask.shape == (3, num_frames)
    assert torch.isfinite(decoded.frame_logits).all()


def test_several_end_ids_compete_only_after_the_digits(llama: PreTrainedModel) -> None:
    labels = BinaryLabels(LABELS.zero_id, LABELS.one_id, end_ids=(9, 13, PAD))
    decoded = generate_frame_logits(llama, left_padded(), labels, num_frames=4, num_beams=2)
    for row, prompt in enumerate(PROMPTS):
        expected, _ = teacher_forced(llama, prompt, tuple(decoded.mask[row].tolist()))
        torch.testing.assert_close(margin(decoded.frame_logits[row]), margin(expected), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("num_beams", [1, 2])
def test_a_checkpoints_own_processors_do_not_bend_the_scores(llama: PreTrainedModel, num_beams: int) -> None:
    plain = generate_frame_logits(llama, left_padded(), LABELS, num_frames=5, num_beams=num_beams)
    original = llama.generation_config
    llama.generation_config = type(original).from_dict(
        {
            **original.to_dict(),
            "repetition_penalty": 1.7,
            "no_repeat_ngram_size": 2,
            "suppress_tokens": [LABELS.one_id],
            "bad_words_ids": [[LABELS.zero_id]],
            "min_new_tokens": 20,
            "forced_eos_token_id": 3,
            "do_sample": True,
            "temperature": 0.2,
            "eos_token_id": LABELS.zero_id,
            "pad_token_id": LABELS.one_id,
            "num_return_sequences": 2,
        }
    )
    try:
        decoded = generate_frame_logits(llama, left_padded(), LABELS, num_frames=5, num_beams=num_beams)
    finally:
        llama.generation_config = original
    assert torch.equal(decoded.mask, plain.mask)
    torch.testing.assert_close(decoded.frame_logits, plain.frame_logits)


def test_further_generate_arguments_pass_through(llama: PreTrainedModel) -> None:
    plain = generate_frame_logits(llama, left_padded(), LABELS, num_frames=4)
    summed = generate_frame_logits(llama, left_padded(), LABELS, num_frames=4, length_penalty=0.0, use_cache=False)
    assert torch.equal(summed.mask, plain.mask)
    torch.testing.assert_close(summed.sequence_scores, plain.sequence_scores * 5, atol=1e-4, rtol=1e-4)


def test_inputs_are_not_modified(llama: PreTrainedModel) -> None:
    inputs = left_padded()
    before = {name: tensor.clone() for name, tensor in inputs.items()}
    generate_frame_logits(llama, inputs, LABELS, num_frames=3)
    assert inputs.keys() == before.keys()
    assert all(torch.equal(inputs[name], before[name]) for name in before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_normalised_in_float32(llama: PreTrainedModel, dtype: torch.dtype) -> None:
    model = copy.deepcopy(llama).to(dtype)
    decoded = generate_frame_logits(model, left_padded(), LABELS, num_frames=5, num_beams=4, share_prompt=False)
    assert decoded.frame_logits.dtype == torch.float32
    steps = []
    model.lm_head.register_forward_hook(lambda module, args, output: steps.append(output[:, -1]))
    again = generate_frame_logits(model, left_padded(), LABELS, num_frames=5, num_beams=4, share_prompt=False)
    assert torch.equal(again.frame_logits, decoded.frame_logits)
    exact = [step.float().log_softmax(-1)[:, list(LABELS.digit_ids)] for step in steps[:5]]
    for row in range(len(PROMPTS)):
        for frame in range(5):  # one of the row's beams, to the last bit
            beams = exact[frame][4 * row : 4 * row + 4]
            assert (beams == decoded.frame_logits[row, frame]).all(dim=1).any()


class TestBadInput:
    def test_training_mode(self, llama: PreTrainedModel) -> None:
        model = copy.deepcopy(llama)
        model.model.layers[1].train()  # a part is enough for dropout
        with pytest.raises(ValueError, match="training mode.*model.eval"):
            generate_frame_logits(model, left_padded(), LABELS, num_frames=3)

    @pytest.mark.parametrize("num_beams", [0, -1, 257, 10**6])
    def test_number_of_beams(self, llama: PreTrainedModel, num_beams: int) -> None:
        with pytest.raises(ValueError, match=f"num_beams from 1 to 256, got {num_beams}"):
            generate_frame_logits(llama, left_padded(), LABELS, num_frames=3, num_beams=num_beams)

    def test_models_that_are_asked_otherwise(self, llama: PreTrainedModel) -> None:
        model = copy.copy(llama)
        model.config = copy.deepcopy(llama.config)
        model.config.is_encoder_decoder = True
        with pytest.raises(ValueError, match="expected a decoder-only model, got LlamaForCausalLM"):
            generate_frame_logits(model, left_padded(), LABELS, num_frames=3)
        prompted = get_peft_model(
            copy.deepcopy(llama), PromptTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM")
        ).eval()
        with pytest.raises(ValueError, match="adapter inside the model's layers.*PROMPT_TUNING"):
            generate_frame_logits(prompted, left_padded(), LABELS, num_frames=3)

    def test_right_padding(self, llama: PreTrainedModel) -> None:
        inputs = {name: tensor.flip(1) for name, tensor in left_padded().items()}
        with pytest.raises(ValueError, match="left-padded.*padding_side='left'"):
            generate_frame_logits(llama, inputs, LABELS, num_frames=3)

    def test_missing_attention_mask(self, llama: PreTrainedModel) -> None:
        with pytest.raises(ValueError, match="missing attention_mask"):
            generate_frame_logits(llama, {"input_ids": torch.tensor([[1, 2]])}, LABELS, num_frames=3)

    @pytest.mark.parametrize("name", ["max_new_tokens", "do_sample", "logits_processor", "eos_token_id"])
    def test_arguments_that_this_function_owns(self, llama: PreTrainedModel, name: str) -> None:
        with pytest.raises(ValueError, match=f"fixes {name} itself"):
            generate_frame_logits(llama, left_padded(), LABELS, num_frames=3, **{name: None})

    def test_no_frames(self, llama: PreTrainedModel) -> None:
        with pytest.raises(ValueError, match="num_frames >= 1"):
            generate_frame_logits(llama, left_padded(), LABELS, num_frames=0)

    @pytest.mark.parametrize("num_beams", [1, 2])
    def test_stopping_criteria_that_cut_the_answer(self, llama: PreTrainedModel, num_beams: int) -> None:
        with pytest.raises(ValueError, match="stopped after 2 of 5 digits"):
            generate_frame_logits(
                llama,
                left_padded(),
                LABELS,
                num_frames=5,
                num_beams=num_beams,
                stopping_criteria=[MaxLengthCriteria(left_padded()["input_ids"].shape[1] + 2)],
            )

    @pytest.mark.parametrize("num_beams", [1, 2])
    def test_broken_weights(self, num_beams: int) -> None:
        torch.manual_seed(0)
        broken = tiny_llama().eval()
        broken.name_or_path = "runs/br\x1boken"
        with torch.no_grad():
            broken.lm_head.weight[LABELS.one_id] = math.nan
        with pytest.raises(ValueError, match=r"digit logits of runs/br\\x1boken are nan or inf"):
            generate_frame_logits(broken, left_padded(), LABELS, num_frames=3, num_beams=num_beams)
