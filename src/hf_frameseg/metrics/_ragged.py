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


def sums(values: NDArray[np.float64], kept: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Sum the kept values of each row in the order in which `np.sum` adds a vector of just these.

    Numpy adds eight values or more in another order than a plain loop, and zeros in between shift it. The last bit
    depends on that order, and with it the side to which a mean on half a hundredth rounds.

    Args:
        values: (..., N).
        kept: Which of them to add, (..., N).

    Returns:
        Sums, (...).

    Example:
        >>> values = np.array([[0.1, 9.0, 0.2], [0.5, 0.25, 9.0]])
        >>> sums(values, values < 1.0).round(2).tolist()
        [0.3, 0.75]
    """
    counts = kept.sum(axis=-1)
    order = np.argsort(~kept, axis=-1, kind="stable")
    front = np.take_along_axis(values, order, axis=-1).reshape(counts.size, values.shape[-1])
    result = np.zeros(front.shape[0])
    for count in np.unique(counts):
        rows = counts.reshape(-1) == count
        result[rows] = np.ascontiguousarray(front[rows, :count]).sum(axis=1)
    return result.reshape(counts.shape)
