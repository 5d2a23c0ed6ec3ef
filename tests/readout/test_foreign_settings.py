"""Nothing that a checkpoint says about generation reaches the decoding of digits: every field, with hostile values."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from hf_frameseg.batches.encoding import encode_prompts
from hf_frameseg.batches.prompts import PROMPTS
from hf_frameseg.digits import BinaryLabels
from hf_frameseg.readout import DecodedFrames, generate_frame_logits

LABELS = BinaryLabels(zero_id=5, one_id=6, end_ids=(9,))
IDS = torch.tensor([[0, 0, 0, 3, 9, 12, 7], [11, 4, 9, 15, 8, 17, 2]])
INPUTS = {"input_ids": IDS, "attention_mask": (IDS != 0).long()}
NUM_FRAMES, BEAMS = 5, (1, 4)
WATERMARK = {"greenlist_ratio": 0.5, "bias": 9.0, "hashing_key": 7, "seeding_scheme": "lefthash", "context_width": 1}

HOSTILE: dict[str, list[Any]] = {
    "max_length": [2, 0, -1, "many"],
    "max_new_tokens": [1, 1000, -1],
    "min_length": [100, -1],
    "min_new_tokens": [100],
    "early_stopping": [True, "never", "maybe"],
    "max_time": [0.0, -1.0],
    "stop_strings": ["1", ["0", "1"]],
    "do_sample": [True, "yes"],
    "num_beams": [1, 3, 0, 10**6],
    "use_mtp": [True],
    "use_cache": [False],
    "cache_implementation": ["static", "offloaded", "quantized", "paged", "none of these"],
    "cache_config": [{"backend": "hqq", "nbits": 1}],
    "max_cache_len": [1],
    "temperature": [1e-3, 100.0, 0.0],
    "top_k": [1],
    "top_p": [1e-3],
    "min_p": [0.99],
    "top_h": [0.01],
    "typical_p": [0.01],
    "epsilon_cutoff": [0.9],
    "eta_cutoff": [0.9],
    "repetition_penalty": [1.7, 0.1, -1.0],
    "encoder_repetition_penalty": [5.0],
    "length_penalty": [-10.0, 50.0],
    "no_repeat_ngram_size": [1, 2],
    "bad_words_ids": [[[5]], [[6], [9]], []],
    "renormalize_logits": [True],
    "forced_bos_token_id": [6],
    "forced_eos_token_id": [5, [5, 6]],
    "remove_invalid_values": [True],
    "exponential_decay_length_penalty": [(0, 5.0)],
    "suppress_tokens": [[6], [5, 6, 9]],
    "begin_suppress_tokens": [[6]],
    "sequence_bias": [[[[6], -50.0]]],
    "token_healing": [True],
    "guidance_scale": [3.0],
    "watermarking_config": [WATERMARK],
    "num_return_sequences": [2, 0, 9],
    "output_attentions": [True],
    "output_hidden_states": [True],
    "output_scores": [False],
    "output_logits": [True],
    "return_dict_in_generate": [False],
    "pad_token_id": [6, -1, 10**9],
    "bos_token_id": [6],
    "eos_token_id": [5, [5, 6], -1],
    "encoder_no_repeat_ngram_size": [1],
    "decoder_start_token_id": [6],
    "is_assistant": [True],
    "num_assistant_tokens": [1],
    "num_assistant_tokens_schedule": ["constant"],
    "assistant_confidence_threshold": [1.0],
    "prompt_lookup_num_tokens": [3],
    "max_matching_ngram_size": [1],
    "assistant_early_exit": [1],
    "assistant_lookbehind": [1],
    "target_lookbehind": [1],
    "assistant_ensemble_weight": [0.5],
    "speculation_type": ["dflash"],
    "compile_config": [{"fullgraph": True}],
    "disable_compile": [True],
    "continuous_batching_config": [{"block_size": 1}],
    "low_memory": [True],
    "penalty_alpha": [0.9],
    "dola_layers": ["high"],
    "diversity_penalty": [1.0],
    "num_beam_groups": [2],
    "constraints": [[1]],
    "force_words_ids": [[[6]]],
    "prefill_chunk_size": [2],
    "transformers_version": ["0.0.1", 7],
    # What `generation_config.json` may name besides: it becomes an attribute, methods included.
    "custom_generate": ["somebody/something"],
    "trust_remote_code": [True],
    "validate": [1],
    "get_generation_mode": ["never"],
    "update": [{}],
}
# `validate` and `update` are methods of a configuration; transformers refuses `output_attentions` in one by itself.
IN_CONFIG = [*sorted(HOSTILE.keys() - {"validate", "update", "output_attentions"}), "return_dict"]
CASES = [(field, value) for field, values in HOSTILE.items() for value in values]


@pytest.fixture(scope="module")
def llama() -> PreTrainedModel:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=20,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.4,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def expected(llama: PreTrainedModel) -> dict[int, DecodedFrames]:
    """The answers of a model whose generation settings are transformers' own."""
    return {num_beams: decode(llama, num_beams) for num_beams in BEAMS}


def decode(model: PreTrainedModel, num_beams: int) -> DecodedFrames:
    return generate_frame_logits(model, INPUTS, LABELS, NUM_FRAMES, num_beams)


def assert_same(found: DecodedFrames, expected: DecodedFrames) -> None:
    assert torch.equal(found.mask, expected.mask)
    assert torch.equal(found.frame_logits, expected.frame_logits)
    if expected.sequence_scores is not None:
        assert torch.equal(found.sequence_scores, expected.sequence_scores)


def test_every_field_of_transformers_is_tried() -> None:
    fields = {name for name in vars(GenerationConfig()) if not name.startswith("_")}
    assert fields - HOSTILE.keys() == set()


@pytest.mark.parametrize(("field", "value"), CASES, ids=[f"{field}={value!r:.30}" for field, value in CASES])
def test_a_generation_config_does_not_change_the_decode(
    llama: PreTrainedModel, expected: dict[int, DecodedFrames], field: str, value: Any
) -> None:
    model = with_settings(llama, {field: value})
    before = copy.deepcopy(vars(model.generation_config))
    for num_beams in BEAMS:
        assert_same(decode(model, num_beams), expected[num_beams])
    assert vars(model.generation_config) == before  # it is not ours to change either


def test_all_fields_at_once(llama: PreTrainedModel, expected: dict[int, DecodedFrames]) -> None:
    model = with_settings(llama, {field: values[0] for field, values in HOSTILE.items()})
    for num_beams in BEAMS:
        assert_same(decode(model, num_beams), expected[num_beams])


def with_settings(model: PreTrainedModel, settings: dict[str, Any]) -> PreTrainedModel:
    """The same weights with another generation config, whose values nothing has checked."""
    model = copy.copy(model)
    model.generation_config = copy.deepcopy(model.generation_config)
    for field, value in settings.items():
        setattr(model.generation_config, field, value)
    return model


@pytest.mark.parametrize("field", IN_CONFIG)
def test_a_models_own_config_does_not_change_it_either(
    llama: PreTrainedModel, expected: dict[int, DecodedFrames], field: str
) -> None:
    """Older checkpoints keep such settings in `config.json`."""
    model = copy.copy(llama)
    model.config = copy.deepcopy(llama.config)
    setattr(model.config, field, HOSTILE.get(field, [False])[0])
    for num_beams in BEAMS:
        assert_same(decode(model, num_beams), expected[num_beams])


@pytest.mark.parametrize("kind", ["xgenmm", "llava", "qwen2vl"])
@pytest.mark.parametrize("field", ["use_cache", "renormalize_logits", "length_penalty", "max_length"])
def test_models_that_see_frames_and_share_the_prompt(request: pytest.FixtureRequest, kind: str, field: str) -> None:
    get = request.getfixturevalue
    model, processor = {
        "xgenmm": lambda: (get("tiny_model"), get("tiny_processor")),
        "llava": lambda: (get("tiny_llava_model"), get("make_llava_processor")()),
        "qwen2vl": lambda: (get("tiny_qwen_model"), get("tiny_qwen_processor")),
    }[kind]()
    frames = np.random.default_rng(0).integers(256, size=(2, NUM_FRAMES, 16, 16, 3), dtype=np.uint8)
    inputs = encode_prompts(processor, PROMPTS["compact"], ["a dog", "a red circle that moves"], list(frames))
    labels = BinaryLabels.from_tokenizer(processor.tokenizer)
    foreign = with_settings(model, {field: HOSTILE[field][0]})
    foreign.config = copy.deepcopy(model.config)
    foreign.config.use_cache = False
    found, expected = (generate_frame_logits(one, inputs, labels, NUM_FRAMES, 4) for one in (foreign, model))
    assert_same(found, expected)


def test_an_adapters_own_settings_and_its_bases_do_not_change_it(
    llama: PreTrainedModel, expected: dict[int, DecodedFrames]
) -> None:
    from peft import LoraConfig, get_peft_model

    settings = {field: HOSTILE[field][0] for field in ("use_cache", "renormalize_logits", "num_beams", "eos_token_id")}
    base = with_settings(copy.deepcopy(llama), settings)
    adapted = get_peft_model(base, LoraConfig(r=1, target_modules=["q_proj"])).eval()  # B is 0: the base's answers
    adapted.generation_config = copy.deepcopy(base.generation_config)
    for num_beams in BEAMS:
        assert_same(decode(adapted, num_beams), expected[num_beams])
    assert base.generation_config.num_beams == 1
    assert base.generation_config.eos_token_id == 5
