"""The `evaluate` module: `evaluate.load(<this folder>)`, or import `QVHighlightsMetric`."""

from hf_frameseg.metrics.qvhighlights.qvhighlights import QVHighlightsMetric

__all__ = ["QVHighlightsMetric"]
