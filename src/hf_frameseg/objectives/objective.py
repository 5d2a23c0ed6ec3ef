"""`Objective`: a named part of the loss with the targets it needs, the outputs it reads and, perhaps, a head."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

Targets = Mapping[str, Callable[[Any], Any]]
"""Name of a target -> function that reads it off a sample."""


_TAKEN = {"labels", "answer_start", "frame_valid", "qid", "row_number", "rows"}  # what a batch has anyway


@dataclass(frozen=True, eq=False)
class AnswerOutputs:
    """Hold what a model says at the answers of a batch, from one forward pass.

    Axes: B samples, K positions of the answers, V vocabulary, F frames, D hidden size.

    Args:
        logits: Vocabulary logits (B, K, V) at K consecutive positions; those at k predict the token at k + 1.
        labels: Token ids (B, K) at the same positions, -100 where there is nothing to predict; None where the answer
            was decoded and no truth is known.
        frame_logits: Logits of `0` and `1` of every frame (B, F, 2).
        frame_valid: True for real frames (B, F); False behind the last of a shorter row.
        hidden_states: The last hidden states (B, F, D), float32, at the positions that predict the digits; None unless
            an objective asks for them.
    """

    logits: Tensor
    labels: Tensor | None
    frame_logits: Tensor
    frame_valid: Tensor
    hidden_states: Tensor | None = None


class Objective(nn.Module):
    """Be a part of the loss: subclass it, write `forward`, and give the class a name in `OBJECTIVES`.

    The trainer does the rest for any name: weights and their schedule, accumulation, processes, the log line
    `loss_<name>`, `eval_loss_<name>`. One without a head is often shorter as a `FrameObjective`.

    A head: write `build`. Its parameters belong to the model: they are trained with it, and saved beside it in
    `frameseg_heads.safetensors`.

    Attributes:
        targets: What it needs of a sample, by name: a function of a `Sample` that returns an array whose first axis
            is the frames (F, ...), or a scalar. The collator calls it, pads rows of fewer frames with zeros and hands
            the tensors to `forward`. A name that several objectives use is computed once.
        needs_hidden_states: Whether it reads `AnswerOutputs.hidden_states`. The model then keeps the hidden states of
            all its layers during the step: (layers + 1) x B x L x D values more in memory for L tokens.

    Example:
        >>> import torch
        >>> class Count(Objective):
        ...     '''Learn how many frames are relevant.'''
        ...     targets = {"count": lambda sample: sample.mask().sum()}
        ...     needs_hidden_states = True
        ...     def build(self, hidden_size):
        ...         self.linear = torch.nn.Linear(hidden_size, 1)
        ...     def forward(self, answer, targets):
        ...         expected = self.linear(answer.hidden_states)[..., 0] * answer.frame_valid
        ...         return (expected.sum(1) - targets["count"]).square()
        >>> OBJECTIVES["count"] = Count  # doctest: +SKIP
    """

    targets: ClassVar[Targets] = {}
    needs_hidden_states: bool = False

    @property
    def has_head(self) -> bool:
        """Tell whether it has parameters."""
        return next(self.parameters(), None) is not None

    def build(self, hidden_size: int) -> None:
        """Make the parameters of a head; called once, before the optimiser is made. None by default.

        Args:
            hidden_size: Size D of the model's hidden states.
        """

    def forward(self, answer: AnswerOutputs, targets: Mapping[str, Tensor]) -> Tensor:
        """Return one value per sample.

        Args:
            answer: What the model says at the answers.
            targets: The tensors of `targets` by name, (B, F, ...) or (B,).

        Returns:
            The loss of every sample (B,): a mean within the sample, over its valid frames.
        """
        raise NotImplementedError(f"{type(self).__name__} needs a forward(answer, targets) that returns (B,)")


def _frame_targets(sample: Any) -> Any:
    """Return the mask, or the mean ratings, as the collator is told to label."""
    return sample.frame_targets()


class FrameObjective(Objective):
    """Be a loss of frame logits and frame targets: subclass it and write `loss`."""

    targets: ClassVar[Targets] = {"frame_targets": _frame_targets}

    def loss(self, frame_logits: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
        """Return one loss per sample (B,).

        Args:
            frame_logits: Digit logits (B, F, 2), or their difference `z1 - z0` (B, F).
            target: Foreground share of each frame (B, F) in [0, 1].
            valid: True for real frames (B, F); None when every frame is real.
        """
        raise NotImplementedError(f"{type(self).__name__} needs a loss(frame_logits, target, valid) that returns (B,)")

    def forward(self, answer: AnswerOutputs, targets: Mapping[str, Tensor]) -> Tensor:
        """Return one value per sample (B,)."""
        return self.loss(answer.frame_logits, targets["frame_targets"], answer.frame_valid)


def targets_of(objectives: Mapping[str, Objective]) -> dict[str, Callable[[Any], Any]]:
    """Return all targets that objectives need, each once; the frame targets are always among them.

    Args:
        objectives: Objectives by name.

    Raises:
        ValueError: If two objectives mean different things by one name, or one takes a name of the batch itself.
    """
    found: dict[str, Callable[[Any], Any]] = {"frame_targets": _frame_targets}
    for name, objective in objectives.items():
        for target, function in objective.targets.items():
            if target in _TAKEN or found.setdefault(target, function) is not function:
                raise ValueError(
                    f"expected one function for the target {target!r}, and the objective {name!r} has another: give "
                    "the target another name"
                )
    return found
