"""Sums in the order of `np.sum`, to the last bit."""

from __future__ import annotations

import numpy as np

from hf_frameseg.metrics._ragged import sums


def test_sums_equal_those_of_numpy_over_the_kept_values_alone() -> None:
    rng, differ = np.random.default_rng(0), 0
    for length in (1, 7, 8, 9, 16, 40, 150, 300):
        values = rng.random((20, 3, length))
        kept = rng.random(values.shape) < 0.7
        found = sums(values, kept)
        for row, column in np.ndindex(20, 3):
            alone = values[row, column][kept[row, column]]
            assert found[row, column] == np.sum(alone)
            differ += np.sum(alone) != sum(alone)
    assert differ > 50  # else any order would pass


def test_nothing_kept_is_zero() -> None:
    assert sums(np.ones((2, 3)), np.zeros((2, 3), dtype=bool)).tolist() == [0.0, 0.0]
    assert sums(np.ones((2, 0)), np.zeros((2, 0), dtype=bool)).tolist() == [0.0, 0.0]
