"""From the language model's digits to ranked moments: constrained decoding and proposals."""

from hf_frameseg.decoding.beam_search import DecodedFrames, generate_frame_logits
from hf_frameseg.decoding.logits_process import BinaryMaskLogitsProcessor
from hf_frameseg.decoding.proposals import rank_runs, to_prediction

__all__ = ["BinaryMaskLogitsProcessor", "DecodedFrames", "generate_frame_logits", "rank_runs", "to_prediction"]
