"""A model and a batch without answers -> decoded frames, by name.

A readout is a function `(model, inputs, labels, num_frames, **options) -> DecodedFrames`:

- `model`: in evaluation mode, as the trainer or the retriever holds it.
- `inputs`: the model's tensors of B left-padded prompts, which end where the answer begins.
- `labels`: the `BinaryLabels` of the tokenizer; `num_frames`: F, the same for all rows.
- `options`: `num_beams`, and whatever a caller adds. A readout ignores options of the search if it does not search.

To add one, put it into `READOUTS` before a configuration names it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hf_frameseg._imports import lazy
from hf_frameseg._text import printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from hf_frameseg.readout.decoded_frames import DecodedFrames

MAX_BEAMS = 256
"""Most beams of a search; each holds the cache of a whole prompt, and 2 to 8 find what there is to find."""

_MODULE_OF = {
    "BinaryMaskLogitsProcessor": "logits_process",
    "DecodedFrames": "decoded_frames",
    "generate_frame_logits": "beam_search",
}

__getattr__, __dir__ = lazy(__name__, _MODULE_OF)


def _beam(*args: Any, **options: Any) -> DecodedFrames:
    """Import torch only when something is decoded."""
    from hf_frameseg.readout.beam_search import generate_frame_logits

    return generate_frame_logits(*args, **options)


READOUTS: dict[str, Callable[..., DecodedFrames]] = {"beam": _beam}
"""Name -> readout; `beam` is `generate_frame_logits`."""


def get_readout(name: str) -> Callable[..., DecodedFrames]:
    """Return a readout by its name.

    Args:
        name: A key of `READOUTS`.

    Raises:
        ValueError: If there is none of this name.
    """
    if not isinstance(name, str) or name not in READOUTS:
        got = printable(f"{name!r:.80}")
        raise ValueError(
            f"expected readout to be one of {', '.join(READOUTS)}, got {got}: put a new one into readout.READOUTS first"
        )
    return READOUTS[name]
