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
from hf_frameseg.cli import audit, predict, prepare, rescore, score, synth, verify
from hf_frameseg.cli.messages import one_line, say
from hf_frameseg.cli.parser import USER_ERROR, Parser

if TYPE_CHECKING:
    from collections.abc import Sequence

INTERRUPTED = 130  # what a shell calls the end by Ctrl-C

COMMANDS = (predict, score, rescore, audit, verify, prepare, synth)
"""One module each, in the order of the help: `HELP` and `EPILOG` say what it does, `add_options` what it takes, `run`
does it and returns the exit status (None is 0)."""


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
    words = list(sys.argv[1:] if argv is None else argv)
    options = build_parser(*words[:1]).parse_args(words)
    try:
        return options.run(options) or 0
    except BrokenPipeError:
        return 0  # the reader stopped early, such as `| head`
    except KeyboardInterrupt as error:
        if options.debug:
            raise
        say("; ".join(["frameseg: stopped", *map(str, error.args)]))
        return INTERRUPTED
    except _user_errors() as error:
        if options.debug:
            raise
        if error is not getattr(sys.stdout, "failure", None):
            say(f"frameseg: error: {one_line(error, options.parser.options())}")
        return USER_ERROR


class _Watched:
    """Pass everything on to standard output, and remember if writing failed: argparse, for one, ignores that.

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
        """Write what is left. A reader that stopped early (`| head`) is no error, a full disk is one.

        Args:
            status: The exit status so far.

        Returns:
            The exit status.
        """
        if self.stream is not None:
            left = _flush(self.stream)
            self.failure = self.failure or left
        if self.failure is not None and not isinstance(self.failure, BrokenPipeError):
            say(f"frameseg: error: cannot write to standard output ({self.failure.strerror}); write it somewhere else")
            status = USER_ERROR
        if sys.stderr is not None:
            _flush(sys.stderr)
        return status


def _flush(stream: TextIO) -> OSError | None:
    """Write what is left; if that fails, discard it, or the interpreter would try again at exit and print an error."""
    try:
        stream.flush()
    except OSError as error:
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return error
    return None


def _user_errors() -> tuple[type[Exception], ...]:
    """Return the errors that a user can mend. That of `video.read` is one if it is imported; else nobody raised it."""
    video = sys.modules.get("hf_frameseg.video.read")
    return (ValueError, OSError, ImportError, RecursionError, MemoryError, *([video.VideoReadError] if video else []))


def build_parser(word: str | None = None) -> Parser:
    """Return the parser of the commands.

    Args:
        word: First word of the command line. Only a command of this name gets its options, which cost the import of the
            settings that they are made of; None gives all commands theirs.
    """
    parser = Parser(
        prog="frameseg",
        description="Find the moments of a video that a sentence describes, and how well each shows it.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in COMMANDS:
        name = module.__name__.rpartition(".")[2]
        description, layout = f"{module.HELP[0].upper()}{module.HELP[1:]}.", argparse.RawDescriptionHelpFormatter
        texts = {"help": module.HELP, "description": description, "epilog": module.EPILOG}
        command = commands.add_parser(name, **texts, formatter_class=layout)
        if word in (None, name):
            module.add_options(command)
        command.add_argument("--debug", action="store_true", help="show the full traceback of an error")
        command.set_defaults(run=module.run, parser=command)
    return parser
