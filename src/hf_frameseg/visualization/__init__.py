"""Pictures of predictions, training and results: every function returns a matplotlib ``Figure`` and shows nothing."""

from hf_frameseg._imports import lazy, require

require("matplotlib", extra="viz")  # says how to install it before a module below fails without

_MODULE_OF = {
    "audit_figure": "audit",
    "comparison_figure": "comparison",
    "qualitative_figure": "qualitative",
    "save_figure": "save",
    "time_weighted_ema": "training_curves",
    "training_curves_figure": "training_curves",
}

__getattr__, __dir__ = lazy(__name__, _MODULE_OF)
