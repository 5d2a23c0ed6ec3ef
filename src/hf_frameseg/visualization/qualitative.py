"""One picture of one prediction: the frames, the windows and the saliency over time.

In the spirit of figures 2 to 9 of "Moment and Highlight Detection via MLLM Frame Segmentation". Blue is always the
model, orange always the ground truth.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from hf_frameseg.intervals import temporal_iou
from hf_frameseg.moments import MAX_RATING, FrameGrid, Moment
from hf_frameseg.predictions import FramePrediction
from hf_frameseg.visualization import _timeline as timeline
from hf_frameseg.visualization._style import AS_IT_IS, INK, MUTED, POINTS_PER_INCH, text_width_inches, wrap_text

MARGIN, LEFT, RIGHT = 0.35, 1.25, 0.45
WIDTH = LEFT + timeline.PLOT_WIDTH + RIGHT
TITLE_SIZE, LONG_TITLE_SIZE = 14.0, 11.0
CURVE_HEIGHT, FOOTER_HEIGHT = 2.1, 0.45
VERY_GOOD = 4  # HIT@1 of QVHighlights: the best clip has this score from at least one annotator


def qualitative_figure(
    prediction: FramePrediction,
    frames: ArrayLike | None = None,
    relevant_moments: Sequence[Moment] = (),
    clip_saliency: ArrayLike | None = None,
    annotators: ArrayLike | None = None,
    title: str | None = None,
) -> Figure:
    """Draw a prediction over the time of its video, next to the ground truth where there is one.

    From top to bottom: the query with the key figures; the frames the model saw, each centred on its time, those
    decoded as 1 outlined; ground-truth and predicted windows (the best one in full colour, each with its score);
    predicted probability and annotators' saliency, with a star on the best clip.

    Args:
        prediction: What the model said.
        frames: The frames it saw, ``(F, H, W, 3)`` uint8; None leaves the strip out.
        relevant_moments: Ground-truth moments; empty for a video without annotation.
        clip_saliency: Annotators' mean saliency per clip ``(C,)`` in [0, 1], i.e. mean score / 4. Default: computed
            from ``annotators`` if given.
        annotators: Saliency score of each annotator per clip ``(C, 3)`` from 0 to 4. Adds their range and says whether
            the best clip is a hit (HIT@1: some annotator gave it a 4).
        title: Headline; default the query.

    Returns:
        A figure of its own, for `save_figure`. Nothing is shown, no global state is touched.

    Raises:
        ValueError: If frames or saliency do not have the shape that the prediction asks for.

    Paper:
        "Moment and Highlight Detection via MLLM Frame Segmentation", figures 2 to 9.

    Example:
        >>> import numpy as np
        >>> from hf_frameseg.moments import FrameGrid, Moment
        >>> from hf_frameseg.proposals import interpolate_to_clips
        >>> from hf_frameseg.predictions import FramePrediction
        >>> grid = FrameGrid.middle(duration_seconds=8, num_frames=4)
        >>> probs = np.array([0.1, 0.9, 0.8, 0.2])
        >>> prediction = FramePrediction(
        ...     grid, probs > 0.5, probs, (Moment(2, 6, 0.85),), interpolate_to_clips(probs, grid), query="a red circle"
        ... )
        >>> figure = qualitative_figure(prediction, relevant_moments=[Moment(2, 8)])
        >>> round(figure.get_figwidth())
        12
    """
    grid = prediction.grid
    images = None if frames is None else _check_frames(frames, grid)
    mean, scores = _check_saliency(clip_saliency, annotators, len(prediction.saliency))
    facts = _facts(prediction, relevant_moments, scores)
    headline, size = _headline(title or prediction.query, _text_room(facts))
    header_height = max(0.85, 0.57 + _leading(size) * len(headline))
    strip = None if images is None else timeline.Strip.fit(grid, aspect=images.shape[2] / images.shape[1])
    windows = timeline.Windows.fit(grid, relevant_moments, prediction.moments)

    heights = [header_height, strip.height if strip else 0, windows.height, timeline.LEGEND_HEIGHT, CURVE_HEIGHT]
    column = _Column(Figure(figsize=(WIDTH, sum(heights) + FOOTER_HEIGHT), facecolor="white"))
    header = column.take_inches(header_height)
    _draw_headline(header, headline, size, _origin(prediction, has_title=bool(title)), _text_room(facts))
    _draw_facts(header, facts)
    if images is not None and strip is not None:
        strip.draw(column.take_inches(strip.height), images, prediction.mask)
    windows.draw(column.take_inches(windows.height), fallback=prediction.fallback)
    column.skip(timeline.LEGEND_HEIGHT)
    curve = column.take(CURVE_HEIGHT)
    hit = None if scores is None else _is_hit(prediction, scores)
    timeline.draw_saliency(curve, prediction, relevant_moments, mean, scores, hit)
    return column.figure


class _Column:
    """Hand out axes from the top of a figure downwards: laid out in inches, letters and thumbnails keep their size."""

    def __init__(self, figure: Figure) -> None:
        self.figure = figure
        self.bottom = self.height = figure.get_figheight()

    def skip(self, height: float) -> None:
        """Leave a gap."""
        self.bottom -= height

    def take(self, height: float, left: float = LEFT, width: float = timeline.PLOT_WIDTH) -> Axes:
        """Return the next axes, by default over the width of the time axis."""
        self.skip(height)
        return self.figure.add_axes((left / WIDTH, self.bottom / self.height, width / WIDTH, height / self.height))

    def take_inches(self, height: float) -> Axes:
        """Return blank axes over the whole width with inches as data units, x from the start of the time axis."""
        axes = self.take(height, left=0, width=WIDTH)
        axes.set_axis_off()
        axes.set(xlim=(-LEFT, WIDTH - LEFT), ylim=(0, height))
        return axes


def _check_frames(frames: ArrayLike, grid: FrameGrid) -> NDArray[np.uint8]:
    """Return the frames as an array, or raise with what was expected."""
    images = np.asarray(frames)
    if images.ndim != 4 or len(images) != grid.num_frames or images.shape[-1] != 3 or images.dtype != np.uint8:
        raise ValueError(
            f"frames must be uint8 (F, H, W, 3) with F = {grid.num_frames}, got {images.dtype} {images.shape}; "
            "pass one variant per frame, channels last, before any normalisation."
        )
    return images


def _check_saliency(
    clip_saliency: ArrayLike | None, annotators: ArrayLike | None, num_clips: int
) -> tuple[NDArray[np.float64] | None, NDArray[np.float64] | None]:
    """Return the annotators' mean in [0, 1] (C,) and their scores (C, 3), or raise with what was expected."""
    scores = None if annotators is None else np.asarray(annotators, dtype=np.float64)
    if scores is not None and (scores.ndim != 2 or len(scores) != num_clips or not _within(scores, MAX_RATING)):
        raise ValueError(
            f"annotators must be scores from 0 to {MAX_RATING} of shape (C, 3) with C = {num_clips} clips, got "
            f"{scores.shape}; put 0 for the clips outside the relevant ones."
        )
    if clip_saliency is None:
        return (None if scores is None else scores.mean(axis=1) / MAX_RATING), scores
    mean = np.asarray(clip_saliency, dtype=np.float64)
    if mean.shape != (num_clips,) or not _within(mean, 1):
        raise ValueError(
            f"clip_saliency must be in [0, 1] of shape (C,) with C = {num_clips} clips, got {mean.shape}; "
            f"divide the mean score by {MAX_RATING} and put 0 for the clips outside the relevant ones."
        )
    return mean, scores


def _within(values: NDArray[np.float64], top: float) -> bool:
    """Tell whether every value is in [0, top] (NaN is not)."""
    return bool(((values >= 0) & (values <= top)).all())


def _is_hit(prediction: FramePrediction, scores: NDArray[np.float64]) -> bool:
    """Tell whether some annotator found the best predicted clip very good, the official rule of HIT@1."""
    return bool(scores[prediction.saliency.argmax()].max() >= VERY_GOOD)


def _facts(
    prediction: FramePrediction, truth: Sequence[Moment], scores: NDArray[np.float64] | None
) -> list[tuple[str, str]]:
    """Return the key figures as (name, value), those that can be known."""
    facts = []
    best = prediction.moments[0] if prediction.moments else None
    if best is not None:
        facts.append(("best window", _period(best, prediction.grid)))
    if truth:
        iou = 0.0 if best is None else temporal_iou([[best.start, best.end]], [[m.start, m.end] for m in truth]).max()
        facts.append(("IoU", f"{iou:.2f}"))
    if scores is not None:
        facts.append(("HIT@1", "hit" if _is_hit(prediction, scores) else "miss"))
    return facts


def _period(moment: Moment, grid: FrameGrid) -> str:
    """Return a moment's start and end in the notation of the time axis."""
    if grid.end_seconds > timeline.LONG_SECONDS:
        return f"{timeline.clock(moment.start)}–{timeline.clock(moment.end)}"
    digits = 1 if grid.duration_seconds >= 20 else 2
    return f"{round(moment.start, digits):g}–{round(moment.end, digits):g} s"


def _text_room(facts: list[tuple[str, str]]) -> float:
    """Return the width in inches that the key figures leave to the headline."""
    return WIDTH - MARGIN - RIGHT - sum(_fact_width(fact) for fact in facts)


def _fact_width(fact: tuple[str, str]) -> float:
    """Return the width of a key figure in inches with the gap to its left."""
    return 0.5 + max(0.5, text_width_inches(fact[1], TITLE_SIZE, "bold"))


def _headline(text: str, room: float) -> tuple[list[str], float]:
    """Return the lines of the headline and their size: a long query gets smaller letters and more lines."""
    lines = wrap_text(text, room, TITLE_SIZE, "bold")
    if len(lines) <= 2:
        return lines, TITLE_SIZE
    return wrap_text(text, room, LONG_TITLE_SIZE, "bold", max_lines=4), LONG_TITLE_SIZE


def _leading(size: float) -> float:
    """Return the distance of two lines of text in inches."""
    return 1.35 * size / POINTS_PER_INCH


def _origin(prediction: FramePrediction, has_title: bool) -> str:
    """Return where the prediction comes from in one line."""
    grid = prediction.grid
    duration = f"{grid.duration_seconds:.4g} s"
    if grid.duration_seconds > timeline.LONG_SECONDS:
        duration = f"{timeline.clock(grid.duration_seconds)} min"
    parts = [prediction.query if has_title else "", prediction.vid or "", duration, f"{grid.num_frames} frames"]
    return " · ".join(part for part in parts if part)


def _draw_headline(axes: Axes, headline: list[str], size: float, origin: str, room: float) -> None:
    """Write the headline and one line below it."""
    top = axes.get_ylim()[1] - 0.2
    style = {"va": "top", **AS_IT_IS}
    for row, line in enumerate(headline):
        axes.text(MARGIN - LEFT, top - _leading(size) * row, line, size=size, weight="bold", color=INK, **style)
    y = top - _leading(size) * len(headline) - 0.04
    axes.text(MARGIN - LEFT, y, wrap_text(origin, room, 9, max_lines=1)[0], size=9, color=MUTED, **style)


def _draw_facts(axes: Axes, facts: list[tuple[str, str]]) -> None:
    """Write the key figures in columns from the right."""
    top = axes.get_ylim()[1] - 0.2
    x = timeline.PLOT_WIDTH
    for name, value in reversed(facts):
        axes.text(x, top, value, size=TITLE_SIZE, weight="bold", color=INK, ha="right", va="top")
        axes.text(x, top - 0.3, name, size=9, color=MUTED, ha="right", va="top")
        x -= _fact_width((name, value))
