"""Where the videos of a data set are: vid -> file, in a folder or in the folders inside it.

A vid is looked up in a listing of the folder and never joined to a path, so no vid can lead out of it. A file belongs
to the vid that is its name without suffix, in whatever subfolder. Of several files for one vid the suffix that comes
first in `VIDEO_SUFFIXES` counts. Two with the same suffix are a failure of that video: nothing says which one is meant.
"""

from __future__ import annotations

import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Generic, TypeVar

VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov")
"""Accepted video files; of several files for one vid the first suffix in this order counts."""


class VideoMissingError(FileNotFoundError):
    """Say in one line why there is no file for a vid."""


@dataclass(frozen=True)
class VideoFile:
    """Hold which file a video is.

    Args:
        vid: Name of the video.
        path: The file.
        size_bytes: Its size.
        mtime_ns: Its time of change.
    """

    vid: str
    path: Path
    size_bytes: int
    mtime_ns: int

    @property
    def name(self) -> str:
        """Return what reports call the file."""
        return str(self.path)

    def identity(self) -> list[str | int]:
        """Return what differs when the file is another one; JSON values."""
        return [str(self.path), self.size_bytes, self.mtime_ns]

    def on_disk(self, scratch: Path) -> AbstractContextManager[Path]:
        """Give the video as a file of its own.

        Args:
            scratch: Folder for what has to be written for that.

        Returns:
            Context manager; gives the path.
        """
        return nullcontext(self.path)


Entry = TypeVar("Entry")


class VideoSource(ABC, Generic[Entry]):
    """Look videos up in a listing.

    Args:
        place: Folder or archive.
    """

    def __init__(self, place: str | Path) -> None:
        self.place = Path(place)

    @abstractmethod
    def __str__(self) -> str:
        """Return what messages call the source."""

    @abstractmethod
    def _list(self) -> Iterable[tuple[str, Entry]]:
        """List what is there in a fixed order: name inside the source, and what `_file` has to know."""

    @abstractmethod
    def _file(self, vid: str, entry: Entry) -> VideoFile:
        """Return the file of an entry.

        Raises:
            VideoMissingError: If it cannot be used.
        """

    @abstractmethod
    def fingerprint(self, vids: Iterable[str]) -> list[list[str | int]]:
        """Return what differs when one of these videos is another one; JSON values."""

    def find(self, vid: str) -> VideoFile:
        """Return the file of a vid.

        Args:
            vid: Name of the video.

        Returns:
            The file.

        Raises:
            VideoMissingError: If there is no file, more than one, or none that can be used.
        """
        entries = self._entries.get(vid, [])
        if not entries:
            raise VideoMissingError(f"no such file in {self}{self._hint(vid)}")
        ranks = [VIDEO_SUFFIXES.index(_suffix(name)) for name, _ in entries]
        best = [entry for entry, rank in zip(entries, ranks, strict=True) if rank == min(ranks)]
        if len(best) > 1:
            names = ", ".join(name for name, _ in best)
            raise VideoMissingError(f"{len(best)} files for this vid in {self}: {names}; keep one")
        return self._file(vid, best[0][1])

    def locate(self, vids: Iterable[str]) -> tuple[dict[str, VideoFile], dict[str, str]]:
        """Find the files of many vids.

        Args:
            vids: Names of videos.

        Returns:
            vid -> file of those that are there, and vid -> reason for the others, both in the given order.
        """
        found: dict[str, VideoFile] = {}
        missing: dict[str, str] = {}
        for vid in vids:
            try:
                found[vid] = self.find(vid)
            except VideoMissingError as error:
                missing[vid] = str(error)
        return found, missing

    @cached_property
    def _entries(self) -> dict[str, list[tuple[str, Entry]]]:
        """List the videos by vid."""
        entries: dict[str, list[tuple[str, Entry]]] = {}
        for name, entry in self._list():
            if _suffix(name) in VIDEO_SUFFIXES:
                entries.setdefault(PurePosixPath(name).stem, []).append((name, entry))
        return entries

    def _hint(self, vid: str) -> str:
        """Name a file that differs in upper and lower case only."""
        folded = vid.casefold()
        near = sorted(name for other, found in self._entries.items() if other.casefold() == folded for name, _ in found)
        return f"; there is {near[0]}, spelled with other upper and lower case" if near else ""


class VideoFolder(VideoSource[Path]):
    """List the videos of a folder, nested or not.

    Args:
        place: The folder; it may itself be a link.
        allow_links: Follow links inside the folder to places outside it. Without, such a file counts as missing, and
            linked folders are not looked into.

    Raises:
        FileNotFoundError: If the folder does not exist.
    """

    def __init__(self, place: str | Path, allow_links: bool = False) -> None:
        super().__init__(place)
        self.allow_links = allow_links
        if not self.place.is_dir():
            raise FileNotFoundError(f"no video folder at {place}; put the videos there as <vid>{VIDEO_SUFFIXES[0]}")
        self._root = self.place.resolve()

    def __str__(self) -> str:
        """Return what messages call the folder."""
        return f"the video folder {self.place}"

    def fingerprint(self, vids: Iterable[str]) -> list[list[str | int]]:
        """Return places, sizes and times of the files."""
        found, _ = self.locate(vids)
        return [file.identity() for file in found.values()]

    def _list(self) -> Iterator[tuple[str, Path]]:
        """List the files below the folder."""

        def refuse(error: OSError) -> None:
            reason = f"cannot read the video folder {error.filename} ({error.strerror}); make it readable"
            raise OSError(reason) from error

        entered: set[str] = set()
        for place, folders, names in os.walk(self._root, onerror=refuse, followlinks=self.allow_links):
            real = os.path.realpath(place)
            if real in entered:  # links can make circles
                folders.clear()
                continue
            entered.add(real)
            folders.sort()
            for name in sorted(names):
                path = Path(place, name)
                yield path.relative_to(self._root).as_posix(), path

    def _file(self, vid: str, entry: Path) -> VideoFile:
        """Return the file at a path."""
        try:
            found = entry.stat()
        except OSError as error:
            raise VideoMissingError(f"{entry} cannot be read ({error.strerror}); replace it") from None
        if not stat.S_ISREG(found.st_mode):
            raise VideoMissingError(f"{entry} is no file; replace it by the video")
        if not self.allow_links and not entry.resolve().is_relative_to(self._root):
            raise VideoMissingError(
                f"{entry} is a link that leads out of the video folder; copy the file there or pass allow_links=True"
            )
        return VideoFile(vid, entry, found.st_size, found.st_mtime_ns)


def _suffix(name: str) -> str:
    """Return the suffix of a name in lower case."""
    return PurePosixPath(name).suffix.lower()
