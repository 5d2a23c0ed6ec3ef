"""Decoded frames -> ranked windows and clip saliency. Names are imported on first use, all of them without torch."""

from hf_frameseg._imports import lazy

_MODULE_OF = {
    "DECODERS": "windows",
    "PAPER_PROPOSALS": "settings",
    "SCORING_PROPOSALS": "settings",
    "ProposalSettings": "settings",
    "interpolate_to_clips": "saliency",
    "merge_parts": "parts",
    "propose_moments": "prediction",
    "rank_runs": "prediction",
    "redecode": "prediction",
    "to_prediction": "prediction",
    "read_frames_file": "frames_file",
    "write_frames_file": "frames_file",
}

__getattr__, __dir__ = lazy(__name__, _MODULE_OF)
