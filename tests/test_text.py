"""Text of others cannot steer a terminal."""

from __future__ import annotations

import pytest

from hf_frameseg._text import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a dog", "a dog"),
        ("\x1b[31mred\x07\r", "\\x1b[31mred\\x07\\r"),
        ("one\ntwo\tthree", "one\\ntwo\\tthree"),
        ("abc\u202edef\u2066", "abc\\u202edef\\u2066"),
        ("\ud800", "\\ud800"),
        ("\x9b2J\u2028\ufeff", "\\x9b2J\\u2028\\ufeff"),
        ("Überfahrt, 犬が走る, می\u200cروم", "Überfahrt, 犬が走る, می\u200cروم"),
        (12, "12"),
    ],
)
def test_what_is_not_shown_is_escaped(text: object, shown: str) -> None:
    assert printable(text) == shown
