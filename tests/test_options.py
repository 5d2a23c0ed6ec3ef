"""Options of a command line that are made of the fields of settings."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from dataclasses import dataclass, fields

import pytest
from transformers import HfArgumentParser

from hf_frameseg._options import given, optional_arguments, options_of, setting, split_choices


@dataclass
class Walk:
    """Settings of a walk."""

    pace: float = setting(2.5, "steps per second", "STEPS")
    way: str | None = setting(None, "where to")
    length: int | tuple[int, int] = setting(3, "how far", "METRES")
    fast: bool = setting(False, "without a rest")
    by: str = setting("foot", "how", "HOW", choices=("foot", "bike"))
    secret: int = 0


def test_an_option_is_what_the_field_says() -> None:
    pace, way, length, fast, by = options_of(Walk)
    assert (pace.flag, pace.metavar, pace.default, pace.shown_help) == (
        "--pace",
        "STEPS",
        2.5,
        "steps per second (default: 2.5)",
    )
    assert (way.shown_help, way.type("north")) == ("where to", "north")
    assert length.type("4") == 4  # the first type of a union
    assert (fast.shown_help, by.shown_help) == ("without a rest", "how: foot, bike (default: foot)")


def test_options_of_argparse() -> None:
    parser = ArgumentParser()
    for option in options_of(Walk):
        parser.add_argument(option.flag, **option.keywords())
    assert given(parser.parse_args([]), Walk) == {}
    assert given(parser.parse_args(["--fast", "--by", "bike"]), Walk) == {"fast": True, "by": "bike"}
    with pytest.raises(SystemExit):
        parser.parse_args(["--by", "car"])


def test_arguments_that_are_left_out_are_none() -> None:
    @dataclass
    class Arguments(optional_arguments(Walk, "default: the base's, else {default}")):
        """A required argument may follow, as the others are keyword-only."""

        place: str

    parser = HfArgumentParser(Arguments)
    (values,) = parser.parse_args_into_dataclasses(["--place", "sea", "--length", "4"])
    assert given(values, Walk) == {"length": 4}
    assert "Steps per second; default: the base's, else 2.5." in parser.format_help()
    assert [one.name for one in fields(Arguments)] == ["pace", "way", "length", "fast", "by", "place"]


def test_what_was_given_is_told_from_the_rest() -> None:
    assert given(Namespace(pace=None, way="north", other=3), Walk) == {"way": "north"}
    assert given({"pace": 0.0}, Walk) == {"pace": 0.0}
    assert split_choices({"pace": 1.0, "other": 3, "way": None}, Walk) == ({"pace": 1.0, "way": None}, {"other": 3})
