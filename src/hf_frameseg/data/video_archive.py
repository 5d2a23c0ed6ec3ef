"""Videos in a tar archive, which is never unpacked as a whole.

A plain `.tar` is listed by jumping from header to header, and any video can be read from its place. A compressed one
(`.tar.gz`, `.tgz`, `.tar.bz2`, `.tar.xz`) can only be read from its start: once to list it, and once more, one video
after another, to decode. Where a member would go when unpacked does not matter here: only its name makes it a video.
"""

from __future__ import annotations

import gzip
import lzma
import os
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import IO

from hf_frameseg.data.cache import cache_errors
from hf_frameseg.data.video_folder import VideoFile, VideoMissingError, VideoSource

_COPY_BYTES = 2**20
_MAX_NAME_BYTES = 200  # file systems allow 255 and need some for themselves
_DAMAGED = (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile)


class ArchiveError(OSError):
    """Say in one line why an archive cannot be read."""


@dataclass(frozen=True)
class ArchivedVideo(VideoFile):
    """Hold which member of an archive a video is; `path`, `size_bytes` and `mtime_ns` are the archive's.

    Args:
        member: Name of the member.
        header: Where its header starts in the uncompressed archive.
        start: Where its content starts.
        length: Bytes of its content.
        compressed: Whether the archive has to be read from its start.
        unpacked: The content as a file of its own, deleted after its use; None reads it from the archive.
    """

    member: str
    header: int
    start: int
    length: int
    compressed: bool
    unpacked: Path | None = None

    @property
    def name(self) -> str:
        """Return what reports call the file."""
        return f"{self.path}:{self.member}"

    def identity(self) -> list[str | int]:
        """Return what differs when the video is another one."""
        return [*super().identity(), self.member, self.header]

    @contextmanager
    def on_disk(self, scratch: Path) -> Iterator[Path]:
        """Write the member to a file, for as long as it is used."""
        unpacked = self.unpacked
        if unpacked is None and self.compressed:
            ((_, file),) = unpack_in_order([self], scratch)
            unpacked = file.unpacked
        elif unpacked is None:
            with self.path.open("rb") as archive:
                archive.seek(self.start)
                unpacked = self.unpack(archive, scratch)
        try:
            yield unpacked
        finally:
            shutil.rmtree(unpacked.parent, ignore_errors=True)

    def unpack(self, content: IO[bytes], scratch: Path) -> Path:
        """Write the member's content to a file of its own.

        Args:
            content: Stream at its start.
            scratch: Folder to write in; made if it is not there.

        Returns:
            The file, alone in a new folder.

        Raises:
            ArchiveError: If the archive ends too early.
            CacheError: If the file cannot be written.
        """
        name = PurePosixPath(self.member).name
        if "\0" in name or len(os.fsencode(name)) > _MAX_NAME_BYTES:
            name = f"video{PurePosixPath(name).suffix}"
        with cache_errors(scratch):
            scratch.mkdir(parents=True, exist_ok=True)
            path = Path(tempfile.mkdtemp(dir=scratch), name)
            file = path.open("wb")
        with file:
            missing = self.length
            while missing:
                piece = content.read(min(missing, _COPY_BYTES))
                if not piece:
                    raise ArchiveError(f"{self.path} ends in the middle of {self.member}; download it again")
                missing -= len(piece)
                with cache_errors(scratch):
                    file.write(piece)
                    file.flush()
        return path


class VideoArchive(VideoSource[tarfile.TarInfo]):
    """List the videos of a tar archive.

    Args:
        place: The archive.

    Raises:
        FileNotFoundError: If there is no such file.
        ArchiveError: If it is no tar archive.
    """

    def __init__(self, place: str | Path) -> None:
        super().__init__(place)
        if not self.place.is_file():
            raise FileNotFoundError(f"no video archive at {place}; check the path")
        self._archive = self.place.resolve()
        with _readable(self._archive):
            self._compressed = not _is_plain_tar(self._archive)
            if self._compressed:
                tarfile.open(self._archive, "r|*").close()
        found = self._archive.stat()
        self._state = (found.st_size, found.st_mtime_ns)

    def __str__(self) -> str:
        """Return what messages call the archive."""
        return f"the archive {self.place}"

    def fingerprint(self, vids: Iterable[str]) -> list[list[str | int]]:
        """Return the archive's own place, size and time: listing it can take minutes."""
        return [[str(self._archive), *self._state]]

    def _list(self) -> Iterator[tuple[str, tarfile.TarInfo]]:
        """List the members; of several with one name the last counts, as when unpacking."""
        from datasets.utils import tqdm  # here: processes that decode do without `datasets`

        members: dict[str, tarfile.TarInfo] = {}
        bar = tqdm(desc=f"Listing {self.place.name}", unit=" files", disable=not self._compressed)
        with _readable(self._archive), bar, tarfile.open(self._archive, "r|*" if self._compressed else "r:") as archive:
            while (member := archive.next()) is not None:
                members[member.name] = member
                bar.update()
        yield from members.items()

    def _file(self, vid: str, entry: tarfile.TarInfo) -> VideoFile:
        """Return a member as a file."""
        if not entry.isreg() or entry.issparse():
            raise VideoMissingError(f"{entry.name} in {self} is no ordinary file; put the video itself there")
        place = (entry.name, entry.offset, entry.offset_data, entry.size)
        return ArchivedVideo(vid, self._archive, *self._state, *place, self._compressed)


def unpack_in_order(files: Sequence[VideoFile], scratch: Path) -> Iterator[tuple[int, VideoFile]]:
    """Give videos in an order in which they can be read, those of a compressed archive unpacked one after another.

    Args:
        files: Videos of one source.
        scratch: Folder for what is unpacked. At most as much lies there as is asked for ahead of use.

    Yields:
        Number of each file in `files`, and the file.

    Raises:
        ArchiveError: If the archive is damaged.
        CacheError: If a file cannot be written.
    """
    archived = [(file.header, number) for number, file in enumerate(files) if isinstance(file, ArchivedVideo)]
    compressed = [number for _, number in archived if files[number].compressed]
    if not compressed:
        order = [number for _, number in sorted(archived)] or range(len(files))
        yield from ((number, files[number]) for number in order)
        return
    wanted: dict[int, list[int]] = {}
    for number in compressed:
        wanted.setdefault(files[number].header, []).append(number)
    path = files[compressed[0]].path
    with _readable(path), tarfile.open(path, "r|*") as archive:
        while wanted and (member := archive.next()) is not None:
            first, *others = wanted.pop(member.offset, [None])
            if first is not None:
                yield first, replace(files[first], unpacked=files[first].unpack(archive.extractfile(member), scratch))
            yield from ((number, files[number]) for number in others)  # one video with two annotated lengths


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Say in one line what is wrong with an archive."""
    try:
        yield
    except _DAMAGED as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ArchiveError(f"cannot read the archive {path} ({reason}); download it again") from error


def _is_plain_tar(path: Path) -> bool:
    """Tell whether a tar archive is not compressed."""
    try:
        tarfile.open(path, "r:").close()
    except tarfile.ReadError:
        return False
    return True
