"""Which rows a process gets, each row once, whatever the number of processes and loader workers and the batch size.

accelerate fills up the last batches of an epoch with rows from its start, and tells them apart by counting, which goes
wrong for streams. Here every row has a number and the last batches are short. A process that gets no row of the last
round keeps step with the others by a row that has the number `NO_ROW` and counts nowhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from itertools import islice
from typing import Any, TypeVar

import torch
from torch.utils.data import BatchSampler, Dataset, IterableDataset, Sampler, get_worker_info

from hf_frameseg.batches.encoding import TARGETS
from hf_frameseg.prepared.stored_once import read_rows
from hf_frameseg.sample import Sample

NO_ROW = -1
"""Number of a row that only keeps a process in step."""

ROW_NUMBER = "row_number"
"""Key of a batch's targets: the number of each row, (B,) int64."""

ROWS = "rows"
"""Key of a batch's targets: the B samples without their pictures, for what scores them."""

T = TypeVar("T")
Row = Mapping[str, Any]


def deal(
    batches: Iterable[Sequence[T]], rank: int, world_size: int, drop_last: bool = False
) -> Iterator[tuple[Sequence[T], bool]]:
    """Deal batches out to processes in turn; all get the same number of them.

    Args:
        batches: All batches.
        rank: Number of the process, from 0.
        world_size: Number of processes.
        drop_last: Leave out the last round where there is not a batch for every process.

    Yields:
        A batch of this process and whether it counts; one that does not holds a single entry of another's batch.

    Example:
        >>> [list(deal([[0, 1], [2, 3], [4]], rank, world_size=2)) for rank in (0, 1)]
        [[([0, 1], True), ([4], True)], [([2, 3], True), ([4], False)]]
    """
    turn, mine, batch = -1, None, ()
    for turn, batch in enumerate(batches):
        if turn % world_size == rank:
            mine = batch
        if mine is not None and turn % world_size == world_size - 1:
            yield mine, True
            mine = None
    if (turn + 1) % world_size and not drop_last:
        yield (batch[:1], False) if mine is None else (mine, True)


class ProcessBatchSampler(BatchSampler):
    """Give one process its batches of `(number, index)`; of several processes, all must draw the same order.

    Args:
        sampler: Order of the indices of the whole data set.
        batch_size: Rows of a batch of one process.
        rank: Number of the process, from 0.
        world_size: Number of processes.
        drop_last: Leave out rows that do not fill a batch of every process.
        seed: Seed of a sampler that draws from a `generator` and has no `set_epoch`.
    """

    def __init__(
        self, sampler: Sampler[int], batch_size: int, rank: int, world_size: int, drop_last: bool = False, seed: int = 0
    ) -> None:
        super().__init__(sampler, batch_size, drop_last)
        self.rank, self.world_size, self.seed = rank, world_size, seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch, the same on every process.

        Args:
            epoch: Number of the epoch, from 0.
        """
        if hasattr(self.sampler, "set_epoch"):
            self.sampler.set_epoch(epoch)
        elif hasattr(self.sampler, "generator"):
            # Without a generator of its own each process would draw from its global one.
            self.sampler.generator = torch.Generator().manual_seed(self.seed + epoch)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """Yield the batches."""
        for indices, counts in deal(super().__iter__(), self.rank, self.world_size, self.drop_last):
            yield [(index if counts else NO_ROW, index) for index in indices]

    def __len__(self) -> int:
        """Return the number of batches, the same on every process."""
        return _rounds(len(self.sampler), self.batch_size, self.world_size, self.drop_last)


class NumberedRows(Dataset):
    """Hand out `(number, row)` for the `(number, index)` of a `ProcessBatchSampler`.

    Args:
        rows: A data set with a length.
    """

    def __init__(self, rows: Dataset | Sequence[Row]) -> None:
        self.rows = rows
        is_plain = hasattr(rows, "with_format") and rows.format["type"] is None
        self._tables = rows.with_format(**{**rows.format, "type": "arrow"}) if is_plain else None

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.rows)

    def __getitem__(self, pick: tuple[int, int] | int) -> tuple[int, Row] | Row:
        """Return one row with its number; the row alone for a plain index, as callbacks look at `loader.dataset`."""
        if not isinstance(pick, tuple):
            return self.rows[pick]
        number, index = pick
        return number, self.rows[index]

    def __getitems__(self, picks: list[tuple[int, int]]) -> list[tuple[int, Row]]:
        """Return the rows of a batch, read together where the data set can do that, the frames of a video once."""
        numbers, indices = zip(*picks, strict=True)
        read = getattr(self.rows, "__getitems__", None)
        if self._tables is not None:
            rows = read_rows(self._tables, indices)
        else:
            rows = read(list(indices)) if read else [self.rows[index] for index in indices]
        return list(zip(numbers, rows, strict=True))


class NumberedStream(IterableDataset):
    """Read one process's batches of `(number, row)` from a stream; for a loader with `batch_size=None`.

    Every process reads the whole stream, and the workers of a loader share it as the stream has them share it. A row is
    numbered by its worker and its place there, which is the same on every process. A stream with `batch_rows`, such as
    `FrameStream`, gives each worker whole batches; the workers of another each end in a short one.

    Args:
        stream: The rows.
        batch_size: Rows of a batch.
        rank: Number of the process, from 0.
        world_size: Number of processes.
        drop_last: Leave out rows that do not fill a batch of every process.
        sized: Have a length, if the stream has one. Several workers may give more batches of a stream without
            `batch_rows` than that.
    """

    def __init__(
        self,
        stream: Iterable[Row],
        batch_size: int,
        rank: int,
        world_size: int,
        drop_last: bool = False,
        sized: bool = True,
    ) -> None:
        self.stream, self.batch_size, self.drop_last, self.sized = stream, batch_size, drop_last, sized
        self.rank, self.world_size = rank, world_size
        if hasattr(stream, "batch_rows"):
            self.stream, self.sized = copy(stream), True  # of the same epoch
            self.stream.batch_rows = batch_size * world_size

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch, where the stream has one.

        Args:
            epoch: Number of the epoch, from 0.
        """
        if hasattr(self.stream, "set_epoch"):
            self.stream.set_epoch(epoch)

    def __iter__(self) -> Iterator[list[tuple[int, Row]]]:
        """Yield the batches."""
        worker = get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        numbered = ((first + step * place, row) for place, row in enumerate(self.stream))
        batches = _batches(numbered, self.batch_size, self.drop_last)
        for picks, counts in deal(batches, self.rank, self.world_size, self.drop_last):
            yield [(number if counts else NO_ROW, row) for number, row in picks]

    def __len__(self) -> int:
        """Return the number of batches, the same on every process."""
        if not self.sized:
            raise TypeError("the number of batches of a stream is not known")
        return _rounds(len(self.stream), self.batch_size, self.world_size, self.drop_last)


class NumberedCollator:
    """Collate `(number, row)` pairs and keep the numbers, and the rows, beside what the collator makes.

    Args:
        collator: Makes a batch of rows.
        keep_rows: Keep the rows, without their pictures, under `ROWS`.
    """

    def __init__(self, collator: Callable[[list[Row]], Mapping[str, Any]], keep_rows: bool = False) -> None:
        self.collator, self.keep_rows = collator, keep_rows

    def __call__(self, picks: Sequence[tuple[int, Row]]) -> dict[str, Any]:
        """Return the batch with `ROW_NUMBER` and, if rows are kept, `ROWS` among its targets."""
        numbers, rows = zip(*picks, strict=True)
        batch = self.collator(list(rows))
        targets = {**batch.get(TARGETS, {}), ROW_NUMBER: torch.tensor(numbers, dtype=torch.int64)}
        if self.keep_rows:
            targets[ROWS] = [Sample.of(row).without_pictures() for row in rows]
        return {**batch, TARGETS: targets}


def _batches(entries: Iterable[T], size: int, drop_last: bool) -> Iterator[list[T]]:
    """Gather entries into batches."""
    entries = iter(entries)
    while batch := list(islice(entries, size)):
        if len(batch) == size or not drop_last:
            yield batch


def _rounds(num_rows: int, batch_size: int, world_size: int, drop_last: bool) -> int:
    """Return how often every process gets a batch."""
    rows_of_a_round = batch_size * world_size
    return num_rows // rows_of_a_round if drop_last else math.ceil(num_rows / rows_of_a_round)
