"""Videos in a zip archive, which is never unpacked as a whole: any of them can be read from its place."""

from __future__ import annotations

import shutil
import stat
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_frameseg._text import printable
from hf_frameseg.prepared.sources.archive import (
    ArchivedVideo,
    ArchiveError,
    VideoArchive,
    archive_state,
    check_ratio,
    check_video_bytes,
    readable,
)
from hf_frameseg.prepared.sources.folder import VideoFile, VideoMissingError, VideoSource
from hf_frameseg.prepared.sources.memory import VideoMemory

_ENCRYPTED = 1  # bit of a member's flags
_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA}


def open_archive(place: str | Path, memory: VideoMemory | None = None) -> VideoSource[Any]:
    """Return the videos of an archive, whatever its kind.

    Args:
        place: A tar archive, compressed or not, or a zip archive.
        memory: What is known of the files; None remembers nothing.

    Returns:
        The videos.

    Raises:
        FileNotFoundError: If there is no such file.
        ArchiveError: If it is no archive.
    """
    return ZipArchive(place, memory) if zipfile.is_zipfile(place) else VideoArchive(place, memory)


@dataclass(frozen=True)
class ZippedVideo(ArchivedVideo):
    """Hold which member of a zip archive a video is."""

    @contextmanager
    def on_disk(self, scratch: Path) -> Iterator[Path]:
        """Write the member to a file, for as long as it is used."""
        with readable(self.path), zipfile.ZipFile(self.path) as archive, archive.open(self.member) as content:
            unpacked = self.unpack(content, scratch)
        try:
            yield unpacked
        finally:
            shutil.rmtree(unpacked.parent, ignore_errors=True)


class ZipArchive(VideoSource[zipfile.ZipInfo]):
    """List the videos of a zip archive.

    Args:
        place: The archive.
        memory: What is known of the files; None remembers nothing.

    Raises:
        ArchiveError: If it is damaged.
    """

    def __init__(self, place: str | Path, memory: VideoMemory | None = None) -> None:
        super().__init__(place, memory)
        self._archive = self.place.resolve()
        self._state = archive_state(self._archive, self.memory)

    def __str__(self) -> str:
        """Return what messages call the archive."""
        return f"the archive {printable(self.place)}"

    def fingerprint(self, vids: Iterable[str]) -> list[list[str | int]]:
        """Return the archive's own place, size, time and content."""
        return [[str(self._archive), *self._state]]

    def _list(self) -> Iterator[tuple[str, zipfile.ZipInfo]]:
        """List the members; of several with one name the last counts, as when unpacking."""
        with readable(self._archive), zipfile.ZipFile(self._archive) as archive:
            members = {member.filename: member for member in archive.infolist() if not member.is_dir()}
        yield from members.items()

    def _file(self, vid: str, entry: zipfile.ZipInfo) -> VideoFile:
        """Return a member as a file."""
        name = f"{printable(entry.filename)} in {self}"
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if kind not in (0, stat.S_IFREG):
            raise VideoMissingError(f"{name} is no ordinary file; put the video itself there")
        if entry.flag_bits & _ENCRYPTED:
            raise VideoMissingError(f"{name} is encrypted; unpack the archive into a folder")
        if entry.compress_type not in _METHODS:
            raise VideoMissingError(f"{name} is packed in a way that cannot be read; unpack the archive into a folder")
        check_video_bytes(entry.filename, str(self), entry.file_size)
        try:
            check_ratio(name, entry.file_size, entry.compress_size)
        except ArchiveError as error:
            raise VideoMissingError(str(error)) from None
        place = (entry.filename, entry.header_offset, 0, entry.file_size)
        return ZippedVideo(vid, self._archive, *self._state, *place, compressed=False)
