"""How a script ends: one line for a mistake, what a broken run leaves, the loss in the bar."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import ProgressCallback, TrainerControl, TrainerState

from hf_frameseg.training.resume import RESUME
from hf_frameseg.training.terminal import LossInBar, one_line_errors, saying_what_is_kept, show_loss_in_bar
from hf_frameseg.video.file import VideoReadError


@pytest.mark.parametrize("kind", [ValueError, OSError, ImportError, VideoReadError])
def test_a_mistake_is_one_line(kind: type[Exception]) -> None:
    with pytest.raises(SystemExit) as ended, one_line_errors("train.py"):
        raise kind("expected\n  this,\tgot \x1b[31mthat")
    assert ended.value.code == r"train.py: error: expected this, got \x1b[31mthat"
    assert isinstance(ended.value.__cause__, kind)


def test_other_processes_end_in_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(SystemExit) as ended, one_line_errors("train.py"):
        raise ValueError("expected this")
    assert ended.value.code == 1


def test_what_is_no_mistake_of_the_user_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError), one_line_errors("train.py"):
        raise ZeroDivisionError


@pytest.mark.parametrize("kind", [KeyboardInterrupt, MemoryError])
def test_a_broken_run_says_what_it_leaves(
    make_trainer: Any, eight_rows: list[dict[str, Any]], tmp_path: Path, kind: type[BaseException]
) -> None:
    trainer = make_trainer(eight_rows, save_strategy="steps", save_steps=1)
    said: list[str] = []

    def break_off(saved: Path | None = None) -> str:
        with pytest.raises(kind), saying_what_is_kept(trainer, said.append, saved):
            raise kind
        return said.pop()

    assert break_off() == "broken off before the first checkpoint"
    trainer.train()
    checkpoint = tmp_path / "out" / "checkpoint-1"
    assert break_off() == f"broken off; go on from {checkpoint} with the same command and {RESUME}"
    assert break_off(tmp_path / "model") == f"broken off; the trained model is in {tmp_path / 'model'}"
    with pytest.raises(SystemExit), saying_what_is_kept(trainer, said.append):
        raise SystemExit(143)
    assert said == []  # who ends the process has said why


def test_the_loss_stands_behind_the_bar(make_trainer: Any, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = make_trainer(disable_tqdm=False)
    show_loss_in_bar(trainer)
    kinds = [type(callback) for callback in trainer.callback_handler.callbacks]
    assert ProgressCallback not in kinds
    assert kinds.count(LossInBar) == 1
    quiet = make_trainer()
    show_loss_in_bar(quiet)
    assert LossInBar not in [type(callback) for callback in quiet.callback_handler.callbacks]

    shown = []
    bar = LossInBar()
    bar.training_bar = SimpleNamespace(set_postfix=lambda **values: shown.append(values))
    state = TrainerState(is_world_process_zero=True)
    bar.on_log(trainer.args, state, TrainerControl(), {"loss": 0.12345, "loss_lm": 1.0})
    bar.on_log(trainer.args, state, TrainerControl(), {"eval_loss": 1.0})
    bar.on_log(trainer.args, TrainerState(is_world_process_zero=False), TrainerControl(), {"loss": 1.0})
    assert shown == [{"loss": "0.123", "refresh": False}]
    assert capsys.readouterr().out == ""
