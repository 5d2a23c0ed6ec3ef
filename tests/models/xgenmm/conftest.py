"""A tiny tokenizer and a tiny random model, built in memory."""

from __future__ import annotations

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from hf_frameseg.models.xgenmm import (
    XGenMMConfig,
    XGenMMForConditionalGeneration,
    XGenMMImageProcessor,
    XGenMMProcessor,
)

WORDS = ["<pad>", "<|endoftext|>", "<unk>", "0", "1", "Frame", ":", "red", "circle"]
SPECIAL = ["<image>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]
IMAGE_SIZE = 32


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """Split on spaces; `<image>` is id 9."""
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="<|endoftext|>", unk_token="<unk>"
    )
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL})
    return tokenizer


@pytest.fixture(scope="session")
def processor(tokenizer: PreTrainedTokenizerFast) -> XGenMMProcessor:
    """Write two ids per image."""
    image_processor = XGenMMImageProcessor(size={"height": IMAGE_SIZE, "width": IMAGE_SIZE})
    return XGenMMProcessor(image_processor, tokenizer, num_image_tokens=2)


@pytest.fixture
def tiny_config(tokenizer: PreTrainedTokenizerFast) -> XGenMMConfig:
    """Describe a model of the shape of the demo's, with two tokens per image."""
    return XGenMMConfig(
        vision_config={
            "image_size": IMAGE_SIZE,
            "patch_size": 8,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
        },
        resampler_config={
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 1,
            "num_attention_heads": 4,
            "head_dim": 16,
            "num_latents": 2,
        },
        text_config={
            "vocab_size": 230,
            "hidden_size": 96,
            "intermediate_size": 256,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "initializer_range": 0.1,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 1,
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )


@pytest.fixture
def tiny_model(tiny_config: XGenMMConfig) -> XGenMMForConditionalGeneration:
    """Draw fresh weights from a fixed seed, evaluation mode."""
    torch.manual_seed(0)
    return XGenMMForConditionalGeneration(tiny_config).eval()
