"""One line for an error, in the words of the command line."""

from __future__ import annotations

import argparse

import pytest

from hf_frameseg.cli.messages import name_options


@pytest.fixture
def options() -> dict[str, argparse.Action]:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("-d", "--data-dir")
    parser.add_argument("--reader")
    parser.add_argument("--grid-kind")
    parser.add_argument("--rating-scale", nargs=2)
    parser.add_argument("--allow-links", action="store_true")
    parser.add_argument("--allow-subset", dest="match_number", action="store_false")
    return {action.dest: action for action in parser._actions}


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("expected reader to be one of 'a', 'b', got 'c'", "expected --reader to be one of 'a', 'b', got 'c'"),
        ("expected data_dir or grid_kind, got both", "expected --data-dir or --grid-kind, got both"),
        ("expected a reader that can, got none", "expected a reader that can, got none"),
        ("no reader reads it", "no reader reads it"),
        ("a.json: expected grid_kind to be middle", "a.json: expected grid_kind to be middle"),  # of the file
        ("expected a file, got x/data_dir/y.grid_kind", "expected a file, got x/data_dir/y.grid_kind"),
        ("expected 'grid_kind', got grid_kinds", "expected 'grid_kind', got grid_kinds"),
        ("too many: use grid_kind='middle' to shift", "too many: use --grid-kind middle to shift"),
        ("links; pass allow_links=True.", "links; pass --allow-links."),
        ("share few; pass match_number=False to score", "share few; pass --allow-subset to score"),
        ("state rating_scale=(LOWEST, HIGHEST)", "state --rating-scale LOWEST HIGHEST"),
        ("endless; reader=None has no option", "endless; reader=None has no option"),
    ],
)
def test_options_take_the_place_of_fields(text: str, named: str, options: dict[str, argparse.Action]) -> None:
    assert name_options(text, options) == named


def test_a_command_without_options_names_none() -> None:
    assert name_options("expected seed to be 1", {}) == "expected seed to be 1"
