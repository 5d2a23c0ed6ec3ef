"""The audit's picture: lines through the audited values, and nothing over anything else."""

from __future__ import annotations

import json
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from hf_frameseg.audit.report import audit_report
from hf_frameseg.visualization import audit_figure
from hf_frameseg.visualization._audit_panels import spread


def random_rows(number: int = 12, seed: int = 0) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    rows = []
    for qid in range(number):
        first, last = np.sort(rng.choice(75, 2, replace=False)).tolist()
        clips = list(range(first, last))
        rows.append(
            {
                "qid": qid,
                "vid": f"v{qid}",
                "duration": 150,
                "relevant_windows": [[2 * first, 2 * last]],
                "relevant_clip_ids": clips,
                "saliency_scores": rng.integers(0, 5, (len(clips), 3)).tolist(),
            }
        )
    return rows


RULES = ["window", "saliency>0.5"]
ROWS = random_rows()


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    return audit_report(ROWS, [10, 25, 50], RULES)


def titles(figure: Figure) -> list[str]:
    return [axes.get_title(loc="left") for axes in figure.axes]


def drawn(axes: Axes) -> list[list[float]]:
    """Return the values of every line over the three numbers of frames."""
    lines = [line.get_data() for line in axes.get_lines()]
    return [list(y) for x, y in lines if list(x) == [10, 25, 50]]


def test_panels_stand_rule_beside_rule(report: dict[str, Any]) -> None:
    assert titles(audit_figure(report)) == [
        *(f"Moments: perfect mask, rule {rule}" for rule in RULES),
        *(f"mAP by window length, rule {rule}" for rule in RULES),
        "Highlights: HL-mAP",
        "Highlights: HIT@1",
        "Window lengths",
        "Masks: what the digits of an answer are",
    ]


def test_lines_go_through_the_audited_values(report: dict[str, Any]) -> None:
    figure = audit_figure(report)
    for axes, rule in zip(figure.axes[:2], RULES, strict=True):
        settings = [one for one in report["settings"] if one["label_rule"] == rule]
        expected = [
            [one["windows"][listing][name] for one in settings]
            for name in ("R1@0.5", "R1@0.7", "mAP")
            for listing in ("by_rating", "by_time")
        ]
        assert sorted(drawn(axes)) == sorted(expected)
    window, public = (
        [one["highlights"]["mask"]["linear"]["HIT@1"] for one in report["settings"] if one["label_rule"] == rule]
        for rule in RULES
    )
    graded = [
        [one["highlights"][curve]["linear"]["HIT@1"] for one in report["settings"][:3]]
        for curve in ("mean_rating", "votes")
    ]
    assert sorted(drawn(figure.axes[5])) == sorted([window, public, *graded])


def test_a_report_read_from_json_gives_the_same_picture(report: dict[str, Any]) -> None:
    again = audit_figure(json.loads(json.dumps(report)))
    assert [drawn(axes) for axes in again.axes] == [drawn(axes) for axes in audit_figure(report).axes]


def test_order_of_the_settings_does_not_matter(report: dict[str, Any]) -> None:
    rules = [one for rule in RULES for one in report["settings"][::-1] if one["label_rule"] == rule]
    turned = audit_figure({**report, "settings": rules})
    assert [drawn(axes) for axes in turned.axes] == [drawn(axes) for axes in audit_figure(report).axes]


def test_histogram_and_masks_show_the_shares(report: dict[str, Any]) -> None:
    lengths, masks = audit_figure(report).axes[-2:]
    shares = [
        100 * count / 12 for name, count in report["annotations"]["window_lengths_seconds"].items() if "-" in name
    ]
    assert [patch.get_height() for patch in lengths.patches] == pytest.approx(shares)
    keys = ("foreground", "all_zero_masks", "all_one_masks", "windows_without_frame")
    expected = np.array([[one[key] for key in keys] for one in report["settings"]]).ravel()
    widths = np.array([patch.get_width() for patch in masks.patches])
    assert widths == pytest.approx(expected * widths.max() / expected.max())
    texts = {text.get_text() for text in masks.texts}
    assert {f"{one['pos_weight']:.3f}" for one in report["settings"]} <= texts


def test_windows_above_the_last_edge_get_a_bar_of_their_own() -> None:
    rows = [{**one, "duration": 400, "relevant_windows": [[0, 300]]} for one in random_rows(2)]
    lengths = audit_figure(audit_report(rows, [10])).axes[-2]
    assert [patch.get_height() for patch in lengths.patches] == [*[0.0] * 8, 100.0]


def test_one_rule_stands_in_one_row_and_without_ratings_there_are_no_highlights() -> None:
    rows = [{**one, "relevant_clip_ids": [], "saliency_scores": []} for one in ROWS]
    assert titles(audit_figure(audit_report(rows, [25]))) == [
        "Moments: perfect mask, rule window",
        "mAP by window length, rule window",
        "Window lengths",
        "Masks: what the digits of an answer are",
    ]


def test_labels_are_pushed_apart_and_stay_below_the_top() -> None:
    assert spread([10.0, 11.0, 50.0], pitch=5, high=100) == [10, 15, 50]
    assert spread([98.0, 99.0, 100.0], pitch=5, high=100) == [90, 95, 100]
    assert spread([], pitch=5, high=100) == []


CASES = {
    "one number of frames": ([25], ["window"]),
    "twelve numbers of frames": ([10, 16, 20, 25, 32, 40, 50, 60, 64, 75, 100, 150], ["window"]),
    "two rules": ([10, 25, 50], RULES),
    "three rules, a long one": ([25, 50], ["window", "saliency>0.25", "saliency>0.3333333333333333"]),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("title", [None, "a_$name$_that_does_not_fit_on_one_line " * 6])
def test_no_letters_overlap_or_leave_the_figure(case: str, title: str | None) -> None:
    figure = audit_figure(audit_report(ROWS, *CASES[case]), title)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    boxes = {
        text: text.get_window_extent(canvas.get_renderer())
        for text in figure.findobj(Text)
        if text.get_text() and text.get_visible() and not hidden(text)
    }
    for text, box in boxes.items():
        inside = box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1
        assert inside, f"{text.get_text()!r} leaves the figure"
    for (text, box), (text2, box2) in combinations(boxes.items(), 2):
        apart = box.x1 <= box2.x0 or box2.x1 <= box.x0 or box.y1 <= box2.y0 + 1 or box2.y1 <= box.y0 + 1
        assert apart, f"{text.get_text()!r} and {text2.get_text()!r} overlap"


def hidden(text: Text) -> bool:
    """Tell whether a text belongs to an axis that is switched off."""
    return text.axes is not None and not text.axes.axison and text not in (*text.axes.texts, text.axes._left_title)


def test_nothing_to_draw(report: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="at least one number of frames and one label rule, got none"):
        audit_figure({**report, "settings": []})
