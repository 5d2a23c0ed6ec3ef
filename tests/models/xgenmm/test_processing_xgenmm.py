"""Text expansion, the count of images, layouts, the chat template and saving."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, PreTrainedTokenizerFast

from hf_frameseg.models.xgenmm import XGenMMProcessor

TEXTS = ["Frame 0 : <image> Frame 1 : <image> red", "<image> circle"]
IMAGE, PAD = 9, 0


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, 20, 24, 3), dtype=np.uint8)


def test_each_image_becomes_its_ids_and_rows_are_padded_left(processor: XGenMMProcessor, images: np.ndarray) -> None:
    batch = processor(text=TEXTS, images=list(images), return_tensors="pt")
    frame, colon, zero, one, red, circle = 5, 6, 3, 4, 7, 8
    expected = [
        [frame, zero, colon, IMAGE, IMAGE, frame, one, colon, IMAGE, IMAGE, red],
        [PAD] * 8 + [IMAGE, IMAGE, circle],
    ]
    assert batch.input_ids.tolist() == expected
    assert batch.attention_mask.tolist() == [[1] * 11, [0] * 8 + [1] * 3]
    assert batch.pixel_values.shape == (3, 3, 32, 32)


def test_flat_and_nested_images_give_the_same(processor: XGenMMProcessor, images: np.ndarray) -> None:
    flat = processor(text=TEXTS, images=list(images), return_tensors="pt")
    pil = [Image.fromarray(image) for image in images]
    for layout in ([list(images[:2]), [images[2]]], [images[:2], images[2:]], [pil[:2], pil[2:]]):
        batch = processor(text=TEXTS, images=layout, return_tensors="pt")
        torch.testing.assert_close(dict(batch), dict(flat))


def test_text_without_images(processor: XGenMMProcessor) -> None:
    batch = processor(text="red circle", return_tensors="pt")
    assert batch.input_ids.tolist() == [[7, 8]]
    assert "pixel_values" not in batch


def test_wrong_numbers_of_images_are_refused(processor: XGenMMProcessor, images: np.ndarray) -> None:
    with pytest.raises(ValueError, match="3 <image> tokens and 2 images"):
        processor(text=TEXTS, images=list(images[:2]))
    with pytest.raises(ValueError, match="Prompt 0 has 2 <image> but 1 images"):
        processor(text=TEXTS, images=[images[:1], images[1:]])
    with pytest.raises(ValueError, match="one list of images per prompt, got 1 lists for 2 prompts"):
        processor(text=TEXTS, images=[images])
    with pytest.raises(ValueError, match="no images were passed"):
        processor(text=TEXTS)


def test_an_unknown_image_token_is_refused(processor: XGenMMProcessor, tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(ValueError, match="must know '<picture>' as one token"):
        XGenMMProcessor(processor.image_processor, tokenizer, image_token="<picture>")
    with pytest.raises(ValueError, match="num_image_tokens must be at least 1, got 0"):
        XGenMMProcessor(processor.image_processor, tokenizer, num_image_tokens=0)


def messages(image: np.ndarray | None) -> list[dict]:
    part = {"type": "image"} if image is None else {"type": "image", "image": image}
    content = [{"type": "text", "text": "Frame 0 : "}, part, {"type": "text", "text": "\nred\n"}]
    return [{"role": "system", "content": "circle "}, {"role": "user", "content": content}]


def test_chat_template_writes_the_turns_of_the_reference(processor: XGenMMProcessor) -> None:
    prompt = processor.apply_chat_template(messages(None), add_generation_prompt=True, tokenize=False)
    assert prompt == "<|system|>\ncircle <|end|>\n<|user|>\nFrame 0 : <image>\nred\n<|end|>\n<|assistant|>\n"
    answered = [*messages(None), {"role": "assistant", "content": "011"}]
    text = processor.apply_chat_template(answered, tokenize=False)
    assert text == prompt + "011<|end|>"


def test_chat_template_tokenizes_with_images(processor: XGenMMProcessor, images: np.ndarray) -> None:
    batch = processor.apply_chat_template(
        [messages(images[0]), messages(images[1])],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    assert (batch.input_ids == IMAGE).sum(-1).tolist() == [2, 2]
    torch.testing.assert_close(
        batch.pixel_values, processor.image_processor(images[:2], return_tensors="pt").pixel_values
    )


def test_saving_and_loading(processor: XGenMMProcessor, images: np.ndarray, tmp_path: Path) -> None:
    processor.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert isinstance(loaded, XGenMMProcessor)
    assert loaded.chat_template == processor.chat_template
    torch.testing.assert_close(
        dict(loaded(text=TEXTS, images=list(images), return_tensors="pt")),
        dict(processor(text=TEXTS, images=list(images), return_tensors="pt")),
    )
