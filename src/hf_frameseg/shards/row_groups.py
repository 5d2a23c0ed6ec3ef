"""One row group of a shard at a time: from a disk or from the Hub, with the frames of a video in memory once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_frameseg._text import printable

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow.parquet import FileMetaData

_PICTURES = ("frames", "frames.list.element.bytes")  # where Parquet keeps raw frames, and JPEGs


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


def read_footer(file: str, token: str | None) -> FileMetaData:
    """Return what the end of a shard says of it.

    Args:
        file: A path, or an `hf://` address.
        token: Hub token for such an address.

    Raises:
        ValueError: If it is no shard, or damaged.
        FileNotFoundError: If it is not there.
    """
    import pyarrow.parquet as pq

    with _readable(file), _open(file, token) as opened:
        return pq.read_metadata(opened)


def read_group(file: str, token: str | None, footer: FileMetaData, index: int) -> list[dict[str, Any]]:
    """Return the rows of a row group; rows of one video share its pictures.

    Args:
        file: A path, or an `hf://` address.
        token: Hub token for such an address.
        footer: From `read_footer`.
        index: Number of the group in the file.

    Raises:
        ValueError: If it is damaged.
    """
    import pyarrow.parquet as pq

    pictures = {footer.schema.column(number).path for number in range(footer.num_columns)}.intersection(_PICTURES)
    options: dict[str, Any] = {"metadata": footer, "page_checksum_verification": True, "read_dictionary": pictures}
    with _readable(file), _open(file, token) as opened:
        table = pq.ParquetFile(opened, **options).read_row_group(index, use_threads=False)
    columns = [_values(column.combine_chunks()) for column in table.columns]
    return [dict(zip(table.column_names, row, strict=True)) for row in zip(*columns, strict=True)]


def _values(array: pa.Array) -> list[Any]:
    """Return an array as Python values; those of a dictionary are made once, however often they occur."""
    import pyarrow as pa

    if pa.types.is_dictionary(array.type):
        once = array.dictionary.to_pylist()
        return [None if index is None else once[index] for index in array.indices.to_pylist()]
    if pa.types.is_struct(array.type) and not array.null_count:
        fields = [_values(field) for field in array.flatten()]
        names = [field.name for field in array.type]
        return [dict(zip(names, entry, strict=True)) for entry in zip(*fields, strict=True)]
    if pa.types.is_list(array.type) and not array.null_count:
        entries = iter(_values(array.flatten()))
        return [list(islice(entries, length)) for length in array.value_lengths().to_pylist()]
    return array.to_pylist()


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


def group_sizes(footer: FileMetaData) -> list[tuple[int, int]]:
    """Return rows and bytes of every row group of a shard.

    Args:
        footer: From `read_footer`.
    """
    groups = map(footer.row_group, range(footer.num_row_groups))
    return [(group.num_rows, group.total_byte_size) for group in groups]
