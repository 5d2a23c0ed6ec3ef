"""A trial in another process: what a file of others makes a library do is tried where it can be stopped."""

from __future__ import annotations

import ctypes
import faulthandler
import json
import os
import resource
import select
import signal
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from time import monotonic

CPU_SECONDS = 20
"""Processor time of a trial. Tokenizer, processor and an empty model of 70 billion weights take under 5 s."""

MEMORY_BYTES = 2 * 2**30
"""Memory of a trial beyond that of this process."""

WALL_SECONDS = 300
"""After this a trial counts as stuck."""

_PR_SET_PDEATHSIG = 1


def try_out(action: Callable[[], None]) -> None:
    """Run an action in a copy of this process, under limits, and throw away what it did.

    The copy has no standard input and no output, runs on the processor only, and ends with this process.

    Args:
        action: What to try; it must not use an accelerator.

    Raises:
        ValueError: If the action raised (with its message), took more time or memory than the limits, or crashed.
    """
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of Python 3.12, about the threads that torch has
        pid = os.fork()
    if pid == 0:
        try:
            os.close(reader)
            _report(action, writer)
        finally:
            os._exit(0)  # neither buffers nor exit handlers of this process may run twice
    os.close(writer)
    try:
        answer = _read_all(reader, monotonic() + WALL_SECONDS)
    finally:
        os.close(reader)
        os.kill(pid, signal.SIGKILL)
        status = _reap(pid)
    if answer:
        error = json.loads(answer)
        if error is None:
            return
        failure = ValueError(error["reason"])
        failure.add_note(f"in the trial:\n{error['traceback']}")
        raise failure
    raise ValueError(_how_it_ended(status))


def _report(action: Callable[[], None], writer: int) -> None:
    """Run the action in the copy and write what came of it."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    faulthandler.disable()  # a crash is part of the answer, not of this process's output
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    import torch

    torch.set_num_threads(1)  # the pool of threads did not come along
    _limit()
    result: dict[str, str] | None = None
    try:
        action()
    except BaseException as error:
        result = {"reason": reason_of(error)[:5000], "traceback": "".join(traceback.format_exception(error))[-20_000:]}
    with os.fdopen(writer, "wb") as pipe:
        pipe.write(json.dumps(result).encode())


def _limit() -> None:
    """Set the limits of this process."""
    size = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    signal.signal(signal.SIGXCPU, signal.SIG_DFL)
    for kind, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_AS, size + MEMORY_BYTES),
        (resource.RLIMIT_CPU, CPU_SECONDS),  # SIGXCPU, whose default ends a process
    ):
        hard = resource.getrlimit(kind)[1]
        resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def reason_of(error: BaseException) -> str:
    """Return what an error says, as one line.

    Args:
        error: Any error.

    Returns:
        Its message; with the name of its class where that adds something.
    """
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError):
        return f"it asks for more than {MEMORY_BYTES // 2**30} GB of memory before any weight is loaded"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    own = type(error) in (ValueError, OSError) and text
    return text if own else f"{type(error).__name__}: {text}".removesuffix(": ")


def _read_all(reader: int, deadline: float) -> bytes:
    """Read a pipe to its end; nothing if that does not come in time."""
    parts = []
    while True:
        ready, _, _ = select.select([reader], [], [], max(0.0, deadline - monotonic()))
        if not ready:
            return b""
        part = os.read(reader, 1 << 16)
        if not part:
            return b"".join(parts)
        parts.append(part)


def _reap(pid: int) -> int | None:
    """Return the exit status of a process; None if somebody else waited for it."""
    try:
        return os.waitpid(pid, 0)[1]
    except ChildProcessError:
        return None


def _how_it_ended(status: int | None) -> str:
    """Say why a trial gave no answer."""
    number = os.WTERMSIG(status) if status is not None and os.WIFSIGNALED(status) else None
    if number == signal.SIGXCPU:
        return f"it keeps a processor busy for more than {CPU_SECONDS} s before any weight is loaded"
    if number == signal.SIGKILL:
        return f"it did not answer within {CPU_SECONDS} s of processor time or {WALL_SECONDS} s, or memory ran out"
    name = "no answer" if number is None else signal.Signals(number).name
    return f"a library crashed on it ({name}), or it asks for more than {MEMORY_BYTES // 2**30} GB of memory"
