"""Sums in the order of `np.sum`, to the last bit."""

from __future__ import annotations

import numpy as np

from hf_frameseg.metrics._ragged import stretch_sums


def test_sums_equal_those_of_numpy_over_each_stretch_alone() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.permutation(np.repeat([0, 1, 7, 8, 9, 16, 40, 75, 150, 300], 20)).reshape(50, 4)
    values = rng.random(lengths.sum())
    stretches = np.split(values, np.cumsum(lengths)[:-1])
    expected = np.array([np.sum(stretch) for stretch in stretches]).reshape(lengths.shape)
    np.testing.assert_array_equal(stretch_sums(values, lengths), expected)
    in_a_loop = np.array([sum(stretch) for stretch in stretches]).reshape(lengths.shape)
    assert (in_a_loop != expected).sum() > 50  # else any order would pass


def test_nothing_is_zero() -> None:
    assert stretch_sums(np.zeros(0), np.zeros((2, 1), dtype=np.int64)).tolist() == [[0.0], [0.0]]
    assert stretch_sums(np.zeros(0), np.zeros((0, 3), dtype=np.int64)).shape == (0, 3)
