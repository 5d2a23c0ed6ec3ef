"""Objectives: named parts of the loss, the pure functions behind them, and the schedule of their weights.

Everything here knows tensors only: what a model says at the answers goes in and one loss per sample ``(B,)`` comes out.
No tokenizer, no reduction over the batch.
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
from hf_frameseg.objectives.lm import LanguageModelLoss
from hf_frameseg.objectives.modules import (
    OBJECTIVES,
    BinaryCrossEntropyLoss,
    GeneralizedDiceLoss,
    TverskyLoss,
    make_objectives,
)
from hf_frameseg.objectives.objective import AnswerOutputs, FrameObjective, Objective, targets_of
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
    "OBJECTIVES",
    "PAPER_POS_WEIGHT",
    "PAPER_WEIGHTS",
    "PAPER_WEIGHTS_START",
    "SCHEDULE_KINDS",
    "AnswerOutputs",
    "BinaryCrossEntropyLoss",
    "ClassWeight",
    "FrameObjective",
    "GeneralizedDiceLoss",
    "LanguageModelLoss",
    "LossWeightSchedule",
    "Objective",
    "ScheduleKind",
    "TverskyLoss",
    "binary_cross_entropy",
    "generalized_dice",
    "make_objectives",
    "targets_of",
    "tversky",
    "weighted_sum",
]
