"""Numbers, counts and tables as the commands print them, in plain text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from io import StringIO
from typing import TYPE_CHECKING

from hf_frameseg._text import printable

if TYPE_CHECKING:
    from hf_frameseg.metrics import Interval


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[str]:
    r"""Align a table; one that is too wide is printed in parts, each with the labels of the rows.

    Args:
        header: Names of the columns. `"mAP\nshort"` is `short` of the group `mAP`, whose name is shown once.
        rows: Cells, as many as there are names. The first cell of a row is its label. Control characters are escaped.
        width: Columns of the terminal.

    Returns:
        Lines without trailing spaces; an empty line between two parts.

    Example:
        >>> header, rows = ["", "mAP\nshort", "mAP\nlong"], [["A", "50.00", "9.00"], ["B", "7.00", "-"]]
        >>> print("\n".join(format_table(header, rows, width=80)))
             mAP
           short  long
        A  50.00  9.00
        B   7.00     -
        >>> print("\n".join(format_table(header, rows[:1], width=10)))
             mAP
           short
        A  50.00
        <BLANKLINE>
            mAP
           long
        A  9.00
    """
    lines = _aligned(header, rows)
    if len(header) < 3 or max(map(len, lines)) <= width:
        return lines
    cut = _cut(header)
    first = format_table(header[:cut], [row[:cut] for row in rows], width)
    return [*first, "", *format_table([header[0], *header[cut:]], [[row[0], *row[cut:]] for row in rows], width)]


def _aligned(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Let rich align the columns, without markup, colours or lines."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="")
    above = ["", *(_group(name) for name in header)]
    for index, name in enumerate(header):
        shown = name if above[index] != above[index + 1] else " " * len(above[index]) + name[len(above[index]) :]
        table.add_column(Text(shown), justify="right" if index else "left", vertical="bottom", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    out = StringIO()
    Console(file=out, width=1_000_000, color_system=None, legacy_windows=False).print(table)
    return [line.rstrip() for line in out.getvalue().rstrip("\n").split("\n")]


def _group(name: str) -> str:
    """Return the group of a column, empty if it has none."""
    return name.rpartition("\n")[0]


def _cut(header: Sequence[str]) -> int:
    """Return where to part a table: near the middle, and between two groups if there is such a place."""
    places = range(2, len(header))
    between = [at for at in places if not _group(header[at]) or _group(header[at]) != _group(header[at - 1])]
    return min(between or places, key=lambda at: (abs(2 * at - len(header) - 1), -at))


def number(value: float | None, decimals: int = 2, unit: str = "") -> str:
    """Write a score, or a dash where there is none.

    Example:
        >>> number(12.3456), number(50, 1, " %"), number(None), number(float("nan"), 1, " %")
        ('12.35', '50.0 %', '-', '-')
    """
    return "-" if value is None or math.isnan(value) else f"{value:.{decimals}f}{unit}"


def count(many: int, one: str, more: str | None = None) -> str:
    """Write a number with its noun.

    Example:
        >>> count(1, "query", "queries"), count(2, "video")
        ('1 query', '2 videos')
    """
    return f"{many} {one if many == 1 else more or f'{one}s'}"


def count_of(part: int, total: int, one: str, more: str | None = None) -> str:
    """Write how many of all were scored.

    Example:
        >>> count_of(2, 2, "video"), count_of(1, 3, "query", "queries")
        ('2 videos', '1 of 3 queries')
    """
    return f"{'' if part == total else f'{part} of '}{count(total, one, more)}"


def interval_rows(intervals: Mapping[str, Interval], keys: Iterable[str]) -> list[list[str]]:
    """Make the two rows of a table with the ends of 95 % intervals; none without intervals."""
    found = [intervals[key] for key in keys] if intervals else []
    ends = (("95 % low", "low"), ("95 % high", "high")) if intervals else ()
    return [[label, *(number(getattr(one, end)) for one in found)] for label, end in ends]
