"""What a preparation finds out about videos, and the written report of those that gave no frames, or damaged ones."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hf_frameseg._text import printable
from hf_frameseg.prepared.cache import cache_errors
from hf_frameseg.records import read_json_lines, write_json_lines

logger = logging.getLogger(__name__)

Video = tuple[str, float]
"""vid and annotated duration: what the frames of a row depend on."""

FAILURES_FILE = "failures.jsonl"
"""Name of the report. It is in the cache folder, or beside it as `<folder>.failures.jsonl` if a failure was an error.

One JSON object per line: `split`, `vid`, `file` (null if there is none), `error`, `attempts` (each reader that was
tried, with its own error) and `queries`, how many queries are lost with the video. With `damaged="keep"` there is a
line for each video with damaged pictures, too: `damaged_share` says how many of the chosen ones; no query is lost.
"""


@dataclass(frozen=True)
class Failure:
    """Hold why a video gives no frames.

    Args:
        error: One line.
        attempts: Each reader that was tried, with its own error.
    """

    error: str
    attempts: tuple[tuple[str, str], ...] = ()


_MUCH = 1.1  # a file is much longer than annotated beyond this factor, and the tolerance


@dataclass
class Findings:
    """Collect what a preparation finds out about the videos.

    Args:
        failures: Why a video gives no frames.
        damaged: Share of damaged pictures that were kept.
        longer: Length in seconds of files that are much longer than annotated.
    """

    failures: dict[Video, Failure] = field(default_factory=dict)
    damaged: dict[Video, float] = field(default_factory=dict)
    longer: dict[Video, float] = field(default_factory=dict)

    def without_notes(self, video: Video, columns: dict[str, Any], tolerance_seconds: float) -> dict[str, Any]:
        """Note how long a file is and how much of it is damaged.

        Args:
            video: The video.
            columns: From `prepare_video`.
            tolerance_seconds: How much longer than annotated a file is allowed to be in any case.

        Returns:
            The columns without the notes, which are no columns of a row.
        """
        columns = dict(columns)
        if share := columns.pop("damaged_share", None):
            self.damaged[video] = share
        length = columns.pop("file_seconds", None)  # None: of a part that an earlier version left
        if length is not None and length > max(video[1] + tolerance_seconds, video[1] * _MUCH):
            self.longer[video] = length
        return columns

    def lines(self, queries: Mapping[str, Counter[Video]], files: Mapping[Video, str]) -> list[dict[str, Any]]:
        """Describe the failed and the damaged videos of every split.

        Args:
            queries: How many queries each split has about each video.
            files: Names of the files that are there.

        Returns:
            The lines of the report.
        """
        lines = []
        for split, counts in queries.items():
            for video in sorted(counts.keys() & self.failures.keys()):
                lines.append(failure_line(split, video[0], files.get(video), self.failures[video], counts[video]))
            for video in sorted(counts.keys() & self.damaged.keys()):
                kept = Failure(f"{self.damaged[video]:.1%} of the chosen pictures are damaged; they were kept")
                line = failure_line(split, video[0], files[video], kept, counts[video])
                lines.append({**line, "damaged_share": self.damaged[video]})
        return lines

    def warn_of_longer_files(self, queries: Counter[Video]) -> None:
        """Count the queries whose videos go on long after their annotated end, as with durations of another unit.

        Args:
            queries: How many queries there are about each video.
        """
        if self.longer:
            (vid, annotated), length = next(iter(self.longer.items()))
            logger.warning(
                "%d of %d videos (%d queries) last much longer than annotated, for example %s: %.1f s, annotated %g s; "
                "what lies behind the annotated end is not used; `frameseg verify` lists them",
                *(len(self.longer), len(queries), sum(queries[video] for video in self.longer)),
                *(printable(vid), length, annotated),
            )


def warn_of_failures(path: Path, on_error: str) -> None:
    """Count what a report lists, whenever the data set is opened.

    Args:
        path: The report, if there is one.
        on_error: What was done about videos that gave no frames: "blank" or "skip".
    """
    lines = read_failures(path)
    if kept := [line for line in lines if "damaged_share" in line]:
        logger.warning("videos with damaged pictures, which were kept: %d; see %s", len(kept), printable(path))
    if failures := [line for line in lines if "damaged_share" not in line]:
        queries = sum(failure["queries"] for failure in failures)
        what = "have black frames" if on_error == "blank" else "were left out"
        logger.warning(
            "missing or unreadable videos: %d (%d queries), which %s; see %s",
            *(len(failures), queries, what, printable(path)),
        )


def failure_line(split: str, vid: str, file: str | None, failure: Failure, num_queries: int) -> dict[str, Any]:
    """Return one line of the report as a dict.

    Args:
        split: The split.
        vid: The video.
        file: Its file, None if there is none.
        failure: What went wrong.
        num_queries: Queries of the split that need this video.

    Returns:
        What is written.
    """
    attempts = [{"reader": reader, "error": error} for reader, error in failure.attempts]
    return {
        "split": split,
        "vid": vid,
        "file": file,
        "error": failure.error,
        "attempts": attempts,
        "queries": num_queries,
    }


def write_failures(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    """Write the report.

    Args:
        path: The file.
        lines: From `failure_line`.

    Raises:
        CacheError: If it cannot be written.
    """
    with cache_errors(path.parent):
        write_json_lines(path, lines, ensure_ascii=False)


def read_failures(path: Path) -> list[dict[str, Any]]:
    """Read a report; there are no failures if there is none."""
    return read_json_lines(path) if path.is_file() else []
