"""Losses of frames as objectives with their settings, and the dict of all objectives."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from hf_frameseg.objectives import functional
from hf_frameseg.objectives.functional import PAPER_POS_WEIGHT
from hf_frameseg.objectives.lm import LanguageModelLoss
from hf_frameseg.objectives.objective import FrameObjective, Objective


class BinaryCrossEntropyLoss(FrameObjective):
    """Hold the settings of :func:`~hf_frameseg.objectives.functional.binary_cross_entropy`.

    Formula, paper and *Relations* are documented there.

    Args:
        pos_weight: Weight of the foreground term, > 0; the paper's by default.

    Example:
        >>> import torch
        >>> from hf_frameseg.objectives import BinaryCrossEntropyLoss
        >>> loss = BinaryCrossEntropyLoss()
        >>> loss.loss(torch.zeros(1, 2, 2), torch.tensor([[0.0, 1.0]]))  # (1 + 2.3378) / 2 * log 2
        tensor([1.1568])
    """

    def __init__(self, pos_weight: float = PAPER_POS_WEIGHT) -> None:
        super().__init__()
        self.pos_weight = pos_weight

    def loss(self, frame_logits: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
        """Return one loss per sample ``(B,)``; shapes as in the function."""
        return functional.binary_cross_entropy(frame_logits, target, valid, pos_weight=self.pos_weight)

    def extra_repr(self) -> str:
        """Show the settings in ``repr``."""
        return f"pos_weight={self.pos_weight}"


class TverskyLoss(FrameObjective):
    """Hold the settings of :func:`~hf_frameseg.objectives.functional.tversky`.

    Formula, paper and *Relations* are documented there.

    Args:
        alpha: Cost of false positives.
        beta: Cost of false negatives.
        smooth: Added to numerator and denominator, > 0.

    Example:
        >>> import torch
        >>> from hf_frameseg.objectives import TverskyLoss
        >>> TverskyLoss(alpha=0.5, beta=0.5).loss(torch.zeros(1, 2, 2), torch.tensor([[0.0, 1.0]]))
        tensor([0.5000])
    """

    def __init__(self, alpha: float = 0.3, beta: float = 0.7, smooth: float = 1e-5) -> None:
        super().__init__()
        self.alpha, self.beta, self.smooth = alpha, beta, smooth

    def loss(self, frame_logits: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
        """Return one loss per sample ``(B,)``; shapes as in the function."""
        return functional.tversky(frame_logits, target, valid, alpha=self.alpha, beta=self.beta, smooth=self.smooth)

    def extra_repr(self) -> str:
        """Show the settings in ``repr``."""
        return f"alpha={self.alpha}, beta={self.beta}, smooth={self.smooth}"


class GeneralizedDiceLoss(FrameObjective):
    """Hold the settings of :func:`~hf_frameseg.objectives.functional.generalized_dice`.

    Formula, paper and *Relations* are documented there.

    Args:
        smooth: Added to numerator and denominator, > 0.
        class_weight: ``"inverse_square_clamped"``, ``"inverse_square"`` or ``"uniform"``.

    Example:
        >>> import torch
        >>> from hf_frameseg.objectives import GeneralizedDiceLoss
        >>> GeneralizedDiceLoss(class_weight="uniform").loss(torch.zeros(1, 2, 2), torch.tensor([[0.0, 1.0]]))
        tensor([0.5000])
    """

    def __init__(self, smooth: float = 1e-5, class_weight: functional.ClassWeight = "inverse_square_clamped") -> None:
        super().__init__()
        self.smooth, self.class_weight = smooth, class_weight

    def loss(self, frame_logits: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
        """Return one loss per sample ``(B,)``; shapes as in the function."""
        return functional.generalized_dice(
            frame_logits, target, valid, smooth=self.smooth, class_weight=self.class_weight
        )

    def extra_repr(self) -> str:
        """Show the settings in ``repr``."""
        return f"smooth={self.smooth}, class_weight={self.class_weight!r}"


OBJECTIVES: dict[str, type[Objective]] = {
    "lm": LanguageModelLoss,
    "bce": BinaryCrossEntropyLoss,
    "tversky": TverskyLoss,
    "generalized_dice": GeneralizedDiceLoss,
}
"""Every objective by name. The names are the keys of weights, of logs (``loss_<name>``) and of arguments.

A new one is one class and one line here; one of your own is put in from outside, before it is weighted.
"""


def make_objectives(
    names: Iterable[str],
    options: Mapping[str, Mapping[str, Any]],
    given: Mapping[str, Objective | type[Objective]] | None = None,
) -> dict[str, Objective]:
    """Make objectives by their names.

    Args:
        names: Which; those of ``options`` must be known too.
        options: Settings of each by name, passed to its class.
        given: Objectives, or classes of them, that come before those of :data:`OBJECTIVES`.

    Returns:
        The objectives by name, in the order of the registry.

    Raises:
        ValueError: On a name that nobody knows, or settings that a class does not take.
        TypeError: If one is no objective.

    Example:
        >>> make_objectives(["bce", "lm"], {"bce": {"pos_weight": 2.0}})
        {'lm': LanguageModelLoss(), 'bce': BinaryCrossEntropyLoss(pos_weight=2.0)}
    """
    known: dict[str, Objective | type[Objective]] = {**OBJECTIVES, **(given or {})}
    check_names(names, known, "the weights")
    check_names(options, known, "loss_options")
    made = {}
    for name, kind in known.items():
        if isinstance(kind, type) and issubclass(kind, Objective):
            try:
                inspect.signature(kind).bind(**options.get(name, {}))
            except TypeError as error:
                raise ValueError(f"loss_options for {name!r}: {kind.__name__} {error}.") from None
            kind = kind(**options.get(name, {}))
        elif options.get(name):
            raise ValueError(f"loss_options for {name!r}: it was given as an object; give its settings to that.")
        if not isinstance(kind, Objective):
            raise TypeError(f"objective {name!r} must be an Objective or a class of them, got {kind!r}.")
        if "_parameters" not in vars(kind):
            raise TypeError(f"objective {name!r} has an __init__ that must begin with super().__init__().")
        if name in names:
            made[name] = kind
    return made


def check_names(names: Iterable[str], known: Iterable[str], where: str) -> None:
    """Refuse names of objectives that nobody knows.

    Args:
        names: The names.
        known: The known ones.
        where: Where they stand, for the message.

    Raises:
        ValueError: If one is unknown.
    """
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"unknown loss in {where}: {', '.join(unknown)}; known are {', '.join(known)}.")
