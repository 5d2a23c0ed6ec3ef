"""The comparison figure: bars as long as their values."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import same_color
from matplotlib.text import Text

from hf_frameseg.visualization import comparison_figure
from hf_frameseg.visualization._style import BLUE, TRACK

ROWS = {
    "model": {"mAP": 88.7, "HIT@1": 91.0},
    "blank frames": {"mAP": 6.25, "HIT@1": math.nan},
    "whole video": {"mAP": 5.0},
}


def bars(axes: object) -> list[tuple[float, bool]]:
    """Return length and whether it is highlighted of each bar, without the tracks behind."""
    patches = [patch for patch in axes.patches if not same_color(patch.get_facecolor(), TRACK)]
    return [(patch.get_width(), same_color(patch.get_facecolor(), BLUE)) for patch in patches]


def test_bars_are_the_values_and_the_first_row_stands_out() -> None:
    figure = comparison_figure(ROWS, ["mAP", "HIT@1"])
    assert bars(figure.axes[0]) == [(88.7, True), (6.25, False), (5.0, False)]
    assert bars(figure.axes[1]) == [(91.0, True)]  # NaN and missing have none


def test_numbers_and_dashes() -> None:
    figure = comparison_figure(ROWS, ["mAP", "HIT@1"])
    numbers = [[text.get_text() for text in axes.texts if text.get_text() not in ROWS] for axes in figure.axes]
    assert numbers == [["88.7", "6.2", "5.0"], ["91.0", "–", "–"]]


def test_highlight_another_row() -> None:
    assert bars(comparison_figure(ROWS, ["mAP"], highlight="whole video").axes[0])[2] == (5.0, True)


def test_printed_names() -> None:
    figure = comparison_figure(ROWS, {"HIT@1": "Hit", "mAP": "Mean AP"})
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["Hit", "Mean AP"]


def test_shares_get_two_digits() -> None:
    figure = comparison_figure({"a": {"m": 0.875}, "b": {"m": 1.0}}, ["m"])
    assert {"0.88", "1.00"} <= {text.get_text() for text in figure.axes[0].texts}


@pytest.mark.parametrize("name", ["model", "queries shuffled between videos", "a $name$ far too long " * 5])
def test_no_letters_overlap_or_leave_the_figure(name: str) -> None:
    metrics = ["MR-full-R1@0.5", "MR-full-mAP average over thresholds", "mAP", "HIT@1"]
    rows = {row: dict.fromkeys(metrics, value) for row, value in ((name, 100.0), ("base", 0.0), ("third", 55.5))}
    figure = comparison_figure(rows, metrics)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    shown = [text for axes in figure.axes for text in (*axes.texts, axes.title, axes._left_title)]
    boxes = {text: text.get_window_extent(canvas.get_renderer()) for text in shown if isinstance(text, Text)}
    boxes = {text: box for text, box in boxes.items() if text.get_text()}
    for text, box in boxes.items():
        inside = box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1
        assert inside, f"{text.get_text()!r} leaves the figure"
    for (text, box), (text2, box2) in combinations(boxes.items(), 2):
        apart = box.x1 <= box2.x0 or box2.x1 <= box.x0 or box.y1 <= box2.y0 or box2.y1 <= box.y0
        assert apart, f"{text.get_text()!r} and {text2.get_text()!r} overlap"


@pytest.mark.parametrize(("rows", "metrics"), [({}, ["mAP"]), (ROWS, [])])
def test_nothing_to_draw(rows: dict, metrics: list[str]) -> None:
    with pytest.raises(ValueError, match="expected at least one row and one metric"):
        comparison_figure(rows, metrics)


def test_unknown_metric() -> None:
    with pytest.raises(ValueError, match="metrics in none of the rows: R1; the rows have mAP, HIT@1"):
        comparison_figure(ROWS, ["mAP", "R1"])


def test_unknown_highlight() -> None:
    with pytest.raises(ValueError, match="highlight must be one of the rows model, blank frames, whole video, got 'x'"):
        comparison_figure(ROWS, ["mAP"], highlight="x")
