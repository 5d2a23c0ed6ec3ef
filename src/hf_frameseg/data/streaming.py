"""Prepared data as shards, and rows read back from them as a stream, for data that no single disk holds.

A folder holds the shards of all splits, in the layout of the Hub, so `datasets.load_dataset(folder)` reads it too:

    FOLDER/data/train-00000-of-00038.parquet
    FOLDER/data/val-00000-of-00009.parquet

`IterableDataset.shuffle` of `datasets` (5.2) does not fit these rows: its buffer holds 1000 of them (3 GB at 384
pixels), and what is in the buffer is lost when a run resumes. `FrameStream` draws the order of the row groups, mixes a
few of them at a time, and resumes with exactly the rows that remain.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from datasets.distributed import split_dataset_by_node

from hf_frameseg.data.annotations import qid_seed

SHARD_BYTES = 500_000_000
"""Size of a shard, as in `Dataset.push_to_hub`."""

GROUP_BYTES = 16_000_000
"""Size of a row group: every reader holds one. `Dataset.push_to_hub` makes them 100 MB."""

BUFFER_BYTES = 128_000_000
"""Size of the rows that are mixed at a time."""

_MIN_GROUPS = 16  # per split: with one group every epoch would have the same order
_COLUMNS = ("qid", "vid", "query", "duration_seconds", "frames", "frame_shape")
_SHARD_NAME = re.compile(r"(?P<split>.+)-(?P<index>\d{5})-of-(?P<total>\d{5})\.parquet")


def save_shards(
    dataset: datasets.Dataset,
    folder: str | Path,
    split: str | None = None,
    *,
    shard_bytes: int = SHARD_BYTES,
    group_bytes: int = GROUP_BYTES,
) -> list[Path]:
    """Write a prepared split as Parquet shards with small row groups; the other splits of the folder stay.

    Args:
        dataset: From `load_qvhighlights`, or any data set of its columns; rows keep their order.
        folder: Where to; older shards of this split are replaced when all new ones are written.
        split: Name of the split; None takes the data set's.
        shard_bytes: About the size of a file.
        group_bytes: About the size of a row group.

    Returns:
        The shards, in order.

    Raises:
        ValueError: If there are no rows, a column is missing, or the split has no name.
    """
    split = split or (str(dataset.split) if dataset.split is not None else None)
    if split is None or not re.fullmatch(r"\w+(\.\w+)*", split):
        raise ValueError(f"expected the name of a split such as 'train', got {split!r}; pass split=")
    if missing := [name for name in _COLUMNS if name not in dataset.column_names]:
        raise ValueError(f"expected prepared rows, got columns {dataset.column_names} without {missing}")
    if len(dataset) == 0:
        raise ValueError(f"split {split} has no rows to write")
    row_bytes = max(dataset.data.nbytes / dataset.data.num_rows, 1)
    num_shards = min(math.ceil(len(dataset) * row_bytes / shard_bytes), len(dataset))
    group_rows = max(1, min(int(group_bytes / row_bytes), math.ceil(len(dataset) / _MIN_GROUPS)))

    data = Path(folder) / "data"
    partial_folder = data / f".{split}.partial"
    shutil.rmtree(partial_folder, ignore_errors=True)  # of a run that was killed
    partial_folder.mkdir(parents=True)
    try:
        names = [f"{split}-{index:05d}-of-{num_shards:05d}.parquet" for index in range(num_shards)]
        for index, name in enumerate(names):
            shard = dataset.shard(num_shards, index, contiguous=True)
            shard.to_parquet(partial_folder / name, batch_size=group_rows)
        for old in data.glob("*.parquet"):
            if (match := _SHARD_NAME.fullmatch(old.name)) and match["split"] == split:
                old.unlink()
        return [(partial_folder / name).rename(data / name) for name in names]
    finally:
        shutil.rmtree(partial_folder, ignore_errors=True)


def find_shards(folder: str | Path, split: str) -> list[str]:
    """Return the shards of a split in a folder.

    Args:
        folder: From `save_shards`.
        split: Name of the split.

    Returns:
        Their paths, in order.

    Raises:
        FileNotFoundError: If there are none or some are missing.
    """
    return order_shards((str(path) for path in (Path(folder) / "data").glob("*.parquet")), split, str(folder))


def order_shards(paths: Iterable[str], split: str, where: str) -> list[str]:
    """Pick the shards of a split and refuse a set with a gap.

    Args:
        paths: Paths or addresses of any files.
        split: Name of the split.
        where: What to call the place in an error.

    Returns:
        Its shards, in order.

    Raises:
        FileNotFoundError: If there are none, some are missing, or two sets are mixed.

    Example:
        >>> order_shards(["data/val-00001-of-00002.parquet", "data/val-00000-of-00002.parquet"], "val", "here")
        ['data/val-00000-of-00002.parquet', 'data/val-00001-of-00002.parquet']
    """
    matches = {path: match for path in paths if (match := _SHARD_NAME.fullmatch(path.rpartition("/")[2]))}
    found = sorted(path for path, match in matches.items() if match["split"] == split)
    if not found:
        others = sorted({match["split"] for match in matches.values()})
        raise FileNotFoundError(
            f"expected shards data/{split}-*-of-*.parquet in {where}, got splits {others}; write them with save_shards"
        )
    totals = {int(matches[path]["total"]) for path in found}
    if totals != {len(found)}:
        raise FileNotFoundError(
            f"expected {' or '.join(map(str, sorted(totals)))} shards of {split} in {where}, got {len(found)}; "
            "a run that wrote them did not finish, write them again"
        )
    return found


class FrameStream(torch.utils.data.IterableDataset):
    """Read rows from shards, a row group at a time, in another order every epoch.

    Rows are those of the data set that was saved, so the collator, `row_frames` and the trainer take them as they are.
    The stream knows its length: epochs, learning rate and resuming of the Trainer are those of a data set (without a
    length it needs `max_steps` and takes every pass over the data for a part of epoch 0). Other
    arguments than the package's need `accelerator_config={"dispatch_batches": False}`: accelerate would cut batches
    along their first axis. Workers of a data loader share the row groups among them.

    Args:
        files: Shards: paths, or `hf://` addresses.
        seed: Seed of the order; None keeps the order of the files, in every epoch.
        buffer_rows: Rows that are mixed at a time; None takes as many as fill `BUFFER_BYTES`.
        token: Hub token for `hf://` addresses.

    Example:
        Two epochs over the training rows of a folder::

            stream = FrameStream(find_shards("prepared", "train"), seed=0)
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
    ) -> None:
        groups = _row_groups(files, token)
        self._num_rows = sum(rows for rows, _ in groups)
        if buffer_rows is None:
            row_bytes = max(sum(size for _, size in groups) / max(self._num_rows, 1), 1)
            buffer_rows = min(max(int(BUFFER_BYTES / row_bytes), 1), 1000)
        if buffer_rows < 1:
            raise ValueError(f"expected buffer_rows of at least 1, got {buffer_rows}")
        if seed is not None and seed < 0:
            raise ValueError(f"expected a seed of at least 0, got {seed}")
        self.seed = seed
        self.epoch = 0
        self.rows: datasets.IterableDataset = datasets.load_dataset(
            "parquet", data_files={"rows": [str(file) for file in files]}, split="rows", streaming=True, token=token
        ).reshard()
        """The stream of `datasets` below, one of its shards per row group."""
        self.features = self.rows.features
        if seed is not None:
            self.rows = self.rows.map(partial(_mix, seed=seed), batched=True, batch_size=buffer_rows)
            self.set_epoch(0)
        self.files = [str(file) for file in files]
        names = [file.rpartition("/")[2] for file in self.files]
        self._key = [names, groups, seed, buffer_rows]

    def __len__(self) -> int:
        """Return the number of rows of an epoch."""
        return self._num_rows

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield the rows of the epoch, or what remains of it after `load_state_dict`."""
        yield from self.rows
        self.rows.load_state_dict(None)  # or the next pass would start there again

    def set_epoch(self, epoch: int) -> None:
        """Choose the order; call before iterating. It reaches persistent workers too.

        Args:
            epoch: Number of the epoch, from 0.
        """
        self.epoch = epoch
        if self.seed is not None:
            # `datasets` orders its shards by this number, unless it is 0.
            key = np.random.SeedSequence([self.seed, epoch]).generate_state(1, np.uint64)[0]
            self.rows.set_epoch(int(key) >> 2 | 1)

    def split_by_node(self, rank: int, world_size: int) -> FrameStream:
        """Return the stream of one of several processes: every `world_size`-th row.

        For training loops of your own; the Trainer does this by itself. All read all shards. For shards of its own per
        process, which then differ in length, split `stream.rows` with `datasets.distributed.split_dataset_by_node`.

        Args:
            rank: Number of the process, from 0.
            world_size: Number of processes.

        Returns:
            A stream of its own.
        """
        if not 0 <= rank < world_size:
            raise ValueError(f"expected a rank from 0 to {world_size - 1}, got {rank}")
        part = copy(self)
        part.rows = split_dataset_by_node(self.rows, rank, world_size, strategy="examples")
        part._num_rows = len(range(rank, len(self), world_size))
        part._key = [*self._key, rank, world_size]
        part.set_epoch(self.epoch)
        return part

    def state_dict(self) -> dict[str, Any]:
        """Return the place after the last row, JSON-like; for loops without workers, or with a `StatefulDataLoader`."""
        return {"stream": self._fingerprint(), "epoch": self.epoch, "rows": self.rows.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on after the row that `state_dict` was called at, in its epoch.

        Args:
            state: From `state_dict` of a stream of the same shards and arguments.

        Raises:
            ValueError: If it belongs to another stream.
        """
        if state.get("stream") != self._fingerprint():
            raise ValueError(
                "expected the state of a stream of the same shards, seed, buffer_rows and node, got another; start over"
            )
        self.set_epoch(state["epoch"])
        self.rows.load_state_dict(state["rows"])

    def _fingerprint(self) -> str:
        """Name what the order depends on."""
        return hashlib.sha256(json.dumps(self._key).encode()).hexdigest()[:16]


def _mix(rows: dict[str, list[Any]], seed: int) -> dict[str, list[Any]]:
    """Reorder some consecutive rows. The key is the rows: their groups meet others in every epoch."""
    rng = np.random.default_rng([seed, *map(qid_seed, rows["qid"])])
    order = rng.permutation(len(rows["qid"])).tolist()
    return {name: [column[index] for index in order] for name, column in rows.items()}


def _row_groups(files: Sequence[str], token: str | None) -> list[tuple[int, int]]:
    """Return rows and bytes of every row group, from the ends of the files."""
    import fsspec
    import pyarrow.parquet as pq

    groups = []
    for file in files:
        options = {"token": token} if str(file).startswith("hf://") else {}
        with fsspec.open(str(file), "rb", **options) as opened:
            footer = pq.read_metadata(opened)
        found = [footer.row_group(index) for index in range(footer.num_row_groups)]
        groups += [(group.num_rows, group.total_byte_size) for group in found]
    return groups
