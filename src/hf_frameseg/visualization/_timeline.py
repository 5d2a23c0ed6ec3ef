"""The panels of the qualitative figure that share the time axis: thumbnails, windows, saliency."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch, Patch
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, MaxNLocator, MultipleLocator
from numpy.typing import NDArray

from hf_frameseg.moments import CLIP_SECONDS, FrameGrid, Moment
from hf_frameseg.predictions import FramePrediction
from hf_frameseg.visualization._style import (
    BLUE,
    FAINT,
    INK,
    MUTED,
    ORANGE,
    PALE_BLUE,
    TRACK,
    quiet_axes,
    text_width_inches,
)

PLOT_WIDTH = 10.3
LONG_SECONDS = 600.0  # beyond, times are written as minutes and seconds
LEGEND_HEIGHT = 0.42
THUMB_GAP, THUMB_MIN_WIDTH, THUMB_MAX_WIDTH, THUMB_MAX_HEIGHT, MAX_THUMBS = 0.07, 0.62, 1.3, 1.0, 80
LANE_HEIGHT, LANE_GAP, SCORE_HEIGHT, SCORE_SIZE, SMALL_SCORE_SIZE = 0.27, 0.09, 0.17, 8.5, 7.5


@dataclass(frozen=True)
class Strip:
    """Hold the places of the thumbnails, in inches."""

    grid: FrameGrid
    shown: NDArray[np.int64]
    rows: int
    thumb_width: float
    thumb_height: float

    @classmethod
    def fit(cls, grid: FrameGrid, aspect: float) -> Strip:
        """Choose which frames to show and in how many rows, so that each is large enough to see something.

        Neighbours go to different rows: each may be as wide as ``rows`` windows and is still centred on its own time.
        """
        stride = ceil(grid.num_frames / MAX_THUMBS)
        shown = np.arange(stride // 2, grid.num_frames, stride)
        pitch = PLOT_WIDTH * stride / grid.num_frames
        rows = min(len(shown), ceil(THUMB_MIN_WIDTH / pitch))
        width = min(rows * pitch - THUMB_GAP, THUMB_MAX_WIDTH, THUMB_MAX_HEIGHT * aspect)
        return cls(grid, shown, rows, width, width / aspect)

    @property
    def height(self) -> float:
        """Return the height of all rows and a gap below."""
        return self.rows * (self.thumb_height + THUMB_GAP) + 0.12

    def draw(self, axes: Axes, images: NDArray[np.uint8], mask: NDArray[np.bool_]) -> None:
        """Draw the thumbnails; frames decoded as 1 are outlined (faded, the others looked like other scenes)."""
        limits = axes.get_xlim(), axes.get_ylim()
        step = max(1, images.shape[2] // 480)  # matplotlib would keep a 4K frame whole for a 200 pixel thumbnail
        for place, frame in enumerate(self.shown):
            x = _to_inches(self.grid.times[frame], self.grid) - self.thumb_width / 2
            y = self.height - (place % self.rows) * (self.thumb_height + THUMB_GAP) - self.thumb_height
            size = (self.thumb_width, self.thumb_height)
            outline = _rounded(x, y, *size, edgecolor=BLUE if mask[frame] else FAINT)
            outline.set(facecolor="none", linewidth=2.4 if mask[frame] else 0.6, zorder=3, clip_on=False)
            axes.add_patch(outline)
            extent = (x, x + self.thumb_width, y, y + self.thumb_height)
            image = axes.imshow(images[frame, ::step, ::step], extent=extent, aspect="auto")
            image.set_clip_path(outline)
            image.set(interpolation="bicubic")
        axes.set(xlim=limits[0], ylim=limits[1])  # imshow moved them
        overhang = max(0, self.thumb_width / 2 - _to_inches(self.grid.times[self.shown[0]], self.grid))
        _label_row(axes, (self.height + 0.12) / 2, "frames", x=-overhang - 0.15)


@dataclass(frozen=True)
class Windows:
    """Hold ground-truth and predicted moments in lanes; each entry is (rank, moment)."""

    grid: FrameGrid
    truth: list[list[tuple[int, Moment]]]
    predicted: list[list[tuple[int, Moment]]]

    @classmethod
    def fit(cls, grid: FrameGrid, truth: Sequence[Moment], predicted: Sequence[Moment]) -> Windows:
        """Put the moments into as few lanes as keep them apart, better ones further up."""
        return cls(grid, _pack(truth, grid), _pack(predicted, grid) or [[]])

    @property
    def height(self) -> float:
        """Return the height of all lanes with their scores."""
        return len(self.truth + self.predicted) * (LANE_HEIGHT + LANE_GAP) + sum(map(self._overhang, self.predicted))

    def draw(self, axes: Axes, fallback: bool) -> None:
        """Draw every lane from the top; ``fallback`` marks a window that was not decoded."""
        top = self.height
        for name, color, lanes in (("ground truth", ORANGE, self.truth), ("predicted", BLUE, self.predicted)):
            label_top = top
            for lane in lanes:
                top -= LANE_HEIGHT
                axes.add_patch(_rounded(0, top, PLOT_WIDTH, LANE_HEIGHT, facecolor=TRACK))
                for rank, moment in lane:
                    self._draw_bar(axes, top, moment, color if rank == 0 or color == ORANGE else PALE_BLUE, fallback)
                if color == BLUE:
                    self._draw_scores(axes, top, lane, fallback)
                    self._draw_note(axes, top + LANE_HEIGHT / 2, lane, fallback)
                label_bottom = top
                top -= LANE_GAP + (self._overhang(lane) if color == BLUE else 0)
            if lanes:
                _label_row(axes, (label_top + label_bottom) / 2, name, color="#9A6A00" if color == ORANGE else color)

    def _span(self, moment: Moment) -> tuple[float, float]:
        """Return left end and width of a moment's bar."""
        left, right = _to_inches(moment.start, self.grid), _to_inches(moment.end, self.grid)
        return left, right - left

    def _fits(self, moment: Moment) -> bool:
        """Tell whether the score can stand inside the moment's bar."""
        return self._span(moment)[1] >= text_width_inches(f"{moment.score:.2f}", SCORE_SIZE, "bold") + 0.06

    def _overhang(self, lane: list[tuple[int, Moment]]) -> float:
        """Return the height a lane needs below for the scores that do not fit inside their bars."""
        return 0 if all(self._fits(moment) for _, moment in lane) else SCORE_HEIGHT

    def _draw_bar(self, axes: Axes, y: float, moment: Moment, color: str, fallback: bool) -> None:
        """Draw one window; a predicted one that was not decoded is outlined only."""
        left, width = self._span(moment)
        bar = _rounded(left, y, width, LANE_HEIGHT, facecolor=color)
        if fallback and color == BLUE:
            bar.set(facecolor="white", edgecolor=BLUE, linewidth=1.2, linestyle=(0, (3, 2)))
        axes.add_patch(bar)

    def _draw_scores(self, axes: Axes, y: float, lane: list[tuple[int, Moment]], fallback: bool) -> None:
        """Write each score in its bar, else below it; below, a worse one gives way to a better one."""
        style = {"weight": "bold", "ha": "center", "va": "center"}
        taken: list[tuple[float, float]] = []
        for rank, moment in lane:  # best first
            left, width = self._span(moment)
            center, label = left + width / 2, f"{moment.score:.2f}"
            if self._fits(moment):
                color = "white" if rank == 0 and not fallback else INK
                axes.text(center, y + LANE_HEIGHT / 2 - 0.005, label, size=SCORE_SIZE, color=color, **style)
                continue
            half = text_width_inches(label, SMALL_SCORE_SIZE, "bold") / 2 + 0.02
            if all(center + half <= a or b <= center - half for a, b in taken):
                taken.append((center - half, center + half))
                axes.text(center, y - SCORE_HEIGHT / 2 - 0.01, label, size=SMALL_SCORE_SIZE, color=BLUE, **style)

    def _draw_note(self, axes: Axes, y: float, lane: list[tuple[int, Moment]], fallback: bool) -> None:
        """Say so in the lane when there is no window, or none that was decoded."""
        style = {"size": SCORE_SIZE, "style": "italic", "color": MUTED, "va": "center"}
        if not lane:
            axes.text(0.12, y, "no window", **style)
        elif fallback:
            note = "nothing decoded as relevant: the best-scoring frame"
            left, width = self._span(lane[0][1])
            beside = left + width + 0.1
            room = beside + text_width_inches(note, SCORE_SIZE) < PLOT_WIDTH
            axes.text(beside if room else left - 0.1, y, note, ha="left" if room else "right", **style)


def draw_saliency(
    axes: Axes,
    prediction: FramePrediction,
    truth: Sequence[Moment],
    mean: NDArray[np.float64] | None,
    scores: NDArray[np.float64] | None,
    hit: bool | None,
) -> None:
    """Draw predicted probability and annotators' saliency over time, with a star on the best predicted clip."""
    grid = prediction.grid
    start, end = grid.start_seconds, grid.end_seconds
    quiet_axes(axes)
    axes.set(xlim=(start, end), ylim=(0, 1.2), yticks=(0, 0.5, 1), yticklabels=("0", "0.5", "1"))
    axes.tick_params(axis="x", pad=7)
    axes.grid(axis="y", color=FAINT, linewidth=0.6)
    for moment in truth:
        axes.axvspan(max(start, moment.start), min(end, moment.end), color=ORANGE, alpha=0.10, linewidth=0)
    handles = _draw_annotators(axes, mean, scores, grid)
    # Blue over the orange of the ground truth would be mud.
    handles += _draw_probability(axes, prediction, fill=not truth)
    _draw_best_clip(axes, prediction, hit)
    axes.legend(
        handles=handles, loc="lower right", bbox_to_anchor=(1, 1), ncols=len(handles), frameon=False, fontsize=8.5,
        labelcolor=MUTED, handlelength=1.4, handletextpad=0.5, columnspacing=1.4, borderaxespad=0, borderpad=0,
    )  # fmt: skip
    axes.text(-0.15 / PLOT_WIDTH, 1, "saliency", size=9, color=MUTED, ha="right", va="center", transform=axes.transAxes)
    _label_time(axes, grid)


def _draw_probability(axes: Axes, prediction: FramePrediction, fill: bool) -> list[Line2D | Patch]:
    """Draw the predicted probability, with a dot per frame that is filled where 1 was decoded; return the legend."""
    grid = prediction.grid
    # Constant outside, as the clips are read.
    seconds = np.concatenate(([grid.start_seconds], grid.times, [grid.end_seconds]))
    probs = np.pad(prediction.probs, 1, mode="edge")
    if fill:
        axes.fill_between(seconds, probs, color=BLUE, alpha=0.10, linewidth=0)
    axes.plot(seconds, probs, color=BLUE, linewidth=1.8, solid_joinstyle="round")
    handles: list[Line2D | Patch] = [Line2D([], [], color=BLUE, linewidth=1.8, label="predicted probability")]
    size = 5.0 if grid.num_frames <= 40 else 3.2
    dots = {"linestyle": "none", "marker": "o", "markersize": size, "markeredgecolor": BLUE, "clip_on": False}
    for value, face in ((True, BLUE), (False, "white")):
        chosen = prediction.mask == value
        axes.plot(grid.times[chosen], prediction.probs[chosen], markerfacecolor=face, zorder=3, **dots)
        handles.append(Line2D([], [], color=BLUE, markerfacecolor=face, label=f"decoded {value:d}", **dots))
    return handles


def _draw_annotators(
    axes: Axes, mean: NDArray[np.float64] | None, scores: NDArray[np.float64] | None, grid: FrameGrid
) -> list[Line2D | Patch]:
    """Draw the annotators' mean as steps over the clips, with their range behind it; return what the legend shows."""
    if mean is None:
        return []
    ends = np.minimum(grid.clip_times() + CLIP_SECONDS / 2, grid.end_seconds)
    edges = np.concatenate(([grid.start_seconds], ends))
    handles: list[Line2D | Patch] = []
    if scores is not None:
        low, high = scores.min(axis=1) / 4, scores.max(axis=1) / 4
        axes.stairs(high, edges, baseline=low, fill=True, color=ORANGE, alpha=0.28, linewidth=0)
        handles.append(Patch(color=ORANGE, alpha=0.28, linewidth=0, label="annotators, range"))
    axes.stairs(mean, edges, baseline=None, color=ORANGE, linewidth=1.8)
    return [Line2D([], [], color=ORANGE, linewidth=1.8, label="annotators, mean"), *handles]


def _draw_best_clip(axes: Axes, prediction: FramePrediction, hit: bool | None) -> None:
    """Put a star on the clip with the highest predicted saliency; say whether it is a hit where that is known."""
    if len(prediction.saliency) < 2:
        return  # a video of one clip: it is not better than any other
    grid = prediction.grid
    clip = int(prediction.saliency.argmax())
    seconds, value = min(grid.clip_times()[clip], grid.end_seconds), prediction.saliency[clip]
    star = {"marker": "*", "markersize": 15, "markeredgecolor": "white", "markeredgewidth": 0.9}
    axes.plot(seconds, value, color=BLUE, clip_on=False, zorder=4, **star)
    label = "best clip" if hit is None else f"HIT@1 {'hit' if hit else 'miss'}"
    place = (seconds - grid.start_seconds) / grid.duration_seconds
    side = "left" if place < 0.05 else "right" if place > 0.95 else "center"
    axes.annotate(
        label, (seconds, value), (0, 9), textcoords="offset points", ha=side, size=8.5, weight="bold", color=BLUE,
        path_effects=[withStroke(linewidth=3.5, foreground="white")], zorder=4,
    )  # fmt: skip


def _label_time(axes: Axes, grid: FrameGrid) -> None:
    """Label the time axis: seconds, or minutes and seconds for long videos."""
    if grid.end_seconds <= LONG_SECONDS:
        axes.xaxis.set_major_locator(MaxNLocator(nbins=12, steps=[1, 1.5, 2, 3, 5, 10]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g} s"))
        return
    steps = (5, 10, 30, 60, 120, 300, 600, 1200, 1800)
    step = next((step for step in steps if grid.duration_seconds / step <= 12), 3600)
    axes.xaxis.set_major_locator(MultipleLocator(step))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: clock(x)))


def clock(seconds: float) -> str:
    """Return a time as minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"


def _rounded(x: float, y: float, width: float, height: float, **style: str) -> FancyBboxPatch:
    """Return a rectangle with slightly rounded corners, in inches."""
    radius = min(0.05, width / 2, height / 2)
    style = {"linewidth": 0, **style}
    return FancyBboxPatch((x, y), width, height, boxstyle=f"round,pad=0,rounding_size={radius}", **style)


def _to_inches(seconds: float, grid: FrameGrid) -> float:
    """Return the place of a time on the plot's width."""
    return float(np.clip((seconds - grid.start_seconds) / grid.duration_seconds, 0, 1)) * PLOT_WIDTH


def _label_row(axes: Axes, y: float, text: str, color: str = MUTED, x: float = -0.15) -> None:
    """Name a row in the left margin."""
    axes.text(x, y, text, size=9, color=color, ha="right", va="center")


def _pack(moments: Sequence[Moment], grid: FrameGrid) -> list[list[tuple[int, Moment]]]:
    """Assign each moment with its rank to the first lane where it overlaps nothing."""
    lanes: list[list[tuple[int, Moment]]] = []
    for rank, moment in enumerate(moments):
        if moment.start >= grid.end_seconds or moment.end <= grid.start_seconds:
            continue
        free = (
            lane for lane in lanes if all(moment.end <= other.start or other.end <= moment.start for _, other in lane)
        )
        lane = next(free, None)
        if lane is None:
            lanes.append(lane := [])
        lane.append((rank, moment))
    return lanes
