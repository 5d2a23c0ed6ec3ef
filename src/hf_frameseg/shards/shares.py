"""Preparation on many machines: each decodes a share of the videos, then any of them puts the data set together.

All machines need the same view of the data folder and of the cache folder (a shared disk). `decode_share` leaves
finished videos where the builder looks for them. So the builder, called last, decodes nothing and makes the very data
set that one machine would have made. What starts the shares does not matter; `examples/prepare_many_machines.py` uses
datatrove.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_frameseg._text import printable
from hf_frameseg.prepared.builder import FrameDatasetBuilder
from hf_frameseg.prepared.jobs import run_jobs
from hf_frameseg.shards.files import save_shards
from hf_frameseg.video.file import VideoReadError
from hf_frameseg.video.worker import end_with_parent

logger = logging.getLogger(__name__)


def decode_share(builder: FrameDatasetBuilder, rank: int, world_size: int, num_proc: int | None = None) -> int:
    """Decode every `world_size`-th video of a data set that is not finished yet.

    A share that was killed goes on with its next video when it is called again. Shares may run at the same time, but
    not together with the builder.

    Args:
        builder: Builder of the data set; the same arguments everywhere.
        rank: Number of the share, from 0.
        world_size: Number of shares; a later call may cut the same work into another number.
        num_proc: Processes that decode.

    Returns:
        How many videos were decoded.

    Raises:
        CacheError: If the cache cannot be written.
        FileNotFoundError: If (with `on_error="raise"`) a video is not there.
        VideoReadError: If (with `on_error="raise"`) a video cannot be read; the others of the share are finished then.
            Otherwise it is logged, and the builder tries it once more before it reports it.
        ValueError: If there is no such share.
    """
    if not 0 <= rank < world_size:
        raise ValueError(f"expected a rank from 0 to {world_size - 1}, got {rank}")
    if builder.is_prepared():
        return 0
    jobs, parts = list(builder.plan().values()), builder.parts()
    builder.refuse_missing()
    parts.claim(job.key for job in jobs)
    todo = [job for job in jobs[rank::world_size] if not parts.path(job.key).is_file()]
    failed = []
    with closing(run_jobs(todo, parts, num_proc)) as results:
        for job, failure in results:
            if failure is not None:
                failed.append(printable(f"video {job.file.vid}: {failure.error}"))
                logger.warning(failed[-1])
    if failed and builder.config.on_error == "raise":
        raise VideoReadError(f"{failed[0]} ({len(failed)} of {len(todo)} in this share); pass on_error='skip'")
    return len(todo) - len(failed)


def task_folder(builder: FrameDatasetBuilder) -> Path:
    """Return where to note which shares are done: a folder that lives as long as their videos wait for the builder.

    Args:
        builder: Builder of the data set.

    Returns:
        A folder on the shared disk, which need not exist yet.
    """
    return builder.parts().tasks(builder.config_id)


@dataclass(frozen=True)
class DecodeShare:
    """Decode a share, as a step of an engine that calls `step(data, rank, world_size)` in processes of its own.

    A class of the package, since engines pickle their steps, and what a script defines cannot be found elsewhere.

    Args:
        builder_class: Builder of the data set.
        options: Its arguments.
    """

    builder_class: type[FrameDatasetBuilder]
    options: Mapping[str, Any]

    def __call__(self, data: Any = None, rank: int = 0, world_size: int = 1) -> None:
        """Decode share `rank` of `world_size`; `data` of an earlier step is not used."""
        if _in_pool():
            end_with_parent(os.getppid())
        decoded = decode_share(self.builder_class(**self.options), rank, world_size)
        logger.info("share %d of %d: %d videos decoded", rank, world_size, decoded)


def _in_pool() -> bool:
    """Tell whether an engine has started this process, by one of the two libraries that engines use for that."""
    libraries = [sys.modules.get(name) for name in ("multiprocessing", "multiprocess")]
    return any(library is not None and library.parent_process() is not None for library in libraries)


@dataclass(frozen=True)
class AssembleShares:
    """Put the data set together when all shares are decoded; a step like `DecodeShare`.

    Args:
        builder_class: Builder of the data set.
        options: Its arguments.
        split: Name of the split.
        output_dir: Where to write Parquet shards too; None writes none.
    """

    builder_class: type[FrameDatasetBuilder]
    options: Mapping[str, Any]
    split: str
    output_dir: str | None = None

    def __call__(self, data: Any = None, rank: int = 0, world_size: int = 1) -> None:
        """Write the data set."""
        dataset = self.builder_class(**self.options).load(self.split)
        if self.output_dir is not None:
            save_shards(dataset, self.output_dir, self.split)
