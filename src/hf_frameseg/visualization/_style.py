"""Colours and text helpers shared by all figures."""

from __future__ import annotations

from bisect import bisect_right

from matplotlib.axes import Axes
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

from hf_frameseg._text import printable

# Okabe and Ito's palette: told apart with every common kind of colour blindness. Blue is the model, orange the truth.
BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"
INK, MUTED, FAINT, TRACK = "#1F2328", "#6B7280", "#D9DCE1", "#F1F2F4"
PALE_BLUE = "#A9CDE4"

POINTS_PER_INCH = 72

MAX_SHOWN_CHARACTERS = 600
"""Most characters of a text that is drawn; there is room for some hundred."""

AS_IT_IS = {"parse_math": False, "usetex": False}
"""Style of text that others wrote: two dollar signs would start a formula, and TeX can read files."""


def shown(text: str) -> str:
    """Return text that others wrote as it can be drawn: on one line, control characters as escapes, not endless."""
    line = printable(" ".join(text[: 2 * MAX_SHOWN_CHARACTERS].split()))
    return line if len(line) <= MAX_SHOWN_CHARACTERS else f"{line[:MAX_SHOWN_CHARACTERS]}…"


def text_width_inches(text: str, size: float, weight: str = "normal") -> float:
    """Return the printed width of one line of text in inches, without a renderer."""
    prop = FontProperties(size=size, weight=weight)
    width, _, _ = text_to_path.get_text_width_height_descent(text, prop, ismath=False)
    return width / POINTS_PER_INCH


def wrap_text(
    text: str, max_inches: float, size: float, weight: str = "normal", max_lines: int | None = None
) -> list[str]:
    """Break text into lines that fit, measured in the font itself; the last line ends in an ellipsis if it was cut.

    What cannot be drawn is escaped, see `shown`; draw the lines in the style `AS_IT_IS`.
    """

    def width(line: str) -> float:
        return text_width_inches(line, size, weight)

    lines, line = [], ""
    for word in shown(text).split():
        if line and width(f"{line} {word}") > max_inches:
            lines.append(line)
            line = ""
        line = f"{line} {word}".strip()
        while width(line) > max_inches:  # one word wider than the line: cut it where it ends
            lengths = range(1, len(line))
            cut = max(1, bisect_right(lengths, max_inches, key=lambda length: width(line[:length])))
            lines.append(line[:cut])
            line = line[cut:]
    lines.append(line)
    if max_lines is None or len(lines) <= max_lines:
        return lines
    last = lines[max_lines - 1]
    while last and width(f"{last} …") > max_inches:
        last = last.rsplit(" ", 1)[0] if " " in last else last[:-1]
    return [*lines[: max_lines - 1], f"{last} …"]


def quiet_axes(axes: Axes) -> None:
    """Leave a data panel with a thin bottom line, small grey tick labels and nothing else."""
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)
    axes.tick_params(colors=MUTED, labelsize=8.5, length=0, pad=4)
    axes.set_axisbelow(True)
