"""The written report of the videos that gave no frames."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_frameseg.prepared.cache import cache_errors
from hf_frameseg.records import read_json_lines, write_json_lines

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
