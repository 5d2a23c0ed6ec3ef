"""Losses as modules with their settings, the dict of their names, and the sum of named parts."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from hf_frameseg.objectives import functional
from hf_frameseg.objectives.functional import PAPER_POS_WEIGHT


class BinaryCrossEntropyLoss(nn.Module):
    """Hold the settings of :func:`~hf_frameseg.objectives.functional.binary_cross_entropy`.

    Formula, paper and *Relations* are documented there.

    Args:
        pos_weight: Weight of the foreground term, > 0; the paper's by default.

    Example:
        >>> import torch
        >>> from hf_frameseg.objectives import BinaryCrossEntropyLoss
        >>> loss = BinaryCrossEntropyLoss()
        >>> loss(torch.zeros(1, 2, 2), torch.tensor([[0.0, 1.0]]))  # (1 + 2.3378) / 2 * log 2
        tensor([1.1568])
    """

    def __init__(self, pos_weight: float = PAPER_POS_WEIGHT) -> None:
        super().__init__()
        self.pos_weight = pos_weight

    def forward(self, frame_logits: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
        """Return one loss per sample ``(B,)``; shapes as in the function."""
        return functional.binary_cross_entropy(frame_logits, target, valid, pos_weight=self.pos_weight)

    def extra_repr(self) -> str:
        """Show the settings in ``repr``."""
        return f"pos_weight={self.pos_weight}"


class TverskyLoss(nn.Module):
    """Hold the settings of :func:`~hf_frameseg.objectives.functional.tversky`.

    Formula, paper and *Relations* are documented there.

    Args:
        alpha: Cost of false positives.
        beta: Cost of false negatives.
        smooth: Added to numerator and denominator, > 0.

    Example:
        >>> import torch
        >>> from hf_frameseg.objectives import TverskyLoss
        >>> TverskyLoss(alpha=0.5, beta=0.5)(torch.zeros(1, 2, 2), torch.tensor([[0.0, 1.0]]))
        tensor([0.5000])
    """

    def __init__(self, alpha: float = 0.3, beta: float = 0.7, smooth: float = 1e-5) -> None:
        super().__init__()
        self.alpha, self.beta, self.smooth = alpha, beta, smooth

    def forward(self, frame_logits: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
        """Return one loss per sample ``(B,)``; shapes as in the function."""
        return functional.tversky(frame_logits, target, valid, alpha=self.alpha, beta=self.beta, smooth=self.smooth)

    def extra_repr(self) -> str:
        """Show the settings in ``repr``."""
        return f"alpha={self.alpha}, beta={self.beta}, smooth={self.smooth}"


class GeneralizedDiceLoss(nn.Module):
    """Hold the settings of :func:`~hf_frameseg.objectives.functional.generalized_dice`.

    Formula, paper and *Relations* are documented there.

    Args:
        smooth: Added to numerator and denominator, > 0.
        class_weight: ``"inverse_square_clamped"``, ``"inverse_square"`` or ``"uniform"``.

    Example:
        >>> import torch
        >>> from hf_frameseg.objectives import GeneralizedDiceLoss
        >>> GeneralizedDiceLoss(class_weight="uniform")(torch.zeros(1, 2, 2), torch.tensor([[0.0, 1.0]]))
        tensor([0.5000])
    """

    def __init__(self, smooth: float = 1e-5, class_weight: functional.ClassWeight = "inverse_square_clamped") -> None:
        super().__init__()
        self.smooth, self.class_weight = smooth, class_weight

    def forward(self, frame_logits: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
        """Return one loss per sample ``(B,)``; shapes as in the function."""
        return functional.generalized_dice(
            frame_logits, target, valid, smooth=self.smooth, class_weight=self.class_weight
        )

    def extra_repr(self) -> str:
        """Show the settings in ``repr``."""
        return f"smooth={self.smooth}, class_weight={self.class_weight!r}"


LOSSES: dict[str, type[nn.Module]] = {
    "bce": BinaryCrossEntropyLoss,
    "tversky": TverskyLoss,
    "generalized_dice": GeneralizedDiceLoss,
}
"""Every segmentation loss by name. The names are the keys of weights, of logs (``loss_<name>``) and of arguments.

A new loss is one function, one class and one line here.
"""


class FrameSegmentationLoss(nn.Module):
    """Compute several frame segmentation losses and return each under its name, unweighted.

    Weights are applied outside (:func:`~hf_frameseg.objectives.schedule.weighted_sum`): they change from step to step,
    and the parts are logged as they are.

    Args:
        parts: Loss modules by name. Empty is allowed and gives no parts (training on the language model loss alone).

    Raises:
        TypeError: If a part is not a module.

    Paper:
        "Moment and Highlight Detection via MLLM Frame Segmentation", section III (the terms of the joint objective).

    Relations:
        - Each term is a loss of its own and usable alone: see :data:`LOSSES`.

    Example:
        >>> import torch
        >>> from hf_frameseg.objectives import LOSSES, FrameSegmentationLoss
        >>> loss = FrameSegmentationLoss({name: loss() for name, loss in LOSSES.items()})
        >>> parts = loss(torch.zeros(2, 25, 2), torch.ones(2, 25))
        >>> {name: tuple(value.shape) for name, value in parts.items()}
        {'bce': (2,), 'tversky': (2,), 'generalized_dice': (2,)}
    """

    def __init__(self, parts: Mapping[str, nn.Module]) -> None:
        super().__init__()
        for name, part in parts.items():
            if not isinstance(part, nn.Module):
                raise TypeError(
                    f"loss part {name!r} must be a module, got {part!r}; call the class: LOSSES[{name!r}]()."
                )
        self.parts = nn.ModuleDict(parts)

    def forward(self, frame_logits: Tensor, target: Tensor, valid: Tensor | None = None) -> dict[str, Tensor]:
        """Return the loss ``(B,)`` of each part by name.

        Args:
            frame_logits: Digit logits ``(B, F, 2)``, or their difference ``z1 - z0`` ``(B, F)``.
            target: Foreground share of each frame ``(B, F)`` in [0, 1].
            valid: True for real frames ``(B, F)``; None when every frame is real.
        """
        return {name: part(frame_logits, target, valid) for name, part in self.parts.items()}
