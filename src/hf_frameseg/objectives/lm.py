"""The ordinary next-token loss, as an objective."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor

from hf_frameseg.objectives.objective import AnswerOutputs, Objective


class LanguageModelLoss(Objective):
    """Compute the mean cross-entropy of the answer's tokens: the digits and the end of the turn.

    Example:
        >>> import torch
        >>> logits = torch.zeros(1, 3, 4)
        >>> answer = AnswerOutputs(logits, torch.tensor([[-100, 1, 2]]), torch.zeros(1, 1, 2), torch.ones(1, 1).bool())
        >>> LanguageModelLoss()(answer, {})  # log 4
        tensor([1.3863])
    """

    def forward(self, answer: AnswerOutputs, targets: Mapping[str, Tensor]) -> Tensor:
        """Return the next-token loss (B,), a mean over the labelled tokens of each sample."""
        labels = answer.labels[:, 1:]
        predicted = answer.logits[:, :-1].float().flatten(0, 1)
        per_token = F.cross_entropy(predicted, labels.flatten(), ignore_index=-100, reduction="none")
        counted = labels != -100
        return per_token.view(labels.shape).sum(1) / counted.sum(1).clamp(min=1)
