"""A long video that was asked in parts: what was said of each part, made into one prediction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from hf_frameseg.moments import FrameGrid
from hf_frameseg.predictions import FramePrediction
from hf_frameseg.proposals.prediction import redecode
from hf_frameseg.proposals.settings import PAPER_PROPOSALS, ProposalSettings


def merge_parts(
    predictions: Sequence[FramePrediction], settings: ProposalSettings = PAPER_PROPOSALS
) -> FramePrediction:
    """Make one prediction of those for the parts of a video.

    The frames of all parts are put side by side on one grid, and windows and saliency are made of them as for any
    video. So the moments of all parts are one ranked list. Where the mask is 1 up to a seam and 1 from it on, that is
    one run of ones: it becomes one moment, with the score that the decoder gives to the whole run. The stand-in for a
    mask without ones is made once, for the whole video, and not for every part that has nothing.

    Args:
        predictions: One per part, of the same query, in any order. The parts lie end to end: each begins exactly where
            the one before it ends. They may have different numbers of frames and different patterns.
        settings: How windows and saliency are made; a part's own windows and saliency play no part.

    Returns:
        The prediction for the time from the start of the first part to the end of the last, in seconds of the video's
        clock; its clips are counted from that start. `log_odds` are known if all parts know theirs.

    Raises:
        ValueError: If there is no part, the parts leave a gap or overlap, or answer different queries.

    Example:
        >>> from hf_frameseg.proposals.prediction import prediction_of
        >>> grid = FrameGrid.middle(20, 4)
        >>> parts = [([0, 0, 1, 1], grid.part(0, 20)), ([1, 0, 0, 0], grid.part(20, 40))]
        >>> merged = merge_parts([prediction_of(mask, np.array(mask) * 0.8, part) for mask, part in parts])
        >>> merged.moments, merged.grid.num_frames, len(merged.saliency)
        ((Moment(start=10.0, end=25.0, score=0.8),), 8, 20)
    """
    if not predictions:
        raise ValueError("expected the prediction of at least one part, got none")
    parts = sorted(predictions, key=lambda part: part.grid.start_seconds)
    for before, after in zip(parts, parts[1:], strict=False):
        if before.grid.end_seconds != after.grid.start_seconds:
            raise ValueError(
                f"expected parts that lie end to end, got one up to {before.grid.end_seconds!r} s and the next from "
                f"{after.grid.start_seconds!r} s; cut the video at one list of times"
            )
        if (before.query, before.qid, before.vid) != (after.query, after.qid, after.vid):
            raise ValueError(
                f"expected one query of one video, got {before.query!r:.80} (qid {before.qid}, vid {before.vid!r:.80}) "
                f"and {after.query!r:.80} (qid {after.qid}, vid {after.vid!r:.80}); merge those of each query alone"
            )
    grids = [part.grid for part in parts]
    edges = [grids[0].edges, *(grid.edges[1:] for grid in grids[1:])]
    all_known = all(part.log_odds is not None for part in parts)
    whole = replace(
        parts[0],
        grid=FrameGrid(np.concatenate([grid.times for grid in grids]), np.concatenate(edges)),
        mask=np.concatenate([part.mask for part in parts]),
        probs=np.concatenate([part.probs for part in parts]),
        log_odds=np.concatenate([part.log_odds for part in parts]) if all_known else None,
    )
    return redecode(whole, settings)
