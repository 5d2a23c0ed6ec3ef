"""Text of others, fit to be printed: nothing in a file may steer a terminal, forge a line or hide a part of one."""

from __future__ import annotations

import unicodedata
from typing import Any

_HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # controls, format and bidi marks, half characters, line and paragraph ends
_MAX_SHORT_CHARACTERS = 60
_JOINERS = {"\u200c", "\u200d"}  # needed in Persian and Indic words and in joined emoji, and harmless


def printable(text: object) -> str:
    r"""Return a text with its control characters, direction marks and half characters written as escapes.

    Args:
        text: A name, a query or a message that holds some; anything else as `str` gives it.

    Returns:
        One line that a terminal shows as it is.

    Example:
        >>> print(printable("a dog\x1b[2J\n0 problems"))
        a dog\x1b[2J\n0 problems
    """
    return "".join(_escape(character) for character in str(text))


def short(value: Any) -> str:
    """Show a value on one line without flooding it.

    Args:
        value: Anything.

    Returns:
        At most 60 characters.

    Example:
        >>> short(list(range(1000)))
        '[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16...'
    """
    # Cut first: the text of a list of 100 MB takes seconds, and every entry shows one character at least.
    cut = value[:_MAX_SHORT_CHARACTERS] if isinstance(value, (str, list, tuple)) else value
    try:
        text = " ".join(printable(repr(cut)).split())
    except RecursionError:
        text = f"a {type(value).__name__} in many others"
    except ValueError:  # Python writes no whole number of thousands of digits
        text = f"a {type(value).__name__} that is too large to be shown"
    return text if len(text) <= _MAX_SHORT_CHARACTERS else f"{text[: _MAX_SHORT_CHARACTERS - 3]}..."


def _escape(character: str) -> str:
    """Return a character, or the escape of one that is not shown."""
    if unicodedata.category(character) not in _HIDDEN or character in _JOINERS:
        return character
    return character.encode("unicode_escape").decode("ascii")
