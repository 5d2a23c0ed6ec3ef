"""Call functions in a process that can be killed: decoders crash, and hang in C code, where no exception reaches them.

Each thread has its own worker processes, one for each set of libraries (decord and torchcodec in one process crash).
They are started at the first call, used for all further ones, and started again after a kill. A worker process belongs
to the process that started it: a forked copy starts its own. Workers are made by `Popen`, not by `multiprocessing`: the
processes of a pool, such as those of `datasets`, must not have children of that kind.

A message is a pickle followed by its arrays, on a socket. For the frames of a video this is faster than shared memory,
where the pages have to be made first, and it leaves nothing behind in /dev/shm.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import pickle
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from hf_frameseg._numbers import is_whole

Result = TypeVar("Result")

START_SECONDS = 120.0
"""How long a process may take to start and import its libraries; torchcodec's took 5 s on two cores."""

MAX_WORKER_BYTES = 8 * 2**30
"""Private memory of a worker process: a decoder that asks for more fails, instead of another program."""

_REAP_SECONDS = 5.0  # a process that waits for a dead network drive cannot be killed before the drive answers
_COUNT = struct.Struct("<Q")  # a message starts with the number of its parts, then come their sizes, then they
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_NO_START = "cannot start a process for reading videos (timeout_seconds=None needs none)"

_BOOT = "import json, sys; sys.path[:] = json.loads(sys.argv[3]); from hf_frameseg.video import worker; worker.serve()"
_THREAD = threading.local()  # its workers: a process takes 0.2 s to start, with torchcodec 4 s, too much for each video


class WorkerError(RuntimeError):
    """Say in a few words why a call gave no answer: out of time, or the process crashed."""


class Worker:
    """Own one process that runs one call at a time.

    Args:
        setup: Called in every new process before its first call, outside of that call's time limit; imports libraries.
        *args: Its arguments.
    """

    def __init__(self, setup: Callable[..., object], *args: Any) -> None:
        self._setup = (setup, args)
        self._setup_error: ImportError | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._stop: weakref.finalize | None = None
        self._owner: int | None = None

    @property
    def pid(self) -> int | None:
        """Return the process's number, None while there is none."""
        return None if self._process is None else self._process.pid

    def call(self, function: Callable[..., Result], *args: Any, timeout_seconds: float) -> Result:
        """Run a function in the process.

        Args:
            function: Importable function.
            *args: Its arguments; pickled.
            timeout_seconds: Time it has. After that the process is killed.

        Returns:
            What the function returns.

        Raises:
            WorkerError: If no answer came: the function took too long, or it or the setup crashed the process.
            RuntimeError: If the process cannot be started.
            ImportError: If the setup could not import something; it is not tried again.
            TypeError: If the function or an argument cannot be pickled.
            Exception: What the function raised.
        """
        if self._setup_error is not None:
            raise self._setup_error
        if self._process is not None and self._owner != os.getpid():
            self.close()  # forked: the process is the parent's
        if self._process is not None and self._process.poll() is not None:
            self.close()  # it died while idle, e.g. for lack of memory: that is nobody's fault
        if self._process is None:
            self._start()
        return self._ask(function, args, timeout_seconds)

    def close(self) -> None:
        """End the process, whatever it is doing."""
        if self._stop is not None:
            self._stop()
        self._process = self._socket = self._stop = None

    def _start(self) -> None:
        """Start the process and import its libraries."""
        path = json.dumps([str(entry) for entry in sys.path])  # what can be imported here can be imported there
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-P", "-c", _BOOT, str(theirs.fileno()), str(os.getpid()), path]
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, pass_fds=[theirs.fileno()]
            )
        except OSError as error:  # not an OSError of the video's
            ours.close()
            raise RuntimeError(f"{_NO_START}: {error}") from error
        finally:
            theirs.close()
        self._socket, self._owner = ours, os.getpid()
        self._stop = weakref.finalize(self, _end, self._process, ours, os.getpid())
        try:
            self._ask(os.getpid, (), START_SECONDS)
        except WorkerError as error:
            raise RuntimeError(f"{_NO_START}: it {error}; see what it printed above") from None
        setup, args = self._setup
        try:
            self._ask(setup, args, START_SECONDS)
        except WorkerError as error:
            raise WorkerError(f"{error} while it was loaded") from None
        except BaseException as error:
            self.close()
            self._setup_error = error if isinstance(error, ImportError) else None
            raise

    def _ask(self, function: Callable[..., Any], args: tuple[Any, ...], timeout_seconds: float) -> Any:
        """Send a call and wait for the answer; if none comes, the process is ended."""
        try:
            message = _pack((function, args))
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise TypeError(
                f"{function!r} cannot be sent to another process ({error}); define it at the top of a module"
            ) from error
        deadline = time.monotonic() + timeout_seconds
        try:
            _send(self._socket, message, deadline)
            succeeded, answer = _receive(self._socket, deadline)
        except TimeoutError:
            self.close()
            raise WorkerError(f"gave no answer within {timeout_seconds:g} s") from None
        except (EOFError, ConnectionError):
            reason = _describe_end(self._process)
            self.close()
            raise WorkerError(reason) from None
        except BaseException:
            self.close()  # also after Ctrl-C: a late answer must not be taken for that of the next call
            raise
        if not succeeded:
            raise answer
        return answer


def thread_worker(setup: Callable[..., object], *args: Any) -> Worker:
    """Return this thread's worker with this setup.

    It ends with the thread: Linux kills a process whose parent *thread* is gone, if asked to (see `serve`), so threads
    cannot share one.

    Args:
        setup: See `Worker`.
        *args: Its arguments, hashable.

    Returns:
        The worker.
    """
    if getattr(_THREAD, "owner", None) != os.getpid():  # new, or forked: the parent goes on using its processes
        _THREAD.owner, _THREAD.workers = os.getpid(), {}
    key = (setup, args)
    if key not in _THREAD.workers:
        _THREAD.workers[key] = Worker(setup, *args)
    return _THREAD.workers[key]


def end_with_parent(parent: int) -> None:
    """Let the kernel end this process, in the middle of whatever it does, when the thread that started it is gone.

    Each process of a pool calls this first. Without it the process would outlive a killed parent and write into the
    files of the parent's successor. Linux only; elsewhere nothing happens.

    Args:
        parent: Number of the parent process.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)  # it died before that


def start_pool_process(parent: int) -> None:
    """Set up a process of a pool: it ends with its parent, and leaves Ctrl-C to it.

    Args:
        parent: Number of the parent process.
    """
    end_with_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def check_num_processes(name: str, number: int | None) -> int:
    """Refuse a number of processes that no machine runs.

    Args:
        name: What the user calls it.
        number: The number; None stands for 1.

    Returns:
        The number.

    Raises:
        ValueError: If it is not from 1 to 64, or to 8 for each processor.
    """
    most = max(64, 8 * (os.cpu_count() or 1))
    if number is not None and not is_whole(number, 1, most):
        raise ValueError(f"expected {name} to be a whole number from 1 to {most}, got {number!r}")
    return number or 1


def serve() -> None:
    """Run calls until the parent is gone: the main function of a worker process."""
    descriptor, parent = int(sys.argv[1]), int(sys.argv[2])
    end_with_parent(parent)
    if sys.platform == "linux":
        with suppress(OSError):  # short of memory, the kernel should end the process that reads a huge picture first
            Path("/proc/self/oom_score_adj").write_text("1000")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all of a terminal's processes; the parent decides
    _limit_memory()
    with socket.socket(fileno=descriptor) as connection, suppress(ConnectionError):
        while (call := _next_call(connection)) is not None:
            _send(connection, _answer(*call))
            del call
            # Frames may hang in reference cycles, and a collector that counts objects sees few of them.
            gc.collect()
            gc.freeze()  # the collector skips what lives on, such as libraries


def _next_call(connection: socket.socket) -> tuple[Callable[..., Any], tuple[Any, ...]] | None:
    """Return the next function and its arguments, None when the parent is gone."""
    try:
        return _receive(connection)
    except (EOFError, ConnectionError):
        return None
    except Exception as error:  # the module of the function cannot be imported here
        return _raise, (error,)


def _raise(error: Exception) -> None:
    """Raise an error."""
    raise error


def _answer(function: Callable[..., Any], args: tuple[Any, ...]) -> list[memoryview]:
    """Return the message that says whether a call succeeded, and its result or error."""
    try:
        return _pack((True, function(*args)))
    except Exception as error:
        return _pack((False, _portable(error)))


def _portable(error: Exception) -> Exception:
    """Return the error if it can travel, else one with the same text."""
    try:
        if type(pickle.loads(pickle.dumps(error))) is type(error):
            return error
    except Exception:  # an exception class may do anything when pickled
        pass
    return RuntimeError(f"{type(error).__name__}: {error}")


def _limit_memory() -> None:
    """Limit the private memory of this process."""
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = MAX_WORKER_BYTES if hard == resource.RLIM_INFINITY else min(MAX_WORKER_BYTES, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


def _describe_end(process: subprocess.Popen[bytes]) -> str:
    """Return how a process ended whose socket is closed."""
    try:
        code = process.wait(_REAP_SECONDS)
    except subprocess.TimeoutExpired:
        return "closed its connection"
    if code >= 0:
        return f"ended with exit code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    return f"crashed ({name}{', perhaps out of memory' if name == 'SIGKILL' else ''})"


def _end(process: subprocess.Popen[bytes], connection: socket.socket, owner: int) -> None:
    """Kill a process and reap it."""
    connection.close()
    if os.getpid() != owner:
        return  # a forked copy of the owner
    process.kill()
    with suppress(subprocess.TimeoutExpired):
        process.wait(_REAP_SECONDS)


def _pack(message: Any) -> list[memoryview]:
    """Return a message as its parts: the pickle, then the arrays in it, not copied."""
    buffers: list[pickle.PickleBuffer] = []
    body = pickle.dumps(message, protocol=5, buffer_callback=buffers.append)
    return [memoryview(body), *(buffer.raw() for buffer in buffers)]


def _send(connection: socket.socket, parts: list[memoryview], deadline: float | None = None) -> None:
    """Send a message before the deadline (on the clock of `time.monotonic`)."""
    sizes = struct.pack(f"<{len(parts)}Q", *(part.nbytes for part in parts))
    for part in (_COUNT.pack(len(parts)), sizes, *parts):
        _wait_until(connection, deadline)
        connection.sendall(part)


def _receive(connection: socket.socket, deadline: float | None = None) -> Any:
    """Return the next message if it is complete before the deadline."""
    (num_parts,) = _COUNT.unpack(_receive_bytes(connection, _COUNT.size, deadline))
    sizes = struct.unpack(f"<{num_parts}Q", _receive_bytes(connection, 8 * num_parts, deadline))
    body, *buffers = (_receive_bytes(connection, size, deadline) for size in sizes)
    return pickle.loads(body, buffers=buffers)


def _receive_bytes(connection: socket.socket, size: int, deadline: float | None) -> NDArray[np.uint8]:
    """Return the next `size` bytes."""
    data = np.empty(size, dtype=np.uint8)  # numpy asks for large memory pages, which bytearray does not: 3x as fast
    view, at = memoryview(data), 0
    while at < size:
        _wait_until(connection, deadline)
        received = connection.recv_into(view[at:])
        if received == 0:
            raise EOFError("the other side is gone")
        at += received
    return data


def _wait_until(connection: socket.socket, deadline: float | None) -> None:
    """Let the next operation on the socket end in TimeoutError at the deadline."""
    if deadline is not None:
        left_seconds = deadline - time.monotonic()
        if left_seconds <= 0:
            raise TimeoutError
        connection.settimeout(left_seconds)
