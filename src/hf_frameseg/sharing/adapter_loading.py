"""From the two files of an adapter to a LoRA on its base: what is read, what is refused, no tensor too few or many."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_frameseg._numbers import is_number
from hf_frameseg.sharing.adapters import BASE_CHANGING_INITS, adapter_state
from hf_frameseg.sharing.model_folder import Shapes

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel
    from torch import Tensor
    from transformers import PreTrainedModel

_ARITHMETIC = (
    *("task_type", "r", "lora_alpha", "use_rslora", "use_dora", "lora_bias", "bias", "fan_in_fan_out", "lora_dropout"),
    *("rank_pattern", "alpha_pattern", "target_modules", "exclude_modules", "target_parameters", "layers_to_transform"),
    *("layers_pattern", "modules_to_save", "trainable_token_indices", "ensure_weight_tying"),
    *("base_model_name_or_path", "revision"),
)
# What says how the weights were found, or for other software: nothing to compute with.
_HISTORY = ("peft_type", "peft_version", "auto_mapping", "inference_mode", "init_lora_weights", "megatron_core")
_PREFIX = "base_model.model."


def lora_config_from(content: Mapping[str, Any]) -> LoraConfig:
    """Return the LoRA that an `adapter_config.json` describes, made anew of what an ordinary LoRA needs.

    Args:
        content: The file.

    Returns:
        The configuration, for inference.

    Raises:
        ValueError: If it is no ordinary LoRA.
    """
    from peft import LoraConfig

    if content.get("peft_type") != "LORA":
        raise ValueError(f"expected an adapter of peft_type 'LORA', got {content.get('peft_type')!r}")
    init = content.get("init_lora_weights")
    if str(init).lower().startswith(BASE_CHANGING_INITS):
        # PEFT would put it onto another decomposition without a word
        raise ValueError(
            f"it was made with {init} and fits only the decomposition of the base in its own run: convert it there "
            "with save_adapter, or merge it (merge_and_unload)"
        )
    defaults = LoraConfig().to_dict()
    for name, value in content.items():
        if name not in (*_ARITHMETIC, *_HISTORY) and value and value != defaults.get(name):
            raise ValueError(f"adapter_config.json sets {name}, which this version does not support")
    for name in ("base_model_name_or_path", "revision"):
        if not isinstance(content.get(name), str | None):
            raise ValueError(f"expected {name} in adapter_config.json to be a text, got {content[name]!r}")
    for value in (content.get("lora_alpha"), *dict(content.get("alpha_pattern") or {}).values()):
        if value is not None and not is_number(value):
            raise ValueError(f"expected finite numbers as alpha in adapter_config.json, got {value!r}")
    values = {name: content[name] for name in _ARITHMETIC if name in content}
    return LoraConfig(**values, init_lora_weights=True, inference_mode=True)


def check_tensors(model: PreTrainedModel, lora: LoraConfig, shapes: Shapes) -> None:
    """Refuse an adapter whose file does not hold exactly the tensors that its configuration and base ask for.

    Args:
        model: The base on the device "meta"; it is lost.
        lora: The adapter's configuration.
        shapes: The tensors in its file.

    Raises:
        ValueError: If one is missing, left over or of another shape.
    """
    import torch
    from peft import get_peft_model

    _resize(model, shapes)
    with torch.device("meta"):  # PEFT's own low_cpu_mem_usage allocates A and B before it lets go of them
        adapted = get_peft_model(model, lora, low_cpu_mem_usage=True)
    plain, full = (_shapes(adapter_state(adapted, with_embeddings)) for with_embeddings in (False, True))
    expected = plain if shapes.keys().isdisjoint(full.keys() - plain.keys()) else full
    odd = {
        "missing": sorted(expected.keys() - shapes.keys()),
        "without a place": sorted(shapes.keys() - expected.keys()),
        "of another shape": sorted(n for n in expected.keys() & shapes.keys() if expected[n] != shapes[n]),
    }
    problems = [f"{len(names)} tensors are {problem} (first {names[0]})" for problem, names in odd.items() if names]
    if problems:
        raise ValueError(f"{'; '.join(problems)}: its file must hold exactly the adapter, for this very base")


def put_onto(
    model: PreTrainedModel, lora: LoraConfig, folder: Path, shapes: Shapes, adapter_name: str = "default"
) -> PeftModel:
    """Put an adapter onto its base.

    Args:
        model: The base; its embeddings grow where the adapter brings tokens of its own.
        lora: The adapter's configuration.
        folder: Where its weights are.
        shapes: The tensors in its file, checked by `check_tensors`.
        adapter_name: What PEFT calls it.

    Returns:
        The model in evaluation mode.
    """
    from peft import PeftModel

    _resize(model, shapes)
    return PeftModel.from_pretrained(model, str(folder), adapter_name=adapter_name, config=lora).eval()


def _resize(model: PreTrainedModel, shapes: Shapes) -> None:
    """Give the base as many embeddings as the adapter brings; their values come with the adapter."""
    name = next(name for name, module in model.named_modules() if module is model.get_input_embeddings())
    for key in (f"{_PREFIX}{name}.weight", f"{_PREFIX}{name}.token_adapter.base_layer.weight"):
        if key in shapes and shapes[key][0] != model.get_input_embeddings().weight.shape[0]:
            model.resize_token_embeddings(shapes[key][0], mean_resizing=False)


def _shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in state.items()}
