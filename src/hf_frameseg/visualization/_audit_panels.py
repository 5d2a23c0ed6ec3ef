"""Panels of the audit's picture: lines over the number of frames, window lengths, masks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.transforms import ScaledTranslation

from hf_frameseg.visualization._style import (
    AS_IT_IS,
    BLUE,
    FAINT,
    GREEN,
    INK,
    MUTED,
    ORANGE,
    POINTS_PER_INCH,
    PURPLE,
    VERMILION,
    quiet_axes,
    shown,
    text_width_inches,
)

# In inches; sizes of text in points.
PLOT_HEIGHT, TICK_ROOM, TICK_PITCH = 2.1, 0.36, 0.32
LABEL_ROOM, LABEL_KEY, LABEL_PITCH = 0.52, 0.3, 0.175
MASK_PITCH, FRAMES_ROOM, NUMBER_ROOM, WEIGHT_ROOM = 0.24, 0.5, 0.5, 0.55
TITLE_SIZE, LABEL_SIZE = 11, 9

LENGTH_STYLE = {"short": (ORANGE, "o"), "middle": (GREEN, "s"), "long": (PURPLE, "D")}
LENGTH_LIMITS_SECONDS = {"short": 10, "middle": 30, "long": 150}  # upper ends, as the scorer has them
MASK_SHARES = {
    "foreground": ("relevant", "frames, %"),
    "all_zero_masks": ("only zeros,", "% of masks"),
    "all_one_masks": ("only ones,", "% of masks"),
    "windows_without_frame": ("windows without", "a frame, %"),
}
MASK_BARS = (BLUE, ORANGE, ORANGE, VERMILION)

BOUND_STYLE: dict[str, Any] = {"linewidth": 1, "linestyle": (0, (4, 3))}

Setting = Mapping[str, Any]
Rules = Mapping[str, Sequence[Setting]]  # settings of each label rule, by rising number of frames


@dataclass(frozen=True)
class Panel:
    """Hold what draws one panel, and the room that it needs beside its axes in inches."""

    draw: Callable[[Axes], None]
    left: float = TICK_ROOM
    right: float = 0.0
    weight: float = 1.0  # share of the row's width against its neighbours'
    height: float | None = None  # None: that of the row


@dataclass(frozen=True, eq=False)
class Line:
    """Hold one curve over the number of frames; a value of None is a gap."""

    name: str
    color: str
    marker: str
    values: Sequence[float | None]
    faint: Sequence[float | None] = ()  # a second way to get the same score
    suffix: str = ""

    @property
    def end(self) -> float:
        """Return the last value that is there."""
        return next(value for value in reversed(self.values) if value is not None)

    @property
    def label(self) -> str:
        """Write name and last value."""
        return f"{self.name}  {self.end:.1f}{self.suffix}"


def line_panel(
    title: str, note: str, settings: Sequence[Setting], lines: Sequence[Line], bound: Line | None = None
) -> Panel:
    """Prepare lines over the number of frames, each with its name and last value at its end, and a dashed bound."""
    num_frames = [one["num_frames"] for one in settings]
    lines = [line for line in lines if any(value is not None for value in line.values)]
    room = LABEL_ROOM + max(
        (text_width_inches(line.label, LABEL_SIZE) for line in (*lines, *filter(None, [bound]))), default=0.0
    )

    def draw(axes: Axes) -> None:
        quiet_axes(axes)
        _write_title(axes, title, note, TICK_ROOM)
        axes.set(ylim=(-3, 103), yticks=(0, 25, 50, 75, 100))
        axes.grid(axis="y", color=FAINT, linewidth=0.6)
        for line in reversed(lines):  # the first lies on top
            axes.plot(num_frames[: len(line.faint)], _gaps(line.faint), color=line.color, linewidth=1.2, linestyle=":")
            axes.plot(num_frames, _gaps(line.values), color=line.color, linewidth=2, clip_on=False, **_marker(line))
        if bound is not None:
            axes.axhline(bound.end, color=bound.color, **BOUND_STYLE)
        _place_frames(axes, num_frames)
        _write_end_labels(axes, [bound, *lines] if bound else lines)

    return Panel(draw, right=room)


def _marker(line: Line) -> dict[str, Any]:
    """Return the style of a line's points."""
    return {"marker": line.marker, "markersize": 5, "markeredgecolor": "white", "markeredgewidth": 0.7}


def _gaps(values: Sequence[float | None]) -> list[float]:
    """Turn missing values into NaN, which lines leave out."""
    return [float("nan") if value is None else value for value in values]


def _write_title(axes: Axes, title: str, note: str, left: float) -> None:
    """Write the title of a panel and what it needs explained, `left` inches before the axes."""
    width = axes.get_position().width * axes.figure.get_figwidth()
    style = {"size": TITLE_SIZE, "weight": "bold", "color": INK, **AS_IT_IS}
    axes.set_title(title, loc="left", x=-left / width, pad=24, **style)
    place = (-left * POINTS_PER_INCH, 9)
    axes.annotate(
        note, (0, 1), place, xycoords="axes fraction", textcoords="offset points", size=LABEL_SIZE, color=MUTED
    )


def _place_frames(axes: Axes, num_frames: Sequence[int]) -> None:
    """Mark the numbers of frames that were asked for, as many as there is room to write."""
    low, high = num_frames[0], num_frames[-1]
    pad = 0.04 * (high - low) or 1
    axes.set_xlim(low - pad, high + pad)
    room = axes.get_position().width * axes.figure.get_figwidth()
    pitch = TICK_PITCH * (high - low + 2 * pad) / room
    ticks: list[int] = []
    for frames in num_frames:
        if not ticks or frames - ticks[-1] >= pitch:
            ticks.append(frames)
    axes.set_xticks(ticks)
    axes.set_xlabel("frames per video", size=LABEL_SIZE, color=MUTED)


def _write_end_labels(axes: Axes, lines: Sequence[Line]) -> None:
    """Write each line's label beside its end, pushed apart where they would overlap."""
    height = axes.get_position().height * axes.figure.get_figheight()
    low, high = axes.get_ylim()
    order = sorted(lines, key=lambda line: (line.end, -lines.index(line)))  # equal ones in their order, from the top
    places = spread([line.end for line in order], LABEL_PITCH * (high - low) / height, 100)
    inches = axes.figure.dpi_scale_trans
    for line, place in zip(order, places, strict=True):
        beside = axes.get_yaxis_transform() + ScaledTranslation(0.12, 0, inches)
        key = {"linewidth": 2} if line.marker else BOUND_STYLE
        start = LABEL_KEY / (axes.get_position().width * axes.figure.get_figwidth())
        axes.plot((1, 1 + start), (place, place), color=line.color, transform=beside, clip_on=False, **key)
        axes.plot(1 + start / 2, place, color=line.color, transform=beside, clip_on=False, **_marker(line))
        axes.annotate(
            line.label, (1, place), (POINTS_PER_INCH * (LABEL_ROOM - 0.02), 0), xycoords=axes.get_yaxis_transform(),
            textcoords="offset points", va="center", size=LABEL_SIZE, color=INK, **AS_IT_IS,
            annotation_clip=False,
        )  # fmt: skip


def spread(places: Sequence[float], pitch: float, high: float) -> list[float]:
    """Move rising places up, then down, until neighbours are a pitch apart and none is above the top."""
    moved: list[float] = []
    for place in places:
        moved.append(max(place, moved[-1] + pitch) if moved else place)
    limit = high
    for index in reversed(range(len(moved))):
        moved[index] = min(moved[index], limit)
        limit = moved[index] - pitch
    return moved


def histogram_panel(statistics: Mapping[str, Any]) -> Panel:
    """Prepare the histogram of window lengths in the colours of the length ranges."""
    counts = dict(statistics["window_lengths_seconds"])
    total = sum(counts.values())
    edges = [name.split("-")[0] for name in counts if "-" in name]
    longest = next(name for name in counts if "-" not in name)
    edges.append(longest.removeprefix(">"))
    if not counts[longest]:
        del counts[longest]

    def draw(axes: Axes) -> None:
        quiet_axes(axes)
        _write_title(axes, "Window lengths", "share of all windows, %; colours as in mAP by window length", 0)
        shares = [100 * count / total for count in counts.values()]
        axes.bar(range(len(counts)), shares, width=0.92, color=[_length_color(name) for name in counts])
        for place, share in enumerate(shares):
            axes.annotate(
                f"{share:.1f}", (place, share), (0, 3), textcoords="offset points", ha="center", size=LABEL_SIZE,
                color=INK if share else MUTED,
            )  # fmt: skip
        axes.set(ylim=(0, 1.12 * max(shares)), yticks=[], xlim=(-0.65, len(counts) - 0.35))
        axes.set_xticks([place - 0.5 for place in range(len(edges))], edges)
        axes.set_xlabel("seconds (a bar holds its right end)", size=LABEL_SIZE, color=MUTED)

    return Panel(draw, left=0.0, height=PLOT_HEIGHT)


def _length_color(name: str) -> str:
    """Return the colour of the length range that a bin `low-high` lies in; none holds what is longer."""
    high = float(name.split("-")[-1]) if "-" in name else float("inf")
    inside = (LENGTH_STYLE[length][0] for length, limit in LENGTH_LIMITS_SECONDS.items() if high <= limit)
    return next(inside, MUTED)


def mask_panel_height(rules: Rules) -> float:
    """Return the inches that the rows of `mask_panel` take."""
    return MASK_PITCH * (0.5 + sum(1 + len(own) for own in rules.values()))


def mask_panel(rules: Rules) -> Panel:
    """Prepare one row of small bars per setting, all on one scale, with the weight that the foreground implies."""
    scale = max(5.0, *(100 * one[key] for own in rules.values() for one in own for key in MASK_SHARES))

    def draw(axes: Axes) -> None:
        box = axes.get_position()
        width, height = box.width * axes.figure.get_figwidth(), box.height * axes.figure.get_figheight()
        _write_title(axes, "Masks: what the digits of an answer are", "", 0)
        axes.set(xlim=(0, width), ylim=(height, 0))
        axes.set_axis_off()
        pitch = (width - FRAMES_ROOM - WEIGHT_ROOM) / len(MASK_SHARES)
        starts = [FRAMES_ROOM + pitch * index for index in range(len(MASK_SHARES))]
        for start, lines in zip([*starts, width], [*MASK_SHARES.values(), ("pos_", "weight")], strict=True):
            for line, text in enumerate(lines):  # a text of two lines would stand as high as its letters
                side = "right" if start == width else "left"
                axes.text(start, 0.17 * line - 0.12, text, size=LABEL_SIZE, color=MUTED, ha=side)
        y = 0.12
        for rule, own in rules.items():
            y += MASK_PITCH
            axes.text(0, y - 0.06, f"rule {shown(rule)[:60]}", size=LABEL_SIZE, weight="bold", color=INK, **AS_IT_IS)
            for one in own:
                y += MASK_PITCH
                _draw_mask_row(axes, y - 0.11, one, starts, (pitch - NUMBER_ROOM) / scale)

    return Panel(draw, left=0.0, weight=1.4)


def _draw_mask_row(axes: Axes, y: float, one: Setting, starts: Sequence[float], inches_per_percent: float) -> None:
    """Draw frames, shares and weight of one setting; `y` is the middle of the row."""
    axes.text(FRAMES_ROOM - 0.12, y, f"{one['num_frames']}", size=LABEL_SIZE, color=INK, ha="right", va="center")
    for start, (key, color) in zip(starts, zip(MASK_SHARES, MASK_BARS, strict=True), strict=True):
        share = 100 * one[key]
        axes.barh(y, share * inches_per_percent, left=start, height=0.15, color=color, linewidth=0)
        text = f"{share:.1f}" if share == 0 or share >= 0.05 else "<0.1"
        place = start + share * inches_per_percent + 0.06
        axes.text(place, y, text, size=LABEL_SIZE, color=INK if share else MUTED, va="center")
    weight = "–" if one["pos_weight"] is None else f"{one['pos_weight']:.3f}"
    axes.text(axes.get_xlim()[1], y, weight, size=LABEL_SIZE, color=INK, ha="right", va="center")
