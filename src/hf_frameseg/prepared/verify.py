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
from itertools import chain
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
        counts = {}
        for kind in PROBLEMS:
            found = [one for one in self.problems if (one.split, one.problem) == (split, kind)]
            counts[kind] = (len({one.vid for one in found}), sum(one.queries for one in found))
        return counts

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
    vids = {split: list(dict.fromkeys(row["vid"] for row in of_split)) for split, of_split in rows.items()}
    found, missing = config.videos().locate(dict.fromkeys(chain(*vids.values())))
    lengths, unreadable = _probe_files(found, config, num_proc, progress)
    lost = {vid: ("missing", reason) for vid, reason in missing.items()}
    lost |= {vid: ("unreadable", reason) for vid, reason in unreadable.items()}
    problems = []
    for split, of_split in rows.items():
        # A video may have another duration in another row; its file is there for all of them, or for none.
        queries = Counter((row["vid"], None if row["vid"] in lost else float(row["duration"])) for row in of_split)
        for (vid, annotated), count in queries.items():
            name = found[vid].name if vid in found else None
            if annotated is None:
                problems.append(VideoProblem(split, vid, name, *lost[vid], count))
            elif abs(lengths[vid] - annotated) > config.frames.duration_tolerance_seconds:
                said = f"the file lasts {lengths[vid]:.2f} s, the annotations say {annotated:g} s"
                error = f"{printable(Path(found[vid].name).name)}: {said}"
                problems.append(VideoProblem(split, vid, name, "duration", error, count))
    counts = ({split: len(some) for split, some in of_splits.items()} for of_splits in (vids, rows))
    return Verification(*counts, tuple(problems))


def _probe_files(
    found: Mapping[str, VideoFile], config: FrameDatasetConfig, num_proc: int | None, progress: bool
) -> tuple[dict[str, float], dict[str, str]]:
    """Return vid -> how long its file lasts, and vid -> why it cannot be read."""
    from datasets.utils import tqdm

    num_proc = check_num_processes("num_proc", num_proc)
    lengths: dict[str, float] = {}
    unreadable: dict[str, str] = {}
    files = list(found.values())
    bar = tqdm(total=len(files), desc="Checking videos", unit=" videos", disable=not progress)
    with bar, tempfile.TemporaryDirectory() as folder:

        def probe(item: tuple[int, VideoFile]) -> float | str:
            return _probe(item[1], config, Path(folder))

        for (_, file), result in run_threads(probe, unpack_in_order(files, Path(folder)), num_proc):
            bar.update()
            if isinstance(result, str):
                unreadable[file.vid] = result
            else:
                lengths[file.vid] = result
    return lengths, unreadable


def _probe(file: VideoFile, config: FrameDatasetConfig, scratch: Path) -> float | str:
    """Return how long a file lasts, or why it cannot be read."""
    try:
        with file.on_disk(scratch) as path:
            return probe_duration(path, timeout_seconds=config.frames.timeout_seconds)
    except VideoReadError as error:
        return str(error)
    except OSError as error:
        return printable(f"{file.name}: {error.strerror or error}")
