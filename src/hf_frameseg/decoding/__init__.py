"""From the language model's digits to ranked moments: constrained decoding and proposals.

Each name is imported from its module on first use: windows are rebuilt from saved frames without torch.
"""

from importlib import import_module
from typing import Any

_MODULE_OF = {
    "BinaryMaskLogitsProcessor": "logits_process",
    "DecodedFrames": "beam_search",
    "generate_frame_logits": "beam_search",
    "DECODERS": "proposals",
    "PAPER_PROPOSALS": "settings",
    "SCORING_PROPOSALS": "settings",
    "ProposalSettings": "settings",
    "propose_moments": "proposals",
    "rank_runs": "proposals",
    "redecode": "proposals",
    "to_prediction": "proposals",
    "read_frames_file": "frames_file",
    "write_frames_file": "frames_file",
}


def __getattr__(name: str) -> Any:
    """Import a name from its module on first use."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the names, imported or not."""
    return sorted({*globals(), *_MODULE_OF})
