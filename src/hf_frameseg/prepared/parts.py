"""Prepared videos on their way into a data set: one file per video, there as a whole or not at all.

A preparation that is killed leaves its parts, and the next one goes on from them. They are not deleted before the data
set is complete, so a preparation needs its disk space twice for a while. Other preparations, of other annotations, may
have parts in the same folder: each deletes its own. Just before the data set gets its name a note says which these are,
for the next process if this one is killed before they are deleted.

A part is written under another name and renamed, which survives a kill; its checksum also shows what a power failure
or a full disk left half written. So nothing has to wait for the disk (no fsync).
"""

from __future__ import annotations

import json
import re
import secrets
import shutil
import struct
import zlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from hf_frameseg._files import atomic_write
from hf_frameseg.prepared.cache import cache_error

PART_SUFFIX = ".part"
UNFINISHED_SUFFIX = ".tmp"

_NOTE = "finished.json"
_KEY = re.compile(r"[0-9a-f]{16}")
_ATTEMPTS = 2  # whoever finishes a data set clears the folder of what looks unfinished
_HEAD = struct.Struct("<QI")  # length and CRC-32 of what follows
_TIMES = pa.list_(pa.list_(pa.float64()))


@dataclass(frozen=True)
class Parts:
    """Keep the parts of one preparation in a folder. Whoever writes there holds the lock of that preparation.

    Args:
        folder: The folder; made when the first part is written.
    """

    folder: Path

    @property
    def scratch(self) -> Path:
        """Return a folder for files that are needed while a video is prepared."""
        return self.folder / "scratch"

    def path(self, key: str) -> Path:
        """Return where the part with this key is or will be."""
        return self.folder / f"{key}{PART_SUFFIX}"

    def write(self, key: str, columns: Mapping[str, Any]) -> None:
        """Write a part.

        Args:
            key: Names the video, its version and the choices.
            columns: From `prepare_video`.

        Raises:
            CacheError: If it cannot be written; nothing is left then.
        """
        encoded = _encode(columns)
        for attempt in range(_ATTEMPTS):
            # A name of its own: another machine may be at the same video, by mistake.
            unfinished = self.folder / f"{key}.{secrets.token_hex(8)}{UNFINISHED_SUFFIX}"
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                with unfinished.open("wb") as file:
                    file.write(_head(encoded))
                    file.write(encoded)
                unfinished.replace(self.path(key))
                return
            except OSError as error:
                with suppress(OSError):
                    unfinished.unlink()
                if not isinstance(error, FileNotFoundError) or attempt + 1 == _ATTEMPTS:
                    raise cache_error(self.folder, error) from error

    def read(self, key: str) -> dict[str, Any] | None:
        """Return the columns of a part, None if it is not there as a whole."""
        try:
            content = self.path(key).read_bytes()
        except (FileNotFoundError, IsADirectoryError):
            return None
        except OSError as error:
            raise cache_error(self.folder, error) from error
        encoded = memoryview(content)[_HEAD.size :]
        return _decode(encoded) if content[: _HEAD.size] == _head(encoded) else None

    def finished(self) -> set[str]:
        """List the keys of the parts that are there, without looking into them; delete what a killed process left."""
        shutil.rmtree(self.scratch, ignore_errors=True)
        keys = set()
        with suppress(FileNotFoundError):
            for path in self.folder.iterdir():
                if path.suffix == PART_SUFFIX and path.is_file():
                    keys.add(path.stem)
                elif path.suffix == UNFINISHED_SUFFIX:
                    path.unlink(missing_ok=True)
        return keys

    def note(self, owner: str, keys: Iterable[str]) -> None:
        """Write down which parts are needed no more as soon as a data set is there.

        Args:
            owner: Name of the data set.
            keys: Its parts.

        Raises:
            OSError: If it cannot be written.
        """
        if self.folder.is_dir():
            atomic_write(self.folder / _NOTE, json.dumps({"owner": owner, "keys": sorted(keys)}))

    def noted(self, owner: str | None = None) -> list[str]:
        """Return the keys of the parts that are noted as needed no more; of this data set only, if one is named."""
        try:
            note = json.loads((self.folder / _NOTE).read_bytes())
            keys = note["keys"] if owner in (None, note["owner"]) else []
            return [key for key in keys if _KEY.fullmatch(key)]
        except (OSError, ValueError, TypeError, KeyError):
            return []

    def claim(self, keys: Iterable[str]) -> None:
        """Keep parts that another data set needs no more and was about to delete: this preparation goes on from them.

        Args:
            keys: The parts of this preparation.
        """
        if noted := self.noted():
            self._delete(set(noted) - set(keys))
        (self.folder / _NOTE).unlink(missing_ok=True)

    def delete(self, owner: str, keys: Iterable[str]) -> None:
        """Delete the parts of a data set that is complete, and the folder if nothing is left in it.

        Args:
            owner: Name of the data set.
            keys: Its parts.
        """
        self._delete(keys)
        for folder in (self.scratch, self.tasks(owner)):
            shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):
            for path in self.folder.glob(f"*{UNFINISHED_SUFFIX}"):
                path.unlink(missing_ok=True)
            (self.folder / _NOTE).unlink(missing_ok=True)
        for folder in (self.tasks(owner).parent, self.folder):
            with suppress(OSError):  # another preparation has something there
                folder.rmdir()

    def tasks(self, owner: str) -> Path:
        """Return where an engine may note which shares of a data set are done."""
        return self.folder / "tasks" / owner

    def _delete(self, keys: Iterable[str]) -> None:
        """Delete parts."""
        for key in keys:
            with suppress(OSError):
                self.path(key).unlink(missing_ok=True)


def _encode(columns: Mapping[str, Any]) -> pa.Buffer:
    """Return the columns as an Arrow stream of one row."""
    frames = columns["frames"]
    raw = isinstance(frames, bytes)
    schema = pa.schema(
        {
            "frames": pa.large_binary() if raw else pa.list_(pa.large_binary()),
            "frame_shape": pa.list_(pa.int64()),
            "frame_times_seconds": _TIMES,
            "frames_missing": pa.bool_(),
            "file_seconds": pa.float64(),
            "damaged_share": pa.float64(),
        }
    )
    row = {**columns, "frames": frames if raw else [picture["bytes"] for picture in frames]}
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        writer.write_table(pa.Table.from_pylist([row], schema))
    return sink.getvalue()


def _decode(encoded: memoryview) -> dict[str, Any]:
    """Return what `_encode` was given."""
    row = pa.ipc.open_stream(pa.py_buffer(encoded)).read_all().to_pylist()[0]
    if isinstance(row["frames"], list):
        row["frames"] = [{"bytes": picture, "path": None} for picture in row["frames"]]
    return row


def _head(encoded: memoryview | pa.Buffer) -> bytes:
    """Return what stands before the columns, to tell whether they are there as a whole."""
    return _HEAD.pack(len(encoded), zlib.crc32(encoded))
