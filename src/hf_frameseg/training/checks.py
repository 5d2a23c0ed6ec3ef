"""What a trainer refuses before anything is loaded, and after the processes are known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from accelerate.utils import parse_flag_from_env

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
            "compute_loss_func is not supported: put a loss of frames into LOSSES, or override loss_parts or "
            "compute_loss."
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
