"""Checkpoints that a training can go on from after any kind of end: which one is whole, and ending at a SIGTERM.

A process can be killed at every moment, so a folder `checkpoint-N` proves nothing. The trainer writes the trainer state
last, after every process has written its part; a checkpoint with all its files, each of full length, is whole.
"""

from __future__ import annotations

import json
import re
import signal
import struct
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback

from hf_frameseg._files import atomic_write
from hf_frameseg.sharing.heads import HEADS_NAME

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments

STATE_NAME = "trainer_state.json"
PROCESSES_NAME = "processes.json"
"""File of a checkpoint that says how many processes wrote it, each of them a random state of its own."""

_NAME = re.compile(r"checkpoint-(\d+)")
_UNFINISHED_NAME = "checkpoint-is-incomplete.txt"  # of transformers' own checkpoints at a SIGTERM
_ADAPTERS = ("adapter_model.safetensors", "adapter_model.bin")
_MODELS = ("model.safetensors", "pytorch_model.bin", "pytorch_model_fsdp.bin")
_INDICES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_OPTIMIZERS = ("optimizer.pt", "optimizer.bin")


# ---- Which checkpoint ------------------------------------------------------------------------------------------------


def last_whole_checkpoint(folder: str | Path, world_size: int = 1) -> tuple[Path | None, dict[Path, str]]:
    """Return the newest checkpoint that a training can go on from, and the newer ones that are not whole.

    Args:
        folder: Output folder of the training; it may be missing.
        world_size: Processes of the training that shall go on.

    Returns:
        The checkpoint, None where there is none, and the reasons by the folders that were skipped, newest first.
    """
    found = [
        (int(match[1]), path) for path in Path(folder).glob("checkpoint-*") if (match := _NAME.fullmatch(path.name))
    ]
    skipped: dict[Path, str] = {}
    for _, path in sorted(found, reverse=True):
        reason = what_is_missing(path, world_size)
        if reason is None:
            return path, skipped
        skipped[path] = reason
    return None, skipped


def what_is_missing(checkpoint: str | Path, world_size: int = 1) -> str | None:
    """Say why a training cannot go on from a checkpoint as if nothing had happened.

    Looks at the names, the lengths and the tables of contents of the files, not at the weights: milliseconds for any
    size.

    Args:
        checkpoint: A folder of the trainer; also one that DeepSpeed or FSDP wrote.
        world_size: Processes of the training that shall go on.

    Returns:
        The reason, or None for a whole checkpoint.
    """
    folder = Path(checkpoint)
    if not folder.is_dir():
        return "there is no such folder"
    if (folder / _UNFINISHED_NAME).exists():
        return "its writing was interrupted"
    sharded = [path for path in folder.iterdir() if path.is_dir()]
    by_deepspeed = any(path.name.startswith("global_step") for path in sharded)
    return (
        _state_problem(folder)
        or weights_problem(folder)
        or _optimizer_problem(folder, sharded, by_deepspeed)
        or (None if by_deepspeed else _scheduler_problem(folder))
        or _random_state_problem(folder, world_size)
        or _cut_file(folder, ("*.pt", "*.pth", "*/*.pt", HEADS_NAME))
    )


def weights_problem(checkpoint: str | Path) -> str | None:
    """Say why a checkpoint cannot even be scored: its weights are missing, cut, or their table of contents is.

    Args:
        checkpoint: A folder of the trainer.

    Returns:
        The reason, or None.
    """
    folder = Path(checkpoint)
    if any((folder / name).is_file() for name in _ADAPTERS) and _read_json(folder / "adapter_config.json") is None:
        return "adapter_config.json is missing or no JSON object"
    for name in _INDICES:
        if (folder / name).is_file():
            index = _read_json(folder / name) or {}
            shards = set(index.get("weight_map", {"": name}).values())
            if missing := sorted(shard for shard in shards if not (folder / shard).is_file()):
                return f"{missing[0]} is missing"
            return _cut_file(folder, sorted(shards))
    present = [name for name in (*_ADAPTERS, *_MODELS) if (folder / name).is_file()]
    sharded = any(
        path.is_dir() and path.name.startswith(("pytorch_model_fsdp", "global_step")) for path in _entries(folder)
    )
    if not present and not sharded:
        return "its weights are missing"
    return _cut_file(folder, present)


def holds_adapter(checkpoint: str | Path) -> bool:
    """Tell whether a checkpoint holds an adapter and not a whole model.

    Args:
        checkpoint: A folder of the trainer.
    """
    return any((Path(checkpoint) / name).is_file() for name in _ADAPTERS)


def steps_taken(checkpoint: str | Path) -> int:
    """Return the optimiser steps that a checkpoint has behind it; -1 where it does not say.

    Args:
        checkpoint: A folder of the trainer.
    """
    state = _read_json(Path(checkpoint) / STATE_NAME) or {}
    step = state.get("global_step")
    return step if isinstance(step, int) else -1


def record_processes(checkpoint: str | Path, world_size: int) -> None:
    """Write down how many processes a checkpoint is of; their random states cannot be counted when one is lost.

    Args:
        checkpoint: The folder.
        world_size: How many.
    """
    atomic_write(Path(checkpoint) / PROCESSES_NAME, json.dumps({"world_size": world_size}) + "\n")


def _state_problem(folder: Path) -> str | None:
    """Say what is wrong with the trainer state, which is written last."""
    if not (folder / STATE_NAME).is_file():
        return f"{STATE_NAME} is missing"
    return f"{STATE_NAME} is cut off or damaged" if steps_taken(folder) < 0 else None


def _optimizer_problem(folder: Path, sharded: list[Path], by_deepspeed: bool) -> str | None:
    """Say whether the optimiser's state is missing."""
    if by_deepspeed:
        found = any(folder.glob("global_step*/*optim_states.pt")) and (folder / "latest").is_file()
    else:
        found = any((folder / name).is_file() for name in _OPTIMIZERS)
        found |= any(path.name.startswith("optimizer_") for path in sharded)
    return None if found else "the optimiser's state is missing"


def _scheduler_problem(folder: Path) -> str | None:
    """Say whether the learning rate's state is missing."""
    return None if (folder / "scheduler.pt").is_file() else "scheduler.pt is missing"


def _random_state_problem(folder: Path, world_size: int) -> str | None:
    """Say which process's random state is missing."""
    if (folder / "rng_state.pth").is_file():
        return None
    recorded = (_read_json(folder / PROCESSES_NAME) or {}).get("world_size", world_size)
    count = recorded if isinstance(recorded, int) else world_size
    names = ["rng_state.pth"] if count == 1 else [f"rng_state_{rank}.pth" for rank in range(count)]
    missing = [name for name in names if not (folder / name).is_file()]
    return f"{missing[0]} is missing" if missing else None


def _cut_file(folder: Path, patterns: tuple[str, ...] | list[str]) -> str | None:
    """Say which file is shorter than its table of contents, or has none."""
    for pattern in patterns:
        for path in sorted(folder.glob(pattern)):
            if path.is_file() and not is_complete(path):
                return f"{path.name} is cut off or damaged"
    return None


def is_complete(path: Path) -> bool:
    """Tell whether the end of a file of tensors is where its table of contents says.

    Args:
        path: A safetensors file, or one of `torch.save`.
    """
    if path.suffix == ".safetensors":
        return _is_complete_safetensors(path)
    try:
        with zipfile.ZipFile(path) as archive:  # the table of contents is at the end of what torch.save writes
            return any(name.endswith("data.pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError):
        return False


def _is_complete_safetensors(path: Path) -> bool:
    """Tell whether a safetensors file has as many bytes as its header says."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if length > size - 8:
            return False
        try:
            header = json.loads(file.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        except (ValueError, TypeError, KeyError, AttributeError, IndexError):
            return False
    return 8 + length + max(ends, default=0) == size


def _read_json(path: Path) -> dict[str, Any] | None:
    """Return a JSON object, or None for anything else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def _entries(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


# ---- Ending at a SIGTERM ---------------------------------------------------------------------------------------------


class StopAtSigterm(TrainerCallback):
    """Write a checkpoint at the end of the step in which a SIGTERM arrives, on all processes at once, and stop there.

    It takes the place of transformers' callback for `enable_jit_checkpoint` (5.24), with which each process stops by
    its own clock, one of them perhaps in a step that the others never take, and which leaves no trace behind: what
    comes after `train` would take the model for trained.
    """

    def __init__(self) -> None:
        self.stopped = False
        """Whether a SIGTERM arrived during the training, on any process."""
        self._received = False
        self._before: Any = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Listen."""
        self.stopped = self._received = False
        self._before = signal.signal(signal.SIGTERM, self._note)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Save and stop if the signal has arrived anywhere."""
        if self._agreed(args):
            control.should_save = control.should_training_stop = True
            control.should_evaluate = False  # there is no time for it

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leave out what is due at the end of an epoch, which comes right after the stop."""
        if self.stopped:
            control.should_evaluate = control.should_save = False

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Listen no more; a signal after the last step is noticed too."""
        self._agreed(args)
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _note(self, signum: int, frame: object) -> None:
        self._received = True

    def _agreed(self, args: TrainingArguments) -> bool:
        """Tell whether any process has received the signal; all learn it in the same step."""
        received = torch.tensor(int(self._received or self.stopped), device=args.device)
        if args.world_size > 1:
            torch.distributed.all_reduce(received, op=torch.distributed.ReduceOp.MAX)
        self.stopped = bool(received)
        return self.stopped
