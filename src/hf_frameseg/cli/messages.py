"""What a command prints on stderr: one line for each error that the user can mend, with options by their names."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping
from contextlib import suppress

from hf_frameseg._text import printable


def say(*lines: str) -> None:
    """Write lines to stderr, if there is one that can be written."""
    if sys.stderr is None:  # closed by the caller; print would take stdout instead
        return
    with suppress(OSError):
        print(*map(printable, lines), sep="\n", file=sys.stderr)


def one_line(error: BaseException, options: Mapping[str, argparse.Action]) -> str:
    """Describe an error that the user can mend.

    Args:
        error: What was raised.
        options: Options of the command by the name of the field that they set.

    Returns:
        One line that names options where the error names fields or arguments.
    """
    if isinstance(error, RecursionError):
        return "a file holds lists in lists without end; write it again"
    if isinstance(error, MemoryError):
        return "there is not enough memory for this; ask for less, or split the file"
    if isinstance(error, OSError) and str(error).startswith("[Errno") and error.filename is not None:
        return f"{str(error.filename):.200}: {error.strerror}; check the path"
    return name_options(" ".join(str(error).split()), options)


def name_options(text: str, options: Mapping[str, argparse.Action]) -> str:
    """Put options in the place of the fields and arguments that a message names.

    `NAME=VALUE` is an option wherever it stands. A bare name is one where settings complain, in a message that starts
    with "expected": behind that word, and wherever it has an underscore. The names of files keep theirs, and so does a
    message about the content of a file, which starts with the file's name.

    Args:
        text: A message of one line.
        options: Options of the command by the name of the field that they set.

    Returns:
        The message.

    Example:
        >>> parser = argparse.ArgumentParser(add_help=False)
        >>> for words in (["--grid-kind"], ["--seed"]):
        ...     _ = parser.add_argument(*words)
        >>> _ = parser.add_argument("--fast", dest="slow", action="store_false")
        >>> options = {action.dest: action for action in parser._actions}
        >>> name_options("expected seed to fit grid_kind 'middle', got 'a seed'; pass slow=False", options)
        "expected --seed to fit --grid-kind 'middle', got 'a seed'; pass --fast"
        >>> name_options("grid_kind.json: expected seed to be 1; take grid_kind='middle'", options)
        'grid_kind.json: expected seed to be 1; take --grid-kind middle'
    """
    if not options:
        return text
    expected = "expected "
    by_settings = text.startswith(expected)

    def option(match: re.Match[str]) -> str:
        action, value = options[match["name"]], match["value"]
        flag = action.option_strings[-1]
        if value is not None:
            words = value.strip("'()").replace(",", "")
            return match[0] if value == "None" else flag if action.nargs == 0 else f"{flag} {words}"
        return flag if by_settings and ("_" in match["name"] or match.start() == len(expected)) else match[0]

    # A name within a path, within quotes or at the start of a longer name is left. A value may follow it.
    name, value = "|".join(map(re.escape, options)), r"=(?P<value>'[^']*'|\([^)]*\)|[\w.+-]*\w)"
    return re.sub(rf"(?<![\w/.'\"-])(?P<name>{name})\b(?:{value}|(?!\.?[\w/'\"-]))", option, text)
