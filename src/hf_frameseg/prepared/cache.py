"""The folder that prepared data is kept in: one process at a time, and one line when it cannot be written."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from hf_frameseg._text import printable

logger = logging.getLogger(__name__)

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class CacheError(OSError):
    """Say in one line why the cache could not be written."""


def cache_error(folder: Path, error: OSError) -> CacheError:
    """Return the one line for an operating system's error in a cache folder.

    Args:
        folder: The folder.
        error: The error.

    Returns:
        What to raise.
    """
    if error.errno is None and isinstance(error.__cause__, OSError):  # of `atomic_writer`
        error = error.__cause__
    reason = error.strerror or printable(" ".join(str(error).split()))
    repair = "make room there" if error.errno in _FULL else "allow writing there"
    return CacheError(
        f"cannot write to the cache {printable(folder)} ({reason}); {repair} or pass another cache_dir; finished "
        "videos are kept for the next start"
    )


@contextmanager
def cache_errors(folder: Path) -> Iterator[None]:
    """Turn any error of the operating system into the one line.

    Args:
        folder: The folder that is written to.

    Raises:
        CacheError: For any such error.
    """
    try:
        yield
    except OSError as error:
        raise cache_error(folder, error) from error


class DamagedCacheError(CacheError):
    """Say in one line which prepared data is damaged, and what mends it."""


def check_writable(folder: Path) -> None:
    """Refuse a folder in which no file can be made: a lock would be waited for there for ever (in /proc, for one).

    Args:
        folder: The folder; made if it is not there.

    Raises:
        OSError: If it cannot be written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


@contextmanager
def exclusive(folder: Path, wait: bool = True) -> Iterator[bool]:
    """Let one process at a time work in a folder; its lock is free again when the process ends in whatever way.

    Args:
        folder: The folder, which need not exist; the lock is a file beside it.
        wait: Wait for another process.

    Yields:
        Whether the folder is ours; without `wait` it may be another's.
    """
    check_writable(folder.parent)
    lock = FileLock(f"{folder}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if not wait:
            yield False
            return
        shown = printable(lock.lock_file)
        logger.warning("another process prepares the same data; waiting until it is finished (%s)", shown)
        lock.acquire()
    try:
        yield True
    finally:
        lock.release()


@contextmanager
def one_line_errors(folder: Path) -> Iterator[None]:
    """Turn what goes wrong while `datasets` fills a cache into one line: it wraps errors in others.

    Args:
        folder: The cache.

    Raises:
        CacheError: For an error of the operating system about that folder. Any other error is raised as it was.
    """
    try:
        yield
    except Exception as error:
        cause = _unwrapped(error)
        if isinstance(cause, OSError) and cause.errno is not None and _is_inside(cause.filename, folder):
            raise cache_error(folder, cause) from error
        if cause is error:
            raise
        raise cause from None


def clear_folder(folder: Path) -> None:
    """Delete what is in a folder."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _unwrapped(error: BaseException) -> BaseException:
    """Return what `datasets` (5.2) has wrapped in errors that say nothing."""
    from datasets.exceptions import DatasetGenerationError  # here: processes that decode do without `datasets`

    while isinstance(error, DatasetGenerationError) or str(error).startswith("Cannot find data file. \nOriginal"):
        inner = error.__cause__ or error.__context__
        if inner is None:
            break
        error = inner
    return error


def _is_inside(name: Any, folder: Path) -> bool:
    """Tell whether an error is about a file in the folder, or one above it; errors while writing name none."""
    if name is None:
        return True
    path, folder = Path(os.fsdecode(name)).absolute(), folder.expanduser().absolute()
    return path.is_relative_to(folder) or folder.is_relative_to(path)
