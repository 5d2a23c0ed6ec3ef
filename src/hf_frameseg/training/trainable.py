"""Which part of a multimodal LLM learns: modules by their role, and LoRA on the language model alone.

Messages name the options of `examples/run_qvh.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import PreTrainedModel

LANGUAGE_MODEL = "model.language_model"


def vision_tower(model: PreTrainedModel) -> torch.nn.Module:
    """Return what reads the pictures.

    Args:
        model: A model of transformers.

    Raises:
        ValueError: If it has no such module under one of the usual names.
    """
    tower = getattr(model.model, "vision_tower", None) or getattr(model.model, "visual", None)
    if tower is None:
        raise ValueError(f"{type(model).__name__} has no vision_tower or visual to freeze; use --freeze_vision false.")
    return tower


def language_model_lora(model: PreTrainedModel, *, modules_to_save: Sequence[str] = (), **options: Any) -> LoraConfig:
    """Return LoRA on every linear layer of the language model.

    Args:
        model: A model of transformers; one without weights will do.
        modules_to_save: Modules trained in full beside LoRA, e.g. `resampler`.
        **options: As for `peft.LoraConfig`: `r`, `lora_alpha`, `init_lora_weights`, ...

    Raises:
        ValueError: If the model has no language model under the usual name, or lacks a module to save.
    """
    from peft import LoraConfig

    present = {part for name, _ in model.named_modules() for part in name.split(".")}
    if missing := [name for name in modules_to_save if name not in present]:
        raise ValueError(
            f"{type(model).__name__} has no module {missing[0]!r}: name another in --lora_modules_to_save."
        )
    layers = model.named_modules()
    linears = {name for name, layer in layers if isinstance(layer, torch.nn.Linear)}
    targets = sorted(name for name in linears if name.startswith(f"{LANGUAGE_MODEL}."))
    if not targets:
        raise ValueError(f"{type(model).__name__} has no linear layers in {LANGUAGE_MODEL} for LoRA; use --lora_r 0.")
    saved = list(modules_to_save) or None
    return LoraConfig(target_modules=targets, modules_to_save=saved, task_type="CAUSAL_LM", **options)
