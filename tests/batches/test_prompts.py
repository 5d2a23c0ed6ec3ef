"""Prompts: exact text of the recorded prompt, message layout, errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hf_frameseg.batches.prompts import PROMPTS, PromptTemplate, get_prompt


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


def test_times_take_any_format() -> None:
    clock = PromptTemplate(name="clock", frame_line="{seconds:07.2f}{image}", after="{query}")
    assert render(clock.messages("q", 2, [0.0, 61.5])) == "0000.00<image>0061.50<image>q"


def test_system_message_is_a_content_list() -> None:
    system, user = PROMPTS["paper"].messages("a dog runs", 1)
    assert system["role"] == "system"
    assert [part["type"] for part in system["content"]] == ["text"]
    assert user["role"] == "user"


@pytest.mark.parametrize("query", ["50 {percent} of {query}", "{}", "a <b> & 'c'", "日本語"])
def test_query_is_used_as_it_is(query: str) -> None:
    content = PROMPTS["compact"].messages(query, 1)[-1]["content"]
    assert f"Activity: {query}\n" in content[0]["text"]


def test_bare_frame_lines_make_no_empty_text() -> None:
    bare = PromptTemplate(name="bare", frame_line="{image}", after="{query}")
    content = bare.messages("q", 3)[0]["content"]
    assert [part["type"] for part in content] == ["image", "image", "image", "text"]
    assert not bare.separates_frames
    assert PROMPTS["compact"].separates_frames


def test_frames_as_videos_of_their_own() -> None:
    prompt = PromptTemplate(name="v", frame_line="{index} at {seconds:.0f} s: {video}\n", pictures_per_window=2)
    assert (prompt.kind, prompt.is_one_video, prompt.separates_frames, prompt.tells_time) == (
        "video",
        False,
        True,
        True,
    )
    content = prompt.messages("a dog", 2, [1.0, 3.0])[0]["content"]
    assert [part.get("text", part["type"]) for part in content] == [
        "0 at 1 s: ",
        "video",
        "\n1 at 3 s: ",
        "video",
        "\na dog",
    ]
    assert prompt.num_frames(6) == 3
    with pytest.raises(ValueError, match="'v' shows 2 pictures a window: expected a multiple of that, got 5"):
        prompt.num_frames(5)
    assert get_prompt(prompt.to_dict()) == prompt


def test_all_frames_as_one_video() -> None:
    prompt = PromptTemplate(name="v", before="Look: {video}\n", frame_line="", after="{num_frames} digits: {query}")
    assert (prompt.kind, prompt.is_one_video, prompt.separates_frames, prompt.tells_time) == (
        "video",
        True,
        False,
        False,
    )
    content = prompt.messages("a dog", 3)[0]["content"]
    assert [part.get("text", part["type"]) for part in content] == ["Look: ", "video", "\n3 digits: a dog"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"after": "no sentence"}, r"put \{query\}"),
        ({"frame_line": "Frame {index}\n"}, "exactly once"),
        ({"frame_line": "{image}{image}"}, "exactly once"),
        ({"frame_line": "{image}{video}"}, "exactly once"),
        ({"frame_line": "{video}", "before": "{video}"}, "exactly once"),
        ({"frame_line": ""}, "exactly once, or to be empty with {video} once in before or after, got ''"),
        ({"frame_line": "", "before": "{video}{video}"}, "exactly once"),
        ({"frame_line": "-", "before": "{video}"}, "exactly once"),
        ({"frame_line": "", "before": "{image}"}, r"unknown field\(s\) \['image'\]"),
        ({"pictures_per_window": 2}, "pictures_per_window from 1 to 16, and 1 with {image}, got 2"),
        ({"frame_line": "{video}", "pictures_per_window": 0}, "pictures_per_window from 1 to 16"),
        ({"frame_line": "{video}", "pictures_per_window": True}, "pictures_per_window from 1 to 16"),
        ({"frame_line": "{video}", "pictures_per_window": "2"}, "pictures_per_window from 1 to 16.*got '2'"),
        ({"before": "{frames} frames"}, r"unknown field\(s\) \['frames'\]"),
        ({"frame_line": "{index} {image} {query}"}, r"unknown field\(s\) \['query'\]"),
        ({"before": "an open { brace"}, "before is no format string"),
        ({"before": "{seconds}"}, r"unknown field\(s\) \['seconds'\]"),
        ({"frame_line": "{seconds:d}{image}"}, "impossible format"),
        ({"frame_line": "{index:{width}}{image}"}, "impossible format"),
        ({"frame_line": "{image!r}"}, "without a format"),
        ({"after": "{query:d}"}, "impossible format"),
        ({"after": "{query:>1000000000}"}, "impossible format.*1000000000"),
        ({"before": "{num_frames:1000000000}"}, "impossible format.*such as 3d or .1f"),
        ({"frame_line": "{seconds:.1000000000f}{image}"}, "impossible format"),
        ({"frame_line": "{seconds:{index}}{image}"}, "impossible format"),
        ({"before": "{num_frames!r:3}"}, "impossible format"),
        ({"after": "{query.__class__}"}, r"unknown field\(s\) \['query.__class__'\]"),
        ({"after": "{query[0]}"}, "unknown field"),
        ({"after": "{0}{query}"}, "unknown field"),
        ({"after": "{}{query}"}, "unknown field"),
        ({"after": "{query}" * 21}, "after has 21 fields, more than 20"),
        ({"after": "{query}" + "a" * 20_000}, "after of at most 20000 characters, got 20007: {query}aaa"),
        ({"frame_line": "{image}" + "a" * 1_000}, "frame_line of at most 1000 characters"),
        ({"system": 3}, "expected prompt 'bad': system to be a text, got 3"),
        ({"before": None}, "before to be a text, got None"),
        ({"after": ["{query}"]}, "after to be a text"),
        ({"after": "{query}\ud83d"}, r"without \\ud83d, got {query}\\ud83d; remove it"),
        ({"frame_line": "\x00{image}"}, r"without \\x00"),
    ],
)
def test_bad_templates_are_refused_with_one_line(fields: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        PromptTemplate(name="bad", **fields)
    assert "\n" not in str(caught.value)


def test_formats_of_two_digits_are_kept() -> None:
    formats = ("05d", ">3", "*^7d", "+.2f", " 8.3e", "2", "")
    line = "".join(f"{{index:{one}}}" for one in ("05d", ">3", "2")) + "{seconds:*^9.2f}{seconds:.0%}{image}"
    template = PromptTemplate(name="mine", before="".join(f"{{num_frames:{one}}}" for one in formats), frame_line=line)
    texts = [part.get("text") for part in template.messages("a dog", 2, [0.0, 12.5])[0]["content"]]
    assert texts[0] == "00002  2***2***+2.00 2.000e+00 2200000  0 0**0.00***0%"
    assert texts[2] == "00001  1 1**12.50**1250%"


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("a" * 4_001, "a query of at most 4000 characters, got 4001"),
        ("a dog\x00", r"a query without \\x00, got a dog\\x00; remove it"),
        ("a \ud83ddog", r"a query without \\ud83d"),
        (None, "a query to be a text, got None"),
        (b"a dog", "a query to be a text, got b'a dog'"),
        ("", "blank"),
    ],
)
def test_queries_that_no_model_can_be_asked_are_refused(query: object, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        PROMPTS["compact"].messages(query, 2)
    assert len(str(caught.value)) < 200


def test_bad_queries_and_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="blank"):
        PROMPTS["compact"].messages("  ", 2)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        PROMPTS["compact"].messages("a dog", 0)


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
