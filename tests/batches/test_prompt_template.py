"""Templates of prompts: message layout, images and videos, what is refused."""

from __future__ import annotations

import pytest

from hf_frameseg.batches.prompt_template import PromptTemplate
from hf_frameseg.batches.prompts import PROMPTS, get_prompt


def test_times_take_any_format() -> None:
    clock = PromptTemplate(name="clock", frame_line="{seconds:07.2f}{image}", after="{query}")
    content = clock.messages("q", 2, [0.0, 61.5])[0]["content"]
    assert [part.get("text", part["type"]) for part in content] == ["0000.00", "image", "0061.50", "image", "q"]


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
