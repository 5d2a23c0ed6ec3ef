"""Where the videos are and what is kept of them: the settings of prepared data that need no `datasets`."""

from __future__ import annotations

from dataclasses import dataclass

from hf_frameseg._options import setting


@dataclass
class StorageSettings:
    """Say where the videos of a data set are and what is kept of them; the first part of a `FrameDatasetConfig`.

    Each field says in its `help` what it means; `frameseg prepare --help` shows the same texts.

    - `on_error`: "skip" leaves the queries of such a video out; "blank" keeps them, with black frames and
      `frames_missing` set. The videos are listed in `failures.jsonl` in any case.
    """

    video_dir: str | None = setting(
        None, "folder of the videos, nested or not, or a tar or zip archive, if not videos/ beside the data", "PATH"
    )
    allow_links: bool = setting(False, "follow links that lead out of the video folder")
    frame_format: str = setting("jpeg", "how frames are stored: jpeg (quality 95) or raw (for small ones)", "FORMAT")
    on_error: str = setting("raise", "missing or unreadable video: raise, skip or blank", "ACTION")
