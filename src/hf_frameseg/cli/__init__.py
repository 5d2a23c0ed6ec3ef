"""The command ``frameseg``: parses, calls, prints; one module per command.

What a command needs is imported inside the function that needs it: ``frameseg --help`` shall not load torch.
"""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import nullcontext, redirect_stdout, suppress
from typing import TYPE_CHECKING, Any, TextIO

from hf_frameseg import __version__
from hf_frameseg._text import printable
from hf_frameseg.cli import audit, predict, prepare, rescore, score, synth, verify

if TYPE_CHECKING:
    from collections.abc import Sequence

USER_ERROR = 2  # the exit status that argparse uses for a wrong command line
INTERRUPTED = 130  # what a shell calls the end by Ctrl-C

COMMANDS = (predict, score, rescore, audit, verify, prepare, synth)
"""One module each, in the order of the help; `add` puts the command into the parser."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the words after ``frameseg``; those of the process when None.

    Returns:
        The exit status: what the command returns (nothing means 0), 2 after an error that the user can mend (printed as
        one line), 130 after Ctrl-C.
    """
    stdout = _Watched(sys.stdout)
    with redirect_stdout(stdout) if sys.stdout is not None else nullcontext():  # else closed by the caller (`>&-`)
        try:
            status = _run(argv)
        except SystemExit as end:  # --help, --version, or a wrong command line
            raise SystemExit(stdout.finish(end.code)) from None
    return stdout.finish(status)


def _run(argv: Sequence[str] | None) -> int:
    """Parse and carry out; the user's errors become one line."""
    options = build_parser().parse_args(argv)
    try:
        return options.run(options) or 0
    except BrokenPipeError:
        return 0  # `| head` has seen enough
    except KeyboardInterrupt as error:
        if options.debug:
            raise
        _say("; ".join(["frameseg: stopped", *map(str, error.args)]))
        return INTERRUPTED
    except _user_errors() as error:
        if options.debug:
            raise
        if error is not getattr(sys.stdout, "failure", None):
            _say(f"frameseg: error: {' '.join(_one_line(error).split())}")
        return USER_ERROR


def _one_line(error: Exception) -> str:
    """Describe an error that the user can mend."""
    if isinstance(error, RecursionError):
        return "a file holds lists in lists without end; write it again"
    if isinstance(error, MemoryError):
        return "there is not enough memory for this; ask for less, or split the file"
    if isinstance(error, OSError) and str(error).startswith("[Errno") and error.filename is not None:
        return f"{str(error.filename):.200}: {error.strerror}; check the path"
    return str(error)


def _say(line: str) -> None:
    """Write a line to stderr, if there is one to write to."""
    if sys.stderr is None:  # closed by the caller; print would take stdout instead
        return
    with suppress(OSError):
        print(printable(line), file=sys.stderr)


class _Watched:
    """Stand for a standard output, and remember that it could not be written; argparse, for one, keeps that to itself.

    Args:
        stream: The output; None if it was closed.
    """

    def __init__(self, stream: TextIO | None) -> None:
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a query may hold what the terminal cannot show
        self.stream = stream
        self.failure: OSError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """Write, as the stream does."""
        try:
            return self.stream.write(text)
        except OSError as error:
            self.failure = error
            raise

    def finish(self, status: int) -> int:
        """Write what is left; a reader that has seen enough is fine, a full disk is an error.

        Args:
            status: The exit status so far.

        Returns:
            The exit status.
        """
        if self.stream is not None:
            left = _flush(self.stream)
            self.failure = self.failure or left
        if self.failure is not None and not isinstance(self.failure, BrokenPipeError):
            _say(f"frameseg: error: cannot write to standard output ({self.failure.strerror}); write it somewhere else")
            status = USER_ERROR
        if sys.stderr is not None:
            _flush(sys.stderr)
        return status


def _flush(stream: TextIO) -> OSError | None:
    """Write what is left; if that fails, send it nowhere: the interpreter tries again at exit, and would fail there."""
    try:
        stream.flush()
    except OSError as error:
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return error
    return None


def _user_errors() -> tuple[type[Exception], ...]:
    """Return the errors that a user can mend; looked up when one is caught, as nobody raises what is not imported."""
    video = sys.modules.get("hf_frameseg.video.read")
    return (ValueError, OSError, ImportError, RecursionError, MemoryError, *([video.VideoReadError] if video else []))


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands; each sets ``run`` to the function that carries it out."""
    parser = argparse.ArgumentParser(
        prog="frameseg",
        description="Find the moments of a video that a sentence describes, and how well each shows it.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show the full traceback of an error")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add(commands, common)
    return parser
