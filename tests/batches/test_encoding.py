"""Token layout: any processor's prompts, answers behind them, answers off again; what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from hf_frameseg.batches.encoding import append_answers, drop_answers, encode_prompts
from hf_frameseg.batches.prompt_template import PromptTemplate
from hf_frameseg.batches.prompts import PROMPTS

COMPACT = PROMPTS["compact"]


def frames_of(*counts: int) -> list[np.ndarray]:
    return [np.full((count, 32, 32, 3), 100, dtype=np.uint8) for count in counts]


def test_prompts_are_left_padded_and_complete(tiny_processor: Any) -> None:
    batch = encode_prompts(tiny_processor, COMPACT, ["a dog", "a cat naps"], frames_of(2, 1))
    texts = [
        "<|user|>\nActivity: a dog\nFrame 0: <image><image>\nFrame 1: <image><image>\n"
        "Answer 0 or 1 for each frame.<|end|>\n<|assistant|>\n",
        "<|user|>\nActivity: a cat naps\nFrame 0: <image><image>\n"
        "Answer 0 or 1 for each frame.<|end|>\n<|assistant|>\n",
    ]
    ids = [tiny_processor.tokenizer(text).input_ids for text in texts]
    pads = len(ids[0]) - len(ids[1])
    assert pads > 0
    assert batch["input_ids"].tolist() == [ids[0], [261] * pads + ids[1]]
    assert batch["attention_mask"].tolist() == [[1] * len(ids[0]), [0] * pads + [1] * len(ids[1])]
    assert batch["pixel_values"].shape == (3, 3, 16, 16)
    assert tiny_processor.tokenizer.padding_side == "right"  # the tokenizer's own setting stays


def test_answers_end_together_and_come_off_again() -> None:
    # Two prompts of 3 and 2 tokens (pad 0), answers of 2 and 4 tokens: rows of 5 and 6 tokens.
    prompts = {
        "input_ids": torch.tensor([[11, 12, 13], [0, 21, 22]]),
        "attention_mask": torch.tensor([[1, 1, 1], [0, 1, 1]]),
        "mm_token_type_ids": torch.tensor([[1, 1, 0], [0, 1, 0]]),
        "pixel_values": torch.zeros(2, 3),  # the text's shape, but not whole numbers: no text
    }
    batch = append_answers(prompts, [[7, 5], [8, 7, 8, 5]], [[8, 5], [8, 8, 8, 5]], pad_id=9)
    assert batch["input_ids"].tolist() == [[9, 11, 12, 13, 7, 5], [21, 22, 8, 7, 8, 5]]
    assert batch["attention_mask"].tolist() == [[0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]]
    assert batch["mm_token_type_ids"].tolist() == [[0, 1, 1, 0, 0, 0], [1, 0, 0, 0, 0, 0]]
    assert batch["targets"]["labels"].tolist() == [[-100, -100, -100, -100, 8, 5], [-100, -100, 8, 8, 8, 5]]
    assert batch["targets"]["answer_start"].tolist() == [4, 2]
    assert batch["pixel_values"] is prompts["pixel_values"]
    assert prompts["input_ids"].tolist() == [[11, 12, 13], [0, 21, 22]]

    back = drop_answers(batch)
    assert sorted(back) == sorted(prompts)
    assert back["input_ids"].tolist() == [[9, 11, 12, 13], [5, 5, 21, 22]]
    assert back["attention_mask"].tolist() == [[0, 1, 1, 1], [0, 0, 1, 1]]
    assert back["mm_token_type_ids"].tolist() == [[0, 1, 1, 0], [0, 0, 1, 0]]
    assert batch["input_ids"].shape == (2, 6)


@pytest.mark.parametrize("template_bos", ["<s>", ""], ids=["in the template", "from the tokenizer"])
def test_there_is_one_start_token(make_llava_processor: Callable[..., Any], template_bos: str) -> None:
    processor = make_llava_processor(template_bos)
    prompt = PromptTemplate(name="q", before="Q", after="{query}")
    ids = encode_prompts(processor, prompt, ["x"], frames_of(1))["input_ids"][0]
    assert processor.tokenizer.convert_ids_to_tokens(ids)[:2] == ["<s>", "Q"]


def test_template_that_gathers_images_is_refused(make_llava_processor: Callable[..., Any]) -> None:
    processor = make_llava_processor("", images_first=True)
    with pytest.raises(ValueError, match="moves the images away from their frame lines") as caught:
        encode_prompts(processor, COMPACT, ["a dog"], frames_of(3))
    assert "\n" not in str(caught.value)
    # The same template is fine for a prompt that ties no text to a frame.
    bare = PromptTemplate(name="bare", frame_line="{image}", after="{query}")
    ids = encode_prompts(processor, bare, ["a dog"], frames_of(3))["input_ids"]
    assert int((ids == processor.image_token_id).sum()) == 3 * 4


class Wrapped:
    """A processor with one habit changed."""

    def __init__(self, processor: Any, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        self.processor, self.change = processor, change

    def __getattr__(self, name: str) -> Any:
        return getattr(self.processor, name)

    def __call__(self, **kwargs: Any) -> dict[str, Any]:
        return self.change(dict(self.processor(**kwargs)))


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        (0, "3 frames, got 0 in 0 group"),  # no image token left
        (1, "3 frames, got 2 in 1 group"),  # one frame of three
        (2, "3 frames, got 4 in 2 group"),
    ],
)
def test_lost_images_are_noticed(tiny_processor: Any, keep: int, message: str) -> None:
    def lose(batch: dict[str, Any]) -> dict[str, Any]:
        ids = batch["input_ids"]
        positions = (ids[0] == tiny_processor.image_token_id).nonzero()[2 * keep :, 0]
        return {**batch, "input_ids": ids.index_fill(1, positions, 32)}

    with pytest.raises(ValueError, match=message):
        encode_prompts(Wrapped(tiny_processor, lose), COMPACT, ["a dog"], frames_of(3))


def test_images_written_as_one_block_are_noticed(tiny_processor: Any) -> None:
    def gather(batch: dict[str, Any]) -> dict[str, Any]:
        ids = batch["input_ids"][0]
        image = ids == tiny_processor.image_token_id
        return {**batch, "input_ids": torch.cat([ids[image], ids[~image]])[None]}

    with pytest.raises(ValueError, match=r"3 frames, got 6 in 1 group"):
        encode_prompts(Wrapped(tiny_processor, gather), COMPACT, ["a dog"], frames_of(3))


def test_right_padding_is_noticed(tiny_processor: Any) -> None:
    def pad_right(batch: dict[str, Any]) -> dict[str, Any]:
        return {**batch, "attention_mask": batch["attention_mask"].flip(1)}

    with pytest.raises(ValueError, match="padding_side = 'left'"):
        encode_prompts(Wrapped(tiny_processor, pad_right), COMPACT, ["a dog", "a dog and a cat"], frames_of(1, 1))


def test_image_token_in_a_query_is_refused(tiny_processor: Any) -> None:
    with pytest.raises(ValueError, match="images"):
        encode_prompts(tiny_processor, COMPACT, ["a dog <image>"], frames_of(2))


# Videos


def video_prompt(each: bool, pictures: int) -> PromptTemplate:
    shown = {"frame_line": "{index}: {video}\n"} if each else {"before": "{video}", "frame_line": ""}
    return PromptTemplate(name="video", **shown, pictures_per_window=pictures)


@pytest.mark.parametrize(("each", "groups", "steps"), [(True, 3 + 2, [1] * 5), (False, 2, [3, 2])])
def test_frames_go_in_as_videos(tiny_qwen_processor: Any, each: bool, groups: int, steps: list[int]) -> None:
    batch = encode_prompts(tiny_qwen_processor, video_prompt(each, 2), ["a dog", "a cat naps"], frames_of(6, 4))
    video = batch["input_ids"] == tiny_qwen_processor.video_token_id
    per_frame = (32 // 16) ** 2  # tokens of 2 x 2 patches of 8 pixels
    assert video.sum(1).tolist() == [3 * per_frame, 2 * per_frame]
    assert int((video[:, 1:] & ~video[:, :-1]).sum()) == groups
    assert batch["video_grid_thw"].tolist() == [[t, 4, 4] for t in steps]
    assert "pixel_values" not in batch
    assert len(batch["pixel_values_videos"]) == 5 * 16


def test_pictures_stay_as_they_are_read(tiny_qwen_processor: Any) -> None:
    rising = np.stack([np.full((16, 16, 3), 20 * number, dtype=np.uint8) for number in range(6)])
    batch = encode_prompts(tiny_qwen_processor, video_prompt(False, 2), ["a dog"], [rising])
    shown = batch["pixel_values_videos"].view(3, 4, 3, 2, 64)  # steps, patches, channels, pictures of a step, pixels
    red = shown[:, :, 0].mean(dim=(1, 3)).flatten()
    assert torch.allclose(red.diff(), red.diff()[0].expand(5), atol=1e-5)  # all six, in order: none sampled away
    assert red.diff()[0] > 0.1


@pytest.mark.parametrize(
    ("pictures", "count", "message"),
    [
        (1, 4, "expected a video of 4 steps in time, one for each frame, got 2: set the prompt's pictures_per_window"),
        (2, 5, "shows 2 pictures a window: expected a multiple of that, got 5"),
    ],
)
def test_pictures_that_are_merged_across_frames_are_refused(
    tiny_qwen_processor: Any, pictures: int, count: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        encode_prompts(tiny_qwen_processor, video_prompt(False, pictures), ["a dog"], frames_of(count))
    assert "\n" not in str(caught.value)


def test_a_template_that_leaves_out_videos_is_noticed(tiny_qwen_processor: Any) -> None:
    def lose(batch: dict[str, Any]) -> dict[str, Any]:
        video = batch["input_ids"] == tiny_qwen_processor.video_token_id
        return {**batch, "input_ids": batch["input_ids"].masked_fill(video, 32)}

    with pytest.raises(ValueError, match=r"expected video tokens for 3 frames, got 0 in 0 group"):
        encode_prompts(Wrapped(tiny_qwen_processor, lose), video_prompt(True, 2), ["a dog"], frames_of(6))
