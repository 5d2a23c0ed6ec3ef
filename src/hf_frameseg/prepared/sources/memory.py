"""What was found out about video files, beside the cache: asking thousands of files again at every start takes minutes.

A file is known by its path, size, time of change, time of change of its entry, and number on its disk. The last two
change with the content even where somebody has set the first ones back.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from hf_frameseg._files import atomic_write

MEMORY_FILE = "hf_frameseg_videos.json"
"""Name of the file in the cache folder; it may be deleted."""

_VERSION = 1
_MOST_FILES = 1_000_000  # more are not remembered


class VideoMemory:
    """Remember facts about files; what cannot be read or written is forgotten.

    Args:
        folder: Where; None remembers nothing beyond this object.
    """

    def __init__(self, folder: str | Path | None) -> None:
        self._path = None if folder is None else Path(folder) / MEMORY_FILE
        self._known: dict[str, dict[str, Any]] | None = None
        self._changed = False

    def recall(self, path: Path, found: os.stat_result, name: str, find: Callable[[], Any]) -> Any:
        """Return a fact about a file, finding it out if it is not known of the file as it is now.

        Args:
            path: The file.
            found: Its state.
            name: Name of the fact.
            find: Finds it out; a JSON value. What is empty or None is not remembered.

        Returns:
            The fact.
        """
        known = self.known(path, found, name)
        if known is None:
            known = find()
            self.remember(path, found, name, known)
        return known

    def known(self, path: Path, found: os.stat_result, name: str) -> Any:
        """Return a fact about a file, None if it is not known of the file as it is now."""
        entry = self._load().get(str(path))
        return entry.get(name) if entry is not None and entry.get("state") == _state(found) else None

    def remember(self, path: Path, found: os.stat_result, name: str, fact: Any) -> None:
        """Remember a fact about a file."""
        files = self._load()
        if not fact or (len(files) >= _MOST_FILES and str(path) not in files):
            return
        state = _state(found)
        entry = files.get(str(path))
        if entry is None or entry.get("state") != state:
            entry = files[str(path)] = {"state": state}
        entry[name] = fact
        self._changed = True

    def save(self) -> None:
        """Write down what is new, where that is possible."""
        if self._path is None or not self._changed:
            return
        self._changed = False
        with suppress(OSError):
            atomic_write(self._path, json.dumps({"version": _VERSION, "files": self._known}))

    def _load(self) -> dict[str, dict[str, Any]]:
        """Return what is known, read once."""
        if self._known is None:
            self._known = {}
            with suppress(OSError, ValueError, AttributeError, TypeError):
                content = {} if self._path is None else json.loads(self._path.read_bytes())
                files = content["files"] if content.get("version") == _VERSION else {}
                self._known = {path: entry for path, entry in files.items() if isinstance(entry, dict)}
        return self._known


def _state(found: os.stat_result) -> list[int]:
    """Return what tells a file as it is now."""
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]
