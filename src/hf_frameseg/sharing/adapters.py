"""Adapters that moved a part of the base into themselves (PiSSA, its relatives), and the way back to an ordinary LoRA.

PiSSA starts from a decomposition `W = W_res + s B0 A0`: the base keeps `W_res`, the adapter starts at `(A0, B0)`. After
training, `W_res + s B A = W + s (B A - B0 A0)`, and `B A - B0 A0 = [B, -B0] [A; A0]` is a LoRA of twice the rank on the
*original* `W`. It needs `A0` and `B0`, which only the run itself knows: `pissa_niter_*` decomposes at random.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel

BASE_CHANGING_INITS = ("pissa", "olora", "corda", "lora_ga")
"""Starts of PEFT's `init_lora_weights` that take `s B0 A0` out of the base weights."""

SNAPSHOT_NAME = "initial_adapter.safetensors"
"""File of a run's output folder that keeps the adapter as it was before training."""

_INIT_KEY = "init_lora_weights"


def changes_base(config: LoraConfig) -> bool:
    """Tell whether a LoRA configuration takes a part of the base weights into the adapter."""
    return str(config.init_lora_weights).lower().startswith(BASE_CHANGING_INITS)


def lora_config_of(model: PeftModel) -> LoraConfig:
    """Return the configuration of a model's one LoRA adapter.

    Args:
        model: A model wrapped by PEFT.

    Returns:
        Its configuration, the object itself.

    Raises:
        ValueError: If the model has no adapter, several, or one of another kind.
    """
    configs = getattr(model, "peft_config", None) or {}
    kinds = [str(getattr(config.peft_type, "value", config.peft_type)) for config in configs.values()]
    if kinds != ["LORA"] or not hasattr(model, "get_base_model"):
        raise ValueError(
            f"expected a peft.PeftModel with one LoRA adapter, got {type(model).__name__} with {kinds or 'none'}: wrap "
            "it with get_peft_model(model, LoraConfig(...)), and unwrap what a distributed run put around it"
        )
    return next(iter(configs.values()))


def snapshot_adapter(model: PeftModel, path: str | Path | None = None) -> dict[str, Tensor]:
    """Keep the adapter's A and B as they are before training; a PiSSA adapter cannot be shared without them.

    Args:
        model: The model as `get_peft_model` returned it, not trained yet.
        path: File to write them into as well, for runs that may be resumed; None for memory only.

    Returns:
        Copies on the CPU, keyed as in PEFT's files.

    Raises:
        ValueError: If the model has not exactly one LoRA adapter.
    """
    config = lora_config_of(model)
    state = {name: tensor.detach().cpu().clone() for name, tensor in lora_factors(model).items()}
    if path is not None:
        from safetensors.torch import save_file

        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial")
        save_file(state, partial, metadata={"format": "pt", _INIT_KEY: str(config.init_lora_weights)})
        partial.replace(path)
    return state


def read_snapshot(initial: Mapping[str, Tensor] | str | Path) -> tuple[dict[str, Tensor], str | None]:
    """Return a snapshot and, if it comes from a file, how its adapter was initialised.

    Args:
        initial: What `snapshot_adapter` returned, or the file (or its folder) that it wrote.

    Returns:
        The tensors by name, and PEFT's `init_lora_weights` or None.

    Raises:
        FileNotFoundError: If there is no such file.
    """
    if isinstance(initial, Mapping):
        return dict(initial), None
    from safetensors import safe_open

    path = Path(initial)
    path = path / SNAPSHOT_NAME if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"no initial adapter at {path}: write it before training with snapshot_adapter")
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, (file.metadata() or {}).get(_INIT_KEY)  # noqa: SIM118


@torch.no_grad()
def restore_adapter(model: PeftModel, initial: Mapping[str, Tensor] | str | Path) -> dict[str, Tensor]:
    """Put a newly wrapped model onto the decomposition that an earlier run started from, so that it can be resumed.

    Wrap the original base with `init_lora_weights=True`: its product `B A` is zero, and the residual base is then that
    of the earlier run, in float32 to the last bit. In half precision it is so up to rounding, because PEFT rounds A and
    B after it has subtracted them. After another PiSSA start the two decompositions are exchanged, up to rounding.

    Args:
        model: Original base, just wrapped; changed in place: base weights, A, B and `init_lora_weights`.
        initial: The snapshot of the earlier run, or its file.

    Returns:
        The snapshot, for `save_adapter`.

    Raises:
        ValueError: If the snapshot belongs to other layers or another rank.
        FileNotFoundError: If there is no such file.
    """
    config = lora_config_of(model)
    state, init = read_snapshot(initial)
    _check_same(state, lora_factors(model))
    adapter = next(iter(model.peft_config))
    for name, layer in model.named_modules():
        if adapter not in getattr(layer, "lora_A", {}):
            continue
        base, a, b = layer.get_base_layer(), layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
        if not isinstance(base, torch.nn.Linear):
            raise ValueError(f"expected LoRA on linear layers only, got {name} on {type(base).__name__}")
        scale, weight = layer.scaling[adapter], base.weight
        full = weight.float() + scale * (b.float() @ a.float())
        a.copy_(state[f"{name}.lora_A.weight"])
        b.copy_(state[f"{name}.lora_B.weight"])
        weight.copy_(full - scale * b.float() @ a.float())  # PEFT's own order of operations
    if init is not None:
        config.init_lora_weights = init
    return state


@contextmanager
def adapter_off(model: PeftModel, initial: Mapping[str, Tensor] | None = None) -> Iterator[None]:
    """Let a trained model answer as its base did before the training, for a while.

    Where the start of the adapter has taken a part of the base away (PiSSA), the base is what it was with that start,
    so A and B go back to it; every other adapter is switched off.

    Args:
        model: The trained model; it is as before when the block ends.
        initial: The snapshot from before training; needed only where the initialisation changed the base.

    Raises:
        ValueError: If the snapshot is needed and missing, or belongs to another adapter.
    """
    if not changes_base(lora_config_of(model)):
        with model.disable_adapter():
            yield
        return
    from peft.utils.other import ModulesToSaveWrapper

    if initial is None:
        raise ValueError("the base is not known without the start of its adapter: pass what snapshot_adapter returned")
    trained = {name: tensor.detach().clone() for name, tensor in lora_factors(model).items()}
    _check_same(initial, trained)
    in_full = [module for module in model.modules() if isinstance(module, ModulesToSaveWrapper)]
    try:
        _set_factors(model, initial)
        for module in in_full:
            module.enable_adapters(False)
        yield
    finally:
        for module in in_full:
            module.enable_adapters(True)
        _set_factors(model, trained)


@torch.no_grad()
def _set_factors(model: PeftModel, values: Mapping[str, Tensor]) -> None:
    """Give A and B of every layer other values, in place."""
    for name, tensor in lora_factors(model).items():
        tensor.data.copy_(values[name])  # the state holds the parameters' own memory


def plain_lora(
    model: PeftModel, initial: Mapping[str, Tensor] | str | Path | None, with_embeddings: bool = False
) -> tuple[dict[str, Tensor], LoraConfig]:
    """Return the adapter as an ordinary LoRA for the original base: tensors and configuration for PEFT's two files.

    PEFT's `save_pretrained(path_initial_model_for_weight_conversion=...)` does the same for A and B (0.21, rsLoRA
    included), but drops `modules_to_save`, and adds a second adapter to the trained model on the way.

    Args:
        model: The trained model.
        initial: The snapshot from before training; needed only where the initialisation changed the base.
        with_embeddings: Whether the state holds the embeddings and the head too, of a base with added tokens.

    Returns:
        The state with the modules trained in full, and the configuration: twice the rank, the same scaling.

    Raises:
        ValueError: If the snapshot is needed and missing, or belongs to another adapter.
    """
    config = copy.deepcopy(lora_config_of(model))
    state = {name: tensor.detach().cpu() for name, tensor in adapter_state(model, with_embeddings).items()}
    if changes_base(config):
        if initial is None:
            raise ValueError(
                f"an adapter started with {config.init_lora_weights} fits only the base of its own run, and its start "
                "is needed to convert it: call snapshot_adapter(model) before training and pass initial_adapter="
            )
        first, _ = read_snapshot(initial)
        _check_same(first, {name: tensor for name, tensor in state.items() if _is_factor(name)})
        for name, start in first.items():
            is_a = name.endswith("lora_A.weight")
            start = start.to(state[name].dtype)
            state[name] = torch.cat([state[name], start], dim=0) if is_a else torch.cat([state[name], -start], dim=1)
        _double_rank(config)
    config.init_lora_weights = True
    config.inference_mode = True
    return {name: tensor.clone().contiguous() for name, tensor in state.items()}, config


def adapter_state(model: PeftModel, with_embeddings: bool = False) -> dict[str, Tensor]:
    """Return the tensors that belong into an adapter's file.

    Args:
        model: A model with one adapter.
        with_embeddings: Whether the embeddings and the head of the base are among them, because tokens were added.

    Returns:
        The tensors themselves, keyed as in PEFT's files.
    """
    from peft import get_peft_model_state_dict

    state = get_peft_model_state_dict(model, save_embedding_layers=with_embeddings)
    # An embedding that is trained in full is in the state already; PEFT adds it twice more under the wrapper's names.
    twice = {"original_module", "modules_to_save"}
    return {name: value for name, value in state.items() if twice.isdisjoint(name.split("."))}


def _double_rank(config: LoraConfig) -> None:
    """Double the rank and keep the scaling: alpha / r, or alpha / sqrt(r) with rsLoRA."""
    factor = 2**0.5 if config.use_rslora else 2
    config.r *= 2
    config.lora_alpha *= factor
    config.rank_pattern = {key: 2 * rank for key, rank in (config.rank_pattern or {}).items()}
    config.alpha_pattern = {key: factor * alpha for key, alpha in (config.alpha_pattern or {}).items()}


def _is_factor(name: str) -> bool:
    return name.endswith(("lora_A.weight", "lora_B.weight"))


def lora_factors(model: PeftModel) -> dict[str, Tensor]:
    """Return A and B of every layer.

    Args:
        model: A model with one LoRA adapter.

    Returns:
        The tensors themselves, keyed as in PEFT's files.
    """
    return {name: tensor for name, tensor in adapter_state(model).items() if _is_factor(name)}


def _check_same(snapshot: Mapping[str, Tensor], current: Mapping[str, Tensor]) -> None:
    """Refuse a snapshot of other layers or of another rank."""
    shapes = {name: tuple(tensor.shape) for name, tensor in snapshot.items()}
    expected = {name: tuple(tensor.shape) for name, tensor in current.items()}
    if shapes != expected:
        odd = sorted(name for name in {*shapes, *expected} if shapes.get(name) != expected.get(name))
        raise ValueError(
            f"expected the initial adapter of this model, got one that differs in {len(odd)} of {len(expected)} "
            f"tensors, first {odd[0]} {shapes.get(odd[0])} for {expected.get(odd[0])}: take that of the same run"
        )
