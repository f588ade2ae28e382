"""Fast, trustworthy metrics for neural collapse, grokking and the information bottleneck."""

from importlib.metadata import version

from ncfast.backends import LabelPlan, backends, plan
from ncfast.metrics import cdnv, collapse_metrics, nc1, nc2, rnc1, weight_norm
from ncfast.moments import ClassMoments, class_moments
from ncfast.tracking.tracker import Tracker

__version__ = version("ncfast")
__all__ = [
    "ClassMoments",
    "LabelPlan",
    "Tracker",
    "backends",
    "cdnv",
    "class_moments",
    "collapse_metrics",
    "nc1",
    "nc2",
    "plan",
    "rnc1",
    "weight_norm",
]
