"""What is prepared from a QVHighlights-shaped folder, which cache it belongs to, and how one video becomes columns."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets

from hf_frameseg.data.annotations import ANNOTATION_FILES, find_annotations, find_videos, read_annotations
from hf_frameseg.data.frame_columns import check_frame_format, encode_frames
from hf_frameseg.data.sampling import VARIANT_OFFSET_FRAMES
from hf_frameseg.data.video import DEFAULT_NUM_FRAMES, DURATION_TOLERANCE_SECONDS, READERS, read_frames
from hf_frameseg.moments import FrameGrid

FORMAT_VERSION = "1.0.0"
"""Raise it whenever the content of the cache changes for the same input; old caches are then not used."""

ON_ERROR = ("raise", "skip")
"""What to do about a missing or unreadable video."""


@dataclass
class QVHighlightsConfig(datasets.BuilderConfig):
    """Say what to prepare. Everything here, the annotation files and the video files' sizes and times key the cache.

    Args:
        data_dir: Folder with the annotation files and `videos/`.
        video_dir: Folder of the videos if it is not `data_dir/videos`.
        splits: Splits to prepare; None takes those whose annotation file is there.
        num_frames: Frames F per video.
        frame_size: Side of the square the frames are squashed to, in pixels; None keeps the native size.
        frame_format: "jpeg" (quality 95) or "raw" (uint8, for small frames).
        variant_offset_frames: Distance of the left and right variants from the middle one in source frames.
        reader: "decord", "pyav" or "auto", see `read_frames`.
        on_error: "raise", or "skip" the queries of a missing or unreadable video and report them in `failures.jsonl`.
        duration_tolerance_seconds: How much shorter than annotated a file may be.
    """

    version: datasets.Version | str | None = FORMAT_VERSION
    video_dir: str | None = None
    splits: tuple[str, ...] | None = None
    num_frames: int = DEFAULT_NUM_FRAMES
    frame_size: int | None = None
    frame_format: str = "jpeg"
    variant_offset_frames: int = VARIANT_OFFSET_FRAMES
    reader: str = "decord"
    on_error: str = "raise"
    duration_tolerance_seconds: float = DURATION_TOLERANCE_SECONDS
    _annotations: dict[str, list[dict[str, Any]]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        """Check the choices."""
        super().__post_init__()
        check_frame_format(self.frame_format)
        _check_choice("on_error", self.on_error, ON_ERROR)
        _check_choice("reader", self.reader, (*READERS, "auto"))
        _check_at_least("num_frames", self.num_frames, 1)
        _check_at_least("variant_offset_frames", self.variant_offset_frames, 0)
        if self.frame_size is not None:
            _check_at_least("frame_size", self.frame_size, 1)
        if not self.duration_tolerance_seconds >= 0:
            raise ValueError(
                f"expected duration_tolerance_seconds of at least 0, got {self.duration_tolerance_seconds!r}"
            )
        if self.data_dir is None:
            raise ValueError("data_dir is missing; pass the folder that holds the annotation files and videos/")

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
            raise ValueError("the columns of QVHighlights are fixed; use dataset.cast(features) on the result")
        size = "native" if self.frame_size is None else f"{self.frame_size}px"
        splits = "-".join(self.prepared_splits())
        digest = hashlib.sha256(json.dumps(self._fingerprint(), sort_keys=True).encode()).hexdigest()[:16]
        return f"{splits}-{self.num_frames}f-{size}-{self.frame_format}-{digest}"

    def prepared_splits(self) -> tuple[str, ...]:
        """Return the splits that will be prepared."""
        if self.splits is not None:
            return tuple(self.splits)
        folder = Path(self.data_dir)
        present = [
            split for split, names in ANNOTATION_FILES.items() if any((folder / name).is_file() for name in names)
        ]
        if not present:
            find_annotations(self.data_dir, next(iter(ANNOTATION_FILES)))  # says what is missing
        return tuple(present)

    def videos(self) -> dict[str, Path]:
        """Return the video file of each vid."""
        return find_videos(self.video_dir or Path(self.data_dir) / "videos")

    def annotations(self, split: str) -> list[dict[str, Any]]:
        """Return the checked annotations of a split, in file order; only test ones may lack labels."""
        if split not in self._annotations:
            path = find_annotations(self.data_dir, split)
            self._annotations[split] = read_annotations(path, require_labels=split != "test")
        return self._annotations[split]

    def _fingerprint(self) -> dict[str, Any]:
        """Collect everything that the cache's content depends on."""
        rows = {split: self.annotations(split) for split in self.prepared_splits()}
        videos = self.videos()
        files = {}
        for vid in sorted({row["vid"] for split_rows in rows.values() for row in split_rows} & videos.keys()):
            stat = videos[vid].stat()
            files[vid] = [videos[vid].name, stat.st_size, stat.st_mtime_ns]
        choices = {
            name: getattr(self, name)
            for name in ("num_frames", "frame_size", "frame_format", "variant_offset_frames", "reader", "on_error")
        }
        return {
            **choices,
            "format_version": FORMAT_VERSION,
            "data_dir": str(Path(self.data_dir).resolve()),
            "video_dir": self.video_dir and str(Path(self.video_dir).resolve()),
            "duration_tolerance_seconds": self.duration_tolerance_seconds,
            "annotations": rows,
            "files": files,
        }


def prepare_video(path: str | Path, duration_seconds: float, config: QVHighlightsConfig) -> dict[str, Any]:
    """Return the columns of a row that come from the video.

    Args:
        path: The video file.
        duration_seconds: Annotated length T; defines the frame grid.
        config: What to prepare.

    Returns:
        `frames`, `frame_shape` and `frame_times_seconds`.

    Raises:
        VideoReadError: If the file cannot be read.
    """
    video = read_frames(
        path,
        FrameGrid(duration_seconds, config.num_frames),
        frame_size=config.frame_size,
        reader=config.reader,
        variant_offset_frames=config.variant_offset_frames,
        duration_tolerance_seconds=config.duration_tolerance_seconds,
    )
    columns = encode_frames(video.frames, config.frame_format)
    return {**columns, "frame_times_seconds": video.times_seconds.tolist()}


def _check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Refuse a value that is not one of the names."""
    if value not in allowed:
        raise ValueError(f"expected {name} to be one of {list(allowed)}, got {value!r}")


def _check_at_least(name: str, value: int, lowest: int) -> None:
    """Refuse what is not a whole number from `lowest` on."""
    if type(value) is not int or value < lowest:
        raise ValueError(f"expected {name} to be a whole number of at least {lowest}, got {value!r}")
