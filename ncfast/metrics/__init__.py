"""Collapse metrics: pure functions of `ncfast.ClassMoments`, one file per family."""

from ncfast.metrics._public import cdnv, collapse_metrics, nc1, nc2, rnc1
from ncfast.metrics.weights import weight_norm

__all__ = ["cdnv", "collapse_metrics", "nc1", "nc2", "rnc1", "weight_norm"]
