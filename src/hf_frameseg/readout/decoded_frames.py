"""What every readout returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass(frozen=True, eq=False)
class DecodedFrames:
    """Hold the decoded answers of a batch.

    Args:
        mask: Which frames are relevant, shape (B, F), bool.
        frame_logits: Scores of `0` and `1` for every frame, shape (B, F, 2), float32; what counts is the difference
            `[..., 1] - [..., 0]`, the log-odds. By beam search they are the model's own along the chosen sequence:
            logits with one beam, log-probabilities over the vocabulary with several.
        sequence_scores: Sum of the answer's log-probabilities / length ** length_penalty, shape (B,); None where the
            readout keeps no normalised scores, as with one beam.
        further: What another kind of prediction needs, by name, such as boxes (B, F, 4). An evaluation gathers it and
            hands it to `compute_metrics` as a fourth entry of the predictions.
    """

    mask: torch.Tensor
    frame_logits: torch.Tensor
    sequence_scores: torch.Tensor | None = None
    further: Mapping[str, torch.Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, found: Any, readout: str, num_samples: int, num_frames: int) -> DecodedFrames:
        """Return what a readout gave, which may be anybody's.

        Args:
            found: What it returned.
            readout: Its name, for the message.
            num_samples: Rows B that it was asked about.
            num_frames: Number of frames F.

        Raises:
            ValueError: If it is something else, or of other shapes: rows would be scored with answers of others.
        """
        wanted = {"mask": (num_samples, num_frames), "frame_logits": (num_samples, num_frames, 2)}
        if not isinstance(found, cls):
            raise ValueError(f"expected the readout {readout!r} to return DecodedFrames, got {type(found).__name__}")
        for name, shape in wanted.items():
            if (got := tuple(getattr(found, name).shape)) != shape:
                raise ValueError(f"expected the readout {readout!r} to return {name} of shape {shape}, got {got}")
        return found
