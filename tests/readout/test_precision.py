"""The precision of an answer is the one that is asked for, whatever surrounds the call."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hf_frameseg.readout.precision import autocast_of, autocasting


@pytest.mark.parametrize("outside", [None, "bfloat16", "float16"])
@pytest.mark.parametrize("inside", [None, "bfloat16", "float16"])
def test_the_inner_precision_counts(outside: str | None, inside: str | None) -> None:
    layer, x = nn.Linear(2, 2), torch.zeros(1, 2)
    with autocasting("cpu", outside):
        with autocasting("cpu", inside):
            assert layer(x).dtype == getattr(torch, inside or "float32")
        assert layer(x).dtype == getattr(torch, outside or "float32")


def test_a_device_without_mixed_precision() -> None:
    with autocasting("meta", None):
        assert nn.Linear(2, 2, device="meta")(torch.zeros(1, 2, device="meta")).dtype == torch.float32
    with pytest.raises(ValueError, match="the device 'meta' has no mixed precision of bfloat16; pass autocast=None"):
        autocasting("meta", "bfloat16").__enter__()


def test_a_model_of_no_trainer_has_its_own() -> None:
    assert autocast_of(nn.Linear(2, 2)) is None
