"""How stored pictures are set upright: display matrices, and EXIF orientations, which FFmpeg turns into such."""

from __future__ import annotations

import math
from enum import Enum
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hf_frameseg.video.file import VideoRefusedError, shown_name

if TYPE_CHECKING:
    from av import VideoFrame


class Orientation(NamedTuple):
    """Hold how to set a stored picture upright: mirror it left to right first, then turn it counterclockwise."""

    mirrored: bool
    quarter_turns: int

    def upright(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return a picture (H, W, 3) set upright."""
        picture = picture[:, ::-1] if self.mirrored else picture
        return np.ascontiguousarray(np.rot90(picture, self.quarter_turns))


UPRIGHT = Orientation(False, 0)


def orientation_of(frame: VideoFrame, path: Path) -> Orientation:
    """Return the orientation that the file or the frame states.

    Once for all frames alike: one whose `side_data` has been asked for is kept until the garbage collector comes along.

    Args:
        frame: A decoded frame.
        path: The file, for the message.

    Returns:
        The orientation.

    Raises:
        VideoRefusedError: If it is turned by something else than quarters.
    """
    matrix = _display_matrix(frame)
    if matrix is None:
        return UPRIGHT
    # x' = ax + cy and y' = bx + dy for stored (x, y), y downwards: libavutil/display.h
    a, b, _, c, d = islice(matrix, 5)
    if a == b == c == d == 0:
        return UPRIGHT  # not filled in: players ignore it
    determinant = a * d - b * c
    if determinant < 0:
        a, b = -a, -b
    degrees = math.degrees(math.atan2(b, a))
    quarter_turns = round(degrees / 90)
    if determinant == 0 or abs(degrees - 90 * quarter_turns) > 1:
        raise VideoRefusedError(
            f"{shown_name(path)}: rotated by {degrees:.0f} degrees; only multiples of 90 can be read"
        )
    return Orientation(determinant < 0, -quarter_turns % 4)


def _display_matrix(frame: VideoFrame) -> list[int] | None:
    """Return the numbers of a frame's display matrix."""
    from av.sidedata.sidedata import Type

    if "_missing_" not in vars(Type):
        # PyAV (18) refuses all side data of a frame if one part is of a type that it has no name for, such as EXIF.
        Type._missing_ = classmethod(_unnamed)
    matrix = frame.side_data.get("DISPLAYMATRIX")
    return None if matrix is None else np.frombuffer(matrix, dtype="=i4").tolist()


def _unnamed(cls: type[Enum], value: object) -> Enum:
    """Return a member for a number without a name."""
    member = object.__new__(cls)
    member._name_, member._value_ = f"UNNAMED_{value}", value
    return member
