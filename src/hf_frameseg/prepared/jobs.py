"""Decode many videos into parts, several at a time, each no more than once.

Every thread drives a process of its own: decoding and JPEG encoding hold Python's lock. The processes are started anew,
not forked: they hold no lock of the parent and end with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from hf_frameseg._text import printable
from hf_frameseg.prepared.one_video import prepare_video
from hf_frameseg.prepared.parts import Parts
from hf_frameseg.prepared.report import Failure
from hf_frameseg.prepared.sources.archive import ArchiveError, unpack_in_order
from hf_frameseg.prepared.sources.folder import VideoFile
from hf_frameseg.video.file import VideoReadError
from hf_frameseg.video.settings import FrameSettings
from hf_frameseg.video.worker import WorkerError, check_num_processes, thread_worker

Item = TypeVar("Item")
Result = TypeVar("Result")

_WATCHDOG_SECONDS = 24 * 3600.0  # each reader has a limit of its own; this one is for a drive that never answers
_MAX_CRASHES = 2  # libraries crash in processes below; this one is killed by others, e.g. when memory runs out


@dataclass(frozen=True)
class VideoJob:
    """Hold what is to be decoded.

    Args:
        key: Name of the part that will hold the columns.
        file: The video.
        duration_seconds: Annotated length.
        frames: What to keep of it.
        frame_format: How frames are stored, see `prepare_video`.
    """

    key: str
    file: VideoFile
    duration_seconds: float
    frames: FrameSettings
    frame_format: str


def run_jobs(jobs: Sequence[VideoJob], parts: Parts, num_proc: int | None) -> Iterator[tuple[VideoJob, Failure | None]]:
    """Decode videos into parts.

    Args:
        jobs: What to decode. A compressed archive sets the order, else it is this one.
        parts: Where to.
        num_proc: Processes that decode; None and 1 decode in this process.

    Yields:
        Each job when it is done, with its failure if it failed. Stopping the iteration stops the work.

    Raises:
        CacheError: If a part cannot be written.
        ValueError: If there cannot be so many processes.
    """
    num_proc = check_num_processes("num_proc", num_proc)
    readable = unpack_in_order([job.file for job in jobs], parts.scratch)
    ready = (replace(jobs[number], file=file) for number, file in readable)
    if num_proc == 1:
        yield from ((job, _prepare(job, parts)) for job in ready)
    else:
        yield from run_threads(lambda job: _prepare_apart(job, parts), ready, num_proc)


def prepare_columns(job: VideoJob, scratch: Path) -> dict[str, Any] | Failure:
    """Decode one video.

    Args:
        job: The video.
        scratch: Folder for what is written on the way.

    Returns:
        What `prepare_video` returns, or why there is nothing.
    """
    try:
        with job.file.on_disk(scratch) as path:
            return prepare_video(path, job.duration_seconds, job.frames, job.frame_format)
    except VideoReadError as error:
        return Failure(str(error), error.attempts)
    # Others, such as no memory for a new process, are not this video's fault.
    except (FileNotFoundError, PermissionError, ArchiveError) as error:
        return Failure(printable(f"{job.file.name}: {error.strerror or error}"))


def _prepare(job: VideoJob, parts: Parts) -> Failure | None:
    """Decode one video into its part."""
    columns = prepare_columns(job, parts.scratch)
    if isinstance(columns, Failure):
        return columns
    parts.write(job.key, columns)
    return None


def _prepare_apart(job: VideoJob, parts: Parts) -> Failure | None:
    """Decode one video into its part in this thread's process."""
    for _ in range(_MAX_CRASHES):
        try:
            worker = thread_worker(_import_libraries)
            return worker.call(_prepare, job, parts, timeout_seconds=_WATCHDOG_SECONDS)
        except WorkerError as error:
            reason = str(error)
    return Failure(printable(f"{job.file.name}: the process that prepares it {reason}"))


def run_threads(
    function: Callable[[Item], Result], items: Iterable[Item], num_threads: int
) -> Iterator[tuple[Item, Result]]:
    """Call a function on items in threads.

    Args:
        function: What to call.
        items: Its arguments; one is taken from there as soon as a thread is likely to be free for it.
        num_threads: Number of threads.

    Yields:
        Each item with its result, as they come. Stopping the iteration stops the work.
    """
    running: dict[Future[Result], Item] = {}
    pool = ThreadPoolExecutor(num_threads)
    try:
        for item in items:
            running[pool.submit(function, item)] = item
            if len(running) >= 2 * num_threads:
                yield from _take_finished(running)
        while running:
            yield from _take_finished(running)
    finally:
        pool.shutdown(cancel_futures=True)


def _take_finished(running: dict[Future[Result], Item]) -> list[tuple[Item, Result]]:
    """Wait for at least one call, and return what is finished."""
    finished, _ = wait(running, return_when=FIRST_COMPLETED)
    return [(running.pop(future), future.result()) for future in finished]


def _import_libraries() -> None:
    """Import in a new process what every video needs; importing this module did."""
