"""What a folder of prepared data holds, file by file, so that damage can be told from data.

The manifest is the last file that is written before the folder gets its name. Opening compares sizes, and the contents
of the small files; reading all of a cache takes as long as the disk needs for it, so that is left to `frameseg verify
--cache` and `frameseg prepare`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_frameseg._files import atomic_write
from hf_frameseg._text import printable

MANIFEST_FILE = "manifest.json"
"""Name of the manifest: an object, file name -> `bytes` and `sha256`."""

_SMALL_BYTES = 2**22  # compared in full whenever the folder is opened
_CONFIG_ID = re.compile(r".+-[0-9a-f]{16}")  # see `FrameDatasetConfig.create_config_id`
_VERSION = re.compile(r"\d+\.\d+\.\d+")
_WITHOUT_MANIFEST = {"0", "1", "2"}  # major versions of the format


@dataclass(frozen=True)
class PreparedFolder:
    """Hold the state of a folder of prepared data.

    Args:
        folder: The folder.
        num_files: How many files its manifest lists.
        num_bytes: Their size.
        damage: What is wrong with it; None if nothing is.
    """

    folder: Path
    num_files: int
    num_bytes: int
    damage: str | None


def write_manifest(folder: Path) -> None:
    """Write down sizes and checksums of all files in a folder, and wait until they are on the disk.

    Args:
        folder: Folder of files; folders inside are not looked into.

    Raises:
        OSError: If a file cannot be read, or the manifest not be written.
    """
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name != MANIFEST_FILE)
    listed = {path.name: {"bytes": path.stat().st_size, "sha256": _sha256(path, sync=True)} for path in files}
    atomic_write(folder / MANIFEST_FILE, json.dumps(listed, indent=1) + "\n")


def find_damage(folder: Path, contents: bool = False) -> str | None:
    """Compare a folder with its manifest.

    Args:
        folder: Folder with a manifest. Further files in it are nobody's business: `datasets` keeps what `map` makes
            there.
        contents: Read every file, not the small ones only.

    Returns:
        What is wrong, in a few words; None if nothing is.
    """
    try:
        listed = _read_manifest(folder)
    except OSError as error:
        return f"{MANIFEST_FILE} cannot be read: {error.strerror or error}"
    except ValueError:
        return f"{MANIFEST_FILE} is damaged"
    for name, expected in listed.items():
        try:
            found = (folder / name).lstat()
        except OSError as error:
            return f"{printable(name)}: {error.strerror}"
        if not stat.S_ISREG(found.st_mode):
            return f"{printable(name)} is no file"
        if found.st_size != expected["bytes"]:
            return f"{printable(name)} has {found.st_size} bytes, not {expected['bytes']}"
        if contents or found.st_size <= _SMALL_BYTES:
            try:
                if _sha256(folder / name) != expected["sha256"]:
                    return f"{printable(name)} has another content than was written"
            except OSError as error:
                return f"{printable(name)} cannot be read: {error.strerror or error}"
    return None


def check_prepared(cache_dir: Path) -> Iterator[PreparedFolder]:
    """Read all prepared data in a cache and compare it with its checksums.

    Args:
        cache_dir: A cache, any folder in it, or a single folder of prepared data.

    Yields:
        Each folder of prepared data, as soon as it is read.

    Raises:
        FileNotFoundError: If there is no such folder.
        OSError: If a folder cannot be read.
    """
    if not cache_dir.is_dir():
        raise FileNotFoundError(f"no cache folder at {printable(cache_dir)}; check the path")

    def refuse(error: OSError) -> None:
        raise OSError(f"cannot read {printable(error.filename)} ({error.strerror}); make it readable") from error

    for place, folders, names in os.walk(cache_dir.absolute(), onerror=refuse):
        folders.sort()
        folder = Path(place)
        if folder.name.endswith(".incomplete") or not (MANIFEST_FILE in names or _should_have_manifest(folder)):
            continue
        folders.clear()
        try:
            sizes = [entry["bytes"] for entry in _read_manifest(folder).values()]
        except (OSError, ValueError):
            sizes = []
        yield PreparedFolder(folder, len(sizes), sum(sizes), find_damage(folder, contents=True))


def _should_have_manifest(folder: Path) -> bool:
    """Tell by its name whether a folder holds prepared data of a format that has a manifest."""
    version = _VERSION.fullmatch(folder.name) is not None and folder.name.split(".")[0] not in _WITHOUT_MANIFEST
    return version and _CONFIG_ID.fullmatch(folder.parent.name) is not None


def _read_manifest(folder: Path) -> dict[str, dict[str, Any]]:
    """Return a manifest whose form is right.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is damaged.
    """
    path = folder / MANIFEST_FILE
    if not stat.S_ISREG(path.lstat().st_mode):
        raise ValueError("it is no file")
    listed = json.loads(path.read_bytes())
    if not isinstance(listed, dict) or not listed:
        raise ValueError("it lists nothing")
    for name, entry in listed.items():
        inside = Path(name).name == name
        if not inside or not isinstance(entry, dict) or entry.keys() != {"bytes", "sha256"}:
            raise ValueError("an entry is none")
        if type(entry["bytes"]) is not int or not isinstance(entry["sha256"], str):
            raise ValueError("an entry is none")
    return listed


def _sha256(path: Path, sync: bool = False) -> str:
    """Return the checksum of a file."""
    with path.open("rb") as file:
        if sync:
            os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()
