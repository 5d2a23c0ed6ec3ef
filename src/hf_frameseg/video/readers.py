"""The video readers: each returns the same frames of a file, through another library.

A reader is one function: `(index, positions) -> frames`. It yields the pictures at the given display positions, RGB,
uint8, shape (H, W, 3), upright, one for each position, in order; a picture that it knows to be damaged as a
`DamagedPicture`. Any exception of its means that the file could not be decoded by it. To add one, write it and add a
line to `READERS`; one of your own is named "module:function" instead.

All three decode with FFmpeg, on one thread (videos are decoded in parallel, by processes), and convert to RGB as
FFmpeg's filter graph does: the pictures are equal to the bit. decord and torchcodec do not say whether a seek ended at
a key frame or a picture is damaged, so theirs are compared with PyAV's, one by one.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_frameseg._imports import require
from hf_frameseg._text import short
from hf_frameseg.video.file import VideoReadError, shown_name
from hf_frameseg.video.index import VideoIndex, no_frame_error
from hf_frameseg.video.pyav_reader import DamagedPicture, decode_with_pyav

Pictures = Iterator[NDArray[np.uint8] | DamagedPicture]

Reader = Callable[[VideoIndex, NDArray[np.int64]], Pictures]
"""`(index, ascending display positions) -> RGB pictures (H, W, 3)`, one for each position."""

MAX_DIFFERENCE = 2.0
"""Mean distance in grey levels at which two readers' pictures are not the same one."""

_BATCH_FRAMES = 16  # decoded at native size at a time


def decode_with_decord(index: VideoIndex, positions: NDArray[np.int64]) -> Pictures:
    """Decode the frames at ascending display positions with decord.

    Args:
        index: The video.
        positions: Display positions, distinct, shape (N,).

    Yields:
        RGB pictures (H, W, 3).
    """
    return _checked("decord", index, positions, _decord_pictures(index, positions))


def _checked(
    name: str, index: VideoIndex, positions: NDArray[np.int64], pictures: Iterator[NDArray[np.uint8]]
) -> Pictures:
    """Return a library's pictures, damaged ones marked; refuse one that is another than PyAV's."""
    expected = iter(decode_with_pyav(index, positions))
    for position, picture in zip(positions.tolist(), pictures, strict=True):
        try:
            own = next(expected)
        except Exception as error:
            reason = str(error).removeprefix(f"{shown_name(index.path)}: ")
            raise _refused(name, index, f"nothing to check its pictures by ({reason})") from error
        if isinstance(own, DamagedPicture):
            yield DamagedPicture(picture)
            continue
        if picture.shape != own.shape or _difference(picture, own) > MAX_DIFFERENCE:
            time_seconds = index.times_seconds[position]
            raise _refused(name, index, f"its picture at {time_seconds:.3f} s is another than PyAV's; use pyav")
        yield picture


def _difference(left: NDArray[np.uint8], right: NDArray[np.uint8]) -> float:
    """Return the mean distance of two pictures in grey levels."""
    return float(np.abs(left.astype(np.int16) - right).mean())


def _refused(name: str, index: VideoIndex, reason: str) -> VideoReadError:
    """Return the error of a reader that cannot read a file rightly."""
    return VideoReadError(f"{shown_name(index.path)}: could not be decoded by {name}: {reason}")


def _decord_pictures(index: VideoIndex, positions: NDArray[np.int64]) -> Iterator[NDArray[np.uint8]]:
    """Decode with decord, unchecked."""
    import decord

    if not index.starts_with_key:
        raise _refused(
            "decord", index, "the file does not start with a key frame, and decord then counts wrongly; use pyav"
        )
    _refuse_mirrored("decord", index)
    decord.logging.set_level(decord.logging.QUIET)  # its errors arrive as exceptions
    # By default decord repeats another frame for one that it cannot decode, silently: allow none.
    reader = decord.VideoReader(str(index.path), num_threads=1, fault_tol=1e-9)
    _check_count("decord", index, len(reader), len(index.pts) + index.num_hidden)
    yield from _read_straight(reader, positions, np.asarray(reader.get_key_indices(), dtype=np.int64))


def _read_straight(reader: Any, positions: NDArray[np.int64], keys: NDArray[np.int64]) -> Iterator[NDArray[np.uint8]]:
    """Read from the start without a seek: decord (3.4) may return other frames after one, silently.

    It does so in H.264 without B-frames, of all files. It trusts that a seek ends where it should, which it does not in
    AVI, ASF and transport streams. It numbers key frames in decoding order, and counts those that an edit list hides:
    with open groups of pictures (x265's default) that is a few frames too low, and it counts from there. `skip_frames`
    seeks too as soon as it passes one of decord's key frames: pass those one by one.
    """
    at = 0
    for position in positions.tolist():
        while at < position:
            following = keys[np.searchsorted(keys, at, side="right") :]
            step = (min(position, int(following[0]) - 1) if len(following) else position) - at
            if step > 0:
                reader.skip_frames(step)
            else:
                reader.next()
            at += max(step, 1)
        yield _from_decord(reader.next())
        at += 1


def _from_decord(pictures: Any) -> NDArray[np.uint8]:
    """Return decord's output as numpy whatever `decord.bridge.set_bridge` some other code has called."""
    return pictures.asnumpy() if hasattr(pictures, "asnumpy") else np.asarray(pictures)


def decode_with_torchcodec(index: VideoIndex, positions: NDArray[np.int64]) -> Pictures:
    """Decode the frames at ascending display positions with torchcodec.

    Args:
        index: The video.
        positions: Display positions, distinct, shape (N,).

    Yields:
        RGB pictures (H, W, 3).
    """
    return _checked("torchcodec", index, positions, _torchcodec_pictures(index, positions))


def _torchcodec_pictures(index: VideoIndex, positions: NDArray[np.int64]) -> Iterator[NDArray[np.uint8]]:
    """Decode with torchcodec, unchecked."""
    from torchcodec.decoders import VideoDecoder

    if index.by_count:
        raise _refused(
            "torchcodec", index, "it goes by time stamps, and those of the file are not the frames'; use pyav"
        )
    _refuse_mirrored("torchcodec", index)
    decoder = VideoDecoder(
        str(index.path),
        stream_index=index.stream_index,
        dimension_order="NHWC",
        num_ffmpeg_threads=1,
        device="cpu",
        seek_mode="exact",
    )
    _check_count("torchcodec", index, len(decoder), len(index.pts))
    for first in range(0, len(positions), _BATCH_FRAMES):
        at = positions[first : first + _BATCH_FRAMES]
        batch = decoder.get_frames_at(at.tolist())
        # Where a seek ends too far, or the decoder has to recover first (x264's intra-refresh), it returns later ones.
        late = np.flatnonzero(np.abs(batch.pts_seconds.numpy() - index.pts[at] * float(index.time_base)) > 1e-4)
        if len(late):
            raise no_frame_error("torchcodec", index, at[late[0]])
        yield from batch.data.numpy()


def _refuse_mirrored(name: str, index: VideoIndex) -> None:
    """Refuse a file with a stored orientation that decord and torchcodec get wrong: all but quarter turns."""
    if index.orientation.mirrored:
        raise _refused(name, index, "it cannot mirror; use pyav")


def _check_count(name: str, index: VideoIndex, found: int, expected: int) -> None:
    """Refuse a file whose frames a library counts differently: its positions are then not ours."""
    if found != expected:
        raise _refused(name, index, f"it counts {found} frames, there are {expected}")


READERS: dict[str, Reader] = {
    "pyav": decode_with_pyav,
    "decord": decode_with_decord,
    "torchcodec": decode_with_torchcodec,
}
"""Readers by name, in the order in which "auto" tries them.

PyAV is the fastest, and the only one that reads every file of the tests (benchmarks/readers.py). torchcodec is faster
than decord, but its process takes seconds and 0.7 GB to start, which files that PyAV cannot read seldom repay.
"""

_LIBRARIES = {"pyav": ("av",), "decord": ("av", "decord")}
"""Reader -> what it imports. decord opens its FFmpeg for all to see (RTLD_GLOBAL), so PyAV's has to be first."""


def reader_names(reader: str) -> tuple[str, ...]:
    """Return the readers to try, in order.

    Args:
        reader: A name of `READERS`, "module:function", or "auto" for all that are installed.

    Returns:
        Names for `load_reader`.

    Raises:
        ValueError: If it is none of these.

    Example:
        >>> reader_names("pyav")
        ('pyav',)
    """
    if reader == "auto":
        return tuple(name for name in READERS if name != "torchcodec" or find_spec("torchcodec"))
    module, _, function = str(reader).partition(":")
    is_ours = all(part.isidentifier() for part in (*module.split("."), function))  # no ".." and no path
    if reader not in READERS and not is_ours:
        raise ValueError(f"expected reader to be one of {[*READERS, 'auto']} or 'module:function', got {short(reader)}")
    return (reader,)


def load_reader(name: str) -> Reader:
    """Return a reader whose library is imported.

    Args:
        name: A name of `READERS`, or "module:function".

    Returns:
        The reader.

    Raises:
        ImportError: If its library or module cannot be imported.
    """
    try:
        if name == "torchcodec":
            _import_torchcodec()
        for library in _LIBRARIES.get(name, ()):
            import_module(library)
        module, colon, function = name.partition(":")
        return getattr(import_module(module), function) if colon else READERS[name]
    # OSError: a shared library that a library needs. KeyError: a line that some program has added to its own READERS.
    except (AttributeError, KeyError, OSError, RuntimeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ImportError(f"reader {name!r} cannot be loaded: {reason}; give yours as 'module:function'") from error


def _import_torchcodec() -> None:
    """Import torchcodec, or say what is missing."""
    if "decord" in sys.modules and "torchcodec" not in sys.modules:
        # decord (3.4) opens its FFmpeg for all to see (RTLD_GLOBAL), and torchcodec would call into it.
        raise ImportError(
            "torchcodec crashes where decord is loaded already; give timeout_seconds: each reader then has a process "
            "of its own"
        )
    os.environ.setdefault("TORCHCODEC_FFMPEG_LOG_LEVEL", "QUIET")  # its errors arrive as exceptions
    try:
        ffmpeg_version = require("torchcodec", extra="torchcodec").ffmpeg_major_version
    except (OSError, RuntimeError):  # before 0.17 it could not be imported without FFmpeg
        ffmpeg_version = None
    if ffmpeg_version is None:
        raise ImportError(
            "torchcodec finds no FFmpeg libraries that it can use; install FFmpeg (versions 4 to 9) with its shared "
            "libraries (Debian: apt-get install ffmpeg; conda: conda install ffmpeg), and the torchcodec of your torch"
        )
