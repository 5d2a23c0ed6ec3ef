"""What is prepared from a data set of videos, and which cache it belongs to."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
from hf_frameseg._text import short
from hf_frameseg.annotations.schema import AnnotationError, check_duration, check_qid, check_text
from hf_frameseg.prepared.frame_columns import check_frame_format
from hf_frameseg.prepared.jobs import run_threads
from hf_frameseg.prepared.one_video import FORMAT_VERSION
from hf_frameseg.prepared.settings import StorageSettings
from hf_frameseg.prepared.sources.archive import unpack_in_order
from hf_frameseg.prepared.sources.folder import VideoFile, VideoFolder, VideoSource
from hf_frameseg.prepared.sources.memory import VideoMemory
from hf_frameseg.prepared.sources.zip import open_archive
from hf_frameseg.video.file import VideoReadError
from hf_frameseg.video.read import probe_duration
from hf_frameseg.video.settings import FrameSettings

ON_ERROR = ("raise", "skip", "blank")
"""What to do about a missing or unreadable video."""

SPLIT_NAME = re.compile(r"\w+(\.\w+)*")
"""What a split may be called; files are named after it."""


@dataclass
class FrameDatasetConfig(StorageSettings, datasets.BuilderConfig):
    """Say what to prepare. Everything here, the annotations and the video files' sizes and times key the cache.

    A data set overrides `split_names` and `read_split`, and `video_place` if its videos lie elsewhere. The fields that
    `StorageSettings` documents come first.

    Args:
        data_dir: Folder with the annotation files and `videos/`.
        splits: Splits to prepare; None takes those whose annotations are there.
        frames: Which frames stand for a video, at what size, and how files are read.
        memory_dir: Folder in which to remember how long video files are, and what stands for their content; a builder
            takes its cache. None asks the files every time.
    """

    version: datasets.Version | str | None = FORMAT_VERSION
    splits: tuple[str, ...] | None = None
    frames: FrameSettings = FrameSettings()
    memory_dir: str | None = None
    _annotations: dict[str, list[dict[str, Any]]] = field(default_factory=dict, init=False, repr=False)
    _videos: VideoSource[Any] | None = field(default=None, init=False, repr=False)
    _known: VideoMemory | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        """Check the choices."""
        super().__post_init__()
        if not isinstance(self.frames, FrameSettings):
            raise ValueError(f"expected frames to be FrameSettings(...), got {short(self.frames)}")
        check_frame_format(self.frame_format)
        if self.on_error not in ON_ERROR:
            raise ValueError(f"expected on_error to be one of {list(ON_ERROR)}, got {self.on_error!r}")
        if self.data_dir is None:
            raise ValueError("data_dir is missing; pass the folder that holds the annotation files and videos/")
        names = () if self.splits is None else self.splits  # a text would be taken for its letters
        if isinstance(names, str) or not all(isinstance(one, str) and SPLIT_NAME.fullmatch(one) for one in names):
            raise ValueError(
                f"expected splits to be names such as ('train', 'val'), got {short(self.splits)}; of slices, load the "
                "whole split and select rows of it"
            )

    def split_names(self) -> tuple[str, ...]:
        """Return the splits whose annotations are there; a data set overrides this.

        Raises:
            FileNotFoundError: If there are none.
        """
        raise NotImplementedError(f"{type(self).__name__} has to say which splits there are")

    def read_split(self, split: str) -> list[dict[str, Any]]:
        """Read the annotations of a split; a data set overrides this.

        Args:
            split: What the user asked for, or one of `split_names`.

        Returns:
            One dict per query, in file order: `qid` (int64 or text, unique), `query`, `vid`, `duration` (seconds),
            `relevant_windows`, `relevant_clip_ids`, `saliency_scores` (empty lists where there are no labels), and
            `saliency_source` if the ratings are not the annotators'.
        """
        raise NotImplementedError(f"{type(self).__name__} has to read the annotations of a split")

    def video_place(self) -> Path:
        """Return the folder or archive of the videos; a data set with another layout overrides this."""
        return Path(self.video_dir) if self.video_dir is not None else Path(self.data_dir) / "videos"

    def prepared_splits(self) -> tuple[str, ...]:
        """Return the splits that will be prepared."""
        return self.split_names() if self.splits is None else tuple(self.splits)

    def annotations(self, split: str) -> list[dict[str, Any]]:
        """Return the rows of a split in the order of its annotations, read once."""
        if split not in self._annotations:
            rows = self.read_split(split)
            for row in rows:
                _check_row(row, split)
            self._annotations[split] = rows
        return self._annotations[split]

    def has_text_qids(self) -> bool:
        """Tell whether the query ids are texts; splits in one data set have one kind.

        Raises:
            AnnotationError: If some are texts and some are numbers.
        """
        kinds = {
            isinstance(row["qid"], str): (split, row["qid"])
            for split in self.prepared_splits()
            for row in self.annotations(split)
        }
        if len(kinds) > 1:
            (first, number), (second, text) = kinds[False], kinds[True]
            raise AnnotationError(
                f"expected qids of one kind, got {number} in {first} and {text!r} in {second}; write all of them as "
                "whole numbers or all as texts, or load the splits one by one"
            )
        return True in kinds

    def has_fractional_ratings(self) -> bool:
        """Tell whether a rating is no whole number, as means of other scales are."""
        rows = (row for split in self.prepared_splits() for row in self.annotations(split))
        return any(isinstance(rating, float) for row in rows for clip in row["saliency_scores"] for rating in clip)

    def videos(self) -> VideoSource[Any]:
        """Return where the videos are, listed once."""
        if self._videos is None:
            place, memory = self.video_place(), self._memory()
            if place.is_file():
                self._videos = open_archive(place, memory)
            else:
                self._videos = VideoFolder(place, self.allow_links, memory)
        return self._videos

    def _memory(self) -> VideoMemory:
        """Return what is known of the videos, read once."""
        if self._known is None:
            self._known = VideoMemory(self.memory_dir)
        return self._known

    def file_durations(self, vids: list[str]) -> dict[str, float]:
        """Ask the files how long they are, for annotations that do not say it; nothing is decoded.

        Args:
            vids: Names of videos.

        Returns:
            vid -> seconds, without those that are missing or unreadable.
        """
        found, _ = self.videos().locate(vids)
        memory, durations = self._memory(), {}
        states = {vid: (Path(file.name), file.path.stat()) for vid, file in found.items()}
        for vid, state in states.items():
            durations[vid] = memory.known(*state, "duration")
        files = [file for vid, file in found.items() if not isinstance(durations[vid], float)]
        with tempfile.TemporaryDirectory() as folder:
            scratch = Path(folder)
            readable = unpack_in_order(files, scratch)
            probes = run_threads(
                lambda item: _probe(item[1], scratch, self.frames.timeout_seconds), readable, os.cpu_count() or 1
            )
            for (number, _), seconds in probes:
                vid = files[number].vid
                durations[vid] = seconds
                memory.remember(*states[vid], "duration", seconds)
        memory.save()
        return {vid: seconds for vid, seconds in durations.items() if seconds is not None}

    def frames_key(self) -> dict[str, Any]:
        """Return what the columns of a readable video depend on, besides the file and its duration; JSON values."""
        return {"format_version": FORMAT_VERSION, "frame_format": self.frame_format, **self.frames.key()}

    def readable(self) -> str:
        """Return what a folder's name shows of the choices, e.g. `25f-378px-jpeg`."""
        return f"{self.frames.readable()}-{self.frame_format}"

    def create_config_id(self, config_kwargs: dict[str, Any], custom_features: datasets.Features | None = None) -> str:
        """Return the cache folder's name: readable parts, and a hash of everything that matters.

        Args:
            config_kwargs: Ignored: equal content must give equal names however it was asked for.
            custom_features: Not supported, the columns are fixed.

        Returns:
            E.g. `val-25f-378px-jpeg-0123456789abcdef`.

        Raises:
            ValueError: If `custom_features` is given.
        """
        if custom_features is not None:
            raise ValueError("the columns are fixed; use dataset.cast(features) on the result")
        splits = "-".join(self.prepared_splits())
        return f"{splits}-{self.readable()}-{digest(self._fingerprint())}"

    def _fingerprint(self) -> dict[str, Any]:
        """Collect everything that the cache's content depends on."""
        rows = {split: self.annotations(split) for split in self.prepared_splits()}
        vids = sorted({row["vid"] for split_rows in rows.values() for row in split_rows})
        return {
            **self.frames_key(),
            "on_error": self.on_error,
            "timeout_seconds": self.frames.timeout_seconds,
            "annotations": rows,
            "videos": self._video_fingerprint(vids),
        }

    def _video_fingerprint(self, vids: list[str]) -> list[list[str | int]]:
        """Return what differs when one of these videos is another one."""
        fingerprint = self.videos().fingerprint(vids)
        self._memory().save()
        return fingerprint


def _check_row(row: dict[str, Any], split: str) -> None:
    """Refuse what would stop a preparation hours later, whoever has read the row."""
    try:
        check_qid(row["qid"])
        check_text("query", row["query"])
        check_text("vid", row["vid"])
        check_duration(row["duration"])
    except ValueError as error:
        raise AnnotationError(f"{split}: qid {row['qid']}: {error}") from None


def _probe(file: VideoFile, scratch: Path, timeout_seconds: float | None) -> float | None:
    """Return the length of a video, None if it cannot be read."""
    with suppress(VideoReadError, OSError), file.on_disk(scratch) as path:
        return probe_duration(path, timeout_seconds=timeout_seconds)
    return None


def digest(value: Any) -> str:
    """Return 16 hexadecimal digits that stand for a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
