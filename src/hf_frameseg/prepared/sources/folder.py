"""Where the videos of a data set are: vid -> file, in a folder or in the folders inside it.

A vid is looked up in a listing of the folder and never joined to a path, so no vid can lead out of it. A file belongs
to the vid that is its name without suffix, or with it, in whatever subfolder. Of several files for one vid the suffix
that comes first in `VIDEO_SUFFIXES` counts. Two with the same suffix are a failure of that video: nothing says which
one is meant.
"""

from __future__ import annotations

import hashlib
import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Generic, TypeVar

from hf_frameseg._text import printable
from hf_frameseg.prepared.sources.memory import VideoMemory
from hf_frameseg.video.file import VIDEO_SUFFIXES

_LONGEST_NEAR = 100  # characters of a vid
_NEAR_NAMES = 20  # of a source: each takes a look at all names
_ENDS_BYTES = 2**14  # of a file, at each end, that stand for its content


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
        content: Stands for its content, which may change under the same size and time; see `content_key`.
    """

    vid: str
    path: Path
    size_bytes: int
    mtime_ns: int
    content: str

    @property
    def name(self) -> str:
        """Return what reports call the file."""
        return str(self.path)

    def identity(self) -> list[str | int]:
        """Return what differs when the file is another one; JSON values."""
        return [str(self.path), self.size_bytes, self.mtime_ns, self.content]

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
        memory: What is known of the files; None remembers nothing.
    """

    def __init__(self, place: str | Path, memory: VideoMemory | None = None) -> None:
        self.place = Path(place)
        self.memory = VideoMemory(None) if memory is None else memory
        self._num_hints = 0

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
        if not entries and _suffix(vid) in VIDEO_SUFFIXES:
            stem = PurePosixPath(vid).stem
            entries = [entry for entry in self._entries.get(stem, []) if PurePosixPath(entry[0]).name == vid]
        if not entries:
            raise VideoMissingError(f"no such file in {self}{self._hint(vid)}")
        ranks = [VIDEO_SUFFIXES.index(_suffix(name)) for name, _ in entries]
        best = [entry for entry, rank in zip(entries, ranks, strict=True) if rank == min(ranks)]
        if len(best) > 1:
            names = printable(", ".join(name for name, _ in best))
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
            else:
                self._others.setdefault(PurePosixPath(name).stem, name)
        return entries

    @cached_property
    def _others(self) -> dict[str, str]:
        """Hold other files by their name without suffix; filled with the videos."""
        return {}

    @cached_property
    def _folded(self) -> dict[str, str]:
        """Return vids without upper case -> name of a file."""
        return {vid.casefold(): found[0][0] for vid, found in sorted(self._entries.items(), reverse=True)}

    def _hint(self, vid: str) -> str:
        """Name a file that may be meant."""
        if (other := self._folded.get(vid.casefold())) is not None:
            return f"; there is {printable(other)}, spelled with other upper and lower case"
        if vid in self._others:
            return f"; there is {printable(self._others[vid])}, whose suffix is none of a video's"
        near = self._near(vid)
        return f"; did you mean {printable(near)}?" if near else ""

    def _near(self, vid: str) -> str | None:
        """Return a file whose name is much like a vid, looked for a few times only."""
        self._num_hints += 1
        if self._num_hints > _NEAR_NAMES or not 3 <= len(vid) <= _LONGEST_NEAR:
            return None
        longer = [other for other in self._folded if vid.casefold() in other]
        close = longer or get_close_matches(vid.casefold(), self._folded, n=1, cutoff=0.8)
        return self._folded[min(close, key=len)] if close else None


def content_key(path: Path) -> str:
    """Return what differs when the content of a file is another one, in all likelihood: a checksum of its two ends.

    Containers keep there where each picture lies, so a video that was encoded anew differs, of whatever size and time.

    Args:
        path: The file.

    Returns:
        16 hexadecimal digits; empty if the file cannot be read, which is its reader's to say.
    """
    try:
        with path.open("rb") as file:
            ends = hashlib.sha256(file.read(_ENDS_BYTES))
            file.seek(max(file.seek(0, os.SEEK_END) - _ENDS_BYTES, 0))
            ends.update(file.read(_ENDS_BYTES))
    except OSError:
        return ""
    return ends.hexdigest()[:16]


class VideoFolder(VideoSource[Path]):
    """List the videos of a folder, nested or not.

    Args:
        place: The folder; it may itself be a link.
        allow_links: Follow links inside the folder to places outside it. Without, such a file counts as missing, and
            linked folders are not looked into.
        memory: What is known of the files; None remembers nothing.

    Raises:
        FileNotFoundError: If the folder does not exist.
    """

    def __init__(self, place: str | Path, allow_links: bool = False, memory: VideoMemory | None = None) -> None:
        super().__init__(place, memory)
        self.allow_links = allow_links
        if not self.place.is_dir():
            raise FileNotFoundError(
                f"no video folder at {printable(place)}; put the videos there as <vid>{VIDEO_SUFFIXES[0]}"
            )
        self._root = self.place.resolve()

    def __str__(self) -> str:
        """Return what messages call the folder."""
        return f"the video folder {printable(self.place)}"

    def fingerprint(self, vids: Iterable[str]) -> list[list[str | int]]:
        """Return places, sizes and times of the files."""
        found, _ = self.locate(vids)
        return [file.identity() for file in found.values()]

    def _list(self) -> Iterator[tuple[str, Path]]:
        """List the files below the folder."""

        def refuse(error: OSError) -> None:
            reason = f"cannot read the video folder {printable(error.filename)} ({error.strerror}); make it readable"
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
            raise VideoMissingError(f"{printable(entry)} cannot be read ({error.strerror}); replace it") from None
        if not stat.S_ISREG(found.st_mode):
            raise VideoMissingError(f"{printable(entry)} is no file; replace it by the video")
        if not self.allow_links and not entry.resolve().is_relative_to(self._root):
            reason = "is a link that leads out of the video folder; copy the file there or pass allow_links=True"
            raise VideoMissingError(f"{printable(entry)} {reason}")
        content = self.memory.recall(entry, found, "content", lambda: content_key(entry))
        return VideoFile(vid, entry, found.st_size, found.st_mtime_ns, content or "")


def _suffix(name: str) -> str:
    """Return the suffix of a name in lower case."""
    return PurePosixPath(name).suffix.lower()
