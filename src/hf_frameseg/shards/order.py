"""In which order a stream gives its rows, and which worker reads which of them: numbers only, nothing is read for that.

Rows are numbered as they lie in the files. A *window* is what is read together: one row group without a seed, with a
seed some groups that have become neighbours, whose rows are mixed. Every row is in one window, so it is given once,
however many processes and workers share the windows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]
"""Numbers of rows, in the order in which they are given."""


def epoch_windows(group_rows: Sequence[int], buffer_rows: int, seed: int | None, epoch: int) -> list[Rows]:
    """Return the rows of an epoch.

    Args:
        group_rows: Number of rows of every row group, in the order of the files.
        buffer_rows: Rows that are mixed at a time; a larger group is a window of its own.
        seed: Seed of the order; None keeps that of the files.
        epoch: Number of the epoch.

    Returns:
        The windows, in order.

    Example:
        >>> [window.tolist() for window in epoch_windows([2, 3], 8, None, 0)]
        [[0, 1], [2, 3, 4]]
        >>> [sorted(window.tolist()) for window in epoch_windows([2, 3, 2], 4, 0, 0)]
        [[0, 1, 5, 6], [2, 3, 4]]
    """
    ends = np.cumsum(group_rows, dtype=np.int64)
    groups = [np.arange(end - rows, end) for end, rows in zip(ends, group_rows, strict=True)]
    if seed is None:
        return groups
    rng = np.random.default_rng([seed, epoch])
    windows: list[list[Rows]] = []
    filled = buffer_rows
    for number in rng.permutation(len(groups)):
        group = groups[number]
        if filled + len(group) > buffer_rows:
            windows.append([])
            filled = 0
        windows[-1].append(group)
        filled += len(group)
    return [rng.permutation(np.concatenate(window)) for window in windows]


def node_windows(windows: Sequence[Rows], rank: int, world_size: int) -> list[Rows]:
    """Return what one of several processes gives: every `world_size`-th row of the epoch, from row `rank` on.

    Args:
        windows: From `epoch_windows`.
        rank: Number of the process.
        world_size: Number of processes.

    Returns:
        The windows, each with the rows of this process; some may be empty.
    """
    starts = np.cumsum([0, *map(len, windows)])
    return [window[(rank - start) % world_size :: world_size] for window, start in zip(windows, starts, strict=False)]


def worker_rows(
    windows: Sequence[Rows], worker: int, num_workers: int, batch_rows: int | None, keep_order: bool
) -> Rows:
    """Return what one of several workers of a loader gives.

    A loader takes a batch from each worker in turn. Without `batch_rows` every worker has windows of its own, and a
    last batch that may be short. With it, all batches of the epoch are whole but the last one: what is left over of the
    workers' windows is put together.

    Args:
        windows: What the process gives.
        worker: Number of the worker.
        num_workers: Number of workers.
        batch_rows: Rows that the loader takes at a time; None if that is not known.
        keep_order: Give the batches in the order of the windows; needs `batch_rows`. A group at the border of two
            batches is then read by two workers.

    Returns:
        Row numbers.

    Example:
        >>> windows = epoch_windows([3, 3, 3], 8, None, 0)
        >>> [worker_rows(windows, worker, 2, 2, keep_order=True).tolist() for worker in range(2)]
        [[0, 1, 4, 5, 8], [2, 3, 6, 7]]
        >>> [worker_rows(windows, worker, 2, 2, keep_order=False).tolist() for worker in range(2)]
        [[0, 1, 2, 6, 7, 8, 5], [3, 4]]
    """
    if batch_rows is None:
        return _join(windows[worker::num_workers])
    if keep_order:
        return _join(_cut(_join(windows), batch_rows)[worker::num_workers])
    shares = [_cut(_join(windows[number::num_workers]), batch_rows) for number in range(num_workers)]
    rests = [share.pop() for share in shares if share and len(share[-1]) < batch_rows]
    for batch in _cut(_join(rests), batch_rows):
        if len(batch) == batch_rows:
            min(shares, key=len).append(batch)
        else:  # to the worker that is asked last, so that the short batch is the last one
            max(reversed(shares), key=len).append(batch)
    return _join(shares[worker])


def _cut(rows: Rows, size: int) -> list[Rows]:
    """Cut rows into batches; the last one may be short."""
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _join(parts: Sequence[Rows]) -> Rows:
    """Join rows."""
    return np.concatenate([np.empty(0, dtype=np.int64), *parts])
