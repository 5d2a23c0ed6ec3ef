"""Tables that fit the terminal, whatever its width."""

from __future__ import annotations

import pytest

from hf_frameseg.cli.tables import format_table

HEADER = ["label", "a", "G\nb", "G\nc", "H\nd", "H\ne"]
ROWS = [["row", *(f"{100 + n}.00" for n in range(5))], ["longer row", *"12345"]]


def test_a_wide_terminal_shows_one_block() -> None:
    assert format_table(HEADER, ROWS, 80) == [
        "                         G               H",
        "label            a       b       c       d       e",
        "row         100.00  101.00  102.00  103.00  104.00",
        "longer row       1       2       3       4       5",
    ]


def test_a_narrow_one_keeps_groups_together() -> None:
    assert format_table(HEADER, ROWS, 35) == [
        "                         G",
        "label            a       b       c",
        "row         100.00  101.00  102.00",
        "longer row       1       2       3",
        "",
        "                 H",
        "label            d       e",
        "row         103.00  104.00",
        "longer row       4       5",
    ]


@pytest.mark.parametrize("width", range(1, 70))
def test_nothing_is_lost_and_nothing_is_too_wide(width: int) -> None:
    lines = format_table(HEADER, ROWS, width)
    cells = [cell for line in lines if line.startswith("row") for cell in line.split()[1:]]
    assert cells == ROWS[0][1:]
    assert max(map(len, lines)) <= max(width, len("longer row  100.00"))
    assert not any(line != line.rstrip() for line in lines)


def test_cells_are_text_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "20")
    rows = [["[bold]x[/bold]", ":smile:"], ["a\x1b[2J\tb", "[link=x]1"], ["犬", "1"]]
    assert format_table(["[red]", "v"], rows, 80) == [
        "[red]                   v",
        "[bold]x[/bold]    :smile:",
        r"a\x1b[2J\tb     [link=x]1",
        "犬                      1",  # two columns wide on a terminal
    ]


def test_a_long_name_is_not_cut() -> None:
    name = "n" * 20_000
    assert format_table(["", "v"], [[name, "1"]], 80)[1] == f"{name}  1"
