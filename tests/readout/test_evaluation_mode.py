"""Evaluation mode for a while: every module gets its own mode back, also after an error."""

from __future__ import annotations

import pytest
from torch import nn

from hf_frameseg.readout.evaluation_mode import evaluating, lock_of


def modes(model: nn.Module) -> list[bool]:
    return [module.training for module in model.modules()]


def test_every_module_gets_its_own_mode_back() -> None:
    model = nn.Sequential(nn.Dropout(), nn.Sequential(nn.Dropout(), nn.Linear(1, 1))).train()
    model[1].eval()  # frozen, inside a model that trains
    model[1][1].train()
    before = modes(model)
    assert len(set(before)) == 2
    with evaluating(model):
        assert not any(modes(model))
        with evaluating(model):  # one question inside another
            assert not any(modes(model))
        assert not any(modes(model))
    assert modes(model) == before
    with pytest.raises(RuntimeError, match="broken off"), evaluating(model):
        raise RuntimeError("broken off")
    assert modes(model) == before


def test_each_object_has_one_lock() -> None:
    model = nn.Linear(1, 1)
    assert lock_of(model) is lock_of(model)
    assert lock_of(model) is not lock_of(nn.Linear(1, 1))
