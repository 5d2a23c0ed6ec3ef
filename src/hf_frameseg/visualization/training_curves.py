"""Training curves: every loss part over the steps, raw and smoothed (figure 10 of the paper)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, MaxNLocator
from numpy.typing import ArrayLike, NDArray

from hf_frameseg._text import printable
from hf_frameseg.visualization._style import (
    AS_IT_IS,
    BLUE,
    FAINT,
    GREEN,
    INK,
    MUTED,
    PURPLE,
    SKY,
    VERMILION,
    quiet_axes,
    wrap_text,
)

TITLE_WIDTH = 3.2  # inches

PANELS: dict[str, tuple[str, str]] = {
    "loss": ("Joint loss", INK),
    "loss_lm": ("Language model", BLUE),
    "loss_bce": ("Binary cross-entropy", VERMILION),
    "loss_tversky": ("Tversky", GREEN),
    "loss_generalized_dice": ("Generalized Dice", PURPLE),
}
"""Title and colour of the known loss parts, in the order of their panels."""


_Series = tuple[NDArray[np.float64], NDArray[np.float64]]  # steps and values, each (N,)


def time_weighted_ema(steps: ArrayLike, values: ArrayLike, half_life_steps: float) -> NDArray[np.float64]:
    r"""Smooth a curve whose points are not evenly spaced.

    Every point is the mean of all values so far, each weighted by its age in steps:

    .. math::
        y_i = \frac{\sum_{j \le i} 2^{-(t_i - t_j) / h}\, x_j}{\sum_{j \le i} 2^{-(t_i - t_j) / h}}

    An ordinary EMA counts points instead of steps, so it bends wherever the logging interval changes. Dividing by the
    weights keeps the start unbiased. Values that are not finite are passed over.

    Args:
        steps: Step of each value ``(N,)``, not decreasing.
        values: Values ``(N,)``.
        half_life_steps: Age ``h`` in steps at which a value counts half.

    Returns:
        Smoothed values ``(N,)``; NaN before the first finite value.

    Raises:
        ValueError: If ``half_life_steps`` is not above 0, or shapes or order of the steps are wrong.

    Example:
        >>> from hf_frameseg.visualization import time_weighted_ema
        >>> time_weighted_ema([0, 10, 30], [1.0, 0.0, 0.0], half_life_steps=10).round(4).tolist()
        [1.0, 0.3333, 0.0909]
    """
    steps, values = np.asarray(steps, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if not half_life_steps > 0:
        raise ValueError(f"half_life_steps must be > 0, got {half_life_steps}.")
    if steps.ndim != 1 or steps.shape != values.shape or (np.diff(steps) < 0).any():
        raise ValueError(
            f"steps and values must be (N,) with steps in rising order, got {steps.shape} and {values.shape}; "
            "sort them by step."
        )
    smoothed = np.full(len(values), np.nan)
    total = weight = 0.0
    for index, (elapsed, value) in enumerate(zip(np.diff(steps, prepend=steps[:1]), values, strict=True)):
        decay = 0.5 ** (elapsed / half_life_steps)
        seen = bool(np.isfinite(value))
        total, weight = total * decay + (value if seen else 0.0), weight * decay + seen
        if weight > 0:
            smoothed[index] = total / weight
    return smoothed


def training_curves_figure(
    log_history: Sequence[Mapping[str, Any]],
    keys: Sequence[str] | None = None,
    half_life_steps: float | None = None,
) -> Figure:
    """Draw one panel per loss part: raw values faint, a time-weighted moving average over them.

    A panel also shows the evaluation values of its key (``eval_<key>``) where they were logged.

    Args:
        log_history: ``trainer.state.log_history``, or the list of that name in ``trainer_state.json``.
        keys: What to draw, in this order. Default: ``loss`` and every ``loss_<part>`` in the log.
        half_life_steps: Smoothing, see :func:`time_weighted_ema`. Default: a fortieth of the logged steps.

    Returns:
        A figure of its own, for `save_figure`. Nothing is shown, no global state is touched.

    Raises:
        ValueError: If a key is not in the log, or there is nothing to draw.

    Paper:
        "Moment and Highlight Detection via MLLM Frame Segmentation", figure 10.

    Example:
        >>> from hf_frameseg.visualization import training_curves_figure
        >>> log = [{"step": step, "loss": 1 / step, "loss_lm": 2 / step} for step in (1, 2, 5, 10)]
        >>> [axes.get_title(loc="left") for axes in training_curves_figure(log).axes]
        ['Joint loss', 'Language model']
    """
    keys = _find_keys(log_history, keys)
    curves = {key: _panel_series(log_history, key) for key in keys}
    if half_life_steps is None:
        logged = np.concatenate([steps for pair in curves.values() for steps, _ in pair])
        half_life_steps = max(1.0, float(np.ptp(logged)) / 40)
    columns = len(keys) if len(keys) <= 3 else 2 if len(keys) == 4 else 3
    rows = ceil(len(keys) / columns)
    width, height = 3.9 * columns + 0.2, 2.5 * rows + 0.45
    figure = Figure(figsize=(max(width, 4.6), height), facecolor="white", layout="constrained")
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.1, rect=(0, 0, 1, 1 - 0.42 / height))
    for place, (key, (train, evaluation)) in enumerate(curves.items(), start=1):
        axes = figure.add_subplot(rows, columns, place)
        title, color = PANELS.get(key, (key, SKY))
        title = wrap_text(title, TITLE_WIDTH, 11, "bold", max_lines=1)[0]
        axes.set_title(title, loc="left", size=11, weight="bold", color=INK, pad=8, **AS_IT_IS)
        _draw_curve(axes, train, evaluation, color, half_life_steps)
        if place > len(keys) - columns:
            axes.set_xlabel("optimiser step", size=9, color=MUTED)
    has_train, has_evaluation = (any(len(pair[kind][0]) for pair in curves.values()) for kind in (0, 1))
    _draw_legend(figure, has_train, has_evaluation, half_life_steps)
    return figure


def _find_keys(log_history: Sequence[Mapping[str, Any]], keys: Sequence[str] | None) -> list[str]:
    """Return the keys to draw, or raise with those that could be."""
    logged = list(dict.fromkeys(key for entry in log_history for key in entry))
    if keys is None:
        keys = [key for key in PANELS if key in logged]
        keys += [key for key in logged if key.startswith("loss_") and key not in PANELS]
    if missing := [key for key in keys if key not in logged]:
        raise ValueError(f"not in the log: {', '.join(missing)}; it has {', '.join(logged) or 'no entries'}.")
    if not keys:
        raise ValueError("the log has no loss; set logging_steps below the number of training steps, or pass keys.")
    return list(keys)


def _series(log_history: Sequence[Mapping[str, Any]], key: str) -> _Series:
    """Return steps and values of one key, by step (a log joined from several runs need not be in order)."""
    try:
        found = [(float(entry["step"]), float(entry[key])) for entry in log_history if key in entry]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        reason = printable(f"{type(error).__name__}: {error!s:.80}")
        raise ValueError(
            f"expected log entries with a step and a number for {printable(key)}, got one with {reason}"
        ) from None
    steps, values = np.array(sorted(found, key=lambda point: point[0]), dtype=np.float64).reshape(-1, 2).T
    return steps, values


def _panel_series(log_history: Sequence[Mapping[str, Any]], key: str) -> tuple[_Series, _Series]:
    """Return training and evaluation values of one panel; either may be empty."""
    if key.startswith("eval_"):
        return _series((), key), _series(log_history, key)
    return _series(log_history, key), _series(log_history, f"eval_{key}")


def _draw_curve(
    axes: Axes,
    train: _Series,
    evaluation: _Series,
    color: str,
    half_life_steps: float,
) -> None:
    """Draw raw and smoothed training values, and the evaluation values over them."""
    quiet_axes(axes)
    axes.grid(axis="y", color=FAINT, linewidth=0.6)
    axes.plot(*train, color=color, alpha=0.28, linewidth=1.0)
    axes.plot(train[0], time_weighted_ema(*train, half_life_steps), color=color, linewidth=2.0)
    axes.plot(*evaluation, **_EVALUATION)
    axes.margins(x=0.02, y=0.08)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))


_EVALUATION = {
    "color": MUTED, "linewidth": 1.0, "linestyle": (0, (1, 1.5)),
    "marker": "o", "markersize": 4.5, "markerfacecolor": "white", "markeredgecolor": INK, "markeredgewidth": 1.2,
}  # fmt: skip


def _draw_legend(figure: Figure, has_train: bool, has_evaluation: bool, half_life_steps: float) -> None:
    """Explain the lines once, above all panels."""
    handles = []
    if has_train:
        handles.append(Line2D([], [], color=INK, alpha=0.28, linewidth=1.0, label="logged"))
        label = f"smoothed (half-life {half_life_steps:.3g} steps)"
        handles.append(Line2D([], [], color=INK, linewidth=2.0, label=label))
    if has_evaluation:
        handles.append(Line2D([], [], **_EVALUATION, label="evaluation"))
    figure.legend(
        handles=handles,
        loc="upper right",
        ncols=len(handles),
        frameon=False,
        fontsize=9,
        labelcolor=MUTED,
        columnspacing=1.6,
    )
