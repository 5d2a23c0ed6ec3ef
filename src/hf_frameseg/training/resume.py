"""Going on with an earlier run: from which checkpoint, whether it is of the same model, and how a PiSSA run starts.

Its messages name the arguments as they stand on a command line, where most trainings are started.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from transformers import TrainerState

from hf_frameseg.sharing.adapters import (
    BASE_CHANGING_INITS,
    SNAPSHOT_NAME,
    changes_base,
    lora_config_of,
    restore_adapter,
    snapshot_adapter,
)
from hf_frameseg.sharing.model_folder import ADAPTER_CONFIG_NAME
from hf_frameseg.training.checkpoints import (
    STATE_NAME,
    holds_adapter,
    is_complete,
    last_whole_checkpoint,
    weights_problem,
    what_is_missing,
)

if TYPE_CHECKING:
    from peft import LoraConfig
    from torch import Tensor
    from transformers import TrainingArguments

    from hf_frameseg.training.trainer import SegmentationSeq2SeqTrainer

logger = logging.getLogger(__name__)

RESUME = "--resume_from_checkpoint true"
"""What goes on with a training that was broken off."""


def find_checkpoint(
    args: TrainingArguments, peft_config: LoraConfig | None = None, say: Callable[[str], None] = logger.warning
) -> Path | None:
    """Return the checkpoint to go on from, or with `do_train=False` the one to score.

    Args:
        args: Of the training: `resume_from_checkpoint` is a folder, or true for the newest whole checkpoint of
            `output_dir`, or false.
        peft_config: The adapter that is to be trained; None for a whole model.
        say: Takes a line about every checkpoint that is passed over.

    Returns:
        The folder; None for a start from the beginning.

    Raises:
        ValueError: If the folder is no checkpoint to go on from, if there is none to score, or if `output_dir` holds
            checkpoints of another training, which could not be told apart later; from `check_same_adapter`.
    """
    wish = str(args.resume_from_checkpoint or False)
    last, skipped = last_whole_checkpoint(args.output_dir, args.world_size)
    if wish.lower() in ("false", "no", "0"):
        if args.do_train and last is not None:
            raise ValueError(
                f"{last} is of an earlier training: go on with it ({RESUME}), delete the checkpoints, or choose "
                "another --output_dir"
            )
        return None
    if wish.lower() not in ("true", "yes", "1"):
        _check_whole(Path(wish), args)
        check_same_adapter(wish, peft_config)
        return Path(wish)
    for path, reason in skipped.items():
        say(f"skipped {path}, which is not whole: {reason}")
    if last is None and not args.do_train:
        raise ValueError(f"{args.output_dir} holds no whole checkpoint to score")
    if last is None:
        say("there is no checkpoint to go on from: starting from the beginning")
        return None
    check_same_adapter(last, peft_config)
    return last


def _check_whole(checkpoint: Path, args: TrainingArguments) -> None:
    """Refuse a checkpoint that does not hold what is asked of it."""
    problem = what_is_missing(checkpoint, args.world_size) if args.do_train else weights_problem(checkpoint)
    if problem:
        hint = " (--do_train false scores it as it is)" if args.do_train and not weights_problem(checkpoint) else ""
        raise ValueError(f"{checkpoint} is no checkpoint to go on from: {problem}{hint}")


def check_same_adapter(checkpoint: str | Path, peft_config: LoraConfig | None) -> None:
    """Refuse a checkpoint of another adapter, or of a model without one: transformers passes over what does not fit.

    Args:
        checkpoint: A folder of the trainer.
        peft_config: The adapter that is to be trained, or None for a whole model.

    Raises:
        ValueError: If they do not go together, or the start of a PiSSA adapter is not beside the checkpoint.
    """
    checkpoint = Path(checkpoint)
    if holds_adapter(checkpoint) != (peft_config is not None):
        kind = "an adapter" if holds_adapter(checkpoint) else "a whole model"
        raise ValueError(
            f"{checkpoint} holds {kind}, which does not go with --lora_r {0 if peft_config is None else peft_config.r}"
        )
    if peft_config is None:
        return
    saved = json.loads((checkpoint / ADAPTER_CONFIG_NAME).read_text(encoding="utf-8"))
    odd = []
    for name in ("r", "lora_alpha", "use_rslora", "modules_to_save"):
        if saved.get(name) != (wanted := getattr(peft_config, name)):
            odd.append(f"{name} {saved.get(name)} and not {wanted}")
    if odd:
        raise ValueError(f"{checkpoint} is of an adapter with {', '.join(odd)}: use the arguments it was trained with")
    if str(saved.get("init_lora_weights")).startswith(BASE_CHANGING_INITS):
        start = start_of(checkpoint)
        if start is None or not is_complete(start):
            raise ValueError(f"cannot resume {checkpoint}: its PiSSA decomposition ({SNAPSHOT_NAME}) is not beside it")


def start_of(checkpoint: str | Path | None) -> Path | None:
    """Return the file that keeps the start of the adapter of a checkpoint, if there is one.

    Args:
        checkpoint: A folder of the trainer, or None.
    """
    path = Path(checkpoint).parent / SNAPSHOT_NAME if checkpoint else None
    return path if path is not None and path.is_file() else None


def keep_start(trainer: SegmentationSeq2SeqTrainer, checkpoint: str | Path | None) -> dict[str, Tensor] | None:
    """Keep the start of a PiSSA adapter in the output folder, or go back to that of the run that is resumed.

    Without it the adapter fits only this run's random decomposition of the base. Wrap the base of a resumed run with
    `init_lora_weights=True`, as `restore_adapter` says.

    Args:
        trainer: Before the training.
        checkpoint: From which it goes on, or None.

    Returns:
        The start, for `save_trained` and `EvaluationWithControls`; None for an adapter that leaves its base as it is,
        and for a whole model.
    """
    model, output = trainer.accelerator.unwrap_model(trainer.model), Path(trainer.args.output_dir)
    if not hasattr(model, "peft_config"):
        return None
    start = start_of(checkpoint)
    if start is not None:
        initial = restore_adapter(model, start)
        if trainer.is_world_process_zero() and start.parent.resolve() != output.resolve():
            snapshot_adapter(model, output / SNAPSHOT_NAME)
        return initial
    if not changes_base(lora_config_of(model)):
        return None
    return snapshot_adapter(model, output / SNAPSHOT_NAME if trainer.is_world_process_zero() else None)


def load_weights(trainer: SegmentationSeq2SeqTrainer, checkpoint: str | Path) -> None:
    """Take the weights and the log of a checkpoint, without training further.

    Args:
        trainer: Of the same model.
        checkpoint: A folder of the trainer; its optimiser and random state may be missing.
    """
    state = Path(checkpoint) / STATE_NAME
    trainer._load_from_checkpoint(str(checkpoint))
    if state.is_file():
        trainer.state = TrainerState.load_from_json(str(state))
