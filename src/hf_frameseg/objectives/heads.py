"""Heads: parameters of objectives that hang on a model, so that its optimiser and its processes see them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from hf_frameseg.objectives.objective import Objective

HEADS = "frameseg_heads"
"""Attribute of a model with heads: an `nn.ModuleDict` of the objectives that have one, by name."""


def needs_head(objective: Objective) -> bool:
    """Tell whether an objective has a head or will make one."""
    return objective.has_head or type(objective).build is not Objective.build


def heads_of(model: nn.Module) -> dict[str, Objective]:
    """Return the objectives with heads that hang on a model, by name.

    Args:
        model: A model, unwrapped but for PEFT.
    """
    return dict(model._modules.get(HEADS) or {})


def attach_heads(
    model: nn.Module, objectives: Mapping[str, Objective], seed: int = 0, rebuild: bool = False
) -> dict[str, Objective]:
    """Make the heads of objectives and hang them on a model.

    A head that hangs on the model under the same name already, as after loading, gives its values to the new one. One
    of another name stays, and is not trained. Parameters that were made without a gradient stay frozen. The model's
    own files stay as they are: `save_pretrained` of transformers and PEFT leaves heads out.

    Args:
        model: A model of transformers, wrapped by PEFT or not; not yet by DDP or FSDP.
        objectives: Objectives by name; those without a head are left alone.
        seed: Seed of the first values; no random state is changed.
        rebuild: Make heads anew that an objective has already, for another model.

    Returns:
        The objectives with heads.

    Raises:
        ValueError: If the size of the model's hidden states is not known, an earlier head has another shape, or torch
            takes no module of that name.
    """
    earlier = heads_of(model)
    own = {name: objective for name, objective in objectives.items() if needs_head(objective)}
    _check_names(own)
    for name, head in earlier.items():
        if own.get(name) is not head:
            _set_trained(head, False)
    if not own:
        return {}
    size, state = hidden_size_of(model), torch.get_rng_state()
    try:
        for name, objective in own.items():
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the GPUs as well
            if earlier.get(name) is not objective and (rebuild or not objective.has_head):
                objective.build(size)
    finally:
        torch.set_rng_state(state)
    for name, objective in own.items():
        if earlier.get(name, objective) is not objective:
            values = earlier[name].state_dict()
            check_head(objective, {key: value.shape for key, value in values.items()}, name)
            objective.load_state_dict(values)
        _set_trained(objective, True)
    _hang(model, {**earlier, **own})
    return own


def _check_names(names: Mapping[str, Objective]) -> None:
    """Refuse names that a module cannot have, or that could not be told from what stands behind them in a file."""
    for name in names:
        if not isinstance(name, str) or not name or "." in name or hasattr(nn.ModuleDict, name) or name == "training":
            raise ValueError(
                f"the objective {name!r} has a head, and torch keeps this name for itself or cannot read it: choose "
                "another name, without a dot"
            )


def _set_trained(head: Objective, trained: bool) -> None:
    """Let a head be trained or not, but for the parameters that it was made with frozen."""
    if not hasattr(head, "_made_frozen"):
        head._made_frozen = {key for key, parameter in head.named_parameters() if not parameter.requires_grad}
    for key, parameter in head.named_parameters():
        if key not in head._made_frozen:
            parameter.requires_grad_(trained)


def hidden_size_of(model: nn.Module) -> int:
    """Return the size D of a model's hidden states.

    Args:
        model: A model of transformers, wrapped by PEFT or not.

    Raises:
        ValueError: If its configuration does not say.
    """
    config = (model.get_base_model() if hasattr(model, "get_base_model") else model).config
    size = getattr(config.get_text_config(), "hidden_size", None)
    if size is None:
        raise ValueError(f"expected {type(config).__name__} to name a hidden_size, which a head needs")
    return size


def check_head(objective: Objective, shapes: Mapping[str, Sequence[int]], name: str) -> None:
    """Refuse values for a head that are not exactly its own.

    Args:
        objective: An objective whose head is made.
        shapes: Shapes of the values by name.
        name: Name of the objective, for the message.

    Raises:
        ValueError: If a name is missing or left over, or has another shape.
    """
    expected = {key: tuple(value.shape) for key, value in objective.state_dict().items()}
    found = {key: tuple(shape) for key, shape in shapes.items()}
    if found != expected:
        odd = sorted(key for key in {*found, *expected} if found.get(key) != expected.get(key))
        raise ValueError(
            f"the head of {name!r} does not fit: {odd[0]} has shape {found.get(odd[0])}, expected "
            f"{expected.get(odd[0])}; take the objective that it was trained with"
        )


def _hang(model: nn.Module, heads: Mapping[str, Objective]) -> None:
    """Hang heads on the model, on its device, and let its own files do without them."""
    device = next(model.parameters()).device
    module = nn.ModuleDict(heads)
    model.add_module(HEADS, module if device.type == "meta" else module.to(device))
    if "_keys_to_ignore_on_save" in vars(model):  # of transformers; PEFT picks its own keys
        kept = {key for key in model._keys_to_ignore_on_save or () if not key.startswith(f"{HEADS}.")}
        model._keys_to_ignore_on_save = kept | {f"{HEADS}.{key}" for key in module.state_dict()}


@contextmanager
def outputs_become(model: nn.Module, function: Any) -> Iterator[None]:
    """Let a model return something else for a while, made of its outputs inside of its call.

    DDP, FSDP and DeepSpeed look after the parameters that are used while the model that they wrap is called; a head
    that is called behind it would be missed.

    Args:
        model: The innermost model.
        function: Makes of the outputs what is returned in their place.
    """
    handle = model.register_forward_hook(lambda module, args, outputs: function(outputs))
    try:
        yield
    finally:
        handle.remove()
