"""Rows read back from shards as a stream, for data that no single disk holds.

`IterableDataset.shuffle` of `datasets` (5.2) does not fit these rows: its buffer holds 1000 of them (3 GB at 384
pixels), and what is in the buffer is lost when a run resumes. Its workers end an epoch in short batches of their own,
and a loop that counts steps leaves some of them out. `FrameStream` knows from the ends of the files which rows there
are, decides before anything is read which process and worker gives which (`shards/order.py`), and resumes with
exactly the rows that remain.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch

import datasets
from hf_frameseg._numbers import is_whole
from hf_frameseg._text import short
from hf_frameseg.shards.order import Rows, epoch_windows, node_windows, worker_rows
from hf_frameseg.shards.row_groups import group_sizes, read_footer, read_group

BUFFER_BYTES = 128_000_000
"""Size of the rows that are mixed at a time."""

_ORDER_VERSION = 2  # of the order that seed and epoch give; raised when it changes


class FrameStream(torch.utils.data.IterableDataset):
    """Read rows from shards, a few row groups at a time, in another order every epoch.

    Rows are those of the data set that was saved, so the collator, `Sample` and the trainer take them as they are.
    The stream knows its length: epochs, learning rate and resuming of the Trainer are those of a data set (without a
    length it needs `max_steps` and takes every pass over the data for a part of epoch 0). Other
    arguments than the package's need `accelerator_config={"dispatch_batches": False}`: accelerate would cut batches
    along their first axis. Workers of a data loader share the row groups among them: each row is given once.

    Args:
        files: Shards: paths, or `hf://` addresses.
        seed: Seed of the order; None keeps the order of the files, in every epoch.
        buffer_rows: Rows that are mixed at a time; None takes as many as fill `BUFFER_BYTES`.
        token: Hub token for `hf://` addresses.
        batch_rows: Rows that a loader with workers takes at a time: its batch size, times the number of processes where
            accelerate cuts every batch among them. With it the loader gives whole batches, as many as it says, and a
            short one at most at the end; without it, one short batch a worker. May be set later.

    Example:
        Two epochs over the training rows of a folder::

            stream = FrameStream(find_shards("prepared", "train"), seed=0, batch_rows=4)
            for epoch in range(2):
                stream.set_epoch(epoch)
                for batch in DataLoader(stream, batch_size=4, num_workers=2, collate_fn=collator):
                    ...
    """

    def __init__(
        self,
        files: Sequence[str],
        *,
        seed: int | None = None,
        buffer_rows: int | None = None,
        token: str | None = None,
        batch_rows: int | None = None,
    ) -> None:
        if isinstance(files, (str, PathLike)) or not files:
            raise ValueError(f"expected a list of shards, got {short(files)}; find_shards(folder, split) lists them")
        # Absolute: a group is read when its turn comes, perhaps from another working folder.
        self.files = [str(file) if "://" in str(file) else str(Path(file).absolute()) for file in files]
        self._token = token
        self._footers = [read_footer(file, token) for file in self.files]
        of_files = [group_sizes(footer) for footer in self._footers]
        self._groups = [(number, index) for number, of_file in enumerate(of_files) for index in range(len(of_file))]
        sizes = [size for of_file in of_files for size in of_file]
        self._group_rows = [rows for rows, _ in sizes]
        self._group_ends = np.cumsum(self._group_rows, dtype=np.int64)
        self._num_rows = sum(self._group_rows)
        if buffer_rows is None:
            row_bytes = max(sum(size for _, size in sizes) / max(self._num_rows, 1), 1)
            buffer_rows = min(max(int(BUFFER_BYTES / row_bytes), 1), 1000)
        for name, value, lowest in (("buffer_rows", buffer_rows, 1), ("batch_rows", batch_rows, 1), ("seed", seed, 0)):
            _check_whole(name, value, lowest)
        self.seed = None if seed is None else int(seed)
        self.batch_rows = batch_rows
        schemas = [footer.schema.to_arrow_schema() for footer in self._footers]
        if other := [file for file, schema in zip(self.files, schemas, strict=True) if schema != schemas[0]]:
            raise ValueError(f"expected shards with equal columns, {other[0]} has others than {self.files[0]}")
        self.features = datasets.Features.from_arrow_schema(schemas[0])
        self._buffer_rows = buffer_rows
        self._node = (0, 1)
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # persistent workers read it too
        self._resume_at = self._given = 0
        self._resumed_by: int | None = None
        names = [file.rpartition("/")[2] for file in self.files]
        self._key = [_ORDER_VERSION, names, sizes, self.seed, int(buffer_rows)]

    @property
    def epoch(self) -> int:
        """Return the number of the epoch."""
        return int(self._epoch)

    @property
    def rows(self) -> datasets.IterableDataset:
        """Return the rows in the order of the files, as a stream of `datasets` with one of its shards per row group."""
        files = {"rows": self.files}
        return datasets.load_dataset(
            "parquet", data_files=files, split="rows", streaming=True, token=self._token
        ).reshard()

    def __len__(self) -> int:
        """Return the number of rows of an epoch."""
        return len(range(self._node[0], self._num_rows, self._node[1]))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield the rows of the epoch, or what remains of it after `load_state_dict`; in a worker those of the worker.

        Raises:
            ValueError: If `load_state_dict` was called outside of the workers that shall go on.
        """
        if self._resume_at and self._resumed_by != _worker()[0]:
            raise ValueError(
                "a stream that load_state_dict has moved cannot be shared by workers, each has a place of its own; use "
                "num_workers=0 or a StatefulDataLoader"
            )
        first, self._resume_at = self._resume_at, 0
        self._given = first
        for row in self._read(self._order()[first:]):
            self._given += 1
            yield row
        self._given = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order; call before iterating. It reaches persistent workers too.

        Args:
            epoch: Number of the epoch, from 0.
        """
        self._epoch.fill_(epoch)

    def split_by_node(self, rank: int, world_size: int) -> FrameStream:
        """Return the stream of one of several processes: every `world_size`-th row.

        For training loops of your own; the Trainer does this by itself. All read all shards.

        Args:
            rank: Number of the process, from 0.
            world_size: Number of processes.

        Returns:
            A stream of its own. The lengths of all of them differ by one at most, and add up.
        """
        if not 0 <= rank < world_size:
            raise ValueError(f"expected a rank from 0 to {world_size - 1}, got {rank}")
        part = copy(self)
        outer_rank, outer_size = self._node
        part._node = (outer_rank + rank * outer_size, outer_size * world_size)
        part._epoch = self._epoch.clone().share_memory_()
        part._resume_at = part._given = 0
        return part

    def state_dict(self) -> dict[str, Any]:
        """Return the place after the last row, JSON-like; for loops without workers, or with a `StatefulDataLoader`."""
        return {"stream": self._fingerprint(), "epoch": self.epoch, "rows": self._given}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on after the row that `state_dict` was called at, in its epoch.

        Args:
            state: From `state_dict` of a stream of the same shards and arguments.

        Raises:
            ValueError: If it belongs to another stream, or names a row that there is not.
        """
        if state.get("stream") != self._fingerprint():
            raise ValueError(
                "expected the state of a stream of the same shards, seed, buffer_rows and node, got another; start over"
            )
        if not is_whole(state.get("epoch"), 0) or not is_whole(state.get("rows"), 0, self._num_rows):
            raise ValueError(
                f"expected a state with an epoch and rows from 0 to {self._num_rows}, got {short(dict(state))}; start "
                "over"
            )
        self.set_epoch(state["epoch"])
        self._resume_at = self._given = state["rows"]
        self._resumed_by = _worker()[0]

    def _order(self) -> Rows:
        """Return the rows of the epoch that are given here."""
        windows = epoch_windows(self._group_rows, self._buffer_rows, self.seed, self.epoch)
        windows = node_windows(windows, *self._node)
        worker, num_workers = _worker()
        if worker is None:
            return np.concatenate([np.empty(0, dtype=np.int64), *windows])
        keep_order = self.seed is None and self.batch_rows is not None
        return worker_rows(windows, worker, num_workers, self.batch_rows, keep_order)

    def _read(self, rows: Rows) -> Iterator[dict[str, Any]]:
        """Read rows; a group stays in memory until its last one is read."""
        groups = np.searchsorted(self._group_ends, rows, side="right").tolist()
        left = Counter(groups)
        held: dict[int, list[dict[str, Any]]] = {}
        for row, group in zip(rows.tolist(), groups, strict=True):
            if group not in held:
                file, index = self._groups[group]
                held[group] = read_group(self.files[file], self._token, self._footers[file], index)
            place = row - int(self._group_ends[group]) + self._group_rows[group]
            left[group] -= 1
            of_group = held[group] if left[group] else held.pop(group)
            yield self.features.decode_example(of_group[place])

    def _fingerprint(self) -> str:
        """Name what the order depends on."""
        worker, num_workers = _worker()
        workers = [] if worker is None else [worker, num_workers, self.batch_rows]
        return hashlib.sha256(json.dumps([*self._key, *self._node, *workers]).encode()).hexdigest()[:16]


def _check_whole(name: str, value: Any, lowest: int) -> None:
    """Refuse what is neither None nor a whole number from `lowest` on."""
    value = value.item() if isinstance(value, np.integer) else value
    if value is not None and not is_whole(value, lowest):
        raise ValueError(f"expected {name} of at least {lowest}, a whole number, got {short(value)}")


def _worker() -> tuple[int | None, int]:
    """Return the number of this worker of a loader, None outside of any, and how many there are."""
    info = torch.utils.data.get_worker_info()
    return (None, 1) if info is None else (info.id, info.num_workers)
