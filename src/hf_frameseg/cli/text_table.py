"""Tables of a terminal: aligned, and cut into blocks of columns where the terminal is narrow."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from hf_frameseg._text import printable

_GAP = "  "


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[str]:
    r"""Align a table; where it is too wide, its columns are spread over blocks that repeat the row labels.

    Args:
        header: Column names. One with a newline has the name of a group above its own; neighbours share it.
        rows: Cells, as many as there are names. The first cell of a row is its label. Control characters are escaped.
        width: Columns of the terminal.

    Returns:
        Lines without trailing spaces; an empty line between two blocks.

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
    names = [name.split("\n") for name in header]
    height = max(map(len, names))
    cells = [[""] * (height - len(name)) + name for name in names]  # the last lines stand side by side
    columns = [[*top, *(printable(row[index]) for row in rows)] for index, top in enumerate(cells)]
    label, *values = [_align(column, left=index == 0) for index, column in enumerate(columns)]
    lines: list[str] = []
    for block in _blocks(values, [name[0] if len(name) > 1 else "" for name in names[1:]], width - len(label[0])):
        shared = [_without_repeated_group(block, index, height) for index in range(len(block))]
        lines += [""] if lines else []
        block_lines = [_GAP.join(line).rstrip() for line in zip(label, *shared, strict=True)]
        lines += block_lines[0 if block_lines[0] else 1 :]  # no line for groups that stand in another block
    return lines


def _align(column: Sequence[str], left: bool) -> list[str]:
    """Pad a column to its widest cell."""
    width = max(map(len, column))
    return [cell.ljust(width) if left else cell.rjust(width) for cell in column]


def _blocks(columns: Sequence[list[str]], groups: Sequence[str], room: int) -> list[Sequence[list[str]]]:
    """Spread columns over few blocks that fit: evenly if that parts no group, else group by group."""
    count = len(columns)
    cuts: list[int] = []
    for number in range(1, count + 1):
        size = -(-count // number)
        cuts = list(range(size, count, size))
        if _fit(columns, [0, *cuts, count], room) and not any(_is_inside(groups, cut) for cut in cuts):
            break
    else:
        cuts = [0]
        for at in range(1, count):
            end = at + 1
            while not _is_inside(groups, at) and end < count and _is_inside(groups, end):
                end += 1  # a group moves to the next block as a whole
            if not _fit(columns, [cuts[-1], end], room):
                cuts.append(at)
        cuts = cuts[1:]
    return [columns[start:end] for start, end in pairwise([0, *cuts, count]) if start < end]


def _fit(columns: Sequence[list[str]], edges: Sequence[int], room: int) -> bool:
    """Tell whether the blocks between the edges are narrow enough."""
    return all(sum(len(column[0]) + len(_GAP) for column in columns[i:j]) <= room for i, j in pairwise(edges))


def _is_inside(groups: Sequence[str], at: int) -> bool:
    """Tell whether a cut in front of a column would part a group."""
    return groups[at] != "" and groups[at] == groups[at - 1]


def _without_repeated_group(block: Sequence[list[str]], index: int, height: int) -> list[str]:
    """Leave the group's name out where the column to the left has it."""
    column = block[index]
    if height < 2 or index == 0 or block[index - 1][0].strip() != column[0].strip():
        return column
    return [" " * len(column[0]), *column[1:]]
