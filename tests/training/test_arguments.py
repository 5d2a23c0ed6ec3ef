"""Training arguments: defaults, JSON from the command line, the schedule they describe, one-line refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from hf_frameseg.objectives import PAPER_POS_WEIGHT, PAPER_WEIGHTS, PAPER_WEIGHTS_START, TverskyLoss
from hf_frameseg.training.arguments import SegmentationSeq2SeqTrainingArguments

OFF = {"lm": 0.0, "bce": 0.0, "tversky": 0.0, "generalized_dice": 0.0}


def make_args(tmp_path: Path, **options: Any) -> SegmentationSeq2SeqTrainingArguments:
    return SegmentationSeq2SeqTrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none", **options)


def test_defaults_are_the_papers_weights_from_the_first_step(tmp_path: Path) -> None:
    args = make_args(tmp_path)
    assert (args.remove_unused_columns, args.predict_with_generate, args.generation_num_beams) == (False, True, 2)
    schedule = args.loss_schedule(max_steps=100)
    assert schedule.at(0) == schedule.at(99) == PAPER_WEIGHTS
    assert list(args.objectives()) == ["lm", "bce", "tversky", "generalized_dice"]


def test_batches_of_a_stream_are_never_cut(tmp_path: Path) -> None:
    assert make_args(tmp_path).accelerator_config.dispatch_batches is False


def test_the_papers_warm_up_in_steps_and_as_a_share(tmp_path: Path) -> None:
    for warmup_steps in (6, 0.5):
        args = make_args(tmp_path, loss_weights_start=PAPER_WEIGHTS_START, loss_warmup_steps=warmup_steps)
        schedule = args.loss_schedule(max_steps=12)
        assert schedule.at(0) == PAPER_WEIGHTS_START
        assert schedule.at(3) == pytest.approx({"lm": 0.6, **dict.fromkeys(list(OFF)[1:], 0.4 / 3)})
        assert schedule.at(6) == schedule.at(11) == PAPER_WEIGHTS


def test_one_is_a_step_and_not_the_whole_training(tmp_path: Path) -> None:
    args = make_args(tmp_path, loss_weights_start={"lm": 1}, loss_weights={"bce": 1}, loss_warmup_steps=1)
    assert args.loss_schedule(max_steps=100).at(1) == {"lm": 0.0, "bce": 1.0}


@pytest.mark.parametrize(("steps", "expected"), [(1.0, 200), (0.5, 100), (0.999, 200), (1, 1), (7, 7), (7.0, 7)])
def test_a_float_up_to_one_is_a_share_and_an_int_is_steps(tmp_path: Path, steps: float, expected: int) -> None:
    args = make_args(tmp_path, loss_weights_start={"lm": 1}, loss_warmup_steps=steps)
    assert args.loss_schedule(max_steps=200).warmup_steps == expected


@pytest.mark.parametrize(("text", "expected"), [("1", 1), ("1.0", 200), ("0.5", 100), ("12", 12)])
def test_steps_and_shares_on_the_command_line(tmp_path: Path, text: str, expected: int) -> None:
    from transformers import HfArgumentParser

    argv = ["--output_dir", str(tmp_path), "--use_cpu", "true", "--report_to", "none"]
    argv += ["--loss_weights_start", '{"lm": 1}', "--loss_warmup_steps", text]
    (args,) = HfArgumentParser(SegmentationSeq2SeqTrainingArguments).parse_args_into_dataclasses(argv)
    assert args.loss_schedule(max_steps=200).warmup_steps == expected


@pytest.mark.parametrize(
    ("metric", "greater"),
    [
        ("loss", False),
        ("loss_bce", False),
        ("loss_lm", False),
        ("eval_loss_tversky", False),
        ("eval_val_loss_generalized_dice", False),
        ("val_loss", False),
        ("mAP", True),
        ("eval_HIT@1", True),
        ("R1@0.7", True),
    ],
)
def test_losses_are_minimised_and_scores_maximised(tmp_path: Path, metric: str, greater: bool) -> None:
    options = {"eval_strategy": "steps", "eval_steps": 5, "metric_for_best_model": metric}
    assert make_args(tmp_path, **options).greater_is_better is greater
    for schedule in ("reduce_lr_on_plateau", "greedy"):  # torch's default lowers the rate when a score rises
        args = make_args(tmp_path, **options, lr_scheduler_type=schedule, lr_scheduler_kwargs={"patience": 3})
        assert args.lr_scheduler_kwargs == {"mode": "max" if greater else "min", "patience": 3}


def test_without_a_metric_the_direction_is_nobodys(tmp_path: Path) -> None:
    assert make_args(tmp_path).greater_is_better is None
    assert make_args(tmp_path, metric_for_best_model="loss_bce", greater_is_better=True).greater_is_better is True


def test_the_defaults_are_those_of_the_recipe(tmp_path: Path) -> None:
    assert make_args(tmp_path).objectives()["bce"].pos_weight == PAPER_POS_WEIGHT == 2.3378


def test_a_name_that_is_left_out_weighs_nothing(tmp_path: Path) -> None:
    args = make_args(tmp_path, loss_weights={"bce": 1})
    assert args.loss_schedule(max_steps=1).at(0) == {"lm": 0.0, "bce": 1.0}
    assert list(args.objectives()) == ["lm", "bce"]


def test_losses_of_the_start_are_computed_too(tmp_path: Path) -> None:
    args = make_args(tmp_path, loss_weights_start={"tversky": 1}, loss_weights={"lm": 1}, loss_warmup_steps=2)
    assert list(args.objectives()) == ["lm", "tversky"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss_weights": {"lm": 1, "dice": 1}}, "unknown loss in .* weights: dice; known are lm, bce"),
        ({"loss_options": {"dice": {}}}, "unknown loss in loss_options: dice; known are lm, bce, tversky"),
    ],
)
def test_names_may_be_known_to_the_trainer_only(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    args = make_args(tmp_path, **options)
    with pytest.raises(ValueError, match=message) as caught:
        args.objectives()
    assert "\n" not in str(caught.value)
    assert args.objectives({"dice": TverskyLoss}).keys() == {"dice", *args.loss_schedule(1).at(0)} - (
        set() if "loss_weights" in options else {"dice"}
    )


def test_the_direction_of_any_objective_is_known(tmp_path: Path) -> None:
    assert make_args(tmp_path, metric_for_best_model="eval_loss_boundary").greater_is_better is False
    assert make_args(tmp_path, metric_for_best_model="mAP").greater_is_better is True


def test_options_reach_the_losses(tmp_path: Path) -> None:
    losses = make_args(tmp_path, loss_options={"bce": {"pos_weight": 3}, "tversky": {"alpha": 0.1}}).objectives()
    assert (losses["bce"].pos_weight, losses["tversky"].alpha, losses["tversky"].beta) == (3, 0.1, 0.7)
    assert losses["bce"].loss(torch.zeros(1, 1, 2), torch.ones(1, 1)).item() == pytest.approx(3 * 0.693147, rel=1e-5)


def test_json_on_the_command_line(tmp_path: Path) -> None:
    from transformers import HfArgumentParser

    parser = HfArgumentParser(SegmentationSeq2SeqTrainingArguments)
    argv = ["--output_dir", str(tmp_path), "--use_cpu", "true", "--report_to", "none"]
    (default,) = parser.parse_args_into_dataclasses(argv)
    assert default.loss_schedule(max_steps=1).at(0) == PAPER_WEIGHTS
    argv += ["--loss_weights", '{"lm": 0.5, "bce": 1}', "--loss_weights_start", '{"lm": 2}']
    argv += ["--loss_warmup_steps", "0.5", "--loss_options", '{"bce": {"pos_weight": 2.5}}']
    (args,) = parser.parse_args_into_dataclasses(argv)
    schedule = args.loss_schedule(max_steps=8)
    assert [schedule.at(step) for step in (0, 2, 4)] == [
        {"lm": 2.0, "bce": 0.0},
        {"lm": 1.25, "bce": 0.5},
        {"lm": 0.5, "bce": 1.0},
    ]
    assert args.objectives()["bce"].pos_weight == 2.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss_weights": {"lm": 1, "bce": -0.5}}, r"weight of 'bce' must be a finite number >= 0, got -0\.5"),
        (
            {
                "evaluate_loss": False,
                "eval_strategy": "steps",
                "eval_steps": 5,
                "metric_for_best_model": "val_loss_bce",
            },
            "metric_for_best_model 'val_loss_bce' needs the loss",
        ),
        ({"readout": "oracle"}, "readout to be one of beam.*, got .oracle.: put a new one into readout.READOUTS first"),
        ({"loss_weights": {"lm": 0}}, "weights are all 0"),
        ({"loss_weights": {}}, "weights are all 0"),
        ({"loss_weights": {"lm": "much"}}, "loss_weights must hold one number per loss, got .*much"),
        ({"loss_weights": {"lm": None}}, "loss_weights must hold one number per loss"),
        ({"loss_weights": "lm=1"}, "loss_weights must be a JSON object such as .*, got 'lm=1'"),
        ({"loss_weights_start": {"lm": -1}, "loss_warmup_steps": 5}, "start weight of 'lm' must be .*got -1"),
        ({"loss_weights_start": "0.5", "loss_warmup_steps": 5}, "loss_weights_start must be a JSON object"),
        ({"loss_warmup_steps": -1}, "loss_warmup_steps must be >= 0, .*got -1"),
        ({"loss_warmup_steps": 10}, "loss_warmup_steps needs .* set loss_weights_start"),
        ({"loss_weights_start": {"lm": 1}}, "loss_weights_start needs steps .* set loss_warmup_steps"),
        ({"loss_weights_start": {"lm": 1}, "loss_warmup_steps": 2.5}, "whole number of steps or a share .*got 2.5"),
        ({"loss_weights_start": {"lm": 1}, "loss_warmup_steps": float("nan")}, "whole number of steps .*got nan"),
        ({"loss_weights_start": {"lm": 1}, "loss_warmup_steps": True}, "whole number of steps .*got True"),
        ({"accelerator_config": {"split_batches": True}}, "split_batches must be False"),
        ({"train_sampling_strategy": "batch_rebalance"}, "repeats rows; leave it out"),
        ({"batch_eval_metrics": True}, "batch_eval_metrics must be False"),
        ({"eval_do_concat_batches": False}, "eval_do_concat_batches True"),
        ({"loss_options": "alpha"}, "loss_options must be a JSON object"),
        ({"loss_options": {"bce": 2}}, "loss_options must be a JSON object"),
        ({"loss_options": {"tversky": {"alfa": 1}}}, "loss_options for 'tversky': .*'alfa'"),
        ({"remove_unused_columns": True}, "remove_unused_columns must be False"),
        ({"accelerator_config": {"dispatch_batches": True}}, "dispatch_batches must be False"),
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor is not supported"),
    ],
)
def test_refusals_are_one_line(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        make_args(tmp_path, **options)
    assert "\n" not in str(caught.value)
