"""What counts as a number."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from hf_frameseg._numbers import is_number, is_whole


@pytest.mark.parametrize("value", [0, -3, 2.5, 10**300, np.int64(4), np.uint8(4), np.float32(0.5), np.float64(-1)])
def test_numbers(value: Any) -> None:
    assert is_number(value)


@pytest.mark.parametrize(
    "value",
    [True, np.True_, None, "2", b"2", [2], np.array([2.0]), 1j, Decimal(2)]
    + [float("nan"), float("inf"), np.float32("-inf"), 10**400, -(10**400)],
)
def test_no_numbers(value: Any) -> None:
    assert not is_number(value)


def test_whole_numbers_of_a_range() -> None:
    assert [value for value in (-1, 0, 1, 5, 6, 2.0, True, "2", None, np.int64(2)) if is_whole(value, 0, 5)] == [
        0,
        1,
        5,
    ]
    assert is_whole(10**400, 1)
