"""Pictures of predictions, training and results: every function returns a matplotlib ``Figure`` and shows nothing."""

from __future__ import annotations

from hf_frameseg._imports import require

require("matplotlib", extra="viz")  # before the imports below would fail without saying how to install it

from hf_frameseg.visualization.audit import audit_figure  # noqa: E402
from hf_frameseg.visualization.comparison import comparison_figure  # noqa: E402
from hf_frameseg.visualization.qualitative import qualitative_figure  # noqa: E402
from hf_frameseg.visualization.training_curves import time_weighted_ema, training_curves_figure  # noqa: E402

__all__ = ["audit_figure", "comparison_figure", "qualitative_figure", "time_weighted_ema", "training_curves_figure"]
