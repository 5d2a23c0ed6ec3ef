"""Frames that are on disk once for each video, shown in the row of every query about it.

In the files of a split the first row of a video holds its frames; in its other rows they are null. Opening the split
lets every row point to the frames of its video. That copies nothing: a column of an Arrow table is a list of pieces,
and pieces may be the same place of a file. So all that `datasets` does with rows works on these, too, and what it
writes (`map`, `save_to_disk`) are plain rows, each with frames of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from datasets.table import InMemoryTable, MemoryMappedTable, TableBlock

from hf_frameseg._text import printable

if TYPE_CHECKING:
    from datasets import Dataset

_FRAMES = "frames"
_PIECE_BYTES = 2**30  # frames of a piece
_VIDEO = ("vid", "duration_seconds")  # what the frames of a row depend on
_OPERATIONS = (
    *("add_column", "append_column", "cast", "combine_chunks", "drop", "filter", "flatten", "remove_column"),
    *("rename_columns", "replace_schema_metadata", "select", "set_column", "slice"),
)


class StoredOnceTable(MemoryMappedTable):
    """Hold the rows of the files of a split, each with the frames of its video; a table of `datasets`.

    It is pickled as the names of the files and what was done with the rows, as every table of `datasets` that is mapped
    from files: a process that is handed one opens the files itself.

    Args:
        table: The rows.
        files: The files.
        replays: What was done with the rows of the files, as `MemoryMappedTable` keeps it.
    """

    def __init__(self, table: pa.Table, files: Sequence[str], replays: list[Any] | None = None) -> None:
        super().__init__(table, files[0], replays)
        self.files = list(files)

    def __getstate__(self) -> dict[str, Any]:
        """Return what it is made of again."""
        return {"files": self.files, "replays": self.replays}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Open the files again."""
        rows = self._apply_replays(_open_files(state["files"]), state["replays"])
        self.__init__(rows, state["files"], state["replays"])


def _operation(name: str) -> Callable[..., StoredOnceTable]:
    """Return an operation of a table after which it still knows its files; that of `datasets` (5.2) keeps one file."""

    @wraps(getattr(MemoryMappedTable, name))
    def operate(table: StoredOnceTable, *args: Any, **kwargs: Any) -> StoredOnceTable:
        replay = (name, deepcopy(args), deepcopy(kwargs))
        made = table._apply_replays(table.table, [replay])
        return StoredOnceTable(made, table.files, table._append_replay(replay))

    return operate


for _name in _OPERATIONS:
    setattr(StoredOnceTable, _name, _operation(_name))


def open_rows(files: Sequence[str | Path], in_memory: bool = False) -> TableBlock:
    """Open the files of a split.

    Args:
        files: All Arrow files of the split, in order.
        in_memory: Copy the rows into memory, each with frames of its own.

    Returns:
        A table for `datasets.Dataset`; every row has the frames of its video.

    Raises:
        ValueError: If no row holds the frames of a video.
    """
    names = [str(Path(file).absolute()) for file in files]  # for a process that works in another folder
    rows = _open_files(names)
    if in_memory:
        return InMemoryTable(pa.concat_tables([piece.combine_chunks() for piece in pieces(rows)]))
    return StoredOnceTable(rows, names)


def pieces(rows: pa.Table) -> Iterator[pa.Table]:
    """Cut rows into pieces whose frames an Arrow array can hold, each row with its own: one of JPEGs ends at 2 GB.

    Args:
        rows: Rows with `frames`.

    Yields:
        Rows that follow one another; nothing is copied.
    """
    start = row = num_bytes = 0
    for chunk in rows[_FRAMES].chunks:
        if num_bytes and num_bytes + chunk.nbytes > _PIECE_BYTES:
            yield rows.slice(start, row - start)
            start, num_bytes = row, 0
        num_bytes += chunk.nbytes
        row += len(chunk)
    yield rows.slice(start)


def _open_files(files: Sequence[str]) -> pa.Table:
    """Map the files into memory, and let every row point to its frames."""
    return with_frames(pa.concat_tables([MemoryMappedTable.from_file(file).table for file in files]))


def with_frames(rows: pa.Table) -> pa.Table:
    """Let every row point to the frames of its video; nothing is copied.

    Args:
        rows: Rows with `vid`, `duration_seconds` and `frames`, which is null in all but the first row of a video.

    Returns:
        The rows with `frames` in each.

    Raises:
        ValueError: If no row holds the frames of a video.

    Example:
        >>> rows = {"vid": ["a", "b", "a"], "duration_seconds": [8.0, 8.0, 8.0], "frames": [b"1", b"2", None]}
        >>> with_frames(pa.table(rows))["frames"].to_pylist()
        [b'1', b'2', b'1']
    """
    frames = rows[_FRAMES]
    if frames.null_count == 0:
        return rows
    holds = frames.is_valid().to_numpy()
    holders: dict[tuple[Any, ...], int] = {}
    places = np.arange(len(rows))
    for place, video in enumerate(zip(*(rows[name].to_pylist() for name in _VIDEO), strict=True)):
        if holds[place]:
            holders.setdefault(video, place)
        elif video in holders:
            places[place] = holders[video]
        else:
            raise ValueError(f"no row holds the frames of video {printable(video[0])}")
    # Rows that follow one another in the files stay together: the fewer pieces, the faster a table is.
    starts = np.flatnonzero(np.diff(places, prepend=-2) != 1).tolist()
    runs = zip(starts, [*starts[1:], len(rows)], strict=True)
    pieces = [chunk for start, end in runs for chunk in frames.slice(places[start], end - start).chunks]
    column = rows.schema.get_field_index(_FRAMES)
    return rows.set_column(column, rows.schema.field(column), pa.chunked_array(pieces, frames.type))


def read_rows(tables: Dataset, numbers: Sequence[int]) -> list[dict[str, Any]]:
    """Return rows of a data set; rows whose frames are one piece of a file get the same object, read once.

    Args:
        tables: A data set in the format "arrow".
        numbers: Numbers of the rows.

    Returns:
        The rows, as the data set without a format has them.
    """
    table = tables[list(numbers)]
    columns = {name: table[name].to_pylist() for name in table.column_names if name != _FRAMES}
    if _FRAMES in table.column_names:
        pieces = (chunk.slice(place, 1) for chunk in table[_FRAMES].chunks for place in range(len(chunk)))
        read: dict[Any, Any] = {}
        columns[_FRAMES] = [_value(piece, read) for piece in pieces]
    rows = zip(*(columns[name] for name in table.column_names), strict=True)
    return [tables.features.decode_example(dict(zip(table.column_names, row, strict=True))) for row in rows]


def _value(piece: pa.Array, read: dict[Any, Any]) -> Any:
    """Return the value of an array of one, read once for each place in memory."""
    place = (piece.offset, *(buffer.address for buffer in piece.buffers() if buffer is not None))
    if place not in read:
        read[place] = piece[0].as_py()
    return read[place]
