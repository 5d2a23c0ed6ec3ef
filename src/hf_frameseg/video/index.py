"""When each frame of a video file is shown, and how its pictures are stored."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray

from hf_frameseg.moments import MAX_VIDEO_SECONDS
from hf_frameseg.video.file import (
    VideoReadError,
    best_stream,
    check_is_file,
    decode,
    failure_line,
    limited_decoder,
    open_container,
    over_limit,
    read_packets,
    shown_name,
)
from hf_frameseg.video.picture_list import Picture, PictureList, list_pictures
from hf_frameseg.video.picture_orientation import UPRIGHT, Orientation, orientation_of

_MICROSECOND = Fraction(1, 1_000_000)


@dataclass(frozen=True, eq=False)
class VideoIndex:
    """Hold what a reader has to know of a video.

    Args:
        path: The file.
        container: FFmpeg's name of its format, e.g. "matroska,webm".
        stream_index: Number of the video stream among all streams of the file.
        pts: Presentation time stamps of the frames that are shown, ascending, shape (N,), int64, in `time_base` units.
        time_base: Seconds per unit of `pts`.
        start_seconds: When the first frame is shown, counted from the start of the earliest stream of the file.
        key_positions: Display positions of what claims to be a key frame, ascending.
        num_hidden: Further frames in the file that an edit list hides.
        by_count: A decoder gives the frames other stamps than `pts` (AVI has none, and some MP4 files lost them): the
            frame at display position i is the i-th that comes out.
        starts_with_key: The file starts with a key frame, and no frame is shown before it. Else decoders leave out
            frames at the start, silently, and the i-th that comes out is a later one.
        duration_seconds: From the start of the earliest stream to the end of the last frame.
        orientation: How the stored pictures are set upright.
        pixel_aspect: Width of a pixel of an upright picture, in heights of it.
    """

    path: Path
    container: str
    stream_index: int
    pts: NDArray[np.int64]
    time_base: Fraction
    start_seconds: float
    key_positions: NDArray[np.int64]
    num_hidden: int
    by_count: bool
    starts_with_key: bool
    duration_seconds: float
    orientation: Orientation = UPRIGHT
    pixel_aspect: Fraction = Fraction(1)

    @property
    def times_seconds(self) -> NDArray[np.float64]:
        """Return when each frame starts to be shown, from the start of the file, shape (N,)."""
        return (self.pts - self.pts[0]) * float(self.time_base) + self.start_seconds


def index_video(path: str | Path) -> VideoIndex:
    """List the presentation times of a video's frames, decoding only where packets cannot tell, and the first frame.

    Args:
        path: Any file FFmpeg can read.

    Returns:
        What a reader has to know.

    Raises:
        FileNotFoundError: If there is no such file.
        VideoReadError: If the file cannot be opened, has no video or exceeds a limit.
    """
    path = Path(path)
    check_is_file(path)
    try:
        with open_container(path) as container:
            stream = best_stream(container, path)
            listed = list_pictures(path, container, stream)
            name, stream_index, time_base = container.format.name, stream.index, stream.time_base
            pixel_aspect = stream.sample_aspect_ratio or Fraction(1)
            file_start = container.start_time
        orientation = _first_orientation(path, stream_index)
    except VideoReadError:
        raise
    except Exception as error:  # with damaged files PyAV raises IndexError and others, too
        raise VideoReadError(failure_line(path, "opened", error)) from error
    if not listed.pictures or not time_base:
        raise VideoReadError(f"{shown_name(path)}: the video stream holds no frame; replace the file")
    start = _start(listed, time_base, file_start)
    return VideoIndex(
        path=path,
        container=name,
        stream_index=stream_index,
        pts=np.array([picture.pts for picture in listed.pictures], dtype=np.int64),
        time_base=time_base,
        start_seconds=float(start),
        key_positions=np.flatnonzero([picture.key for picture in listed.pictures]),
        num_hidden=listed.num_hidden,
        by_count=listed.by_count,
        starts_with_key=listed.starts_with_key,
        duration_seconds=_checked_duration(path, start + _shown_seconds(listed.pictures, time_base)),
        orientation=orientation,
        pixel_aspect=1 / pixel_aspect if orientation.quarter_turns % 2 else pixel_aspect,
    )


def no_frame_error(name: str, index: VideoIndex, position: int) -> VideoReadError:
    """Return the error of a reader that does not find a frame.

    Args:
        name: The reader.
        index: The video.
        position: Display position of the frame.

    Returns:
        The error.
    """
    time_seconds = index.times_seconds[position]
    repair = "replace the file" if index.starts_with_key else "the file starts in the middle, cut it at a key frame"
    return VideoReadError(
        f"{shown_name(index.path)}: could not be decoded by {name}: it finds no frame at {time_seconds:.3f} s; {repair}"
    )


def _first_orientation(path: Path, stream_index: int) -> Orientation:
    """Return how the pictures are set upright, as the file or its first frame says."""
    with open_container(path) as container:
        stream = container.streams[stream_index]
        context = limited_decoder(stream)
        for packet in read_packets(container, stream):
            frames, refused = decode(context, packet)
            if frames:
                return orientation_of(frames[0], path)
            if refused:
                break
    return UPRIGHT


def _start(listed: PictureList, time_base: Fraction, file_start: int | None) -> Fraction:
    """Return when the first frame is shown, in seconds from the start of the earliest stream (in microseconds)."""
    if file_start is None:
        return Fraction(0)
    # FFmpeg has rounded it, and leaves out subtitles and data that start long before.
    seconds = listed.pictures[0].pts * time_base - file_start * _MICROSECOND
    return seconds if seconds > 2 * _MICROSECOND else Fraction(0)


def _shown_seconds(pictures: list[Picture], time_base: Fraction) -> Fraction:
    """Return the time from the first frame's start to the last one's end."""
    first, last = pictures[0], pictures[-1]
    length = last.length
    if length <= 0 and len(pictures) > 1:
        length = int(median(later.pts - earlier.pts for earlier, later in pairwise(pictures)))
    return (last.pts - first.pts + length) * time_base


def _checked_duration(path: Path, seconds: Fraction) -> float:
    """Return a duration in seconds, if it is sane."""
    if not 0 < seconds <= MAX_VIDEO_SECONDS:
        allowed = f"above 0 and up to {MAX_VIDEO_SECONDS:g} s"
        raise VideoReadError(over_limit(path, f"{float(seconds):g} s", allowed))
    return float(seconds)
