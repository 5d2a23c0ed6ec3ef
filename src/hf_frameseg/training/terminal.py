"""What a training script shows on a terminal, and how it ends: one line for a mistake, and what a broken run leaves."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import ProgressCallback, Trainer

from hf_frameseg._text import printable
from hf_frameseg.training.checkpoints import last_whole_checkpoint
from hf_frameseg.training.resume import RESUME
from hf_frameseg.video.file import VideoReadError

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments

TERMINATED, INTERRUPTED = 128 + 15, 128 + 2
"""Exit status of a process that a SIGTERM ended, or Ctrl-C."""


@contextmanager
def one_line_errors(script: str) -> Iterator[None]:
    """End the process with one line when the input is at fault; all processes but the first end in silence.

    Put it around what checks and loads; what goes wrong later keeps its traceback.

    Args:
        script: Name of the script, with which the line begins.

    Raises:
        SystemExit: In the place of a `ValueError`, `OSError`, `ImportError` or `VideoReadError`.
    """
    try:
        yield
    except (ValueError, OSError, ImportError, VideoReadError) as error:
        line = f"{script}: error: {printable(' '.join(str(error).split()))}"
        raise SystemExit(line if os.environ.get("RANK", "0") == "0" else 1) from error


@contextmanager
def saying_what_is_kept(trainer: Trainer, say: Callable[[str], None], saved: Path | None = None) -> Iterator[None]:
    """Say, when a run breaks off, what it leaves behind and how to go on.

    Args:
        trainer: The trainer of the run.
        say: Takes the line.
        saved: Folder of the trained model, once there is one.
    """
    try:
        yield
    except SystemExit:
        raise  # it has said why
    except BaseException:
        checkpoint, _ = last_whole_checkpoint(trainer.args.output_dir, trainer.args.world_size)
        if saved is not None:
            say(f"broken off; the trained model is in {saved}")
        elif checkpoint is not None:
            say(f"broken off; go on from {checkpoint} with the same command and {RESUME}")
        else:
            say("broken off before the first checkpoint")
        raise


def leave_together() -> None:
    """End the process group, after a wait for all: its threads that outlive the interpreter abort it now and then."""
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def show_loss_in_bar(trainer: Trainer) -> None:
    """Let the progress bar show the loss; the stock callback prints every logged number on a line of its own.

    Args:
        trainer: Whose bar; one without a bar stays without.
    """
    if not trainer.args.disable_tqdm:
        trainer.remove_callback(ProgressCallback)
        trainer.add_callback(LossInBar)


class LossInBar(ProgressCallback):
    """Put the newest loss behind the progress bar; see `show_loss_in_bar`."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Show it."""
        if state.is_world_process_zero and self.training_bar is not None and "loss" in (logs or {}):
            self.training_bar.set_postfix(loss=f"{float(logs['loss']):.3f}", refresh=False)
