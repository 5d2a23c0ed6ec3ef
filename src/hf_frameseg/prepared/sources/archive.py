"""Videos in a tar archive, which is never unpacked as a whole.

A plain `.tar` is listed by jumping from header to header, and any video can be read from its place. A compressed one
(`.tar.gz`, `.tgz`, `.tar.bz2`, `.tar.xz`) can only be read from its start: once to list it, and once more, one video
after another, to decode. Where a member would go when unpacked does not matter here: only its name makes it a video.

What an archive claims is not trusted: no header makes this read more into memory than names take, no video is written
that does not fit on the disk, and what unpacks to a hundred times its size is refused, as videos do not.
"""

from __future__ import annotations

import errno
import gzip
import lzma
import os
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import IO

from hf_frameseg._text import printable
from hf_frameseg.prepared.cache import CacheError, cache_errors
from hf_frameseg.prepared.sources.folder import VideoFile, VideoMissingError, VideoSource, content_key
from hf_frameseg.prepared.sources.memory import VideoMemory

_COPY_BYTES = 2**20
_MAX_NAME_BYTES = 200  # file systems allow 255 and need some for themselves
_DAMAGED = (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, zipfile.BadZipFile)
_NONSENSE = (
    ValueError,
    OverflowError,
    IndexError,
    KeyError,
    RuntimeError,
    MemoryError,
)  # sizes and fields that are none

MAX_VIDEO_BYTES = 16 * 2**30
"""Size of a video in an archive; more is refused."""

MAX_RATIO = 100
"""How many times its own size an archive, or a video in it, may unpack to, from `_FREE_BYTES` on."""

_FREE_BYTES = 2**30  # what may be unpacked whatever the ratio, and what stays free on the disk
MAX_HEADER_BYTES = 2**20  # of a member's long name and other fields
MAX_MEMBERS = 5_000_000
_OTHER = "use another archive, or a folder"
_LONG_HEADERS = {
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
}


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
            if self.length > shutil.disk_usage(scratch).free - _FREE_BYTES:
                raise OSError(errno.ENOSPC, f"no room for {self.length} bytes of {printable(self.member)}")
            path = Path(tempfile.mkdtemp(dir=scratch), name)
            file = path.open("wb")
        try:
            self._copy(content, file, scratch)
        except BaseException:
            shutil.rmtree(path.parent, ignore_errors=True)
            raise
        return path

    def _copy(self, content: IO[bytes], file: IO[bytes], scratch: Path) -> None:
        """Copy the member's content into a file, and close it."""
        with file:
            missing = self.length
            while missing:
                piece = content.read(min(missing, _COPY_BYTES))
                if not piece:
                    raise ArchiveError(
                        f"{printable(self.path)} ends in the middle of {printable(self.member)}; download it again"
                    )
                missing -= len(piece)
                with cache_errors(scratch):
                    file.write(piece)
                    file.flush()


class VideoArchive(VideoSource[tarfile.TarInfo]):
    """List the videos of a tar archive.

    Args:
        place: The archive.
        memory: What is known of the files; None remembers nothing.

    Raises:
        FileNotFoundError: If there is no such file.
        ArchiveError: If it is no tar archive.
    """

    def __init__(self, place: str | Path, memory: VideoMemory | None = None) -> None:
        super().__init__(place, memory)
        if not self.place.is_file():
            raise FileNotFoundError(f"no video archive at {place}; check the path")
        self._archive = self.place.resolve()
        with readable(self._archive):
            self._compressed = not _is_plain_tar(self._archive)
            if self._compressed:
                _open(self._archive, "r|*").close()
        self._state = archive_state(self._archive, self.memory)

    def __str__(self) -> str:
        """Return what messages call the archive."""
        return f"the archive {printable(self.place)}"

    def fingerprint(self, vids: Iterable[str]) -> list[list[str | int]]:
        """Return the archive's own place, size and time: listing it can take minutes."""
        return [[str(self._archive), *self._state]]

    def _list(self) -> Iterator[tuple[str, tarfile.TarInfo]]:
        """List the members; of several with one name the last counts, as when unpacking."""
        from datasets.utils import tqdm  # here: processes that decode do without `datasets`

        members: dict[str, tarfile.TarInfo] = {}
        bar = tqdm(desc=f"Listing {printable(self.place.name)}", unit=" files", disable=not self._compressed)
        with readable(self._archive), bar, _open(self._archive, "r|*" if self._compressed else "r:") as archive:
            while (member := archive.next()) is not None:
                archive.members.clear()  # a list of all of them, which nobody needs
                self._check(member, bar.n)
                if PurePosixPath(member.name).suffix:
                    members[member.name] = member
                bar.update()
        yield from members.items()

    def _check(self, member: tarfile.TarInfo, number: int) -> None:
        """Refuse an archive that claims what no archive of videos holds."""
        end = member.offset_data + member.size
        if member.size < 0 or number >= MAX_MEMBERS:
            raise ArchiveError(
                f"{self} claims {'a negative size' if member.size < 0 else 'millions of members'}; {_OTHER}"
            )
        if self._compressed:
            check_ratio(str(self), end, self._state[0])
        elif end > self._state[0]:
            claim = f"{printable(member.name)} claims {member.size} bytes, more than follow"
            raise ArchiveError(f"cannot read the archive {printable(self.place)} ({claim}); download it again")

    def _file(self, vid: str, entry: tarfile.TarInfo) -> VideoFile:
        """Return a member as a file."""
        if not entry.isreg() or entry.issparse():
            raise VideoMissingError(
                f"{printable(entry.name)} in {self} is no ordinary file; put the video itself there"
            )
        check_video_bytes(entry.name, str(self), entry.size)
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
    with readable(path), _open(path, "r|*") as archive:
        while wanted and (member := archive.next()) is not None:
            archive.members.clear()
            first, *others = wanted.pop(member.offset, [None])
            if first is not None:
                yield first, replace(files[first], unpacked=files[first].unpack(archive.extractfile(member), scratch))
            yield from ((number, files[number]) for number in others)  # one video with two annotated lengths


def archive_state(path: Path, memory: VideoMemory) -> tuple[int, int, str]:
    """Return size, time of change and content key of an archive.

    Args:
        path: The archive.
        memory: What is known of it.

    Returns:
        What differs when it is another one.
    """
    found = path.stat()
    return found.st_size, found.st_mtime_ns, memory.recall(path, found, "content", lambda: content_key(path)) or ""


def check_video_bytes(member: str, archive: str, num_bytes: int) -> None:
    """Refuse a video that is too large to be unpacked.

    Args:
        member: Its name.
        archive: What messages call its archive.
        num_bytes: Its size.

    Raises:
        VideoMissingError: If it is.
    """
    if num_bytes > MAX_VIDEO_BYTES:
        raise VideoMissingError(
            f"{printable(member)} in {archive} has {num_bytes} bytes, more than {MAX_VIDEO_BYTES}; use a folder"
        )


def check_ratio(what: str, unpacked_bytes: int, packed_bytes: int) -> None:
    """Refuse what unpacks to many times its size: videos, which are compressed already, do not.

    Args:
        what: What messages call it.
        unpacked_bytes: Size that is claimed, or reached.
        packed_bytes: Size as it lies there.

    Raises:
        ArchiveError: If it does.
    """
    if unpacked_bytes > max(_FREE_BYTES, MAX_RATIO * packed_bytes):
        raise ArchiveError(
            f"{what} unpacks to {unpacked_bytes} bytes or more, over {MAX_RATIO} times its size; {_OTHER}"
        )


class _Member(tarfile.TarInfo):
    """A member whose further headers are no larger than names are: they are read into memory."""

    @classmethod
    def frombuf(cls, buf: bytes, encoding: str, errors: str) -> tarfile.TarInfo:
        """Return the member that a header describes."""
        member = super().frombuf(buf, encoding, errors)
        if member.size < 0 or (member.type in _LONG_HEADERS and member.size > MAX_HEADER_BYTES):
            raise ArchiveError(f"a header claims a size of {member.size} bytes")
        return member


def _open(path: Path, mode: str) -> tarfile.TarFile:
    """Open a tar archive."""
    return tarfile.open(path, mode, tarinfo=_Member)


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Say in one line what is wrong with an archive."""
    try:
        yield
    except (ArchiveError, CacheError, VideoMissingError) as error:
        if not str(error).startswith("a header claims"):
            raise
        raise ArchiveError(f"cannot read the archive {printable(path)} ({error}); {_OTHER}") from None
    except (*_DAMAGED, *_NONSENSE) as error:
        reason = printable(" ".join(str(error).split())) or type(error).__name__
        raise ArchiveError(f"cannot read the archive {printable(path)} ({reason:.200}); download it again") from error


def _is_plain_tar(path: Path) -> bool:
    """Tell whether a tar archive is not compressed."""
    try:
        _open(path, "r:").close()
    except tarfile.ReadError:
        return False
    return True
