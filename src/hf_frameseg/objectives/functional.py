"""Frame segmentation losses as pure functions, one value per sample.

Shared by all of them:

- ``frame_logits`` are the two digit logits ``(B, F, 2)`` or their difference ``z1 - z0`` ``(B, F)``. Both mean the
  same: the softmax over two classes is the sigmoid of the difference.
- ``target`` holds the foreground share of each frame in [0, 1]: hard (a mask) or soft (graded saliency). Others are
  refused: ratings of 0 to 4 would train without an error, to something else.
- ``valid`` is False where a frame is padding. Such frames count nowhere, whatever they hold, even NaN.
- Half precision is lifted to float32 before any arithmetic; float64 stays float64.
- A sample without a valid frame has loss 0 and gradient 0.
- The batch is never reduced: the caller owns the mean, because only it knows how many samples the optimiser step has.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F  # noqa: N812  (the name torch's own documentation uses)
from torch import Tensor

ClassWeight = Literal["inverse_square_clamped", "inverse_square", "uniform"]
"""How :func:`generalized_dice` weighs the two classes by their number of frames."""

CLASS_WEIGHTS: tuple[str, ...] = get_args(ClassWeight)
"""The accepted names of :data:`ClassWeight`."""

PAPER_POS_WEIGHT = 2.3378
"""The paper's ``pos_weight``: background over foreground frames (the public training annotations give 2.36)."""


def binary_cross_entropy(
    frame_logits: Tensor, target: Tensor, valid: Tensor | None = None, pos_weight: float = PAPER_POS_WEIGHT
) -> Tensor:
    r"""Compute the mean binary cross-entropy over the frames of each sample.

    .. math::
        \mathrm{BCE} = -\frac{1}{F} \sum_i \left[ w\, g_i \log p_i + (1 - g_i) \log (1 - p_i) \right],
        \qquad p_i = \sigma(z_{1,i} - z_{0,i})

    Computed from the logits, so it stays finite and keeps its gradient for confident predictions.

    Args:
        frame_logits: Digit logits ``(B, F, 2)``, or their difference ``z1 - z0`` ``(B, F)``.
        target: Foreground share of each frame ``(B, F)`` in [0, 1].
        valid: True for real frames ``(B, F)``; None when every frame is real.
        pos_weight: Weight ``w`` of the foreground term, the paper's by default: background over foreground frames. 1.0
            leaves both classes equal; with any other the minimum for a soft target lies beside it.

    Returns:
        One loss per sample ``(B,)``, in float32 or float64.

    Raises:
        ValueError: On shapes that do not fit, targets outside [0, 1], or ``pos_weight <= 0``.
        TypeError: If the logits are not floating point or ``valid`` is not boolean.

    Paper:
        "Moment and Highlight Detection via MLLM Frame Segmentation", section III (frame-level loss).

    Relations:
        - Every frame counts alike: use :func:`tversky` when whole segments matter, or missed frames cost more than
          extra ones.
        - ``pos_weight`` is one number for the whole data set: use :func:`generalized_dice` when the foreground share
          differs a lot from sample to sample.

    Example:
        >>> import torch
        >>> from hf_frameseg.objectives import binary_cross_entropy
        >>> logits = torch.zeros(1, 4, 2)  # p = 0.5 everywhere: each frame costs log 2
        >>> binary_cross_entropy(logits, torch.tensor([[0.0, 1.0, 1.0, 0.0]]), pos_weight=1.0)
        tensor([0.6931])
    """
    if not pos_weight > 0:
        raise ValueError(f"pos_weight must be a number > 0, got {pos_weight}; 1.0 leaves both classes equal.")
    logit, target, valid = _prepare(frame_logits, target, valid)
    per_frame = F.binary_cross_entropy_with_logits(
        logit, target, pos_weight=logit.new_tensor(pos_weight), reduction="none"
    )
    return (per_frame * valid).sum(dim=-1) / valid.sum(dim=-1).clamp(min=1)


def tversky(
    frame_logits: Tensor,
    target: Tensor,
    valid: Tensor | None = None,
    alpha: float = 0.3,
    beta: float = 0.7,
    smooth: float = 1e-5,
) -> Tensor:
    r"""Compute one minus the Tversky index of each sample, averaged over background and foreground.

    For each of the two classes, with probabilities p and targets g over the frames of one sample:

    .. math::
        \mathrm{tp} = \tfrac12 \left( |p| + |g| - |p - g| \right), \quad
        \mathrm{fp} = |p| - \mathrm{tp}, \quad \mathrm{fn} = |g| - \mathrm{tp}

    .. math::
        \mathrm{loss} = 1 - \frac{\mathrm{tp} + s}{\mathrm{tp} + \alpha\,\mathrm{fp} + \beta\,\mathrm{fn} + s}

    The L1 form equals the usual product form on hard targets. On soft targets it is the right one: its minimum, 0, lies
    at p = g, where the product form would push every probability to 0 or 1.

    Args:
        frame_logits: Digit logits ``(B, F, 2)``, or their difference ``z1 - z0`` ``(B, F)``.
        target: Foreground share of each frame ``(B, F)`` in [0, 1].
        valid: True for real frames ``(B, F)``; None when every frame is real.
        alpha: Cost of false positives (frames said to belong to the class that do not).
        beta: Cost of false negatives (frames of the class that were missed). Above ``alpha`` it favours recall.
        smooth: ``s``, added to numerator and denominator, so that a class neither present nor predicted costs 0.

    Returns:
        One loss per sample ``(B,)``, in float32 or float64, in [0, 1].

    Raises:
        ValueError: On shapes that do not fit, targets outside [0, 1], ``smooth <= 0``, or costs that are negative or
            both 0.
        TypeError: If the logits are not floating point or ``valid`` is not boolean.

    Paper:
        "Moment and Highlight Detection via MLLM Frame Segmentation", section III (region-level losses); Salehi et al.
        2017, https://arxiv.org/abs/1706.05721; L1 form: Wang et al. 2023, https://arxiv.org/abs/2303.16296.

    Relations:
        - ``alpha = beta = 0.5`` is the soft Dice loss without class weights.
        - The mean runs over both classes, and with two classes the false positives of one are the false negatives of
          the other: the background term pulls the other way, but softer, because background has more frames.
        - An empty class has (almost) no gradient here; the other class teaches. Use :func:`generalized_dice` when
          samples without foreground are common.
        - Add :func:`binary_cross_entropy` when single frames far from any boundary stay wrong.

    Example:
        >>> import torch
        >>> from hf_frameseg.objectives import tversky
        >>> logits = torch.zeros(1, 4)  # z1 - z0 = 0, so p = 0.5 everywhere
        >>> tversky(logits, torch.tensor([[0.0, 1.0, 1.0, 0.0]]))
        tensor([0.5000])
    """
    _check_smooth(smooth)
    if not (alpha >= 0 and beta >= 0 and alpha + beta > 0):
        raise ValueError(
            f"alpha (false positives) and beta (false negatives) must be >= 0 and not both 0, got {alpha} and {beta}."
        )
    probs, targets = _two_classes(*_prepare(frame_logits, target, valid))
    true_positive, predicted, present = _region_sums(probs, targets)
    false_positive, false_negative = predicted - true_positive, present - true_positive
    index = (true_positive + smooth) / (true_positive + alpha * false_positive + beta * false_negative + smooth)
    return (1 - index).mean(dim=-1)


def generalized_dice(
    frame_logits: Tensor,
    target: Tensor,
    valid: Tensor | None = None,
    smooth: float = 1e-5,
    class_weight: ClassWeight = "inverse_square_clamped",
) -> Tensor:
    r"""Compute the generalized Dice loss of each sample, background and foreground weighted by their size.

    With tp as in :func:`tversky` and the sums of the two classes c:

    .. math::
        \mathrm{loss} = 1 - \frac{2 \sum_c w_c\, \mathrm{tp}_c + s}{\sum_c w_c \left( |p_c| + |g_c| \right) + s}

    ``class_weight`` names the rule for the weights:

    - ``"inverse_square_clamped"`` (default): ``w = 1 / max(|g|, 1)^2``. The same as the next for every class that has
      at least one frame. An absent class weighs as much as one with a single frame, so a sample without foreground
      still teaches the model to lower its probabilities.
    - ``"inverse_square"``: ``w = 1 / (|g|^2 + s)``, the paper's. An absent class weighs 1/s = 100,000 and drowns the
      other: the loss is 1 up to rounding and its gradient vanishes, a dead sample.
    - ``"uniform"``: ``w = 1``, the soft Dice of both classes together.

    Args:
        frame_logits: Digit logits ``(B, F, 2)``, or their difference ``z1 - z0`` ``(B, F)``.
        target: Foreground share of each frame ``(B, F)`` in [0, 1].
        valid: True for real frames ``(B, F)``; None when every frame is real.
        smooth: ``s``, added to numerator and denominator.
        class_weight: Rule for the weights, see above.

    Returns:
        One loss per sample ``(B,)``, in float32 or float64, in [0, 1].

    Raises:
        ValueError: On shapes that do not fit, targets outside [0, 1], ``smooth <= 0``, or an unknown ``class_weight``.
        TypeError: If the logits are not floating point or ``valid`` is not boolean.

    Paper:
        "Moment and Highlight Detection via MLLM Frame Segmentation", section III (region-level losses); Sudre et al.
        2017, https://arxiv.org/abs/1707.03237.

    Relations:
        - Balances the classes by itself, sample by sample: use :func:`tversky` when you want to set the price of missed
          against extra frames yourself.
        - The rarer class rules the gradient, which is noisy when a moment is one or two frames long: use it beside
          :func:`binary_cross_entropy`, not alone.

    Example:
        >>> import torch
        >>> from hf_frameseg.objectives import generalized_dice
        >>> logits = torch.zeros(1, 4)  # z1 - z0 = 0, so p = 0.5 everywhere
        >>> generalized_dice(logits, torch.tensor([[0.0, 1.0, 1.0, 0.0]]))
        tensor([0.5000])
    """
    _check_smooth(smooth)
    probs, targets = _two_classes(*_prepare(frame_logits, target, valid))
    true_positive, predicted, present = _region_sums(probs, targets)
    weight = _class_weights(present, class_weight, smooth)
    numerator = 2 * (weight * true_positive).sum(dim=-1) + smooth
    return 1 - numerator / ((weight * (predicted + present)).sum(dim=-1) + smooth)


def _prepare(frame_logits: Tensor, target: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Check the inputs; return foreground logit, target and valid, each (B, F), with zeros in the padding."""
    _check_inputs(frame_logits, target, valid)
    dtype = torch.promote_types(frame_logits.dtype, torch.float32)
    frame_logits, target = frame_logits.to(dtype), target.to(dtype)
    logit = frame_logits[..., 1] - frame_logits[..., 0] if frame_logits.ndim == 3 else frame_logits
    if valid is None:
        valid = torch.ones_like(target, dtype=torch.bool)
    # Replaced, not multiplied: NaN * 0 is NaN, in the value and in the gradient.
    logit, target = logit.masked_fill(~valid, 0), target.masked_fill(~valid, 0)
    if not bool(((target >= 0) & (target <= 1)).all()):
        raise ValueError(
            f"target must lie in [0, 1], got {target.min().item():g} to {target.max().item():g}; divide ratings by "
            "their highest value (clip_saliency_targets does), or pass a mask."
        )
    return logit, target, valid.to(dtype)


def _check_inputs(frame_logits: Tensor, target: Tensor, valid: Tensor | None) -> None:
    """Raise with the repair when shapes or dtypes do not fit each other."""
    if not (frame_logits.ndim == 2 or (frame_logits.ndim == 3 and frame_logits.shape[-1] == 2)):
        raise ValueError(
            f"frame_logits must be (B, F, 2) or (B, F), got {tuple(frame_logits.shape)}; "
            "pick the two digit logits at the answer positions first (BinaryLabels.frame_logits)."
        )
    if not frame_logits.is_floating_point():
        raise TypeError(f"frame_logits must be floating point, got {frame_logits.dtype}; pass logits, not token ids.")
    if target.shape != frame_logits.shape[:2]:
        raise ValueError(
            f"target must be (B, F) = {tuple(frame_logits.shape[:2])} like frame_logits, got {tuple(target.shape)}."
        )
    if valid is None:
        return
    if valid.dtype != torch.bool:
        raise TypeError(f"valid must be boolean, got {valid.dtype}; pass valid.bool().")
    if valid.shape != target.shape:
        raise ValueError(f"valid must be (B, F) = {tuple(target.shape)} like target, got {tuple(valid.shape)}.")


def _check_smooth(smooth: float) -> None:
    """Raise unless smooth is positive: with 0 an empty class would be 0 / 0."""
    if not smooth > 0:
        raise ValueError(f"smooth must be > 0, got {smooth}; the paper uses 1e-5.")


def _two_classes(logit: Tensor, target: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Return probabilities and targets of (background, foreground), each (B, 2, F), zero in the padding."""
    # sigmoid(-x), not 1 - sigmoid(x): the latter is 0 with gradient 0 for confident foreground in float32.
    probs = torch.stack((torch.sigmoid(-logit), torch.sigmoid(logit)), dim=1)
    targets = torch.stack((1 - target, target), dim=1)
    return probs * valid.unsqueeze(1), targets * valid.unsqueeze(1)


def _region_sums(probs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return tp, |p| and |g| per sample and class, each (B, 2)."""
    # min(p, g) is (p + g - |p - g|) / 2 for each frame, without the cancellation of the three large sums.
    return torch.minimum(probs, targets).sum(dim=-1), probs.sum(dim=-1), targets.sum(dim=-1)


def _class_weights(present: Tensor, class_weight: str, smooth: float) -> Tensor:
    """Return the weight of each class (B, 2) from its number of frames (B, 2)."""
    match class_weight:
        case "inverse_square_clamped":
            return present.clamp(min=1).square().reciprocal()
        case "inverse_square":
            return (present.square() + smooth).reciprocal()
        case "uniform":
            return torch.ones_like(present)
    raise ValueError(f"class_weight must be one of {', '.join(CLASS_WEIGHTS)}, got {class_weight!r}.")
