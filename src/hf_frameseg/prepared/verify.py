"""What is wrong with the videos of a data set, found out without decoding more than their times need.

A video is *missing* (no file, or one that cannot be used), *unreadable* (its frames cannot be listed), or its
*duration* is further from the annotated one than the tolerance. A file that passes can still hold a damaged picture,
which only decoding finds.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hf_frameseg._text import printable
from hf_frameseg.prepared.config import FrameDatasetConfig
from hf_frameseg.prepared.jobs import run_threads
from hf_frameseg.prepared.sources.archive import unpack_in_order
from hf_frameseg.prepared.sources.folder import VideoFile
from hf_frameseg.video.file import VideoReadError
from hf_frameseg.video.read import probe_duration
from hf_frameseg.video.worker import check_num_processes

PROBLEMS = ("missing", "unreadable", "duration")
"""Kinds of problems."""


@dataclass(frozen=True)
class VideoProblem:
    """Hold what is wrong with one video of a split.

    Args:
        split: The split.
        vid: The video.
        file: Its file, None if there is none.
        problem: One of `PROBLEMS`.
        error: What is wrong, in one line.
        queries: How many queries of the split need the video.
    """

    split: str
    vid: str
    file: str | None
    problem: str
    error: str
    queries: int


@dataclass(frozen=True)
class Verification:
    """Hold the state of a data set's videos.

    Args:
        videos: Split -> number of its videos.
        queries: Split -> number of its queries.
        problems: What is wrong, by split in the order of the annotations.
    """

    videos: Mapping[str, int]
    queries: Mapping[str, int]
    problems: tuple[VideoProblem, ...]

    def counts(self, split: str) -> dict[str, tuple[int, int]]:
        """Count the problems of a split.

        Args:
            split: The split.

        Returns:
            Each of `PROBLEMS` -> (videos, queries).
        """
        found = {kind: [one for one in self.problems if (one.split, one.problem) == (split, kind)] for kind in PROBLEMS}
        return {kind: (len(some), sum(one.queries for one in some)) for kind, some in found.items()}

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values: `splits` with the counts, and `problems`."""
        splits = {}
        for split, num_videos in self.videos.items():
            counts = {
                kind: {"videos": videos, "queries": queries} for kind, (videos, queries) in self.counts(split).items()
            }
            splits[split] = {"videos": num_videos, "queries": self.queries[split], **counts}
        return {"splits": splits, "problems": [asdict(problem) for problem in self.problems]}


def verify_videos(config: FrameDatasetConfig, num_proc: int | None = None, progress: bool = False) -> Verification:
    """Look for the videos of a data set, list their frames and compare their durations; nothing is decoded.

    Args:
        config: The data set; `splits`, `video_dir`, `duration_tolerance_seconds` and `timeout_seconds` count.
        num_proc: Processes that read.
        progress: Show a bar on stderr.

    Returns:
        What was found.

    Raises:
        FileNotFoundError: If a folder or the annotations are not there.
        AnnotationError: If an annotation is wrong; the message names file and line.

    Example:
        Print what is wrong with the training videos::

            verification = verify_videos(QVHighlightsConfig(data_dir="QVH", splits=("train",)))
            for problem in verification.problems:
                print(problem.vid, problem.error, problem.queries)
    """
    rows = {split: config.annotations(split) for split in config.prepared_splits()}
    queries = {split: Counter(row["vid"] for row in of_split) for split, of_split in rows.items()}
    durations = {row["vid"]: float(row["duration"]) for of_split in rows.values() for row in of_split}
    found, missing = config.videos().locate(durations)
    problems = {vid: ("missing", reason) for vid, reason in missing.items()}
    problems |= _check_files(found, durations, config, num_proc, progress)
    files = {vid: file.name for vid, file in found.items()}
    return Verification(
        {split: len(counts) for split, counts in queries.items()},
        {split: len(of_split) for split, of_split in rows.items()},
        tuple(
            VideoProblem(split, vid, files.get(vid), *problems[vid], count)
            for split, counts in queries.items()
            for vid, count in counts.items()
            if vid in problems
        ),
    )


def _check_files(
    found: Mapping[str, VideoFile],
    durations: Mapping[str, float],
    config: FrameDatasetConfig,
    num_proc: int | None,
    progress: bool,
) -> dict[str, tuple[str, str]]:
    """Return vid -> (problem, what is wrong)."""
    from datasets.utils import tqdm

    num_proc = check_num_processes("num_proc", num_proc)
    problems: dict[str, tuple[str, str]] = {}
    files = list(found.values())
    bar = tqdm(total=len(files), desc="Checking videos", unit=" videos", disable=not progress)
    with bar, tempfile.TemporaryDirectory() as folder:

        def check(item: tuple[int, VideoFile]) -> tuple[str, str] | None:
            return _check(item[1], durations[item[1].vid], config, Path(folder))

        for (_, file), problem in run_threads(check, unpack_in_order(files, Path(folder)), num_proc):
            bar.update()
            if problem is not None:
                problems[file.vid] = problem
    return problems


def _check(file: VideoFile, duration: float, config: FrameDatasetConfig, scratch: Path) -> tuple[str, str] | None:
    """Return what is wrong with one file, if anything."""
    try:
        with file.on_disk(scratch) as path:
            found = probe_duration(path, timeout_seconds=config.frames.timeout_seconds)
    except VideoReadError as error:
        return "unreadable", str(error)
    except OSError as error:
        return "unreadable", printable(f"{file.name}: {error.strerror or error}")
    if abs(found - duration) <= config.frames.duration_tolerance_seconds:
        return None
    return "duration", f"{printable(path.name)}: the file lasts {found:.2f} s, the annotations say {duration:g} s"
