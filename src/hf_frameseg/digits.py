"""Frame mask <-> answer tokens, and language-model logits -> frame logits.

The one place that knows which tokens are digits, and the shift by one: the logits at sequence position `p` predict the
token at `p + 1`, so digit `f` of an answer that starts at `answer_start` is read at `answer_start + f - 1`.

Axes: B samples, F frames, K logit positions, V vocabulary.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

TURN_END_TOKENS = ("<|end|>", "<|im_end|>", "<|eot_id|>", "<end_of_turn>")
"""Tokens that end an assistant turn in the chat formats of Phi-3, Qwen, Llama-3 and Gemma."""


@dataclass(frozen=True)
class BinaryLabels:
    """Know the token ids of a binary frame answer: F digits, then the end of the turn.

    Args:
        zero_id: Token id of the digit `0`.
        one_id: Token id of the digit `1`.
        end_ids: Token ids that may end the answer; the first is the one written into training answers.

    Raises:
        ValueError: If there is no end id, an id is negative, or two roles share an id.

    Example:
        >>> labels = BinaryLabels(zero_id=48, one_id=49, end_ids=(315,))
        >>> labels.answer_ids([False, True, True])
        [48, 49, 49, 315]
        >>> labels.mask_from_ids([48, 49, 49]).tolist()
        [False, True, True]
    """

    zero_id: int
    one_id: int
    end_ids: tuple[int, ...]

    def __post_init__(self) -> None:
        """Normalise and check the ids."""
        object.__setattr__(self, "end_ids", tuple(self.end_ids))
        ids = (self.zero_id, self.one_id, *self.end_ids)
        if not self.end_ids or len(set(ids)) != len(ids) or min(ids) < 0:
            raise ValueError(f"expected distinct ids >= 0 for '0', '1' and at least one end token, got {self}")

    @classmethod
    def from_tokenizer(cls, tokenizer: PreTrainedTokenizerBase, end_token: str | None = None) -> BinaryLabels:
        """Look the ids up in a tokenizer and prove that it keeps digits apart.

        Args:
            tokenizer: Any tokenizer of transformers.
            end_token: Token that ends the assistant's turn. None takes the first of `TURN_END_TOKENS` that the chat
                template uses, else the first that the vocabulary has, else the tokenizer's `eos_token`.

        Returns:
            The labels of this tokenizer.

        Raises:
            ValueError: If strings of digits are not one token per digit (Llama-3 merges up to three digits), or the
                end token is not in the vocabulary.
        """
        zero_id, one_id = _single_digit_ids(tokenizer)
        token = _turn_end(tokenizer) if end_token is None else end_token
        vocabulary = tokenizer.get_vocab()
        if token not in vocabulary:
            raise ValueError(
                f"expected the end-of-turn token to be in the vocabulary of {_name(tokenizer)}, got {token!r}; "
                "pass end_token= with the token that ends an assistant turn in its chat template"
            )
        return cls(zero_id=zero_id, one_id=one_id, end_ids=(vocabulary[token],))

    @property
    def digit_ids(self) -> tuple[int, int]:
        """Return `(zero_id, one_id)`, the order of the last axis of frame logits."""
        return (self.zero_id, self.one_id)

    @property
    def end_id(self) -> int:
        """Return the id that ends a training answer."""
        return self.end_ids[0]

    def answer_ids(self, mask: ArrayLike) -> list[int]:
        """Build the answer's token ids from a mask, without tokenizing any text.

        Args:
            mask: Relevance per frame, shape (F,), bool or 0/1.

        Returns:
            F digit ids and the end id.

        Raises:
            ValueError: If the mask is not one-dimensional or not binary.
        """
        array = np.asarray(mask)
        if array.ndim != 1 or not np.isin(array, (0, 1)).all():
            raise ValueError(f"expected a mask of shape (F,) with 0 and 1 only, got shape {array.shape}: {array}")
        return [*(self.digit_ids[int(digit)] for digit in array), self.end_id]

    def mask_from_ids(self, ids: ArrayLike | torch.Tensor) -> NDArray[np.bool_]:
        """Read a mask back from digit ids.

        Args:
            ids: Digit token ids without the end id, shape (..., F).

        Returns:
            Relevance, same shape, bool.

        Raises:
            ValueError: If any id is not one of the two digits.
        """
        array = np.asarray(ids.detach().cpu() if hasattr(ids, "detach") else ids)
        other = ~np.isin(array, self.digit_ids)
        if other.any():
            raise ValueError(
                f"expected only the digit ids {self.digit_ids}, got id {array[other][0]}; "
                "cut the prompt and the end token off, or decode with BinaryMaskLogitsProcessor"
            )
        return array == self.one_id

    def frame_logits(
        self,
        logits: torch.Tensor,
        answer_start: torch.Tensor | Sequence[int],
        num_frames: int,
        logits_start: int | torch.Tensor = 0,
    ) -> torch.Tensor:
        """Pick the two digit logits of every frame out of the model's logits.

        Padding side does not matter: `answer_start` counts from the first column, padding included.

        **The fused axis.** Position means position on the axis of the *logits*, where each image already takes its
        many visual tokens. An index counted in text in which `<image>` is still one token is too small by
        `F * (tokens_per_frame - 1)`: it stays in range and reads somewhere among the visual tokens. That is what the
        paper's public code did; only a test against known logits can tell.

        Args:
            logits: Language-model logits, shape (B, K, V).
            answer_start: Index of the first digit on the model's own sequence axis, shape (B,).
            num_frames: Number of frames F.
            logits_start: Sequence position of `logits[:, 0]`, one for all or shape (B,); `L - K` when the model
                computed the last K of L positions (`logits_to_keep=K`).

        Returns:
            Logits of `0` and `1` per frame, shape (B, F, 2), dtype of `logits`, differentiable.

        Raises:
            ValueError: If shapes do not fit, or a digit's position is outside `logits`.

        Example:
            >>> import torch
            >>> labels = BinaryLabels(zero_id=0, one_id=1, end_ids=(2,))
            >>> logits = torch.arange(5.0).reshape(1, 5, 1).expand(1, 5, 3)  # each position's logits are its index
            >>> labels.frame_logits(logits, answer_start=[3], num_frames=2)[0, :, 1].tolist()
            [2.0, 3.0]
        """
        import torch  # only here: label rules are used without it

        rows = digit_positions(logits, answer_start, num_frames, logits_start)
        samples = torch.arange(len(logits), device=logits.device)
        digits = torch.tensor(self.digit_ids, device=logits.device)
        return logits[samples[:, None, None], rows[:, :, None], digits]


def digit_positions(
    values: torch.Tensor,
    answer_start: torch.Tensor | Sequence[int],
    num_frames: int,
    values_start: int | torch.Tensor = 0,
) -> torch.Tensor:
    """Return where the digits are predicted, in logits or in hidden states.

    Args:
        values: One vector per position, shape (B, K, V) or (B, K, D).
        answer_start: As for `BinaryLabels.frame_logits`.
        num_frames: Number of frames F.
        values_start: As `logits_start` there.

    Returns:
        Positions in `values`, shape (B, F), int64.

    Raises:
        ValueError: If shapes do not fit, or a position is outside `values`.
    """
    import torch

    if values.ndim != 3:
        raise ValueError(f"expected logits of shape (B, K, V), got {tuple(values.shape)}")
    batch, kept, _ = values.shape
    device = values.device
    start = torch.as_tensor(answer_start, device=device)
    offset = torch.as_tensor(values_start, device=device)
    if start.shape != (batch,) or offset.shape not in ((), (batch,)):
        raise ValueError(
            f"expected answer_start of shape ({batch},) and logits_start of shape () or ({batch},), "
            f"got {tuple(start.shape)} and {tuple(offset.shape)}"
        )
    first = start - offset - 1  # what stands at p predicts the token at p + 1
    if (first < 0).any() or (first + num_frames > kept).any():
        raise ValueError(
            f"the digits of {num_frames} frames are predicted at rows {first.tolist()} onwards of {kept} kept "
            "logits, out of range: answer_start must count on the fused axis (each <image> already expanded to "
            "its visual tokens), and logits_start must be the sequence position of logits[:, 0]"
        )
    return first[:, None] + torch.arange(num_frames, device=device)


def states_at_digits(
    hidden_states: torch.Tensor, answer_start: torch.Tensor | Sequence[int], num_frames: int, states_start: int = 0
) -> torch.Tensor:
    """Pick the hidden states that predict the digits out of those of all positions.

    Args:
        hidden_states: Of one layer, shape (B, K, D).
        answer_start: As for `BinaryLabels.frame_logits`.
        num_frames: Number of frames F.
        states_start: Sequence position of `hidden_states[:, 0]`.

    Returns:
        Hidden states per frame, shape (B, F, D), differentiable.

    Example:
        >>> import torch
        >>> states = torch.arange(5.0).reshape(1, 5, 1)  # each position's state is its index
        >>> states_at_digits(states, answer_start=[3], num_frames=2)[0, :, 0].tolist()
        [2.0, 3.0]
    """
    import torch

    rows = digit_positions(hidden_states, answer_start, num_frames, states_start)
    return hidden_states[torch.arange(len(rows), device=rows.device)[:, None], rows]


def is_along_text(value: Any, ids: torch.Tensor) -> bool:
    """Tell model inputs with an entry per token (masks, token types) from pixels and image sizes.

    Args:
        value: A value of a batch.
        ids: `input_ids` of the batch, (B, L).

    Returns:
        Whether it is a tensor of whole numbers or bools of the shape of `ids`.

    Example:
        >>> import torch
        >>> ids = torch.tensor([[5, 6]])
        >>> [is_along_text(value, ids) for value in (ids > 5, torch.zeros(1, 2), torch.zeros(1, 3, 8, 8), None)]
        [True, False, False, False]
    """
    return getattr(value, "shape", None) == ids.shape and not value.is_floating_point()


def _single_digit_ids(tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
    """Return the ids of the two digits, or raise if some string of digits is not one token per digit."""
    ids_of = {"0": _encode(tokenizer, "00")[-1:], "1": _encode(tokenizer, "11")[-1:]}
    for length in (2, 3):  # Llama-3-like tokenizers merge up to three digits
        for text in map("".join, itertools.product("01", repeat=length)):
            ids = _encode(tokenizer, text)
            expected = [token for digit in text for token in ids_of[digit]]
            # SentencePiece tokenizers may put one word-start token in front; it is not part of the digits.
            prefix, digits = ids[: max(0, len(ids) - length)], ids[-length:]
            if digits != expected or len(prefix) > 1 or tokenizer.unk_token_id in digits:
                raise ValueError(
                    f"expected one token per digit, but {_name(tokenizer)} turns {text!r} into "
                    f"{tokenizer.convert_ids_to_tokens(ids)}; use a model whose tokenizer keeps digits apart "
                    "(Phi-3, Llama-2, Qwen)"
                )
    if ids_of["0"] == ids_of["1"]:
        raise ValueError(f"expected two different tokens for '0' and '1', but {_name(tokenizer)} has one for both")
    return ids_of["0"][0], ids_of["1"][0]


def _encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Tokenize without special tokens."""
    return list(tokenizer.encode(text, add_special_tokens=False))


def _turn_end(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Return the token that ends an assistant turn, or the end-of-sequence token."""
    vocabulary = tokenizer.get_vocab()
    known = [token for token in TURN_END_TOKENS if token in vocabulary]
    template: Any = tokenizer.chat_template
    used = [token for token in known if isinstance(template, str) and token in template]
    return next(iter([*used, *known]), tokenizer.eos_token)


def _name(tokenizer: PreTrainedTokenizerBase) -> str:
    """Name a tokenizer in an error message."""
    return tokenizer.name_or_path or type(tokenizer).__name__
