"""Results on disk: a file or a folder appears whole or not at all, and never in the place of an input."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import secrets
import shutil
import stat
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

_STREAM = re.compile(r"/dev/(stdout|stderr|fd/\d+)|/proc/self/fd/\d+")  # not replaced even where it leads to a file
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of renameat2(2)


@contextmanager
def atomic_writer(path: str | Path) -> Iterator[IO[bytes]]:
    """Open a binary file beside `path` that takes its name when the block ends, and vanishes when the block raises.

    An old file stays under the name until then, so a kill or a full disk costs only the new one. A link stays a link;
    its target is replaced. Devices and pipes (`/dev/stdout`) are written as they are.

    Args:
        path: Where the result goes; missing folders are made.

    Yields:
        The open file.

    Raises:
        OSError: If it cannot be written; the message names the path.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        # Before links are followed: those of /proc lead to names such as `pipe:[7]`, which are none.
        if _STREAM.fullmatch(str(path)) or (path.exists() and not path.is_file()):
            if sys.stdout is not None:
                sys.stdout.flush()  # it may be the same, and was printed before
            with path.open("ab") as device:
                yield device
            return
        target = _real(path)
        # Threads, and machines that share a disk, may write the same file; who cleans up reads the process number.
        part = target.with_name(f".{target.name[:200]}.{secrets.token_hex(4)}.{os.getpid()}.part")
        try:
            with part.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())  # else a power cut after the rename leaves an empty file
            if target.exists():
                part.chmod(stat.S_IMODE(target.stat().st_mode))
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(f"cannot write {path} ({reason}); name a place that can be written") from error


def atomic_write(path: str | Path, content: str | bytes) -> None:
    """Write a file whole or not at all, see `atomic_writer`.

    Args:
        path: Where it goes; missing folders are made.
        content: Bytes, or text for UTF-8; half characters, which JSON may name, are written as escapes.

    Raises:
        OSError: If it cannot be written; the message names the path.
    """
    encoded = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
    with atomic_writer(path) as file:
        file.write(encoded)


def refuse_to_overwrite(output: str | Path | None, inputs: Iterable[str | Path | None], option: str) -> None:
    """Refuse an output that is one of the inputs, by whatever name or link.

    Args:
        output: Where a result would go; None is fine.
        inputs: What was read, or is about to be.
        option: How the user names the output, for the message, e.g. `--json`.

    Raises:
        ValueError: If they are the same file.
    """
    if output is None or not Path(output).is_file():  # a device may be both
        return
    for source in inputs:
        with suppress(OSError):
            if source is not None and Path(source).samefile(output):
                raise ValueError(f"{option} {output} is an input: it would be overwritten; name another file")


def check_outputs(outputs: Mapping[str, str | Path | None], inputs: Iterable[str | Path | None]) -> None:
    """Refuse results that could not be written or would cost a file, before the work for them is done.

    Args:
        outputs: Where each result would go, by how the user names it, e.g. `--json`; None is fine.
        inputs: What is read.

    Raises:
        ValueError: If a result would replace an input, take the place of another result, or is a folder.
    """
    inputs, taken = list(inputs), {}
    for option, output in outputs.items():
        if output is None:
            continue
        if Path(output).is_dir():
            raise ValueError(f"{option} {output} is a folder; name a file in it")
        refuse_to_overwrite(output, inputs, option)
        if Path(output).exists() and not Path(output).is_file():
            continue  # what a device gets is not replaced
        other = taken.setdefault(os.path.realpath(output), option)  # which, unlike `resolve`, bears links in a circle
        if other != option:
            raise ValueError(f"{other} and {option} both name {output}: only one would be left; name another file")


def replace_folder(new: str | Path, folder: str | Path) -> None:
    """Give a finished folder its name in one step; what stood there before is deleted.

    Linux exchanges the two names at once, so that a kill at any moment leaves the old folder or the new one under the
    name. File systems that cannot (some network ones) move the old one to `.NAME.old` first; `restore_folder` brings it
    back if that is where the process was killed.

    Args:
        new: The finished folder, on the same file system.
        folder: Its name; what is there may be missing.

    Raises:
        OSError: If it cannot be moved; the old folder is under its name then.
    """
    new, folder = Path(new), Path(folder)
    restore_folder(folder)
    old = _old_name(folder)
    if not folder.exists():
        new.rename(folder)
        return
    if _exchange(new, folder):
        shutil.rmtree(new, ignore_errors=True)
        return
    folder.rename(old)
    try:
        new.rename(folder)
    except OSError:
        old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def restore_folder(folder: str | Path) -> None:
    """Bring back the old folder if `replace_folder` was killed between two renames; tidy up if after them.

    Args:
        folder: The name that was to be replaced.
    """
    folder = Path(folder)
    old = _old_name(folder)
    if not old.is_dir():
        return
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
    else:
        old.rename(folder)


def _real(path: Path) -> Path:
    """Return where a path leads to; a loop of links is an OSError in every version of Python (3.13 made it one)."""
    try:
        return path.resolve()
    except RuntimeError as error:
        raise OSError(errno.ELOOP, "its links lead in a circle") from error


def _old_name(folder: Path) -> Path:
    """Return where the old folder waits while the new one takes its name."""
    return folder.with_name(f".{folder.name}.old")


def _exchange(first: Path, second: Path) -> bool:
    """Exchange two names at once; False where the system cannot."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    names = os.fsencode(first), os.fsencode(second)
    return rename(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0
