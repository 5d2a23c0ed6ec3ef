"""The settings of the way from decoded frames to windows and saliency: one value that every metrics file records."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from hf_frameseg._numbers import is_number, is_whole
from hf_frameseg._options import setting

RANKINGS = ("mean-probability", "log-odds", "time")
"""What ranks the runs of a mask."""

EMPTY_RULES = ("best_frame", "none")
"""What to do with a mask that has no ones."""

SALIENCY_RULES = ("linear", "nearest", "box")
"""How a value per frame becomes a value per clip."""

SALIENCY_VALUES = ("probs", "logits")
"""Which value per frame that is."""

OWN_OPTIONS: dict[str, tuple[str, ...]] = {
    "runs": ("ranking", "empty"),
    "runs+fill": ("ranking", "empty", "context", "fill_nms_iou"),
    "threshold-ladder": ("thresholds",),
    "soft-iou": ("context", "soft_iou_nms_iou"),
}
"""Decoder -> the options that only some decoders use. All others are common to them."""


@dataclass(frozen=True)
class ProposalSettings:
    """Say how decoded frames become ranked windows and clip saliency.

    `docs/decoders.md` explains every decoder.

    Each field says in its `help` what it means; `frameseg rescore --help` shows the texts of those that it sets. The
    fields in `OWN_OPTIONS` are for the decoders that it names, and all others for every decoder.

    - `max_moments`: the official evaluator reads the first 10 listed ones.
    - `snap_seconds`: the grid of QVHighlights' annotations is 2.0; the video's end counts as a point of it. At least
      0.01; None keeps the frame edges.
    - `saliency`: `"linear"` between the frames, read at clip centres; `"nearest"`: the frame whose window holds the
      clip's centre; `"box"`: the mean over the clip of the frames' windows.
    - `saliency_values`: `"logits"`, the difference `logit_1 - logit_0`, still ranks frames whose probabilities are all
      1.
    - `ranking`: `"log-odds"` is their sum over the run.
    - `empty`: `"best_frame"` is the window of the frame with the highest probability (the first of equals), because the
      official evaluator fails on queries without a window; `"none"` is no moment. The other decoders have a window for
      every query.
    - `thresholds`: ascending in [0, 1); the first is 0, so that every query has a window.

    Raises:
        ValueError: If a value is out of range, or an option is set that the decoder does not use.

    Example:
        >>> ProposalSettings.from_dict(ProposalSettings("runs").to_dict()) == ProposalSettings("runs")
        True
    """

    decoder: str = setting("runs+fill", "how frames become windows", "NAME", tuple(OWN_OPTIONS))
    max_moments: int = setting(10, "most windows of a query", "N")
    snap_seconds: float | None = setting(None, "move windows to a grid of this step, such as 2", "SECONDS")
    saliency: str = setting("linear", "how a value per frame becomes one per clip", "RULE", SALIENCY_RULES)
    saliency_values: str = setting("probs", "which value per frame that is", "NAME", SALIENCY_VALUES)
    ranking: str = setting("mean-probability", "what ranks the runs of runs and runs+fill", "NAME", RANKINGS)
    empty: str = setting("best_frame", "what a mask without ones gives", "RULE", EMPTY_RULES)
    thresholds: tuple[float, ...] = setting((0.0, 0.25, 0.5, 0.75), "thresholds of the ladder", "SHARE")
    context: float = setting(0.3, "neighbourhood of the local soft IoU, as a share of the window's length", "SHARE")
    fill_nms_iou: float = setting(0.8, "highest IoU of a further window with a better one, in [0, 1)", "IOU")
    soft_iou_nms_iou: float = setting(0.7, "the same for soft-iou", "IOU")

    def __post_init__(self) -> None:
        """Check every value once, here."""
        for one in fields(self):
            known = one.metadata["choices"]
            if known and getattr(self, one.name) not in known:
                raise ValueError(
                    f"expected {one.name} to be one of {', '.join(known)}, got {getattr(self, one.name)!r}"
                )
        if not is_whole(self.max_moments, 1):
            raise ValueError(f"expected max_moments to be a whole number of at least 1, got {self.max_moments!r}")
        if self.snap_seconds is not None:
            self._keep_number("snap_seconds", 0.01, math.inf)
        self._keep_number("context", 0.0, math.inf)
        self._keep_number("fill_nms_iou", 0.0, 1.0)
        self._keep_number("soft_iou_nms_iou", 0.0, 1.0)
        self._keep_thresholds()
        self._refuse_unused_options()

    def _keep_number(self, name: str, least: float, below: float) -> None:
        """Make a value a float, or say what it must be."""
        value = getattr(self, name)
        if not is_number(value) or not least <= value < below:
            bounds = f"at least {least:g}" + ("" if math.isinf(below) else f" and below {below:g}")
            raise ValueError(f"expected {name} to be a number of {bounds}, got {value!r}")
        object.__setattr__(self, name, float(value))

    def _keep_thresholds(self) -> None:
        """Make the thresholds a tuple of floats, or say what they must be."""
        is_list = isinstance(self.thresholds, (list, tuple)) and all(map(is_number, self.thresholds))
        values = tuple(map(float, self.thresholds)) if is_list else ()
        ascending = all(low < high for low, high in zip(values, values[1:], strict=False))
        if not values or values[0] != 0 or not ascending or not values[-1] < 1:
            raise ValueError(f"expected thresholds to be ascending, from 0 to below 1, got {self.thresholds!r}")
        object.__setattr__(self, "thresholds", values)

    def _refuse_unused_options(self) -> None:
        """Refuse an option that would be ignored in silence."""
        own = OWN_OPTIONS[self.decoder]
        for field in fields(self):
            users = [decoder for decoder, options in OWN_OPTIONS.items() if field.name in options]
            if users and field.name not in own and getattr(self, field.name) != field.default:
                raise ValueError(
                    f"decoder {self.decoder!r} does not use {field.name}; leave it out, or choose {' or '.join(users)}"
                )

    def for_decoder(self, decoder: str) -> ProposalSettings:
        """Return the settings of another decoder, with all that it uses of these.

        Args:
            decoder: Name in `DECODERS`.

        Raises:
            ValueError: If there is no such decoder.
        """
        foreign = {option for options in OWN_OPTIONS.values() for option in options}
        foreign -= set(OWN_OPTIONS.get(decoder, ()))
        kept = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in foreign}
        return ProposalSettings(**{**kept, "decoder": decoder})

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {**asdict(self), "thresholds": list(self.thresholds)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ProposalSettings:
        """Read what `to_dict` returned.

        Args:
            values: Some or all fields.

        Raises:
            ValueError: If there are other fields, or a value is out of range.
        """
        known = [field.name for field in fields(cls)]
        if not isinstance(values, Mapping):
            raise ValueError(f"expected settings by name, such as {', '.join(known[:2])}, got {type(values).__name__}")
        if unknown := sorted(set(values) - set(known)):
            raise ValueError(f"expected some of the settings {', '.join(known)}, got {', '.join(map(repr, unknown))}")
        return cls(**values)


SCORING_PROPOSALS = ProposalSettings()
"""What scores are made with unless something else is asked for: R1 as in the paper, mAP with up to ten windows."""

PAPER_PROPOSALS = ProposalSettings("runs")
"""The rule of the paper: the runs of ones, ranked by mean probability, and nothing else."""
