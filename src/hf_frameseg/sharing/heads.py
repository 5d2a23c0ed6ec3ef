"""Heads on disk: one file beside a model or an adapter, whose own files load anywhere without it."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from hf_frameseg._text import printable, short
from hf_frameseg.sharing.model_folder import tensor_shapes

if TYPE_CHECKING:
    from torch import Tensor, nn

    from hf_frameseg.objectives import Objective

HEADS_NAME = "frameseg_heads.safetensors"
"""File that holds the heads of a model, keyed `objective.parameter`."""


def split_heads(state: Mapping[str, Tensor] | None) -> tuple[dict[str, Tensor] | None, dict[str, Tensor] | None]:
    """Split the state of a whole model into that of its heads and the rest.

    Args:
        state: As FSDP and DeepSpeed gather it; None where nobody gathered it.

    Returns:
        The heads' tensors, keyed as in the file, and the model's own; None for both without a state.
    """
    if state is None:
        return None, None
    from hf_frameseg.objectives.heads import HEADS

    prefix = f"{HEADS}."
    heads = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    return heads, {name: value for name, value in state.items() if not name.startswith(prefix)}


def save_heads(model: nn.Module, folder: str | Path, state: Mapping[str, Tensor] | None = None) -> None:
    """Write the heads of a model into a folder; a file of an earlier model without heads is removed.

    Args:
        model: The model, unwrapped but for PEFT.
        folder: Where the model or adapter is saved.
        state: The heads' tensors where they were gathered from processes; None takes the model's.
    """
    from safetensors.torch import save_file

    from hf_frameseg.objectives.heads import heads_of

    path, heads = Path(folder) / HEADS_NAME, heads_of(model)
    if not heads:
        path.unlink(missing_ok=True)
        return
    own = {f"{name}.{key}": value for name, head in heads.items() for key, value in head.state_dict().items()}
    tensors = {name: (state or own)[name].detach().cpu().clone().contiguous() for name in own}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata={"format": "pt"})


def given_objectives(objectives: object) -> dict[str, Objective | type[Objective] | None]:
    """Return the objectives that somebody gave for the heads of a model.

    Args:
        objectives: By name; None for none.

    Raises:
        TypeError: If it is something else.
    """
    from hf_frameseg.objectives import Objective

    if objectives is not None and not isinstance(objectives, Mapping):
        raise TypeError(f"expected objectives by name, such as {{'own': Own}}, got {short(objectives)}")
    for name, one in (objectives or {}).items():
        is_class = isinstance(one, type) and issubclass(one, Objective)
        if not (one is None or is_class or isinstance(one, Objective)):
            raise TypeError(f"objective {name!r} must be an Objective or a class of them, got {short(one)}")
    return dict(objectives or {})


def load_heads(
    model: nn.Module, folder: str | Path, objectives: Mapping[str, Objective | type[Objective] | None] | None = None
) -> None:
    """Hang the heads of a folder on a model.

    Args:
        model: The model, unwrapped but for PEFT; it is left alone where the folder has no heads.
        folder: Where the model or adapter was saved.
        objectives: The objectives that the heads belong to, by name; those of `OBJECTIVES` need not be given. None in
            the place of one leaves its head out.

    Raises:
        ValueError: If the file is cut or damaged, or holds what is no weight; if a head belongs to no known objective,
            or does not fit it; or an objective of a training has no head in the file.
        TypeError: If what is given is no objective.
    """
    path, given = Path(folder) / HEADS_NAME, given_objectives(objectives)
    if not os.path.lexists(path):
        _refuse_missing({name for name, objective in given.items() if _is_attached(model, name, objective)}, folder)
        return
    from safetensors import safe_open

    from hf_frameseg.objectives.heads import attach_heads, check_head

    names = sorted(tensor_shapes(path))
    with safe_open(path, framework="pt") as file:
        owners = sorted({name.partition(".")[0] for name in names})
        _refuse_missing({n for n in set(given) - set(owners) if _is_attached(model, n, given[n])}, folder)
        made = {name: one for name in owners if (one := _objective(name, given, path)) is not None}
        in_training = {name for name, objective in made.items() if _is_attached(model, name, objective)}
        attach_heads(model, made)
        for name, objective in made.items():
            prefix = f"{name}."
            shapes = {
                key.removeprefix(prefix): file.get_slice(key).get_shape() for key in names if key.startswith(prefix)
            }
            check_head(objective, shapes, name)
            values = {key: file.get_tensor(prefix + key) for key in shapes}
            if name not in in_training:  # one that has diverged may end as it likes
                _check_values(values, objective, name)
            objective.load_state_dict(values)
            objective.train(model.training)


def _check_values(values: Mapping[str, Tensor], objective: Objective, name: str) -> None:
    """Refuse numbers of another kind than the head's, which would be rounded without a word, and those that are none.

    Buffers may hold what they like: a running minimum begins with inf.
    """
    parameters = dict(objective.named_parameters())
    for key, own in objective.state_dict().items():
        value, shown = values[key], printable(f"{name}.{key}")
        if value.is_floating_point() != own.is_floating_point() or value.is_complex() != own.is_complex():
            raise ValueError(f"{HEADS_NAME} holds {shown} as {value.dtype}, expected {own.dtype}: save the head again")
        if key in parameters and value.is_floating_point() and not value.isfinite().all():
            raise ValueError(f"{HEADS_NAME} holds {shown} with nan or inf: take the head of an earlier checkpoint")


def _objective(name: str, given: Mapping[str, Objective | type[Objective] | None], path: Path) -> Objective | None:
    """Return the objective that a head belongs to."""
    from hf_frameseg.objectives import OBJECTIVES

    kind = given[name] if name in given else OBJECTIVES.get(name, "unknown")
    if isinstance(kind, type):
        try:
            inspect.signature(kind).bind()
        except TypeError:
            kind = "unknown"
        else:
            return kind()
    if kind == "unknown":
        shown = printable(name)
        raise ValueError(
            f"{printable(path)} holds a head of {shown!r}, which is no objective known here: pass "
            f"objectives={{{shown!r}: ...}} with the objective that it was trained with, or None to leave the head out"
        )
    return kind


def _is_attached(model: nn.Module, name: str, objective: object) -> bool:
    """Tell whether an objective's head hangs on a model, as in a training that goes on."""
    from hf_frameseg.objectives.heads import heads_of

    return heads_of(model).get(name) is objective and objective is not None


def _refuse_missing(names: set[str], folder: str | Path) -> None:
    """Refuse to go on with heads of which nothing was saved."""
    if names:
        raise ValueError(
            f"expected {HEADS_NAME} in {printable(folder)} with the head of {', '.join(sorted(names))}: go on from a "
            "checkpoint of the same objectives"
        )
