"""Values in messages."""

from __future__ import annotations

from typing import Any

from hf_frameseg._text import printable

_MAX_CHARACTERS = 60


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
    cut = value[:_MAX_CHARACTERS] if isinstance(value, (str, list, tuple)) else value
    try:
        text = " ".join(printable(repr(cut)).split())
    except RecursionError:
        text = f"a {type(value).__name__} in many others"
    return text if len(text) <= _MAX_CHARACTERS else f"{text[: _MAX_CHARACTERS - 3]}..."
