"""Readers, setups and functions that hang, crash or lie, for the tests of what has to survive them."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from hf_frameseg.video.file import VideoReadError
from hf_frameseg.video.index import VideoIndex
from hf_frameseg.video.readers import READERS


def hang(*args: object) -> Iterator[np.ndarray]:
    """Wait for ever."""
    threading.Event().wait()
    yield from ()


def hang_at_once(*args: object) -> None:
    """Wait for ever, without being asked for a frame."""
    threading.Event().wait()


def hang_in_c(*args: object) -> Iterator[np.ndarray]:
    """Compute for ever in C code, without ever giving Python a chance."""
    re.match(r"(a+)+$", "a" * 64 + "b")
    yield from ()


def hang_deaf(*args: object) -> Iterator[np.ndarray]:
    """Wait for ever and ignore requests to end."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    yield from hang()


def segfault(*args: object) -> Iterator[np.ndarray]:
    """Read address 0."""
    ctypes.string_at(0)
    yield from ()


def abort(*args: object) -> Iterator[np.ndarray]:
    """Do what C++ does with an exception that nobody catches."""
    os.abort()
    yield from ()


def be_killed(*args: object) -> Iterator[np.ndarray]:
    """Die as a process that uses up the memory."""
    os.kill(os.getpid(), signal.SIGKILL)
    yield from ()


def leave(*args: object) -> Iterator[np.ndarray]:
    """End the process."""
    sys.exit(3)
    yield from ()


def fail(*args: object) -> Iterator[np.ndarray]:
    """Raise an error that says nothing without its type."""
    raise KeyError("frames")
    yield from ()


def stop_early(index: VideoIndex, positions: np.ndarray) -> Iterator[np.ndarray]:
    """Give one frame only."""
    yield np.zeros((4, 6, 3), np.uint8)


def fill_memory(*args: object) -> Iterator[np.ndarray]:
    """Take memory until there is none."""
    taken = [np.ones(2**20, np.uint8)]
    while True:
        taken.append(np.ones(2 * taken[-1].size, np.uint8))
    yield from ()


def count(index: VideoIndex, positions: np.ndarray) -> Iterator[np.ndarray]:
    """Read with PyAV and note the process's number in a file next to the video."""
    with index.path.with_suffix(".pids").open("a") as file:
        file.write(f"{os.getpid()}\n")
    return READERS["pyav"](index, positions)


def announce_and_hang(fifo: str) -> None:
    """Write this process's number into a named pipe, then wait for ever."""
    Path(fifo).write_text(str(os.getpid()))
    threading.Event().wait()


def interrupt_parent_and_hang() -> None:
    """Press Ctrl-C for the parent, then wait for ever."""
    os.kill(os.getppid(), signal.SIGINT)
    threading.Event().wait()


def setup_without_library(log: str) -> None:
    """Note the call, then fail as an import does."""
    with Path(log).open("a") as file:
        file.write("called\n")
    raise ImportError("no such library")


def setup_that_crashes() -> None:
    """Crash as a library made for another processor does."""
    os.kill(os.getpid(), signal.SIGILL)


class UnpicklableError(Exception):
    """An error that pickle makes something else of."""

    def __init__(self, left: str, right: str) -> None:
        super().__init__(f"{left} and {right}")


def raise_unpicklable() -> None:
    """Raise an error that cannot travel."""
    raise UnpicklableError("this", "that")


def raise_read_error() -> None:
    """Raise an error with attributes."""
    raise VideoReadError("a.mp4: no", [("decord", "a.mp4: no")])


def raise_end_of_file() -> None:
    """Raise what a closed connection would raise."""
    raise EOFError("the end")


def imported(names: tuple[str, ...]) -> list[str]:
    """Return which of these modules are imported in this process."""
    return [name for name in names if name in sys.modules]


class Lazy:
    """An iterable that can be pickled and calls a hostile generator function where it is listed."""

    def __init__(self, function: Callable[[], Iterator[np.ndarray]]) -> None:
        self.function = function

    def __iter__(self) -> Iterator[np.ndarray]:
        return self.function()
