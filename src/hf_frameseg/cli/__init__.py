"""The command ``frameseg``: parses, calls, prints; one module per command.

What a command needs is imported inside the function that needs it: ``frameseg --help`` shall not load torch.
"""

from __future__ import annotations

import argparse
import os
import sys
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
    options = build_parser().parse_args(argv)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # a query may hold what the terminal cannot show
    try:
        status = options.run(options) or 0
        if sys.stdout is not None:  # closed by the caller (`>&-`)
            sys.stdout.flush()
    except BrokenPipeError:
        # `| head` has seen enough. The interpreter flushes again at exit, which shall not fail either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt as error:
        if options.debug:
            raise
        print("; ".join(["frameseg: stopped", *map(str, error.args)]), file=sys.stderr)
        return INTERRUPTED
    except _user_errors() as error:
        if options.debug:
            raise
        print(f"frameseg: error: {printable(' '.join(str(error).split()))}", file=sys.stderr)
        return USER_ERROR
    return status


def _user_errors() -> tuple[type[Exception], ...]:
    """Return the errors that a user can mend; looked up when one is caught, as nobody raises what is not imported."""
    video = sys.modules.get("hf_frameseg.data.video")
    return (ValueError, OSError, ImportError, *([video.VideoReadError] if video else []))


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
