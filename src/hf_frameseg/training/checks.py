"""What a trainer refuses before anything is loaded and after the processes are known, and what a script should."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from accelerate.utils import parse_flag_from_env
from transformers.integrations import get_available_reporting_integrations, get_reporting_integration_callbacks

from hf_frameseg.metrics import HEADLINE_COLUMNS
from hf_frameseg.objectives import OBJECTIVES
from hf_frameseg.training.arguments import SegmentationSeq2SeqTrainingArguments

if TYPE_CHECKING:
    from transformers import Trainer


def check_arguments(args: Any, data_collator: Any, kwargs: dict[str, Any]) -> None:
    """Refuse what cannot be trained with, before anything is loaded."""
    if data_collator is None:
        raise ValueError("data_collator is missing: pass FrameSegmentationCollator(processor=..., labels=...).")
    if not isinstance(args, SegmentationSeq2SeqTrainingArguments):
        raise ValueError(
            f"args must be SegmentationSeq2SeqTrainingArguments, got {type(args).__name__}: the weights of the losses "
            "are in them, and it takes all arguments of the other."
        )
    if kwargs.get("compute_loss_func") is not None:
        raise ValueError(
            "compute_loss_func is not supported: give the trainer an objective, or override loss_parts or compute_loss."
        )


def check_processes(trainer: Trainer) -> None:
    """Refuse launches that would not be what was asked for, or split a batch where it cannot be split."""
    kind = trainer.accelerator.distributed_type
    asked = {
        "FSDP": bool(trainer.args.fsdp) or parse_flag_from_env("ACCELERATE_USE_FSDP"),
        "DEEPSPEED": trainer.args.deepspeed_plugin is not None or parse_flag_from_env("ACCELERATE_USE_DEEPSPEED"),
    }
    for name, wanted in asked.items():
        if wanted and kind != name and not trainer.is_fsdp_xla_enabled:
            raise ValueError(
                f"{name} was asked for, and accelerate would train with {kind.value} instead: {name} does not run on "
                "CPU or in a single process without a launcher; leave it out, or launch on GPUs."
            )
    if trainer.args.n_gpu > 1:
        raise ValueError(
            f"one process cannot share a batch among {trainer.args.n_gpu} GPUs: start one per GPU with "
            "`accelerate launch`, or show one with CUDA_VISIBLE_DEVICES=0."
        )
    if trainer.get_tp_size() * trainer.get_cp_size() * trainer.get_sp_size() > 1:
        raise ValueError("tensor, context and sequence parallelism are not supported: a process needs rows of its own.")


def check_launch(args: Any) -> None:
    """Refuse launches of which accelerate 1.15 makes something else without a word.

    Args:
        args: Arguments of the training, which know the processes.

    Raises:
        ValueError: If processes do not know of each other, or an engine was asked for that does not run there.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) != args.world_size:
        # accelerate can start processes that do not know of each other; each would then train alone, in silence
        raise ValueError(
            "the launched processes are not joined: on CPU pass --use_cpu true (see examples/accelerate_cpu2.yaml)"
        )
    by_fsdp = bool(args.fsdp) or os.environ.get("ACCELERATE_USE_FSDP", "").lower() in ("1", "true")
    if args.use_cpu and args.deepspeed_plugin is not None:
        raise ValueError("DeepSpeed does not run with --use_cpu: leave out --use_deepspeed, or train on GPUs")
    if args.use_cpu and by_fsdp:
        raise ValueError("FSDP does not run with --use_cpu: leave out --fsdp (or --use_fsdp), or train on GPUs")
    if not args.do_train and (by_fsdp or args.deepspeed_plugin is not None):
        raise ValueError("--do_train false runs without DeepSpeed and FSDP: launch it without them")


def check_trackers(args: Any) -> None:
    """Refuse a tracker that cannot report, before anything is loaded for it.

    Args:
        args: Arguments of the training.

    Raises:
        ValueError: If `report_to` names one that transformers does not know, or that is not installed.
    """
    trackers = args.report_to if isinstance(args.report_to, list) else [args.report_to]
    get_reporting_integration_callbacks(trackers)  # refuses unknown names
    if missing := [name for name in trackers if name not in (*get_available_reporting_integrations(), "flyte")]:
        raise ValueError(f"--report_to {missing[0]} needs a package that is not installed: pip install {missing[0]}")


def check_best_metric(args: Any) -> None:
    """Refuse a `metric_for_best_model` that no evaluation gives, which transformers would miss at the first one.

    Args:
        args: Arguments of the training.

    Raises:
        ValueError: If it is neither a loss nor a headline number.
    """
    known = ["loss", *(f"loss_{name}" for name in OBJECTIVES), *HEADLINE_COLUMNS]
    best = args.metric_for_best_model
    if best is not None and best.removeprefix("eval_") not in known:
        raise ValueError(f"expected metric_for_best_model to be one of {', '.join(known)}, got {best!r}")
