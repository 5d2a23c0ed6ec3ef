"""What properties of grids and masks are tried on: durations, masks, and ways to lay frames over a video."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import hypothesis.extra.numpy as npst
from hypothesis import settings
from hypothesis import strategies as st

from hf_frameseg.moments import FrameGrid

DURATIONS = st.floats(min_value=0.01, max_value=86_400.0, allow_nan=False, allow_infinity=False)
# No deadline: a busy machine is no failure. Derandomized: the same run fails or passes everywhere.
PROPERTY = settings(deadline=None, derandomize=True)
MASKS = npst.arrays(bool, st.integers(1, 200))
PHASES = st.one_of(
    st.sampled_from([0.0, -0.25, math.nextafter(0.5, 0), math.nextafter(-0.5, 0)]), st.floats(-0.49, 0.49)
)
LAYOUTS = st.one_of(st.just(FrameGrid.uniform), st.builds(lambda phase: partial(FrameGrid.phase, phase=phase), PHASES))
Layout = Callable[[float, int], FrameGrid]
