"""What a model says about a video and a query.

Axes: F frames, C clips.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_frameseg.masks import as_frame_values, as_mask
from hf_frameseg.moments import FrameGrid, Moment


@dataclass(frozen=True, eq=False)
class FramePrediction:
    """Hold what the model says about one video and one query.

    Args:
        grid: The frame windows the prediction lives on.
        mask: Decoded relevance of each frame, shape (F,), bool.
        probs: Foreground probability of each frame, shape (F,), float64 in [0, 1].
        moments: Ranked moments, best first.
        saliency: Probability (or log-odds, where the settings of the decoding say so) per 2-second clip, shape (C,),
            float64.
        fallback: Whether `moments` was made up because the mask was all zeros (see `proposals.ProposalSettings`).
        query: The sentence that was searched for.
        qid: Query id, a whole number or a text, needed by `to_submission` only.
        vid: QVHighlights video id.
        log_odds: Difference `logit_1 - logit_0` of each frame, shape (F,), float64: `probs` before the softmax, where
            it is known. It still tells frames apart whose probability is 1.

    Raises:
        ValueError: If the shapes do not belong together.
    """

    grid: FrameGrid
    mask: NDArray[np.bool_]
    probs: NDArray[np.float64]
    moments: tuple[Moment, ...]
    saliency: NDArray[np.float64]
    fallback: bool = False
    query: str = ""
    qid: int | str | None = None
    vid: str | None = None
    log_odds: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        """Normalise the arrays and check their shapes."""
        object.__setattr__(self, "mask", as_mask(self.mask, self.grid.num_frames))
        object.__setattr__(self, "probs", as_frame_values("probs", self.probs, self.grid.num_frames))
        if self.log_odds is not None:
            object.__setattr__(self, "log_odds", as_frame_values("log_odds", self.log_odds, self.grid.num_frames))
        object.__setattr__(self, "moments", tuple(self.moments))
        object.__setattr__(self, "saliency", np.asarray(self.saliency, dtype=np.float64))
        if self.saliency.ndim != 1:
            raise ValueError(f"expected saliency of shape (C,), one value per clip, got {self.saliency.shape}")

    def to_submission(self) -> dict[str, Any]:
        """Return the row of an official QVHighlights submission file.

        Nothing is rounded: rounded saliency makes ties, and the official highlight metric punishes them.

        Returns:
            `qid`, `query`, `vid`, `pred_relevant_windows` as `[[start, end, score], ...]` (best first, floats) and
            `pred_saliency_scores` (one float per clip).

        Raises:
            ValueError: If the prediction has no `qid`.
        """
        if self.qid is None:
            raise ValueError("a submission row needs a qid, got None; set it with dataclasses.replace(..., qid=...)")
        return {
            "qid": self.qid if isinstance(self.qid, str) else int(self.qid),
            "query": self.query,
            "vid": self.vid,
            "pred_relevant_windows": [[m.start, m.end, m.score] for m in self.moments],
            "pred_saliency_scores": self.saliency.tolist(),
        }
