"""Training curves: the smoothing by hand, and which key lands in which panel."""

from __future__ import annotations

import math

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from hf_frameseg.visualization import time_weighted_ema, training_curves_figure

PARTS = ("loss", "loss_lm", "loss_bce", "loss_tversky", "loss_generalized_dice")


@pytest.fixture
def log() -> list[dict]:
    """Return a log as the trainer writes it: training lines, evaluation lines, a summary without losses."""
    lines = [
        {"step": step, "epoch": step / 10, "learning_rate": 1e-4} | {part: 1 + i / step for i, part in enumerate(PARTS)}
        for step in (1, 2, 5, 10, 20)
    ]
    lines.insert(4, {"step": 10, "eval_loss": 0.5, "eval_loss_bce": 0.25, "eval_mAP": 12.0})
    return [
        *lines,
        {"step": 20, "eval_loss": 0.4, "eval_loss_bce": 0.2, "eval_mAP": 50.0},
        {"step": 20, "train_loss": 1},
    ]


def titles(figure: Figure) -> list[str]:
    return [axes.get_title(loc="left") for axes in figure.axes]


def drawn(axes: Axes) -> list[list[tuple[float, float]]]:
    """Return the points of the raw, smoothed and evaluation line."""
    return [list(zip(*line.get_data(), strict=True)) for line in axes.get_lines()]


class TestTimeWeightedEma:
    def test_by_hand(self) -> None:
        # half-life 10: after 10 steps a value counts 1/2, after 30 steps 1/8
        # 4;  (4/2 + 1) / (1/2 + 1) = 2;  ((4/2 + 1) / 4 + 2) / ((1/2 + 1) / 4 + 1) = 2.75 / 1.375 = 2
        smoothed = time_weighted_ema([0, 10, 30], [4.0, 1.0, 2.0], half_life_steps=10)
        assert smoothed.tolist() == pytest.approx([4.0, 2.0, 2.0])

    def test_constant_stays_constant(self) -> None:
        steps = [1, 2, 3, 50, 51, 400]
        assert time_weighted_ema(steps, [0.7] * 6, half_life_steps=5).tolist() == pytest.approx([0.7] * 6)

    def test_age_counts_in_steps_not_in_points(self) -> None:
        # The same last two values: the older, the less the first one weighs.
        near = time_weighted_ema([0, 1], [1.0, 0.0], half_life_steps=10)[-1]
        far = time_weighted_ema([0, 100], [1.0, 0.0], half_life_steps=10)[-1]
        assert near == pytest.approx(2**-0.1 / (1 + 2**-0.1))
        assert far == pytest.approx(2**-10 / (1 + 2**-10))

    def test_unit_of_the_steps_does_not_matter(self) -> None:
        values = np.random.default_rng(0).random(20)
        steps = np.cumsum(np.random.default_rng(1).integers(1, 9, 20))
        assert time_weighted_ema(7 * steps + 3, values, 35).tolist() == pytest.approx(
            time_weighted_ema(steps, values, 5).tolist()
        )

    def test_values_that_are_not_finite_are_passed_over(self) -> None:
        smoothed = time_weighted_ema([0, 10, 20, 30], [math.nan, 1.0, math.inf, 0.0], half_life_steps=10)
        assert math.isnan(smoothed[0])
        assert smoothed[1:].tolist() == pytest.approx([1.0, 1.0, 0.25 / 1.25])

    def test_two_values_at_one_step_count_alike(self) -> None:
        assert time_weighted_ema([5, 5], [0.0, 1.0], half_life_steps=2).tolist() == [0.0, 0.5]

    def test_nothing(self) -> None:
        assert time_weighted_ema([], [], half_life_steps=1).shape == (0,)

    @pytest.mark.parametrize("half_life_steps", [0, -1, math.nan])
    def test_half_life(self, half_life_steps: float) -> None:
        with pytest.raises(ValueError, match="half_life_steps must be > 0"):
            time_weighted_ema([0], [0], half_life_steps)

    @pytest.mark.parametrize(("steps", "values"), [([2, 1], [0, 0]), ([1], [0, 0]), ([[1]], [[0]])])
    def test_steps(self, steps: list, values: list) -> None:
        with pytest.raises(ValueError, match=r"must be \(N,\) with steps in rising order"):
            time_weighted_ema(steps, values, 1)


class TestTrainingCurvesFigure:
    def test_one_panel_per_loss_part(self, log: list[dict]) -> None:
        expected = ["Joint loss", "Language model", "Binary cross-entropy", "Tversky", "Generalized Dice"]
        assert titles(training_curves_figure(log)) == expected

    def test_a_part_of_ones_own_gets_a_panel(self, log: list[dict]) -> None:
        figure = training_curves_figure([line | {"loss_focal": 1.0} for line in log])
        assert titles(figure)[-1] == "loss_focal"

    def test_raw_and_smoothed_values(self, log: list[dict]) -> None:
        raw, smoothed, _ = drawn(training_curves_figure(log, half_life_steps=2).axes[1])
        steps, values = zip(*raw, strict=True)
        assert steps == (1, 2, 5, 10, 20)
        assert values == pytest.approx([2.0, 1.5, 1.2, 1.1, 1.05])
        assert [y for _, y in smoothed] == pytest.approx(time_weighted_ema(steps, values, 2).tolist())

    def test_evaluation_is_drawn_in_the_panel_of_its_part(self, log: list[dict]) -> None:
        figure = training_curves_figure(log)
        evaluations = [drawn(axes)[2] for axes in figure.axes]
        assert evaluations == [[(10, 0.5), (20, 0.4)], [], [(10, 0.25), (20, 0.2)], [], []]

    def test_own_keys_in_their_order(self, log: list[dict]) -> None:
        figure = training_curves_figure(log, keys=["eval_mAP", "loss_lm", "learning_rate"])
        assert titles(figure) == ["eval_mAP", "Language model", "learning_rate"]
        assert drawn(figure.axes[0])[2] == [(10, 12.0), (20, 50.0)]

    def test_order_of_the_log_does_not_matter(self, log: list[dict]) -> None:
        assert [drawn(axes) for axes in training_curves_figure(log[::-1]).axes[1:2]] == [
            drawn(axes) for axes in training_curves_figure(log).axes[1:2]
        ]

    def test_default_half_life_is_printed(self, log: list[dict]) -> None:
        long = [line | {"step": 100 * line["step"]} for line in log]  # 1900 steps / 40
        legend = [text.get_text() for text in training_curves_figure(long).legends[0].findobj(Text)]
        assert "smoothed (half-life 47.5 steps)" in legend

    def test_single_line(self) -> None:
        assert titles(training_curves_figure([{"step": 1, "loss": 1.0}])) == ["Joint loss"]

    def test_unknown_key(self, log: list[dict]) -> None:
        with pytest.raises(ValueError, match="not in the log: eval_R1; it has step, epoch, learning_rate, loss"):
            training_curves_figure(log, keys=["loss", "eval_R1"])

    @pytest.mark.parametrize("log_history", [[], [{"step": 3, "train_loss": 1.0}]])
    def test_log_without_losses(self, log_history: list[dict]) -> None:
        with pytest.raises(ValueError, match="the log has no loss; set logging_steps below"):
            training_curves_figure(log_history)
