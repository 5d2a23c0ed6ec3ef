"""A model and a batch without answers -> decoded frames."""

from hf_frameseg._imports import lazy

MAX_BEAMS = 256
"""Most beams of a search; each holds the cache of a whole prompt, and 2 to 8 find what there is to find."""

_MODULE_OF = {
    "BinaryMaskLogitsProcessor": "logits_process",
    "DecodedFrames": "beam_search",
    "generate_frame_logits": "beam_search",
}

__getattr__, __dir__ = lazy(__name__, _MODULE_OF)
