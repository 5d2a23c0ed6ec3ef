"""Prepared data as shards, and rows read back from them as a stream, for data that no single disk holds.

A folder holds the shards of all splits, in the layout of the Hub, so `datasets.load_dataset(folder)` reads it too:

    FOLDER/data/train-00000-of-00038.parquet
    FOLDER/data/val-00000-of-00009.parquet

`IterableDataset.shuffle` of `datasets` (5.2) does not fit these rows: its buffer holds 1000 of them (3 GB at 384
pixels), and what is in the buffer is lost when a run resumes. Its workers end an epoch in short batches of their own,
and a loop that counts steps leaves some of them out. `FrameStream` knows from the ends of the files which rows there
are, decides before anything is read which process and worker gives which (`shards/order.py`), and resumes with
exactly the rows that remain.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import datasets
from hf_frameseg._files import replace_folder, restore_folder
from hf_frameseg._text import printable
from hf_frameseg.prepared.cache import exclusive
from hf_frameseg.shards.order import Rows, epoch_windows, node_windows, worker_rows

if TYPE_CHECKING:
    from pyarrow.parquet import FileMetaData

SHARD_BYTES = 500_000_000
"""Size of a shard, as in `Dataset.push_to_hub`."""

GROUP_BYTES = 16_000_000
"""Size of a row group: every reader holds one. `Dataset.push_to_hub` makes them 100 MB."""

BUFFER_BYTES = 128_000_000
"""Size of the rows that are mixed at a time."""

_ORDER_VERSION = 2  # of the order that seed and epoch give; raised when it changes
_MIN_GROUPS = 16  # per split: with one group every epoch would have the same order
_COLUMNS = ("qid", "vid", "query", "duration_seconds", "frames", "frame_shape")
_SPLIT_NAME = r"\w+(\.\w+)*"
_SHARD_NAME = re.compile(rf"(?P<split>{_SPLIT_NAME})-(?P<index>\d{{5}})-of-(?P<total>\d{{5}})\.parquet")


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
        dataset: From `load_rows`, or any data set of its columns; rows keep their order.
        folder: Where to. When all new shards are written they take the place of older ones of this split, in one step:
            whoever looks, after a kill too, finds the old ones or the new ones.
        split: Name of the split; None takes the data set's.
        shard_bytes: About the size of a file.
        group_bytes: About the size of a row group.

    Returns:
        The shards, in order.

    Raises:
        ValueError: If there are no rows, a column is missing, or the split has no name.
    """
    split = split or (str(dataset.split) if dataset.split is not None else None)
    if split is None or not re.fullmatch(_SPLIT_NAME, split):
        raise ValueError(f"expected the name of a split such as 'train', got {split!r}; pass split=")
    if missing := [name for name in _COLUMNS if name not in dataset.column_names]:
        raise ValueError(f"expected prepared rows, got columns {dataset.column_names} without {missing}")
    if len(dataset) == 0:
        raise ValueError(f"split {split} has no rows to write")
    row_bytes = max(dataset.data.nbytes / dataset.data.num_rows, 1)
    num_shards = min(math.ceil(len(dataset) * row_bytes / shard_bytes), len(dataset))
    group_rows = max(1, min(int(group_bytes / row_bytes), math.ceil(len(dataset) / _MIN_GROUPS)))

    data = Path(folder) / "data"
    names = [f"{split}-{index:05d}-of-{num_shards:05d}.parquet" for index in range(num_shards)]
    with exclusive(data):
        restore_folder(data)
        new = data.with_name(".data.new")
        shutil.rmtree(new, ignore_errors=True)  # of a run that was killed
        new.mkdir(parents=True)
        try:
            for index, name in enumerate(names):
                shard = dataset.shard(num_shards, index, contiguous=True)
                shard.to_parquet(new / name, batch_size=group_rows, write_page_checksum=True)
            _take_over(data, new, split)
            replace_folder(new, data)
        finally:
            shutil.rmtree(new, ignore_errors=True)
    return [data / name for name in names]


def _take_over(data: Path, new: Path, split: str) -> None:
    """Put what else is in the folder of the shards into the one that will take its place, without copying."""
    for old in data.iterdir() if data.is_dir() else ():
        if (match := _SHARD_NAME.fullmatch(old.name)) and match["split"] == split:
            continue
        if old.is_dir():
            shutil.copytree(old, new / old.name, symlinks=True)
            continue
        try:
            os.link(old, new / old.name, follow_symlinks=False)
        except OSError:  # a file system without second names
            shutil.copy2(old, new / old.name, follow_symlinks=False)


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
    data = Path(folder) / "data"
    if not data.exists() and data.parent.is_dir():  # `save_shards` was killed where two names cannot be exchanged
        with suppress(OSError), exclusive(data):
            restore_folder(data)
    return order_shards((str(path) for path in data.glob("*.parquet")), split, str(folder))


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
        self.files = [str(file) for file in files]
        self._token = token
        self._footers = [_read_footer(file, token) for file in self.files]
        self._groups = [(number, index) for number, footer in enumerate(self._footers) for index in _indices(footer)]
        sizes = [_size_of(self._footers[number], index) for number, index in self._groups]
        self._group_rows = [rows for rows, _ in sizes]
        self._group_ends = np.cumsum(self._group_rows, dtype=np.int64)
        self._num_rows = sum(self._group_rows)
        if buffer_rows is None:
            row_bytes = max(sum(size for _, size in sizes) / max(self._num_rows, 1), 1)
            buffer_rows = min(max(int(BUFFER_BYTES / row_bytes), 1), 1000)
        for name, value in {"buffer_rows": buffer_rows, "batch_rows": batch_rows}.items():
            if value is not None and value < 1:
                raise ValueError(f"expected {name} of at least 1, got {value}")
        if seed is not None and seed < 0:
            raise ValueError(f"expected a seed of at least 0, got {seed}")
        self.seed = seed
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
        self._key = [_ORDER_VERSION, names, sizes, seed, buffer_rows]

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
            ValueError: If it belongs to another stream.
        """
        if state.get("stream") != self._fingerprint():
            raise ValueError(
                "expected the state of a stream of the same shards, seed, buffer_rows and node, got another; start over"
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
        tables: dict[int, Any] = {}
        for row, group in zip(rows.tolist(), groups, strict=True):
            if group not in tables:
                tables[group] = self._read_group(*self._groups[group])
            place = row - int(self._group_ends[group]) + self._group_rows[group]
            left[group] -= 1
            table = tables[group] if left[group] else tables.pop(group)
            yield self.features.decode_example(table.slice(place, 1).to_pylist()[0])

    def _read_group(self, file: int, group: int) -> Any:
        """Return a row group as a table."""
        import pyarrow.parquet as pq

        options = {"metadata": self._footers[file], "page_checksum_verification": True}
        with _readable(self.files[file]), _open(self.files[file], self._token) as opened:
            return pq.ParquetFile(opened, **options).read_row_group(group, use_threads=False)

    def _fingerprint(self) -> str:
        """Name what the order depends on."""
        worker, num_workers = _worker()
        workers = [] if worker is None else [worker, num_workers, self.batch_rows]
        return hashlib.sha256(json.dumps([*self._key, *self._node, *workers]).encode()).hexdigest()[:16]


def _worker() -> tuple[int | None, int]:
    """Return the number of this worker of a loader, None outside of any, and how many there are."""
    info = torch.utils.data.get_worker_info()
    return (None, 1) if info is None else (info.id, info.num_workers)


def _open(file: str, token: str | None) -> Any:
    """Open a shard for pyarrow; one of the Hub is asked for again when the connection breaks.

    A file on disk is left to pyarrow itself: its threads, still at an open file of Python's when the interpreter ends,
    abort the process now and then (26.0).
    """
    if "://" not in file:
        if os.path.lexists(file) and not Path(file).is_file():
            raise ValueError(f"{printable(file)} is no file; write the shards again with save_shards")
        return nullcontext(file)
    from datasets.utils.file_utils import xopen

    from datasets import DownloadConfig

    return xopen(file, "rb", download_config=DownloadConfig(token=token))


def _read_footer(file: str, token: str | None) -> FileMetaData:
    """Return what the end of a shard says of it."""
    import pyarrow.parquet as pq

    with _readable(file), _open(file, token) as opened:
        return pq.read_metadata(opened)


@contextmanager
def _readable(file: str) -> Iterator[None]:
    """Name a shard whose content is damaged; its pages carry checksums."""
    import pyarrow as pa

    try:
        yield
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of the disk or the network
        reason = printable(" ".join(str(error).split()))
        raise ValueError(f"cannot read the shard {printable(file)} ({reason:.200}); write it again") from error


def _indices(footer: FileMetaData) -> range:
    """Return the numbers of the row groups of a shard."""
    return range(footer.num_row_groups)


def _size_of(footer: FileMetaData, index: int) -> tuple[int, int]:
    """Return rows and bytes of a row group."""
    group = footer.row_group(index)
    return group.num_rows, group.total_byte_size
