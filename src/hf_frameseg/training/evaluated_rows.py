"""What an evaluation finds, by row: gathered from all processes, each row once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from accelerate.utils import gather_object
from torch import Tensor

from hf_frameseg.batches.row_numbers import NO_ROW
from hf_frameseg.sample import Sample


class EvaluatedRows:
    """Hold losses and samples of the rows of one evaluation, by their numbers.

    Example:
        >>> import torch
        >>> found = EvaluatedRows()
        >>> found.add([1, 0], None, torch.tensor(3.0), {"lm": torch.tensor([1.0, 2.0])})
        >>> found.add([-1], None, torch.tensor(9.0), {"lm": torch.tensor([9.0])})  # only keeps step
        >>> found.gather()
        >>> found.mean_losses("eval")
        {'eval_loss': 3.0, 'eval_loss_lm': 1.5}
    """

    def __init__(self) -> None:
        self._by_number: dict[int, dict[str, Any]] = {}
        self._gathered = False

    def add(self, numbers: Sequence[int], rows: Sequence[Sample] | None, loss: Tensor | None, parts: Any) -> None:
        """Add a batch of this process.

        Args:
            numbers: Number of each row, B of them.
            rows: The sample of each row, without its pictures; or None.
            loss: The mean loss of the batch, or None without answers.
            parts: Each loss part, (B,), by name; anything else, as a `compute_loss` of others may return, is left out.
        """
        named = parts if isinstance(parts, Mapping) else {}
        values = {
            name: part.detach().float().tolist()
            for name, part in named.items()
            if isinstance(part, Tensor) and part.shape == (len(numbers),)
        }
        joint = None if loss is None else loss.detach().float().mean().item()
        for place, number in enumerate(numbers):
            if number == NO_ROW:
                continue
            losses = {} if joint is None else {"": joint} | {f"_{name}": part[place] for name, part in values.items()}
            self._by_number[number] = {"losses": losses, "row": rows[place] if rows else None}

    def gather(self) -> None:
        """Put together what all processes found; afterwards every process knows every row."""
        if self._gathered:
            return
        entries = gather_object([*self._by_number.items()])
        self._by_number = dict(sorted(entries, key=lambda entry: entry[0]))
        self._gathered = True

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._by_number)

    @property
    def rows(self) -> list[Sample]:
        """Return the sample of every row, in the order of their numbers."""
        return [found["row"] for found in self._by_number.values()]

    @property
    def losses(self) -> np.ndarray:
        """Return the loss of every row (N,), that of its batch, in the order of their numbers."""
        return np.array([found["losses"].get("", np.nan) for found in self._by_number.values()])

    def mean_losses(self, prefix: str) -> dict[str, float]:
        """Return the mean over all rows of the loss and of each part, e.g. `eval_loss` and `eval_loss_bce`."""
        columns: dict[str, list[float]] = {}
        for found in self._by_number.values():
            for name, value in found["losses"].items():
                columns.setdefault(name, []).append(value)
        return {f"{prefix}_loss{name}": float(np.mean(values)) for name, values in columns.items()}

    def each_once(self, numbers: np.ndarray) -> np.ndarray:
        """Return where each row stands among gathered rows, in the order of their numbers.

        Args:
            numbers: Number of each gathered row, with repetitions and `NO_ROW`.
        """
        found, places = np.unique(numbers, return_index=True)
        return places[found >= 0]

    def qids(self) -> np.ndarray:
        """Return the query id of every row, (N,): int64, or texts as objects."""
        qids = [sample.qid for sample in self.rows]
        is_number = all(isinstance(qid, (int, np.integer)) for qid in qids)
        return np.array(qids, dtype=np.int64 if is_number else object)
