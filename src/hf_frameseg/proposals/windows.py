"""The decoders: which runs of frames are candidates for a moment, and in which order.

All of them work on frame indices. A span is a half-open run of frames; its window in seconds lies on the frame edges,
or on the points next to them of a coarser grid when windows are snapped. Axes: F frames, N candidates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hf_frameseg.intervals import temporal_iou
from hf_frameseg.masks import mask_to_spans
from hf_frameseg.moments import FrameGrid

if TYPE_CHECKING:
    from hf_frameseg.proposals.settings import ProposalSettings


MAX_INTERVAL_FRAMES = 2_000
"""Most frames whose F(F+1)/2 intervals `soft-iou` and `runs+fill` compare; 2,000 take about 0.3 GB."""


class Candidates(NamedTuple):
    """Hold candidates in the order in which they are listed.

    Args:
        spans: Half-open runs of frame indices, shape (N, 2).
        scores: What ranks them, shape (N,), never rising.
    """

    spans: NDArray[np.int64]
    scores: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class FrameScores:
    """Hold what a decoder sees of one query.

    Args:
        grid: The frame windows.
        mask: Decoded relevance per frame, shape (F,), bool.
        probs: Foreground probability per frame, shape (F,), float64.
        log_odds: Difference `logit_1 - logit_0` per frame, shape (F,), float64; None if only probabilities were kept.
        snap_seconds: Step of the grid to which windows are snapped; None leaves them on the frame edges.
    """

    grid: FrameGrid
    mask: NDArray[np.bool_]
    probs: NDArray[np.float64]
    log_odds: NDArray[np.float64] | None = None
    snap_seconds: float | None = None

    def windows_seconds(self, spans: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the window of each span in seconds, shape (N, 2), none empty and all inside the video."""
        edges = self.grid.edges
        if self.snap_seconds is None:
            return edges[spans]
        step, start, length = self.snap_seconds, self.grid.start_seconds, self.grid.duration_seconds
        edges = edges - start  # of a part of a longer video, clips are counted from its start
        # A window shorter than the step can collapse; the cell of the grid that holds its middle stands in for it.
        cells = np.floor(edges[spans].mean(axis=1) / step) * step
        windows = snap(edges, step, length)[spans]
        empty = windows[:, 0] == windows[:, 1]
        windows[empty, 0] = cells[empty]
        windows[empty, 1] = np.minimum(cells[empty] + step, length)
        return np.minimum(start + windows, self.grid.end_seconds)  # the sum may be rounded past the end


def snap(times_seconds: NDArray[np.float64], step_seconds: float, duration_seconds: float) -> NDArray[np.float64]:
    """Move each time to the nearest point of a grid.

    The points are the multiples of the step inside the video, and the video's end. Half-way times go to the later
    point: all to the same side, so that lengths are kept.

    Args:
        times_seconds: Times between 0 and the video's end, any shape.
        step_seconds: Step of the grid.
        duration_seconds: The video's end.

    Returns:
        The points, same shape.

    Example:
        >>> snap(np.array([0.9, 1.0, 4.4, 4.6, 5.0]), step_seconds=2, duration_seconds=5).tolist()
        [0.0, 2.0, 4.0, 5.0, 5.0]
    """
    below = np.floor(times_seconds / step_seconds) * step_seconds
    above = np.minimum(below + step_seconds, duration_seconds)
    return np.where(times_seconds - below < above - times_seconds, below, above)


def runs(frames: FrameScores, settings: ProposalSettings) -> Candidates:
    """List the runs of ones of the decoded mask; the rule of the paper.

    Args:
        frames: One query.
        settings: `ranking`: `"mean-probability"` and `"log-odds"` (their sum) put the highest first, equal ones in time
            order; `"time"` lists the runs as they come, all with score 1.

    Returns:
        All runs, best first.
    """
    spans = np.array(mask_to_spans(frames.mask), dtype=np.int64).reshape(-1, 2)
    if settings.ranking == "time":
        return Candidates(spans, np.ones(len(spans)))
    if settings.ranking == "log-odds":
        values = known_log_odds(frames)
        scores = [values[first:stop].sum() for first, stop in spans]
    else:
        scores = [frames.probs[first:stop].mean() for first, stop in spans]
    return _best_first(spans, np.array(scores, dtype=np.float64))


def threshold_ladder(frames: FrameScores, settings: ProposalSettings) -> Candidates:
    """List the runs of `probs >= threshold` of several thresholds by mean probability; the mask plays no part.

    Args:
        frames: One query.
        settings: `thresholds`.

    Returns:
        Each run once, best first; of equal means the one of the lower threshold, which is the longer, comes first.
    """
    found = [span for threshold in settings.thresholds for span in mask_to_spans(frames.probs >= threshold)]
    spans = np.array(list(dict.fromkeys(found)), dtype=np.int64).reshape(-1, 2)
    scores = np.array([frames.probs[first:stop].mean() for first, stop in spans], dtype=np.float64)
    return _best_first(spans, scores)


def soft_iou(frames: FrameScores, settings: ProposalSettings) -> Candidates:
    """List the best of all F(F+1)/2 intervals by local soft IoU, without near duplicates; the mask plays no part.

    Args:
        frames: One query.
        settings: `context`; `soft_iou_nms_iou`: an interval goes when its IoU with a better one is above this;
            `max_moments`.

    Returns:
        At most `max_moments` intervals, best first.

    Raises:
        ValueError: If there are more than `MAX_INTERVAL_FRAMES` frames.
    """
    spans = _all_spans(frames.grid.num_frames)
    scores = local_soft_iou(frames.probs, spans, settings.context)
    windows = frames.windows_seconds(spans)
    chosen = _greedy(windows, scores, windows[:0], settings.soft_iou_nms_iou, settings.max_moments)
    return Candidates(spans[chosen], scores[chosen])


def runs_and_fill(frames: FrameScores, settings: ProposalSettings) -> Candidates:
    """List the runs of the mask, and below them the best other intervals by local soft IoU.

    The first window, and with it R1, is that of `runs`. A wrong window below all others costs no mAP, a right one
    gains some.

    Args:
        frames: One query.
        settings: `ranking`; `context`; `fill_nms_iou`: an interval goes when its IoU with a run or with a better
            interval is above this; `max_moments`.

    Returns:
        All runs as `runs` lists them, then intervals up to `max_moments` in all. The score of the k-th interval is the
        lowest score of a run minus k, so that it is strictly below every run's. Without a run there is nothing.

    Raises:
        ValueError: If there are more than `MAX_INTERVAL_FRAMES` frames.
    """
    ranked = runs(frames, settings)
    room = settings.max_moments - len(ranked.spans)
    if room <= 0 or not len(ranked.spans):
        return ranked
    spans = _all_spans(frames.grid.num_frames)
    windows = frames.windows_seconds(spans)
    quality = local_soft_iou(frames.probs, spans, settings.context)
    chosen = _greedy(windows, quality, frames.windows_seconds(ranked.spans), settings.fill_nms_iou, room)
    lowest = ranked.scores.min()
    step = max(1.0, 2 * np.spacing(abs(lowest)))  # 1, unless the lowest score is so large that 1 would be rounded away
    below = lowest - step * np.arange(1, len(chosen) + 1)
    return Candidates(np.concatenate([ranked.spans, spans[chosen]]), np.concatenate([ranked.scores, below]))


DECODERS: dict[str, Callable[[FrameScores, ProposalSettings], Candidates]] = {
    "runs": runs,
    "runs+fill": runs_and_fill,
    "threshold-ladder": threshold_ladder,
    "soft-iou": soft_iou,
}
"""Name -> decoder."""


def local_soft_iou(probs: NDArray[np.float64], spans: NDArray[np.int64], context: float) -> NDArray[np.float64]:
    """Estimate how well each span would overlap the truth if frames were relevant with these probabilities.

    The sum of the probabilities inside, divided by the length in frames plus the sum of the probabilities nearby: the
    expected intersection over the expected union with the moment at this place. A moment elsewhere in the video does
    not count against the span, hence *local*.

    Args:
        probs: Foreground probability per frame, shape (F,).
        spans: Half-open runs of frame indices, shape (N, 2).
        context: How far *nearby* reaches to either side, as a share of the span's length, rounded up to frames. With 0
            this is the mean probability, which prefers single peaks.

    Returns:
        Scores in [0, 1], shape (N,). Differences below 1e-12 of the highest are rounding and are removed: spans that
        are equally good tie, wherever they lie.

    Example:
        >>> probs = np.array([0.0, 1.0, 1.0, 0.5, 0.0])
        >>> local_soft_iou(probs, np.array([[1, 3], [1, 4], [1, 2]]), context=0.3).round(3).tolist()
        [0.8, 0.833, 0.5]
    """
    num_frames = len(probs)
    first, stop = spans[:, 0], spans[:, 1]
    length = stop - first
    reach = np.ceil(context * length - 1e-9)  # 0.07 * 100 is a little more than 7
    reach = np.minimum(reach, num_frames).astype(np.int64)
    total = np.concatenate([[0.0], np.cumsum(probs)])
    inside = total[stop] - total[first]
    nearby = total[np.minimum(stop + reach, num_frames)] - total[np.maximum(first - reach, 0)] - inside
    scores = inside / (length + nearby)
    highest = scores.max(initial=0.0)
    return np.round(scores / highest, 12) * highest if highest > 0 else scores


def known_log_odds(frames: FrameScores) -> NDArray[np.float64]:
    """Return the log-odds, from the probabilities if need be.

    Args:
        frames: One query.

    Returns:
        Log-odds per frame, shape (F,).

    Raises:
        ValueError: If only probabilities are known and one is 0 or 1, whose log-odds are lost.
    """
    if frames.log_odds is not None:
        return frames.log_odds
    if not ((frames.probs > 0) & (frames.probs < 1)).all():
        raise ValueError(
            "log-odds are needed, but only probabilities are known and some are exactly 0 or 1; keep the logit "
            "differences, or choose settings that work with probabilities"
        )
    return np.log(frames.probs) - np.log1p(-frames.probs)


@lru_cache(maxsize=4)
def _all_spans(num_frames: int) -> NDArray[np.int64]:
    """Return all spans of a grid in time order, the shorter first, read-only, shape (F(F+1)/2, 2)."""
    if num_frames > MAX_INTERVAL_FRAMES:
        raise ValueError(
            f"decoders that compare all intervals take up to {MAX_INTERVAL_FRAMES} frames, got {num_frames}; choose "
            "runs or threshold-ladder"
        )
    first, last = np.triu_indices(num_frames)
    spans = np.stack([first, last + 1], axis=1)
    spans.setflags(write=False)
    return spans


def _best_first(spans: NDArray[np.int64], scores: NDArray[np.float64]) -> Candidates:
    """Sort by falling score; equal ones keep their order."""
    order = np.argsort(-scores, kind="stable")
    return Candidates(spans[order], scores[order])


def _greedy(
    windows: NDArray[np.float64],
    scores: NDArray[np.float64],
    taken: NDArray[np.float64],
    max_iou: float,
    count: int,
) -> NDArray[np.int64]:
    """Choose up to `count` windows, best first, none above `max_iou` with a taken or a better one."""
    # `intervals.nms` compares all pairs: 8 million at 75 frames. Ten rows of them are enough here.
    free = (temporal_iou(taken, windows) <= max_iou).all(axis=0)
    order = np.argsort(-scores, kind="stable")
    chosen: list[int] = []
    while len(chosen) < count:
        left = order[free[order]]
        if not len(left):
            break
        chosen.append(int(left[0]))
        free &= temporal_iou(windows[left[:1]], windows)[0] <= max_iou  # of itself it is 1, and max_iou is below 1
    return np.array(chosen, dtype=np.int64)
