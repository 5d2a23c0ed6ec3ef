"""The audit as one picture: what annotations allow a perfect model to score, and how balanced their labels are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

from matplotlib.figure import Figure

from hf_frameseg.visualization._audit_panels import (
    LENGTH_STYLE,
    PLOT_HEIGHT,
    Line,
    Panel,
    Rules,
    Setting,
    histogram_panel,
    line_panel,
    mask_panel,
    mask_panel_height,
)
from hf_frameseg.visualization._style import (
    AS_IT_IS,
    BLUE,
    GREEN,
    INK,
    MUTED,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    shown,
    wrap_text,
)

MARGIN, COLUMN, COLUMN_GAP, ROW_GAP = 0.4, 4.7, 0.5, 1.05  # in inches

SCORE_STYLE = {"R1@0.5": (SKY, "o"), "R1@0.7": (BLUE, "s"), "mAP": (VERMILION, "D")}
CURVE_STYLE = {"votes": ("ratings of 4", PURPLE, "D"), "mean_rating": ("mean rating", BLUE, "s")}
MASK_COLORS = (ORANGE, GREEN, VERMILION, SKY)


def audit_figure(report: Mapping[str, Any], title: str | None = None) -> Figure:
    """Draw ceilings over the number of frames, one column per label rule, then window lengths and masks.

    Args:
        report: What `audit.report.audit_report` returned, or the same read from JSON.
        title: Headline, for example the name of the annotation file.

    Returns:
        A figure of its own, for `save_figure`. Nothing is shown, no global state is touched.

    Raises:
        ValueError: If the report holds no setting.

    Example:
        >>> from hf_frameseg.audit.report import audit_report
        >>> from hf_frameseg.visualization import audit_figure
        >>> row = {"qid": 1, "vid": "a", "duration": 12, "relevant_windows": [[2, 6]], "relevant_clip_ids": [1, 2],
        ...        "saliency_scores": [[4, 4, 2], [4, 3, 2]]}
        >>> figure = audit_figure(audit_report([row], [3, 6]), "one query")
        >>> figure.axes[0].get_title(loc="left")
        'Moments: perfect mask, rule window'
    """
    if not report["settings"]:
        raise ValueError("expected an audit of at least one number of frames and one label rule, got none.")
    rules: dict[str, list[Setting]] = {}
    for one in sorted(report["settings"], key=lambda one: one["num_frames"]):
        rules.setdefault(one["label_rule"], []).append(one)
    statistics = report["annotations"]
    moments = [_moments_panel(rule, settings) for rule, settings in rules.items()]
    lengths = [_length_panel(rule, settings, report["exact_windows"]["by_length"]) for rule, settings in rules.items()]
    together = len(rules) == 1  # one rule: its two panels side by side
    rows = [(PLOT_HEIGHT, [*moments, *lengths])] if together else [(PLOT_HEIGHT, moments), (PLOT_HEIGHT, lengths)]
    if statistics["highlight_bound"] is not None:
        rows.append((PLOT_HEIGHT, [_highlight_panel(rules, column, statistics) for column in ("HL-mAP", "HIT@1")]))
    rows.append((max(PLOT_HEIGHT, mask_panel_height(rules)), [histogram_panel(statistics), mask_panel(rules)]))
    return _compose(rows, len(rules), title, _facts(statistics))


def _compose(rows: Sequence[tuple[float, Sequence[Panel]]], num_rules: int, title: str | None, facts: str) -> Figure:
    """Put the headline and the rows of panels on a page that is as large as they need."""
    columns = max(2, num_rules)
    inner = columns * COLUMN + (columns - 1) * COLUMN_GAP
    width, head = inner + 2 * MARGIN, 1.1 if title else 0.75
    height = head + sum(ROW_GAP + plot for plot, _ in rows) - 0.1
    figure = Figure(figsize=(width, height), facecolor="white")
    y = height - MARGIN
    if title:
        shown = wrap_text(title, inner, 15, "bold", max_lines=1)[0]
        figure.text(MARGIN / width, y / height, shown, size=15, weight="bold", color=INK, va="top", **AS_IT_IS)
        y -= 0.33
    figure.text(MARGIN / width, y / height, facts, size=10, color=MUTED, va="top")
    y = height - head
    for plot, panels in rows:
        y -= plot + 0.35
        x, room = MARGIN, inner - COLUMN_GAP * (len(panels) - 1)
        for panel in panels:
            own = room * panel.weight / sum(one.weight for one in panels)
            tall = panel.height or plot
            size = (own - panel.left - panel.right) / width, tall / height
            panel.draw(figure.add_axes(((x + panel.left) / width, (y + plot - tall) / height, *size)))
            x += own + COLUMN_GAP
        y -= ROW_GAP - 0.35
    return figure


def _facts(statistics: Mapping[str, Any]) -> str:
    """Sum the file up in one line."""
    parts = [f"{statistics['num_queries']:,} queries"]
    if statistics["num_videos"] is not None:
        parts.append(f"{statistics['num_videos']:,} videos")
    parts.append(f"{statistics['num_windows']:,} windows")
    parts.append(f"{100 * statistics['multi_window_queries']:.1f} % of the queries have several windows")
    parts.append(f"{100 * statistics['foreground_seconds']:.1f} % of the time is relevant")
    return "  ·  ".join(parts)


def _moments_panel(rule: str, settings: Sequence[Setting]) -> Panel:
    """Prepare R1 and mAP of one label rule."""
    ranked = settings[0]["windows"]["by_rating"] is not None
    best, other = ("by_rating", "by_time") if ranked else ("by_time", None)
    lines = [
        Line(name, color, marker, *(_values(settings, "windows", way, name) for way in (best, other) if way))
        for name, (color, marker) in SCORE_STYLE.items()
    ]
    note = "best run first; dotted: in time order" if ranked else "runs in time order"
    return line_panel(f"Moments: perfect mask, rule {_short(rule)}", note, settings, lines)


def _length_panel(rule: str, settings: Sequence[Setting], exact: Mapping[str, float | None]) -> Panel:
    """Prepare mAP per window length of one label rule; in time order, as the annotated windows are."""
    lines = [
        Line(
            name, color, marker, _values(settings, "windows_by_length", "by_time", name),
            suffix="" if exact[name] is None else f" of {exact[name]:.1f}",
        )
        for name, (color, marker) in LENGTH_STYLE.items()
    ]  # fmt: skip
    return line_panel(f"mAP by window length, rule {_short(rule)}", "of: what the exact windows get", settings, lines)


def _highlight_panel(rules: Rules, column: str, statistics: Mapping[str, Any]) -> Panel:
    """Prepare one highlight score of the graded curves and of each rule's mask."""
    settings = next(iter(rules.values()))
    lines = [
        Line(name, color, marker, [one["highlights"][curve]["linear"][column] for one in settings])
        for curve, (name, color, marker) in CURVE_STYLE.items()
    ]
    for (rule, own), color in zip(rules.items(), cycle(MASK_COLORS), strict=False):
        values = [one["highlights"]["mask"]["linear"][column] for one in own]
        lines.append(Line(f"mask, {_short(rule)}", color, "o", values))
    bound = Line("no ranking passes", MUTED, "", [statistics["highlight_bound"][column]])
    note = "one perfect value per frame, linear in between"
    return line_panel(f"Highlights: {column}", note, settings, lines, bound)


def _short(rule: str) -> str:
    """Cut a rule's name that would not fit beside its line."""
    rule = shown(rule)
    return rule if len(rule) <= 16 else f"{rule[:15]}…"


def _values(settings: Sequence[Setting], *keys: str) -> list[float | None]:
    """Follow the keys in every setting."""
    values = []
    for value in settings:
        for key in keys:
            value = value[key]
        values.append(value)
    return values
