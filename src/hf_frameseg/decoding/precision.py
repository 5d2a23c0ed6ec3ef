"""The precision in which an answer is computed: the same in evaluation, in comparisons and in a saved model."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import nn


def autocasting(device: torch.device | str, dtype: str | None) -> AbstractContextManager[None]:
    """Compute in half precision around the weights' own dtype, or in that alone, whatever the caller has switched on.

    Half precision moves logits by more than models differ, so a model must be asked as it was scored:
    `FrameSegmentationConfig.autocast` says how that was. A model that a trainer holds may be wrapped for mixed
    precision by accelerate, but not where PEFT generates: it calls the module inside.

    Args:
        device: Where the model is.
        dtype: `"bfloat16"` or `"float16"`; None for the weights' own.

    Returns:
        A context manager.

    Raises:
        ValueError: If the device cannot do that.
    """
    kind = torch.device(device).type
    if dtype is None:
        return torch.autocast(kind, enabled=False)
    try:
        return torch.autocast(kind, dtype=getattr(torch, dtype))
    except RuntimeError as error:
        raise ValueError(f"the device {kind} does not compute in {dtype} ({error}); pass autocast=None") from None


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
