"""A logits processor that lets a language model write nothing but a binary frame mask."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import LogitsProcessor


class BinaryMaskLogitsProcessor(LogitsProcessor):
    """Allow the two digits for F steps, then only the end of the turn.

    Pure: the scores that come in are not modified, and nothing is remembered between calls, so one processor serves
    any number of beams and repeated calls. Allowed scores pass unchanged, everything else becomes `-inf`. In beam
    search the scores are log-probabilities over the whole vocabulary (`log_softmax` comes first), so beams compete
    with the probability the model really gave their digits.

    Args:
        digit_ids: Token ids of `0` and `1`.
        end_ids: Token ids that may end the answer.
        num_frames: Number of digits F, one for all samples or shape (B,).
        prompt_length: Number of prompt tokens in `input_ids`, left padding included (0 when generating from
            `inputs_embeds` alone).
        num_beams: Number of beams K; only needed with `num_frames` per sample, to know that rows b*K .. b*K+K-1 are
            sample b.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> process = BinaryMaskLogitsProcessor(digit_ids=(1, 2), end_ids=(3,), num_frames=1, prompt_length=2)
        >>> process(torch.tensor([[7, 8]]), torch.tensor([[0.5, 0.25, 0.125, 1.0]])).tolist()
        [[-inf, 0.25, 0.125, -inf]]
        >>> process(torch.tensor([[7, 8, 1]]), torch.tensor([[0.5, 0.25, 0.125, 1.0]])).tolist()
        [[-inf, -inf, -inf, 1.0]]
    """

    def __init__(
        self,
        digit_ids: Sequence[int],
        end_ids: Sequence[int],
        num_frames: int | torch.Tensor,
        prompt_length: int,
        num_beams: int = 1,
    ) -> None:
        """Check and keep the layout of the answer."""
        if len(digit_ids) != 2 or len(end_ids) == 0:
            raise ValueError(f"expected two digit ids and at least one end id, got {digit_ids} and {end_ids}")
        if num_beams < 1 or prompt_length < 0:
            raise ValueError(f"expected num_beams >= 1 and prompt_length >= 0, got {num_beams} and {prompt_length}")
        frames = torch.as_tensor(num_frames, dtype=torch.long)
        if frames.ndim > 1 or frames.numel() == 0 or (frames < 1).any():
            raise ValueError(f"expected num_frames >= 1, one for all or shape (B,), got {num_frames}")
        self.digit_ids = torch.tensor(list(digit_ids))
        self.end_ids = torch.tensor(list(end_ids))
        self.num_frames = frames if frames.ndim == 0 else frames.repeat_interleave(num_beams)
        self.prompt_length = prompt_length

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Mask the scores of one decoding step.

        Args:
            input_ids: Tokens so far, shape (B*K, L).
            scores: Scores of the next token, shape (B*K, V).

        Returns:
            New scores, shape (B*K, V): allowed entries unchanged, the rest `-inf`.

        Raises:
            ValueError: If fewer tokens came than the prompt has, or the rows are not those of `num_frames`.
        """
        step = input_ids.shape[1] - self.prompt_length
        if step < 0:
            raise ValueError(
                f"expected at least prompt_length={self.prompt_length} tokens, got {input_ids.shape[1]}; pass the "
                "number of prompt tokens that generate() sees (0 with inputs_embeds)"
            )
        if self.num_frames.ndim == 1 and len(self.num_frames) != scores.shape[0]:
            raise ValueError(
                f"expected {len(self.num_frames)} rows (samples x num_beams), got {scores.shape[0]}; "
                "give the processor the num_beams of generate()"
            )
        writes_digit = (step < self.num_frames.to(scores.device)).expand(scores.shape[0])
        is_digit = torch.zeros(scores.shape[1], dtype=torch.bool, device=scores.device)
        is_digit[self.digit_ids.to(scores.device)] = True
        is_end = torch.zeros_like(is_digit)
        is_end[self.end_ids.to(scores.device)] = True
        allowed = torch.where(writes_digit[:, None], is_digit, is_end)
        return scores.masked_fill(~allowed, -torch.inf)
