"""Results side by side: a model and its controls, one panel of bars per metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hf_frameseg.visualization._style import AS_IT_IS, BLUE, INK, MUTED, TRACK, text_width_inches, wrap_text

CONTROL = "#B4BBC5"
PANEL_WIDTH, PANEL_GAP, BAR_PITCH, TITLE_SIZE = 1.35, 0.22, 0.34, 10


def comparison_figure(
    rows: Mapping[str, Mapping[str, float]], metrics: Sequence[str] | Mapping[str, str], highlight: str | None = None
) -> Figure:
    """Draw horizontal bars, one panel per metric and one bar per row.

    All panels that hold percentages share the scale from 0 to 100; a metric with larger values gets its own.

    Args:
        rows: Values by metric for each row, in the order of the rows, e.g. ``{"model": {"R1@0.5": 95.0}, ...}``.
        metrics: Metrics to show, in this order; a mapping gives the name to print for each.
        highlight: Row drawn in colour; default the first.

    Returns:
        A figure of its own, for `save_figure`. Nothing is shown, no global state is touched.

    Raises:
        ValueError: If there are no rows or metrics, a metric is in none of the rows, or ``highlight`` is not a row.

    Example:
        >>> from hf_frameseg.visualization import comparison_figure
        >>> rows = {"model": {"mAP": 88.7, "HIT@1": 91.0}, "blank frames": {"mAP": 6.1, "HIT@1": 30.2}}
        >>> len(comparison_figure(rows, ["mAP", "HIT@1"]).axes)
        2
    """
    names = dict(metrics) if isinstance(metrics, Mapping) else {metric: metric for metric in metrics}
    _check(rows, names, highlight)
    highlight = highlight if highlight is not None else next(iter(rows))
    labels = {row: wrap_text(row, 2.6, TITLE_SIZE, _weight(row, highlight), max_lines=1)[0] for row in rows}
    left = 0.45 + max(text_width_inches(label, TITLE_SIZE, _weight(row, highlight)) for row, label in labels.items())
    titles = {metric: wrap_text(name, PANEL_WIDTH, TITLE_SIZE, "bold", 2) for metric, name in names.items()}
    top, plot = 0.3 + 0.19 * max(map(len, titles.values())), BAR_PITCH * len(rows)
    width, height = left + len(names) * (PANEL_WIDTH + PANEL_GAP) + 0.2, top + plot + 0.25
    figure = Figure(figsize=(width, height), facecolor="white")
    for place, metric in enumerate(names):
        x = left + place * (PANEL_WIDTH + PANEL_GAP)
        axes = figure.add_axes((x / width, 0.25 / height, PANEL_WIDTH / width, plot / height))
        style = {"size": TITLE_SIZE, "weight": "bold", "color": INK, **AS_IT_IS}
        axes.set_title("\n".join(titles[metric]), loc="left", pad=7, **style)
        _draw_bars(axes, [row.get(metric) for row in rows.values()], list(rows).index(highlight))
        if place == 0:
            for index, (row, label) in enumerate(labels.items()):
                style = {"color": BLUE if row == highlight else INK, "weight": _weight(row, highlight), **AS_IT_IS}
                axes.annotate(
                    label, (0, index), (-8, 0), textcoords="offset points", ha="right", va="center", size=TITLE_SIZE,
                    **style,
                )  # fmt: skip
    return figure


def _check(rows: Mapping[str, Mapping[str, float]], names: Mapping[str, str], highlight: str | None) -> None:
    """Raise with the repair when there is nothing to draw."""
    if not rows or not names:
        raise ValueError(f"expected at least one row and one metric, got {len(rows)} rows and {len(names)} metrics.")
    if missing := [metric for metric in names if not any(metric in row for row in rows.values())]:
        known = dict.fromkeys(key for row in rows.values() for key in row)
        raise ValueError(f"metrics in none of the rows: {', '.join(missing)}; the rows have {', '.join(known)}.")
    if highlight is not None and highlight not in rows:
        raise ValueError(f"highlight must be one of the rows {', '.join(rows)}, got {highlight!r}.")


def _weight(row: str, highlight: str) -> str:
    """Return the font weight of a row's name."""
    return "bold" if row == highlight else "normal"


def _draw_bars(axes: Axes, values: Sequence[float | None], highlighted: int) -> None:
    """Draw one metric: a bar and its number per row, a dash where a row has no value."""
    known = [value for value in values if value is not None and isfinite(value)]
    # The number stands at the bar's end: leave it room inside the panel.
    scale = max(100.0, *known) if known and max(known) > 1 else 1.0
    axes.set(xlim=(0, scale * 1.42), ylim=(len(values) - 0.5, -0.5))
    axes.set_axis_off()
    for index, value in enumerate(values):
        axes.barh(index, scale, height=0.62, color=TRACK, linewidth=0)
        if value is None or not isfinite(value):
            axes.text(scale * 1.05, index, "–", size=9.5, color=MUTED, va="center")
            continue
        chosen = index == highlighted
        axes.barh(index, value, height=0.62, color=BLUE if chosen else CONTROL, linewidth=0)
        text = f"{value:.1f}" if scale > 1 else f"{value:.2f}"
        style = {"color": BLUE, "weight": "bold"} if chosen else {"color": INK, "weight": "normal"}
        axes.text(scale * 1.05, index, text, size=9.5, va="center", **style)
