"""Padding, chunking and summing of per-query arrays of unequal length."""

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


def stretch_sums(values: NDArray[np.float64], lengths: NDArray[np.int64]) -> NDArray[np.float64]:
    """Sum consecutive stretches, each in the order in which `np.sum` adds a vector of its length.

    Numpy adds eight values or more in another order than a plain loop. The last bit depends on it, and with that the
    side to which a mean on half a hundredth rounds.

    Args:
        values: The stretches one after the other, (N,).
        lengths: Their lengths, summing to N, any shape.

    Returns:
        Sums, of the shape of `lengths`.

    Example:
        >>> stretch_sums(np.array([0.1, 0.2, 0.5, 0.25]), np.array([2, 0, 2])).round(2).tolist()
        [0.3, 0.0, 0.75]
    """
    flat_lengths = lengths.reshape(-1)
    starts = np.cumsum(flat_lengths) - flat_lengths
    result = np.zeros(flat_lengths.size)
    for length in np.unique(flat_lengths):
        rows = flat_lengths == length
        result[rows] = values[starts[rows, None] + np.arange(length)].sum(axis=1)
    return result.reshape(lengths.shape)
