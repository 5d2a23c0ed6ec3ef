"""Prompts by name: exact text of the recorded prompt, layout, errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hf_frameseg.batches.prompts import PROMPTS, get_prompt


def render(messages: list[dict[str, Any]]) -> str:
    """Plain concatenation, for tests of the content alone."""
    parts = [part for message in messages for part in message["content"]]
    return "".join("<image>" if part["type"] == "image" else part["text"] for part in parts)


def test_paper_prompt_reproduces_the_recorded_text(shared_dir: Path, tiny_processor: Any) -> None:
    golden = json.loads((shared_dir / "goldens/xgenmm/tokenizer_golden.json").read_text())["text"]
    query = golden.split("**Activity**: ")[1].split("\n")[0]
    messages = PROMPTS["paper"].messages(query, 25)
    assert tiny_processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False) == golden


def test_paper_prompt_follows_the_number_of_frames() -> None:
    text = render(PROMPTS["paper"].messages("a dog runs", 3))
    assert "You are given 3 frames" in text
    assert "indexed from 0 to 2:\nFrame 0: <image>\nFrame 1: <image>\nFrame 2: <image>\n\n**Your task**" in text
    assert "provide a 3 character binary" in text
    assert "exactly 3 characters long" in text
    assert "25" not in text


def test_compact_prompt_layout() -> None:
    assert PROMPTS["compact"].messages("a dog runs", 2) == [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Activity: a dog runs\nFrame 0: "},
                {"type": "image"},
                {"type": "text", "text": "\nFrame 1: "},
                {"type": "image"},
                {"type": "text", "text": "\nAnswer 0 or 1 for each frame."},
            ],
        }
    ]


def test_timestamps_prompt_is_compact_with_times() -> None:
    messages = PROMPTS["timestamps"].messages("a dog runs", 3, [2.97, 21.04, 144])
    assert render(messages) == (
        "Activity: a dog runs\nFrame 0 at 3.0 s: <image>\nFrame 1 at 21.0 s: <image>\nFrame 2 at 144.0 s: <image>\n"
        "Answer 0 or 1 for each frame."
    )
    assert [name for name, prompt in PROMPTS.items() if prompt.tells_time] == ["timestamps"]


def test_times_are_for_prompts_that_tell_them() -> None:
    assert PROMPTS["compact"].messages("a dog", 2, [1.0, 3.0]) == PROMPTS["compact"].messages("a dog", 2)
    for times, got in ((None, "none"), ([1.0], "1"), ([1.0] * 3, "3")):
        with pytest.raises(ValueError, match=f"'timestamps' tells .* expected 2 times_seconds, got {got}"):
            PROMPTS["timestamps"].messages("a dog", 2, times)


def test_system_message_is_a_content_list() -> None:
    system, user = PROMPTS["paper"].messages("a dog runs", 1)
    assert system["role"] == "system"
    assert [part["type"] for part in system["content"]] == ["text"]
    assert user["role"] == "user"


def test_get_prompt_by_name_fields_and_itself() -> None:
    paper = PROMPTS["paper"]
    assert get_prompt("paper") is paper
    assert get_prompt(paper) is paper
    assert get_prompt(json.loads(json.dumps(paper.to_dict()))) == paper
    with pytest.raises(ValueError, match=r"unknown prompt 'papr': use one of \['compact', 'paper', 'timestamps'\]"):
        get_prompt("papr")
    with pytest.raises(ValueError, match="expected a prompt with the fields name"):
        get_prompt({"name": "x", "prefix": ""})
    for odd in (["paper"], 3, None):
        with pytest.raises(ValueError, match="unknown prompt"):
            get_prompt(odd)
