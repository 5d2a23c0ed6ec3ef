"""The command ``frameseg``: parses, calls, prints; one module per command.

What a command needs is imported inside the function that needs it: ``frameseg --help`` shall not load torch.
"""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

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
    try:
        options = build_parser().parse_args(argv)
    except SystemExit as end:  # --help, --version, or a wrong command line
        raise SystemExit(_flushed(end.code)) from None
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # a query may hold what the terminal cannot show
    try:
        status = options.run(options) or 0
    except BrokenPipeError:
        return _flushed(0)  # `| head` has seen enough
    except KeyboardInterrupt as error:
        if options.debug:
            raise
        _say("; ".join(["frameseg: stopped", *map(str, error.args)]))
        return INTERRUPTED
    except _user_errors() as error:
        if options.debug:
            raise
        _say(f"frameseg: error: {' '.join(_one_line(error).split())}")
        return _flushed(USER_ERROR)
    return _flushed(status)


def _one_line(error: Exception) -> str:
    """Describe an error that the user can mend."""
    if isinstance(error, RecursionError):
        return "a file holds lists in lists without end; write it again"
    if isinstance(error, MemoryError):
        return "there is not enough memory for this; ask for less, or split the file"
    return str(error)


def _say(line: str) -> None:
    """Write a line to stderr, if there is one to write to."""
    if sys.stderr is None:  # closed by the caller; print would take stdout instead
        return
    with suppress(OSError):
        print(printable(line), file=sys.stderr)


def _flushed(status: int) -> int:
    """Write what is left for stdout; a reader that has seen enough is fine, a full disk is an error."""
    if sys.stdout is None:  # closed by the caller (`>&-`)
        return status
    try:
        sys.stdout.flush()
    except OSError as error:
        if not isinstance(error, BrokenPipeError):
            _say(f"frameseg: error: cannot write to standard output ({error.strerror}); write it somewhere else")
            status = USER_ERROR
        # The interpreter flushes again at exit, which shall not fail either.
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return status


def _user_errors() -> tuple[type[Exception], ...]:
    """Return the errors that a user can mend; looked up when one is caught, as nobody raises what is not imported."""
    video = sys.modules.get("hf_frameseg.data.video")
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
