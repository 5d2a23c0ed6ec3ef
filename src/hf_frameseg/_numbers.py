"""What counts as a number in files and arguments, and how a share becomes a score."""

from __future__ import annotations

import math
from typing import Any

import numpy as np


def is_number(value: Any) -> bool:
    """Tell whether a value is a finite number.

    Args:
        value: Anything. Booleans are no numbers, nor are NaN and infinities, which Python's JSON reads; nor is a whole
            number so large that no float holds it.

    Returns:
        Whether it is a number of Python's or numpy's.

    Example:
        >>> [is_number(value) for value in (2, 2.5, np.float32(1), True, "2", float("nan"), 10**400)]
        [True, True, True, False, False, False, False]
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def is_whole(value: Any, lowest: int, highest: float = math.inf) -> bool:
    """Tell whether a value is a whole number of a range.

    Args:
        value: Anything. Booleans are no numbers, and 2.0 is not written as a whole one.
        lowest: Smallest number that is.
        highest: Largest number that is.

    Returns:
        Whether it is an `int` of Python's from `lowest` to `highest`.

    Example:
        >>> [is_whole(value, 1, 3) for value in (1, 3, 4, 2.0, True)]
        [True, True, False, False, False]
    """
    return type(value) is int and lowest <= value <= highest


def percent(share: float) -> float:
    """Return a share as the official evaluator of QVHighlights writes it: rounded through the printed number.

    Args:
        share: From 0 to 1.

    Returns:
        From 0 to 100, with two decimals.

    Example:
        >>> percent(0.12345)
        12.35
    """
    return float(f"{100 * share:.2f}")
