"""From a decoded mask and its probabilities to ranked moments and clip saliency, by any decoder (numpy only)."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hf_frameseg.masks import as_frame_values, as_mask
from hf_frameseg.moments import FrameGrid, Moment
from hf_frameseg.predictions import FramePrediction
from hf_frameseg.proposals.saliency import clip_saliency
from hf_frameseg.proposals.settings import PAPER_PROPOSALS, ProposalSettings
from hf_frameseg.proposals.windows import DECODERS, FrameScores


def propose_moments(
    mask: ArrayLike,
    probs: ArrayLike,
    grid: FrameGrid,
    settings: ProposalSettings = PAPER_PROPOSALS,
    log_odds: ArrayLike | None = None,
) -> tuple[tuple[Moment, ...], bool]:
    """Turn one query's frames into moments, best first.

    Args:
        mask: Decoded relevance per frame, shape (F,), bool or 0/1.
        probs: Foreground probability per frame, shape (F,).
        grid: The frame windows.
        settings: The decoder and its options.
        log_odds: Difference `logit_1 - logit_0` per frame, shape (F,); None computes it from `probs` where it is asked
            for.

    Returns:
        At most `max_moments` moments in the order in which they are listed, no window twice; and whether they were made
        up because the mask has no ones.

    Raises:
        ValueError: If a shape is not (F,), or log-odds are asked for and cannot be had.

    Example:
        >>> grid = FrameGrid.middle(duration_seconds=8, num_frames=4)
        >>> settings = ProposalSettings("runs+fill", max_moments=4)
        >>> moments, _ = propose_moments([1, 0, 1, 1], [0.5, 0.0, 1.0, 0.5], grid, settings)
        >>> [(moment.start, moment.end, moment.score) for moment in moments]
        [(4.0, 8.0, 0.75), (0.0, 2.0, 0.5), (4.0, 6.0, -0.5), (0.0, 8.0, -1.5)]
    """
    return _propose(_checked_frames(mask, probs, grid, settings, log_odds), settings)


def rank_runs(
    mask: ArrayLike,
    probs: ArrayLike,
    grid: FrameGrid,
    max_moments: int = 10,
    empty: str = "best_frame",
) -> tuple[tuple[Moment, ...], bool]:
    """Turn runs of ones into moments, best first: the decoder `runs`, the rule of the paper.

    A run's score is its mean probability. The mean ranks runs of *one* mask well; it is no valid score among candidates
    of several thresholds, where tiny peaks win.

    Args:
        mask: Decoded relevance per frame, shape (F,), bool or 0/1.
        probs: Foreground probability per frame, shape (F,).
        grid: The frame windows.
        max_moments: As in `ProposalSettings`.
        empty: As in `ProposalSettings`.

    Returns:
        The moments by descending score, equal scores in time order, and whether they are the `"best_frame"` stand-in.

    Raises:
        ValueError: If `max_moments` or `empty` is out of range, or a shape is not (F,).

    Example:
        >>> grid = FrameGrid.middle(duration_seconds=8, num_frames=4)
        >>> rank_runs([1, 0, 1, 1], [0.6, 0.1, 0.9, 0.7], grid)[0]
        (Moment(start=4.0, end=8.0, score=0.8), Moment(start=0.0, end=2.0, score=0.6))
        >>> rank_runs([0, 0, 0, 0], [0.1, 0.4, 0.2, 0.1], grid)
        ((Moment(start=2.0, end=4.0, score=0.4),), True)
    """
    return propose_moments(mask, probs, grid, ProposalSettings("runs", max_moments=max_moments, empty=empty))


def to_prediction(
    mask: ArrayLike,
    frame_logits: ArrayLike,
    grid: FrameGrid,
    settings: ProposalSettings = PAPER_PROPOSALS,
    *,
    query: str = "",
    qid: int | str | None = None,
    vid: str | None = None,
) -> FramePrediction:
    """Put one decoded answer into the package's prediction type.

    Probabilities are computed in float64 and never rounded: half precision ties saturated probabilities, which cost
    2 to 5 points of highlight mAP on simulated curves.

    Args:
        mask: Decoded relevance per frame, shape (F,), an array or a tensor.
        frame_logits: Scores of `0` and `1` per frame, shape (F, 2), an array or a tensor; a constant per frame cancels.
        grid: The frame windows.
        settings: How windows and saliency are made of it.
        query: The sentence that was searched for.
        qid: Query id.
        vid: QVHighlights video id.

    Returns:
        The prediction. An all-zero mask stays all-zero whatever `settings.empty` says.

    Raises:
        ValueError: If a shape does not fit the grid or a logit is not finite.

    Example:
        >>> grid = FrameGrid.middle(duration_seconds=4, num_frames=2)
        >>> prediction = to_prediction([False, True], [[0.0, 0.0], [0.0, 1.0]], grid, query="a dog")
        >>> prediction.probs.round(3).tolist(), prediction.saliency.round(3).tolist()
        ([0.5, 0.731], [0.5, 0.731])
    """
    logits = _to_numpy(frame_logits).astype(np.float64)
    if logits.shape != (grid.num_frames, 2):
        raise ValueError(f"expected frame_logits of shape ({grid.num_frames}, 2), got {logits.shape}")
    if not np.isfinite(logits).all():
        raise ValueError("expected finite frame_logits, got nan or inf; look for an overflow in the model's output")
    log_odds = logits[:, 1] - logits[:, 0]
    named = {"query": query, "qid": qid, "vid": vid}
    return prediction_of(_to_numpy(mask), probs_of(log_odds), grid, settings, log_odds=log_odds, **named)


def prediction_of(
    mask: ArrayLike,
    probs: ArrayLike,
    grid: FrameGrid,
    settings: ProposalSettings = PAPER_PROPOSALS,
    *,
    log_odds: ArrayLike | None = None,
    query: str = "",
    qid: int | str | None = None,
    vid: str | None = None,
) -> FramePrediction:
    """Put frames whose probabilities are known into the package's prediction type, with windows and saliency.

    Args:
        mask: Decoded relevance per frame, shape (F,), bool or 0/1.
        probs: Foreground probability per frame, shape (F,).
        grid: The frame windows.
        settings: How windows and saliency are made of them.
        log_odds: Difference `logit_1 - logit_0` per frame, shape (F,); None where only probabilities are known.
        query: The sentence that was searched for.
        qid: Query id.
        vid: QVHighlights video id.

    Returns:
        The prediction.

    Raises:
        ValueError: If a shape is not (F,), or log-odds are asked for and cannot be had.

    Example:
        >>> prediction = prediction_of([0, 1], [0.25, 0.75], FrameGrid.middle(duration_seconds=4, num_frames=2))
        >>> prediction.moments, prediction.saliency.tolist()
        ((Moment(start=2.0, end=4.0, score=0.75),), [0.25, 0.75])
    """
    frames = _checked_frames(mask, probs, grid, settings, log_odds)
    moments, fallback = _propose(frames, settings)
    return FramePrediction(
        grid=grid,
        mask=frames.mask,
        probs=frames.probs,
        moments=moments,
        saliency=clip_saliency(frames, settings),
        fallback=fallback,
        query=query,
        qid=qid,
        vid=vid,
        log_odds=frames.log_odds,
    )


def redecode(prediction: FramePrediction, settings: ProposalSettings) -> FramePrediction:
    """Make windows and saliency again from a prediction's frames.

    Args:
        prediction: Any prediction; its own windows and saliency play no part.
        settings: How they are made now.

    Returns:
        The prediction with other moments, saliency and `fallback`.

    Raises:
        ValueError: If log-odds are asked for, and the prediction has none and saturated probabilities.

    Example:
        >>> prediction = to_prediction([1, 0], [[0.0, 2.0], [0.0, -2.0]], FrameGrid.middle(8, 2))
        >>> [(moment.start, moment.end) for moment in redecode(prediction, ProposalSettings("runs+fill")).moments]
        [(0.0, 4.0), (0.0, 8.0), (4.0, 8.0)]
    """
    kept = (prediction.grid, prediction.mask, prediction.probs, prediction.log_odds)
    frames = FrameScores(*kept, snap_seconds=settings.snap_seconds)
    moments, fallback = _propose(frames, settings)
    return replace(prediction, moments=moments, fallback=fallback, saliency=clip_saliency(frames, settings))


def probs_of(log_odds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the softmax of two logits from their difference, without overflow.

    Args:
        log_odds: `logit_1 - logit_0`, any shape.

    Returns:
        Foreground probabilities in [0, 1], same shape.

    Example:
        >>> probs_of(np.array([0.0, -1e4, 1e4])).tolist()
        [0.5, 0.0, 1.0]
    """
    return np.exp(-np.logaddexp(0.0, -log_odds))


def _checked_frames(
    mask: ArrayLike, probs: ArrayLike, grid: FrameGrid, settings: ProposalSettings, log_odds: ArrayLike | None
) -> FrameScores:
    """Return what the decoders see, after a look at shapes and values."""
    count = grid.num_frames
    odds = None if log_odds is None else as_frame_values("log_odds", log_odds, count)
    return FrameScores(grid, as_mask(mask, count), as_frame_values("probs", probs, count), odds, settings.snap_seconds)


def _propose(frames: FrameScores, settings: ProposalSettings) -> tuple[tuple[Moment, ...], bool]:
    """Run the decoder, on the best frame alone if the mask gives it nothing."""
    decode = DECODERS[settings.decoder]
    candidates = decode(frames, settings)
    fallback = not len(candidates.spans) and settings.empty == "best_frame"
    if fallback:
        best = np.zeros(frames.grid.num_frames, dtype=bool)
        best[int(np.argmax(frames.probs))] = True
        candidates = decode(replace(frames, mask=best), settings)
    listed: dict[tuple[float, float], Moment] = {}
    for (start, end), score in zip(frames.windows_seconds(candidates.spans).tolist(), candidates.scores, strict=True):
        listed.setdefault((start, end), Moment(start, end, score))  # snapping can make two windows one
    return tuple(listed.values())[: settings.max_moments], fallback


def _to_numpy(values: ArrayLike) -> NDArray[np.generic]:
    """Return an array of a tensor on any device and of any dtype (numpy has no bfloat16)."""
    torch = sys.modules.get("torch")  # who holds a tensor has imported torch; who rescores a file need not
    if torch is not None and isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        return (values.double() if values.is_floating_point() else values).numpy()
    return np.asarray(values)
