"""Whether an adapter gives the same answers on a new base as the model it comes from, and how much is rounding."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from hf_frameseg.batches.encoding import encode_prompts, model_inputs
from hf_frameseg.batches.prompts import get_prompt
from hf_frameseg.objectives.heads import HEADS
from hf_frameseg.readout.evaluation_mode import evaluating
from hf_frameseg.readout.precision import autocasting
from hf_frameseg.sharing.adapter_loading import lora_config_from, put_onto
from hf_frameseg.sharing.adapters import lora_factors
from hf_frameseg.sharing.config import FrameSegmentationConfig
from hf_frameseg.sharing.loading import load_base
from hf_frameseg.sharing.model_folder import ADAPTER_CONFIG_NAME, adapter_shapes, check_texts

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, ProcessorMixin

TOLERANCE = 1e-4
"""Largest difference of a logit between the trained model and the saved adapter on a new base that needs no excuse."""

ROUNDING_FACTOR = 2.0
"""How much more than rounding alone the logits of a PiSSA model may differ (root mean square).

PiSSA rounds the residual base, in bfloat16 by a lot: a right conversion moved a logit of 19 by 0.36, and by 3e-4 in
float32 in a model of 16 layers. How much that is shows a decomposition made again."""

_ROUNDING_STEPS = 10  # of the base's dtype, by which a decomposition may move the base's weights before it is foreign
_CHECK_QUERY = "a red circle"
_CHECK_SIZE = 64  # pixels; the processor resizes


def noise_batch(processor: ProcessorMixin, config: FrameSegmentationConfig) -> dict[str, Tensor]:
    """Return one question about frames of noise, the same every time.

    Args:
        processor: The model's processor.
        config: How the model is asked.

    Returns:
        Model inputs of one sample.
    """
    shape = (config.frames.num_frames, _CHECK_SIZE, _CHECK_SIZE, 3)
    frames = np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)
    times = range(config.frames.num_frames)  # seconds, for a prompt that tells them
    return encode_prompts(processor, get_prompt(config.prompt), [_CHECK_QUERY], [frames], [times])


def compare(
    model: PeftModel,
    base: str,
    revision: str | None,
    adapter: Path,
    batch: Mapping[str, Tensor],
    start: Mapping[str, Tensor] | None,
    tolerance: float | None,
    autocast: str | None,
) -> None:
    """Refuse an adapter that gives other logits on a new base than the trained model.

    Both are asked in the same way: in the dtypes in which the adapter is loaded, and in the same mixed precision.

    Args:
        model: The trained model; it is left as it was.
        base: Folder or name of the base.
        revision: Its commit or branch on the Hub.
        adapter: Folder of the converted adapter.
        batch: Model inputs with `attention_mask`; keys of the collator that are none are left out.
        start: The snapshot from before training where the adapter changed the base, else None.
        tolerance: Largest absolute difference; None takes `TOLERANCE`, or what rounding explains.
        autocast: Mixed precision in which the model is asked; both are asked in it.

    Raises:
        ValueError: If they differ, with the difference and its cause.
    """
    original = model.get_base_model()
    fresh = load_base(base, revision=revision, **_as_loaded_before(original))
    if not getattr(original, "is_quantized", False):  # those stay where they are loaded
        fresh = fresh.to(original.device)
    lora = lora_config_from(check_texts(adapter)[ADAPTER_CONFIG_NAME])
    loaded = put_onto(fresh, lora, adapter, adapter_shapes(adapter), next(iter(model.peft_config)))
    with _in_precision_of(loaded, model):
        error = _logits(loaded, batch, autocast) - _logits(model, batch, autocast)
    largest, rms = error.abs().max().item(), error.square().mean().sqrt().item()
    if largest <= (TOLERANCE if tolerance is None else tolerance):
        return
    cause = _cause(model, loaded, base, start)
    allowed = f"{TOLERANCE if tolerance is None else tolerance:.3g}"
    if tolerance is None and start is not None:
        rounding = _rounding(loaded, batch, start, autocast)
        if rms <= ROUNDING_FACTOR * rounding:
            return
        allowed += f"; root mean square {rms:.3g}, more than {ROUNDING_FACTOR:g} times the rounding of {rounding:.3g}"
    raise ValueError(
        f"the converted adapter on a new {base} differs from the trained model by {largest:.3g} in a logit (more than "
        f"{allowed}): {cause}"
    )


def _as_loaded_before(original: PreTrainedModel) -> dict[str, Any]:
    """Return the arguments that load the base again as the trained model has it."""
    config = original.config
    # A part may attend otherwise than the whole, by choice or because it knows no other way.
    parts = {name: getattr(config, name, None) for name in config.sub_configs}
    attention = {name: part._attn_implementation for name, part in parts.items() if part is not None}
    options = {"dtype": original.dtype, "attn_implementation": {"": config._attn_implementation, **attention}}
    quantization = getattr(config, "quantization_config", None)
    return options if quantization is None else options | {"quantization_config": quantization}


def _cause(model: PeftModel, loaded: PeftModel, base: str, start: Mapping[str, Tensor] | None) -> str:
    """Say why the loaded adapter answers otherwise, if that can be seen."""
    factors = lora_factors(model)
    if start is not None and all(torch.equal(value, factors[name].cpu()) for name, value in start.items()):
        return "initial_adapter holds the adapter as it is now; it must be taken before training (snapshot_adapter)"
    changed = next(_changed_base_weights(model, loaded, start), None)
    if changed is None:
        return "no cause was found"
    return (
        f"{changed} of the trained model is not that of {base}: what is trained must be part of the adapter "
        "(modules_to_save), the base must be the one it was loaded from (base_model=), and initial_adapter must be the "
        "start of this very run"
    )


def _changed_base_weights(model: PeftModel, loaded: PeftModel, start: Mapping[str, Tensor] | None) -> Iterator[str]:
    """Yield the base weights that are not those of the new base, or not up to rounding where PiSSA has changed them."""
    new, layers = dict(loaded.named_parameters()), dict(model.named_modules())
    adapter = next(iter(model.peft_config))
    for name, value in model.named_parameters():
        if "lora_" in name or "modules_to_save" in name or name.startswith(f"{HEADS}."):
            continue
        if name not in new or new[name].shape != value.shape:
            yield name
            continue
        value, expected, layer = value.detach().cpu(), new[name].detach().cpu(), name.removesuffix(".base_layer.weight")
        if start is None or f"{layer}.lora_A.weight" not in start:
            if not torch.equal(value, expected.to(value.dtype)):
                yield name
            continue
        a, b = (start[f"{layer}.lora_{side}.weight"].float() for side in "AB")
        error = value.float() + layers[layer].scaling[adapter] * (b @ a) - expected.float()
        if error.norm() > _ROUNDING_STEPS * torch.finfo(value.dtype).eps * expected.float().norm():
            yield name


@torch.no_grad()
def _rounding(
    loaded: PeftModel, batch: Mapping[str, Tensor], start: Mapping[str, Tensor], autocast: str | None
) -> float:
    """Return by how much (root mean square) a decomposition of the base like the trained model's changes its logits.

    It is made again here and not taken from the trained model, so that nothing which is wrong there can excuse itself.

    Args:
        loaded: The saved adapter on a new base; it is lost.
        batch: Model inputs.
        start: The snapshot from before training.
        autocast: Mixed precision in which the model is asked.
    """
    generator = torch.Generator().manual_seed(0)
    adapter = next(iter(loaded.peft_config))
    layers = {name: layer for name, layer in loaded.named_modules() if hasattr(layer, "lora_A") and layer.lora_A}
    for layer in layers.values():
        layer.lora_B[adapter].weight.zero_()
    exact = _logits(loaded, batch, autocast)
    for name, layer in layers.items():
        weight, a, b = layer.get_base_layer().weight, layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
        eps = torch.finfo(weight.dtype).eps
        first_a, first_b = (start[f"{name}.lora_{side}.weight"].float() for side in "AB")
        a.zero_()[: len(first_a)] = first_a
        b[:, : first_b.shape[1]] = first_b
        # PEFT rounds A and B to the base's dtype only after it has subtracted their product: noise of that size.
        noisy_a, noisy_b = (
            x * (1 + eps * (torch.rand(x.shape, generator=generator) - 0.5)) for x in (first_a, first_b)
        )
        weight.copy_(weight.float() - layer.scaling[adapter] * (noisy_b @ noisy_a).to(weight.device))
    return (_logits(loaded, batch, autocast) - exact).square().mean().sqrt().item()


@torch.no_grad()
def _logits(model: PeftModel, batch: Mapping[str, Tensor], autocast: str | None) -> Tensor:
    """Return the logits (N, V) of all positions that are not padding, in float32 on the CPU."""
    base = model.get_base_model()
    inputs = {
        key: value.to(device=base.device, dtype=base.dtype if value.is_floating_point() else None)
        for key, value in model_inputs(batch).items()
    }
    with evaluating(model), autocasting(base.device, autocast):
        logits = model(**inputs, use_cache=False).logits
    return logits[inputs["attention_mask"].bool()].float().cpu()


@contextmanager
def _in_precision_of(loaded: PeftModel, model: PeftModel) -> Iterator[None]:
    """Ask a trained model for a while as the loaded one is asked: in its dtypes, and without an autocast of its own.

    `Accelerator.prepare` replaces the model's `forward` by one under autocast, and `unwrap_model` leaves that there.
    """
    dtypes = {name: parameter.dtype for name, parameter in loaded.named_parameters()}
    own = {}
    for name, parameter in model.named_parameters():
        dtype = dtypes.get(name, parameter.dtype)
        if parameter.dtype != dtype and parameter.is_floating_point() and dtype.is_floating_point:
            own[parameter] = parameter.data
            parameter.data = parameter.data.to(dtype)
    wrapped = vars(model).pop("forward", None) if "_original_forward" in vars(model) else None
    try:
        yield
    finally:
        if wrapped is not None:
            model.forward = wrapped
        for parameter, data in own.items():
            parameter.data = data
