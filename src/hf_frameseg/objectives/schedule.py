"""Weights of the loss parts over training: from the language model alone to the joint objective."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from torch import Tensor

from hf_frameseg.objectives.modules import OBJECTIVES, check_names

ScheduleKind = Literal["linear", "constant"]
"""How :class:`LossWeightSchedule` gets from the first weights to the last."""

SCHEDULE_KINDS: tuple[str, ...] = get_args(ScheduleKind)
"""The accepted names of :data:`ScheduleKind`."""

PAPER_WEIGHTS_START: dict[str, float] = {"lm": 1.0, "bce": 0.0, "tversky": 0.0, "generalized_dice": 0.0}
"""The paper's weights before the first step (appendix, table of hyperparameters)."""

PAPER_WEIGHTS: dict[str, float] = {"lm": 0.2, "bce": 0.8 / 3, "tversky": 0.8 / 3, "generalized_dice": 0.8 / 3}
"""The paper's weights after the warm-up: 0.2 for the language model, 0.2667 for each segmentation loss."""


@dataclass(frozen=True)
class LossWeightSchedule:
    r"""Give the weight of every loss part at each optimiser step.

    ``"linear"`` moves every weight on a straight line:

    .. math::
        w(\mathrm{step}) = w_{start} + (w_{end} - w_{start}) \min(\mathrm{step} / \mathrm{warmup}, 1)

    ``"constant"`` gives ``end`` at every step; ``start`` and ``warmup_steps`` are then not used.

    Steps are optimiser steps, not micro-batches: all micro-batches of one accumulation share one set of weights.

    Args:
        start: Weights at step 0 by name. A name that is left out weighs 0.
        end: Weights from step ``warmup_steps`` on. A name that is left out weighs 0.
        warmup_steps: Optimiser steps from ``start`` to ``end``; 0 means ``end`` from the first step.
        kind: ``"linear"`` or ``"constant"``.
        known: Names that may be weighted; those of :data:`~hf_frameseg.objectives.modules.OBJECTIVES` by default.

    Raises:
        ValueError: On an unknown name, a weight that is negative or not finite, weights that are all 0, a negative
            ``warmup_steps``, or an unknown ``kind``.

    Paper:
        "Moment and Highlight Detection via MLLM Frame Segmentation", section IV: six epochs of linear warm-up from
        :data:`PAPER_WEIGHTS_START` to :data:`PAPER_WEIGHTS`.

    Relations:
        - A start with the language model alone first teaches a model to copy the previous true digit. Use
          ``kind="constant"`` (the segmentation losses from the first step) for short trainings and small models.

    Example:
        >>> from hf_frameseg.objectives import LossWeightSchedule
        >>> schedule = LossWeightSchedule(start={"lm": 1.0}, end={"lm": 0.5, "bce": 0.5}, warmup_steps=100)
        >>> schedule.at(0), schedule.at(50), schedule.at(1000)
        ({'lm': 1.0, 'bce': 0.0}, {'lm': 0.75, 'bce': 0.25}, {'lm': 0.5, 'bce': 0.5})
    """

    start: Mapping[str, float]
    end: Mapping[str, float]
    warmup_steps: int
    kind: ScheduleKind = "linear"
    known: Iterable[str] | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check once, and keep copies: the caller's dicts may change later."""
        if self.kind not in SCHEDULE_KINDS:
            raise ValueError(f"kind must be one of {', '.join(SCHEDULE_KINDS)}, got {self.kind!r}.")
        if self.warmup_steps < 0:
            raise ValueError(f"warmup_steps must be >= 0 optimiser steps, got {self.warmup_steps}.")
        object.__setattr__(self, "start", _checked_weights("start", self.start, self.known))
        object.__setattr__(self, "end", _checked_weights("end", self.end, self.known))

    def at(self, step: int) -> dict[str, float]:
        """Return the weight of every name in ``start`` or ``end`` at optimiser step ``step`` (0 is the first).

        Raises:
            ValueError: If ``step`` is negative.
        """
        if step < 0:
            raise ValueError(f"step must be >= 0, got {step}; count optimiser steps from 0.")
        done = 1.0 if self.kind == "constant" or step >= self.warmup_steps else step / self.warmup_steps
        names = dict.fromkeys((*self.start, *self.end))
        return {name: (1 - done) * self.start.get(name, 0.0) + done * self.end.get(name, 0.0) for name in names}


def weighted_sum(parts: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Add the loss parts with their weights, per sample.

    A part of weight 0 is left out of the sum altogether: an infinite value in it cannot turn the total into NaN.

    Args:
        parts: Loss ``(B,)`` of each part by name.
        weights: Weight of each part by name. A weight of 0 needs no part; every part needs a weight.

    Returns:
        The joint loss per sample ``(B,)``.

    Raises:
        ValueError: If a part has no weight, a weight above 0 has no part, or nothing is left to add.

    Example:
        >>> import torch
        >>> from hf_frameseg.objectives import weighted_sum
        >>> weighted_sum({"lm": torch.tensor([1.0]), "bce": torch.tensor([3.0])}, {"lm": 0.5, "bce": 0.5})
        tensor([2.])
    """
    if unweighted := [name for name in parts if name not in weights]:
        raise ValueError(f"loss parts without a weight: {', '.join(unweighted)}; give each a weight (0 leaves it out).")
    used = {name: weight for name, weight in weights.items() if weight != 0}
    if missing := [name for name in used if name not in parts]:
        raise ValueError(f"weights without a loss part: {', '.join(missing)}; compute the part or set its weight to 0.")
    if not used:
        raise ValueError("every loss weight is 0; give at least one part a weight above 0.")
    terms = [weight * parts[name] for name, weight in used.items()]
    return sum(terms[1:], start=terms[0])


def _checked_weights(side: str, weights: Mapping[str, float], known: Iterable[str] | None) -> dict[str, float]:
    """Return a copy of the weights, or raise with the repair."""
    known = tuple(OBJECTIVES if known is None else known)
    check_names(weights, known, f"{side} weights")
    for name, weight in weights.items():
        if not (math.isfinite(weight) and weight >= 0):
            raise ValueError(f"the {side} weight of {name!r} must be a finite number >= 0, got {weight}.")
    if not any(weights.values()):
        raise ValueError(f"the {side} weights are all 0; give at least one of {', '.join(known)} a weight above 0.")
    return dict(weights)
