"""Frame segmentation losses: pure functions, thin modules, and the schedule of their weights.

Everything here knows tensors only: ``(frame_logits (B, F, 2) or (B, F), target (B, F), valid (B, F))`` goes in and one
loss per sample ``(B,)`` comes out. No tokenizer, no model, no reduction over the batch.
"""

from __future__ import annotations

from hf_frameseg.objectives.functional import (
    CLASS_WEIGHTS,
    PAPER_POS_WEIGHT,
    ClassWeight,
    binary_cross_entropy,
    generalized_dice,
    tversky,
)
from hf_frameseg.objectives.modules import (
    LOSSES,
    BinaryCrossEntropyLoss,
    FrameSegmentationLoss,
    GeneralizedDiceLoss,
    TverskyLoss,
)
from hf_frameseg.objectives.schedule import (
    PAPER_WEIGHTS,
    PAPER_WEIGHTS_START,
    SCHEDULE_KINDS,
    LossWeightSchedule,
    ScheduleKind,
    weighted_sum,
)

__all__ = [
    "CLASS_WEIGHTS",
    "LOSSES",
    "PAPER_POS_WEIGHT",
    "PAPER_WEIGHTS",
    "PAPER_WEIGHTS_START",
    "SCHEDULE_KINDS",
    "BinaryCrossEntropyLoss",
    "ClassWeight",
    "FrameSegmentationLoss",
    "GeneralizedDiceLoss",
    "LossWeightSchedule",
    "ScheduleKind",
    "TverskyLoss",
    "binary_cross_entropy",
    "generalized_dice",
    "tversky",
    "weighted_sum",
]
