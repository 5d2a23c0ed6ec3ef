"""Text of others in figures: drawn as it is, never a formula, TeX, a crash or an hour's work."""

from __future__ import annotations

import io
import unicodedata
from collections.abc import Callable
from functools import cache
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from hf_frameseg.audit.report import audit_report
from hf_frameseg.moments import FrameGrid
from hf_frameseg.predictions import FramePrediction
from hf_frameseg.visualization import audit_figure, comparison_figure, qualitative_figure, training_curves_figure

FOREIGN = {
    "formula": r"he pays $\frac{1}{0$ and $x^$",
    "TeX": r"\input{/etc/passwd} % & _ ^ #",
    "escape sequence": "a\x1b[2J\x07\r0 problems\nnext",
    "NUL": "a\x00b",
    "half a character": "a\ud83db",
    "right to left": "a\u202eb\u2066c",
    "no glyphs": "\U0001f436 \u72ac\u304c\u8d70\u308b \ufffe \U0010ffff",
    "endless": "a" * 200_000,
    "endless words": "ab " * 100_000,
}


def qualitative(text: str) -> Figure:
    probs = np.array([0.1, 0.9])
    return qualitative_figure(
        FramePrediction(FrameGrid.middle(8, 2), probs > 0.5, probs, (), probs, query=text, vid=text)
    )


def comparison(text: str) -> Figure:
    return comparison_figure({text: {text: 50.0}}, [text])


def curves(text: str) -> Figure:
    return training_curves_figure([{"step": step, f"loss_{text}": 1.0} for step in (1, 2)])


def audited(text: str) -> Figure:
    row = {"qid": 1, "vid": "a", "duration": 12, "relevant_windows": [[2, 6]], "relevant_clip_ids": [1, 2]}
    report = audit_report([{**row, "saliency_scores": [[4, 4, 2], [4, 3, 2]]}], [3, 6])
    for one in report["settings"]:
        one["label_rule"] = text  # a report may come from a file
    return audit_figure(report, text)


@cache
def own_text(draw: Callable[[str], Figure]) -> frozenset[str]:
    """What a figure says by itself."""
    figure = draw("q")
    figure.savefig(io.BytesIO(), dpi=30)  # writes the ticks
    return frozenset(artist.get_text() for artist in figure.findobj(Text))


@pytest.mark.filterwarnings("ignore:Glyph .* missing from")
@pytest.mark.parametrize("text", FOREIGN.values(), ids=FOREIGN)
@pytest.mark.parametrize("draw", [qualitative, comparison, curves, audited])
def test_text_of_others_is_drawn_as_it_is(draw: Callable[[str], Figure], text: str) -> None:
    own = own_text(draw)
    figure = draw(text)
    figure.savefig(io.BytesIO(), format="svg" if "\x1b" in text else "png", dpi=30)
    foreign = [artist for artist in figure.findobj(Text) if artist.get_text() and artist.get_text() not in own]
    assert foreign
    for artist in foreign:
        assert not artist.get_parse_math()
        assert not artist.get_usetex()
        lines = artist.get_text().split("\n")
        assert all(unicodedata.category(character) not in ("Cc", "Cf", "Cs") for line in lines for character in line)
        assert len(artist.get_text()) < 1_500


def test_tex_in_a_users_settings_does_not_read_text_of_others() -> None:
    with mpl.rc_context({"text.usetex": True}):
        figure = qualitative(r"\input{/etc/passwd}")
    assert [artist.get_usetex() for artist in figure.findobj(Text) if "input" in artist.get_text()] == [False, False]


@pytest.mark.parametrize("entry", [{"loss": 1.0}, {"step": 1, "loss": "nan\x1b"}, {"step": None, "loss": 1.0}])
def test_a_log_that_is_none_is_one_line(entry: dict[str, Any]) -> None:
    with pytest.raises(
        ValueError, match="expected log entries with a step and a number for loss, got one with"
    ) as caught:
        training_curves_figure([{"step": 1, "loss": 2.0}, entry])
    assert str(caught.value).isprintable()


def test_a_diverged_training_has_its_curves() -> None:
    log = [{"step": step, "loss": value} for step, value in enumerate([1.0, float("inf"), float("nan"), 1e300, -1e300])]
    training_curves_figure(log).savefig(io.BytesIO())
    training_curves_figure([{"step": 1, "loss": float("nan")}]).savefig(io.BytesIO())
