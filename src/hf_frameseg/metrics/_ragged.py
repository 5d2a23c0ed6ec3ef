"""Padding and chunking of per-query arrays of unequal length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray


def pad(arrays: Sequence[NDArray[np.float64]], fill: float) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Stack arrays that differ in their first axis.

    Args:
        arrays: Q arrays of shape (n_q, ...), equal in all axes but the first; at least one.
        fill: Value of the padding.

    Returns:
        The stack (Q, max n_q, ...) and which of its entries are real (Q, max n_q).
    """
    lengths = np.array([len(array) for array in arrays])
    valid = np.arange(lengths.max())[None, :] < lengths[:, None]
    stack = np.full((*valid.shape, *arrays[0].shape[1:]), fill, dtype=np.float64)
    stack[valid] = np.concatenate(arrays)
    return stack, valid


def chunks(sizes: NDArray[np.int64], budget: int) -> Iterator[NDArray[np.int64]]:
    """Group rows of similar size so that a padded group stays under a memory budget.

    Args:
        sizes: Elements that each row needs when padded alone, (Q,).
        budget: Elements a group may need; a row above it gets a group of its own.

    Yields:
        Row indices; every row exactly once.
    """
    order = np.argsort(-sizes, kind="stable")
    start = 0
    while start < order.size:
        rows = max(1, budget // max(1, int(sizes[order[start]])))
        yield order[start : start + rows]
        start += rows
