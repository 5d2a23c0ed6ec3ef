"""Weights of the loss parts over training, and their sum."""

from __future__ import annotations

import math

import pytest
import torch

from hf_frameseg.objectives import PAPER_WEIGHTS, PAPER_WEIGHTS_START, LossWeightSchedule, weighted_sum


class TestLossWeightSchedule:
    def test_papers_warm_up(self) -> None:
        schedule = LossWeightSchedule(PAPER_WEIGHTS_START, PAPER_WEIGHTS, warmup_steps=600)
        assert schedule.at(0) == {"lm": 1.0, "bce": 0.0, "tversky": 0.0, "generalized_dice": 0.0}
        assert schedule.at(150) == pytest.approx(
            {"lm": 0.8, "bce": 0.2 / 3, "tversky": 0.2 / 3, "generalized_dice": 0.2 / 3}
        )
        for step in (600, 601, 100_000):
            assert schedule.at(step) == PAPER_WEIGHTS

    @pytest.mark.parametrize("step", [0, 1, 299, 450, 600, 900])
    def test_papers_weights_always_add_up_to_one(self, step: int) -> None:
        weights = LossWeightSchedule(PAPER_WEIGHTS_START, PAPER_WEIGHTS, warmup_steps=600).at(step)
        assert sum(weights.values()) == pytest.approx(1)
        assert {name: round(weight, 4) for name, weight in PAPER_WEIGHTS.items()} == {
            "lm": 0.2,
            "bce": 0.2667,
            "tversky": 0.2667,
            "generalized_dice": 0.2667,
        }

    def test_no_warm_up_is_the_end_from_the_first_step(self) -> None:
        assert LossWeightSchedule({"lm": 1}, {"bce": 1}, warmup_steps=0).at(0) == {"lm": 0, "bce": 1}

    def test_constant_ignores_the_warm_up(self) -> None:
        schedule = LossWeightSchedule({"lm": 1}, {"lm": 0.5, "bce": 0.5}, warmup_steps=100, kind="constant")
        assert schedule.at(0) == schedule.at(50) == schedule.at(1000) == {"lm": 0.5, "bce": 0.5}

    def test_names_left_out_weigh_nothing(self) -> None:
        schedule = LossWeightSchedule({"lm": 1}, {"tversky": 2}, warmup_steps=4)
        assert schedule.at(1) == {"lm": 0.75, "tversky": 0.5}

    def test_later_changes_of_the_callers_dict_do_nothing(self) -> None:
        end = {"lm": 1.0}
        schedule = LossWeightSchedule({"lm": 1.0}, end, warmup_steps=0)
        end["lm"] = 5.0
        assert schedule.at(0) == {"lm": 1.0}

    def test_result_is_the_callers_own(self) -> None:
        schedule = LossWeightSchedule({"lm": 1.0}, {"lm": 1.0}, warmup_steps=0)
        schedule.at(0)["lm"] = 5.0
        assert schedule.at(0) == {"lm": 1.0}

    @pytest.mark.parametrize("weight", [-0.1, math.nan, math.inf])
    @pytest.mark.parametrize("side", ["start", "end"])
    def test_weight_that_is_no_weight(self, side: str, weight: float) -> None:
        weights = {"start": {"lm": 1.0}, "end": {"lm": 1.0}} | {side: {"lm": 1.0, "bce": weight}}
        with pytest.raises(ValueError, match=f"the {side} weight of 'bce' must be a finite number >= 0, got {weight}"):
            LossWeightSchedule(**weights, warmup_steps=1)

    def test_unknown_name(self) -> None:
        message = "unknown loss in end weights: dice; known are lm, bce, tversky, generalized_dice"
        with pytest.raises(ValueError, match=message):
            LossWeightSchedule({"lm": 1}, {"lm": 1, "dice": 1}, warmup_steps=1)

    @pytest.mark.parametrize("weights", [{}, {"lm": 0.0}, {"lm": 0.0, "bce": 0.0}])
    def test_all_zero(self, weights: dict[str, float]) -> None:
        with pytest.raises(ValueError, match="the start weights are all 0; give at least one of lm, bce"):
            LossWeightSchedule(weights, {"lm": 1}, warmup_steps=1)

    def test_unknown_kind(self) -> None:
        with pytest.raises(ValueError, match="kind must be one of linear, constant, got 'cosine'"):
            LossWeightSchedule({"lm": 1}, {"lm": 1}, warmup_steps=1, kind="cosine")

    def test_negative_warm_up(self) -> None:
        with pytest.raises(ValueError, match="warmup_steps must be >= 0 optimiser steps, got -1"):
            LossWeightSchedule({"lm": 1}, {"lm": 1}, warmup_steps=-1)

    def test_negative_step(self) -> None:
        with pytest.raises(ValueError, match="step must be >= 0, got -1"):
            LossWeightSchedule({"lm": 1}, {"lm": 1}, warmup_steps=1).at(-1)


class TestWeightedSum:
    def test_per_sample(self) -> None:
        parts = {"lm": torch.tensor([1.0, 2.0]), "bce": torch.tensor([10.0, 20.0])}
        assert weighted_sum(parts, {"lm": 0.5, "bce": 0.25}).tolist() == [3.0, 6.0]

    def test_gradient_is_the_weight(self) -> None:
        parts = {name: torch.ones(2, requires_grad=True) for name in ("lm", "bce")}
        weighted_sum(parts, {"lm": 0.2, "bce": 0.8}).sum().backward()
        assert parts["lm"].grad.tolist() == pytest.approx([0.2, 0.2])
        assert parts["bce"].grad.tolist() == pytest.approx([0.8, 0.8])

    def test_zero_weight_leaves_the_part_out(self) -> None:
        # 0 * inf would be NaN
        parts = {"lm": torch.tensor([1.0]), "bce": torch.tensor([math.inf])}
        assert weighted_sum(parts, {"lm": 1.0, "bce": 0.0}).tolist() == [1.0]

    def test_zero_weight_needs_no_part(self) -> None:
        assert weighted_sum({"lm": torch.tensor([2.0])}, PAPER_WEIGHTS_START).tolist() == [2.0]

    def test_inputs_stay_as_they_are(self) -> None:
        parts = {"lm": torch.tensor([2.0]), "bce": torch.tensor([3.0])}
        weighted_sum(parts, {"lm": 1.0, "bce": 1.0})
        assert parts["lm"].tolist() == [2.0]

    def test_part_without_weight(self) -> None:
        with pytest.raises(ValueError, match="loss parts without a weight: bce; give each a weight"):
            weighted_sum({"lm": torch.ones(1), "bce": torch.ones(1)}, {"lm": 1.0})

    def test_weight_without_part(self) -> None:
        with pytest.raises(ValueError, match="weights without a loss part: tversky; compute the part"):
            weighted_sum({"lm": torch.ones(1)}, {"lm": 1.0, "tversky": 0.1})

    def test_nothing_to_add(self) -> None:
        with pytest.raises(ValueError, match="every loss weight is 0"):
            weighted_sum({"lm": torch.ones(1)}, {"lm": 0.0})
