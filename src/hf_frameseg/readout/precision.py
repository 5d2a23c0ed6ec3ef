"""The precision in which an answer is computed: the same in evaluation, in comparisons and in a saved model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def autocasting(device: torch.device | str, dtype: str | None) -> Iterator[None]:
    """Compute in half precision around the weights' own dtype, or in that alone, whatever the caller has switched on.

    Half precision moves logits by more than models differ, so a model must be asked as it was scored:
    `FrameSegmentationConfig.autocast` says how that was. A model that a trainer holds may be wrapped for mixed
    precision by accelerate, but not where PEFT generates: it calls the module inside.

    Args:
        device: Where the model is.
        dtype: `"bfloat16"` or `"float16"`; None for the weights' own.

    Raises:
        ValueError: If the device cannot do that.
    """
    kind = torch.device(device).type
    if not torch.amp.is_autocast_available(kind):
        if dtype is not None:
            raise ValueError(f"the device {kind!r} has no mixed precision of {dtype}; pass autocast=None")
        yield
        return
    # Weights that were cast for a context around this one are kept for all inside it, of any dtype (torch 2.15).
    torch.clear_autocast_cache()
    try:
        with torch.autocast(kind, dtype=getattr(torch, dtype or "bfloat16"), enabled=dtype is not None):
            yield
    finally:
        torch.clear_autocast_cache()


def autocast_of(model: nn.Module) -> str | None:
    """Return the half precision that a trainer has wrapped around a model, in which it scores it.

    Args:
        model: Any model; accelerate leaves its mark on those that it prepared for mixed precision.

    Returns:
        `"bfloat16"` or `"float16"`; None for a model that computes in its weights' dtype.
    """
    if "_original_forward" not in vars(model):
        return None
    from accelerate.state import AcceleratorState

    return "float16" if AcceleratorState().mixed_precision == "fp16" else "bfloat16"
