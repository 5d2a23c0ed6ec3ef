"""What a script refuses before anything is loaded."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from hf_frameseg.training.checks import check_best_metric, check_launch, check_trackers


def launch(**options: Any) -> SimpleNamespace:
    usual = {"world_size": 1, "fsdp": None, "use_cpu": True, "deepspeed_plugin": None, "do_train": True}
    return SimpleNamespace(**usual | options)


def test_scoring_without_training_is_refused() -> None:
    training = launch(use_cpu=False, deepspeed_plugin=SimpleNamespace(zero_stage=2), do_train=False)
    with pytest.raises(ValueError, match="--do_train false runs without DeepSpeed and FSDP"):
        check_launch(training)
    training.do_train = True
    check_launch(training)
    training.use_cpu = True
    with pytest.raises(ValueError, match="DeepSpeed does not run with --use_cpu"):
        check_launch(training)


@pytest.mark.parametrize(
    ("environment", "options", "message"),
    [
        ({"WORLD_SIZE": "2"}, {}, "the launched processes are not joined: on CPU pass --use_cpu true"),
        ({"ACCELERATE_USE_FSDP": "true"}, {}, "FSDP does not run with --use_cpu"),
        ({}, {"fsdp": "full_shard"}, "FSDP does not run with --use_cpu"),
        ({}, {"fsdp": "full_shard", "use_cpu": False, "do_train": False}, "--do_train false runs without"),
    ],
)
def test_a_launch_that_accelerate_would_make_another_of_is_refused(
    environment: dict[str, str], options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WORLD_SIZE", "ACCELERATE_USE_FSDP"):
        monkeypatch.delenv(name, raising=False)
    check_launch(launch())
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=message):
        check_launch(launch(**options))


def test_a_tracker_that_cannot_report_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    place = "hf_frameseg.training.checks.get_available_reporting_integrations"
    monkeypatch.setattr(place, lambda: ["tensorboard"])
    for known in ([], ["tensorboard"], "tensorboard", ["flyte"]):
        check_trackers(SimpleNamespace(report_to=known))
    with pytest.raises(ValueError, match="--report_to wandb needs a package that is not installed: pip install wandb"):
        check_trackers(SimpleNamespace(report_to=["tensorboard", "wandb"]))
    with pytest.raises(ValueError, match="nobody is not supported"):
        check_trackers(SimpleNamespace(report_to=["nobody"]))


def test_a_metric_that_no_evaluation_gives_is_refused() -> None:
    for name in (None, "loss", "eval_loss_bce", "eval_mAP", "HIT@1"):
        check_best_metric(SimpleNamespace(metric_for_best_model=name))
    with pytest.raises(ValueError, match=r"metric_for_best_model to be one of loss, loss_lm, .*, got 'mAp'"):
        check_best_metric(SimpleNamespace(metric_for_best_model="mAp"))
