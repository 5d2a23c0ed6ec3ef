"""Rows dealt out to processes and workers: each once, in step, with numbers that all processes agree on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    get_worker_info,
)

from hf_frameseg.batches.row_numbers import (
    NO_ROW,
    NumberedCollator,
    NumberedRows,
    NumberedStream,
    ProcessBatchSampler,
    deal,
)

SIZES = [(rows, batch, world) for rows in (1, 2, 7, 8, 23) for batch in (1, 3, 4) for world in (1, 2, 3)]


def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {"value": [row["value"] for row in rows]}


class Shared(IterableDataset):
    """A stream whose workers take every n-th row, as torch's documentation has it."""

    def __init__(self, num_rows: int) -> None:
        self.num_rows = num_rows

    def __len__(self) -> int:
        return self.num_rows

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        for value in range(first, self.num_rows, step):
            yield {"value": value}


def counted(batches: list[dict[str, Any]]) -> list[tuple[int, int]]:
    """List (number, value) of the rows that count."""
    pairs = [pair for b in batches for pair in zip(b["targets"]["row_number"].tolist(), b["value"], strict=True)]
    return [(number, value) for number, value in pairs if number != NO_ROW]


@pytest.mark.parametrize(("num_rows", "batch_size", "world_size"), SIZES)
def test_every_row_of_a_data_set_once_and_all_processes_in_step(
    num_rows: int, batch_size: int, world_size: int
) -> None:
    rows = [{"value": value} for value in range(num_rows)]
    processes = []
    for rank in range(world_size):
        sampler = ProcessBatchSampler(SequentialSampler(rows), batch_size, rank, world_size)
        loader = DataLoader(NumberedRows(rows), batch_sampler=sampler, collate_fn=NumberedCollator(collate))
        processes.append([*loader])
        assert len(processes[-1]) == len(loader)
    assert len({len(batches) for batches in processes}) == 1
    found = sorted(pair for batches in processes for pair in counted(batches))
    assert found == [(value, value) for value in range(num_rows)]
    # Batch b of one process is batch b // W of process b % W: together they hold the same rows, at the same step.
    alone = [*BatchSampler(range(num_rows), batch_size, drop_last=False)]
    for turn, batch in enumerate(alone):
        assert [number for number, _ in counted([processes[turn % world_size][turn // world_size]])] == batch


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize(("num_rows", "batch_size", "world_size"), [(7, 2, 2), (23, 4, 2), (34, 4, 1), (2, 4, 3)])
def test_every_row_of_a_stream_once(num_rows: int, batch_size: int, world_size: int, workers: int) -> None:
    processes = []
    for rank in range(world_size):
        stream = NumberedStream(Shared(num_rows), batch_size, rank, world_size, sized=not workers)
        options = {"batch_size": None, "collate_fn": NumberedCollator(collate), "num_workers": workers}
        processes.append([*DataLoader(stream, **options, multiprocessing_context="fork" if workers else None)])
    assert len({len(batches) for batches in processes}) == 1
    found = [pair for batches in processes for pair in counted(batches)]
    assert sorted(value for _, value in found) == [*range(num_rows)]
    assert len({number for number, _ in found}) == num_rows


def test_what_does_not_fill_a_round_can_be_left_out() -> None:
    dealt = [[*deal([[0], [1], [2], [3], [4]], rank, world_size=2, drop_last=True)] for rank in (0, 1)]
    assert dealt == [[([0], True), ([2], True)], [([1], True), ([3], True)]]
    for rank, expected in ((0, [[0, 1], [4, 5]]), (1, [[2, 3], [6, 7]])):
        sampler = ProcessBatchSampler(SequentialSampler(range(11)), 2, rank, world_size=2, drop_last=True)
        assert [[index for _, index in batch] for batch in sampler] == expected
        assert len(sampler) == 2
        stream = NumberedStream(Shared(11), 2, rank, 2, drop_last=True)
        assert [[row["value"] for _, row in batch] for batch in stream] == expected
        assert len(stream) == 2


def test_a_random_order_is_the_same_on_every_process_and_another_in_every_epoch() -> None:
    def order(rank: int, epoch: int) -> list[int]:
        torch.manual_seed(rank)  # processes that have drawn different numbers so far
        sampler = ProcessBatchSampler(RandomSampler(range(12)), 3, rank, world_size=2, seed=1)
        sampler.set_epoch(epoch)
        return [number for batch in sampler for number, _ in batch]

    first = [order(rank, 0) for rank in (0, 1)]
    assert sorted(first[0] + first[1]) == [*range(12)]
    assert first != [order(rank, 1) for rank in (0, 1)]
    assert first == [order(rank, 0) for rank in (0, 1)]


def test_a_stream_without_a_length_stays_without_one() -> None:
    with pytest.raises(TypeError, match="number of batches of a stream is not known"):
        len(NumberedStream(Shared(7), 2, 0, 1, sized=False))


def test_rows_are_kept_as_samples_without_pictures() -> None:
    collator = NumberedCollator(collate, keep_rows=True)
    batch = collator([(4, {"value": 1, "qid": torch.tensor(7), "boxes": [torch.tensor([0.5, 2.0])], "frames": b"."})])
    (sample,) = batch["targets"]["rows"]
    assert (sample.qid, sample.vid, sample.other) == (7, None, {"value": 1, "boxes": [[0.5, 2.0]]})
    with pytest.raises(KeyError, match="frame"):
        sample.pictures()
    assert batch["targets"]["row_number"].tolist() == [4]


def test_a_plain_index_gives_the_row_alone() -> None:
    assert NumberedRows([{"qid": 5}])[0] == {"qid": 5}
