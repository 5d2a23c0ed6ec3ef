"""Prepared data as shards: written in one step, and found again by their names.

A folder holds the shards of all splits, in the layout of the Hub, so `datasets.load_dataset(folder)` reads it too:

    FOLDER/data/train-00000-of-00038.parquet
    FOLDER/data/val-00000-of-00009.parquet

All rows of a video are in one row group, and Parquet's dictionaries keep equal pictures of a group once. So the frames
of a video are in the file once, and every reader of Parquet still finds a row that stands by itself. A group of more
rows than such a reader can hold, 1 GB with frames of their own, is cut.
"""

from __future__ import annotations

import math
import os
import re
import shutil
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import datasets
from hf_frameseg._files import replace_folder, restore_folder
from hf_frameseg._numbers import is_number
from hf_frameseg._text import printable, short
from hf_frameseg.prepared.cache import exclusive
from hf_frameseg.prepared.config import SPLIT_NAME
from hf_frameseg.prepared.frame_columns import row_shape
from hf_frameseg.prepared.stored_once import pieces

SHARD_BYTES = 500_000_000
"""Size of a shard, as in `Dataset.push_to_hub`."""

GROUP_BYTES = 16_000_000
"""Size of a row group: every reader holds one. `Dataset.push_to_hub` makes them 100 MB."""

_MIN_GROUPS = 16  # per split: with one group every epoch would have the same order
_DICTIONARY_BYTES = 2**40  # no limit: a column whose dictionary outgrows it repeats its values
_COLUMNS = ("qid", "vid", "query", "duration_seconds", "frames", "frame_shape")
_SHARD_NAME = re.compile(rf"(?P<split>{SPLIT_NAME.pattern})-(?P<index>\d{{5}})-of-(?P<total>\d{{5}})\.parquet")


def save_shards(
    dataset: datasets.Dataset,
    folder: str | Path,
    split: str | None = None,
    *,
    shard_bytes: int = SHARD_BYTES,
    group_bytes: int = GROUP_BYTES,
) -> list[Path]:
    """Write a prepared split as Parquet shards with small row groups; the other splits of the folder stay.

    Videos keep their order; the rows of a video that are apart are put behind its first one.

    Args:
        dataset: From `load_rows`, or any data set of its columns.
        folder: Where to. When all new shards are written they take the place of older ones of this split, in one step:
            whoever looks, after a kill too, finds the old ones or the new ones.
        split: Name of the split; None takes the data set's.
        shard_bytes: About the size of a file.
        group_bytes: About the size of a row group.

    Returns:
        The shards, in order.

    Raises:
        ValueError: If it is no data set, there are no rows, a column is missing, a size is below 1, or the split has no
            name.
    """
    for name, size in {"shard_bytes": shard_bytes, "group_bytes": group_bytes}.items():
        if not is_number(size) or size < 1:
            raise ValueError(f"expected {name} of at least 1, got {short(size)}")
    split = _checked_split(dataset, split)
    videos = _rows_of_videos(dataset)
    video_bytes = max(dataset.data.nbytes / dataset.data.num_rows, 1)  # its frames are nearly all of a row
    num_shards = min(math.ceil(len(videos) * video_bytes / shard_bytes), len(videos))
    group_videos = max(1, min(int(group_bytes / video_bytes), math.ceil(len(videos) / _MIN_GROUPS)))

    data = Path(folder) / "data"
    if data.is_file():
        raise ValueError(f"{printable(data)} is a file, and would be the folder of the shards; name another folder")
    names = [f"{split}-{index:05d}-of-{num_shards:05d}.parquet" for index in range(num_shards)]
    with exclusive(data):
        restore_folder(data)
        new = data.with_name(".data.new")
        shutil.rmtree(new, ignore_errors=True)  # of a run that was killed
        new.mkdir(parents=True)
        try:
            for name, numbers in zip(names, np.array_split(np.arange(len(videos)), num_shards), strict=True):
                rows = [videos[number] for number in numbers]
                groups = [rows[start : start + group_videos] for start in range(0, len(rows), group_videos)]
                _write_shard(dataset, new / name, [list(chain(*group)) for group in groups])
            _take_over(data, new, split)
            replace_folder(new, data)
        finally:
            shutil.rmtree(new, ignore_errors=True)
    return [data / name for name in names]


def _checked_split(dataset: datasets.Dataset, split: str | None) -> str:
    """Return the name of the split, or refuse what cannot be written as one."""
    if not isinstance(dataset, datasets.Dataset):
        raise ValueError(f"expected one split, a datasets.Dataset, got a {type(dataset).__name__}")
    split = dataset.split if split is None else split
    split = str(split) if isinstance(split, datasets.NamedSplit) else split
    if not isinstance(split, str) or not SPLIT_NAME.fullmatch(split):
        raise ValueError(f"expected the name of a split such as 'train', got {split!r}; pass split=")
    if missing := [name for name in _COLUMNS if name not in dataset.column_names]:
        raise ValueError(f"expected prepared rows, got columns {dataset.column_names} without {missing}")
    if len(dataset) == 0:
        raise ValueError(f"split {split} has no rows to write")
    return split


def _rows_of_videos(dataset: datasets.Dataset) -> list[list[int]]:
    """Return the numbers of the rows of every video, videos in the order of their first rows."""
    columns = dataset.with_format(None).select_columns(["vid", "duration_seconds"]).to_dict()
    videos: dict[tuple[str, float], list[int]] = {}
    for number, video in enumerate(zip(*columns.values(), strict=True)):
        videos.setdefault(video, []).append(number)
    return list(videos.values())


def _write_shard(dataset: datasets.Dataset, path: Path, groups: Sequence[Sequence[int]]) -> None:
    """Write rows, a group at a time, as one file."""
    tables = dataset.with_format("arrow")
    is_raw = getattr(dataset.features["frames"], "dtype", None) == "large_binary"
    options = {"compression": "snappy" if is_raw else "none", "write_page_checksum": True}  # a JPEG is compressed
    with pq.ParquetWriter(
        path, dataset.features.arrow_schema, dictionary_pagesize_limit=_DICTIONARY_BYTES, **options
    ) as writer:
        for rows in groups:
            for piece in pieces(tables[rows]):  # whoever reads a group without a dictionary holds all of it
                writer.write_table(piece)


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


def frames_of_shard(path: str | Path) -> tuple[tuple[int, int, int, int, int], str]:
    """Return what pictures the first row of a shard holds.

    Args:
        path: A shard.

    Returns:
        Their shape (F, 3, H, W, 3), and the format in which they are stored, "jpeg" or "raw".
    """
    file = pq.ParquetFile(path)
    row = next(file.iter_batches(1, columns=["frame_shape"])).to_pylist()[0]
    is_raw = pa.types.is_large_binary(file.schema_arrow.field("frames").type)
    return row_shape(row), "raw" if is_raw else "jpeg"


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
