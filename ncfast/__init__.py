"""Fast, trustworthy metrics for neural collapse, grokking and the information bottleneck."""

from importlib.metadata import version

from ncfast.backends import LabelPlan, backends, plan
from ncfast.metrics import (
    balancedness,
    cdnv,
    class_margins,
    collapse_metrics,
    describe,
    generalization_bound,
    margin_histograms,
    nc1,
    nc2,
    nc3,
    nc4,
    nc5,
    realised_gap,
    rnc1,
    spectra,
    spectral_norm_product,
    superfluous_information_bound,
    weight_norm,
)
from ncfast.moments import ClassMoments, class_moments
from ncfast.tracking.tracker import Tracker

__version__ = version("ncfast")
__all__ = [
    "ClassMoments",
    "LabelPlan",
    "Tracker",
    "backends",
    "balancedness",
    "cdnv",
    "class_margins",
    "class_moments",
    "collapse_metrics",
    "describe",
    "generalization_bound",
    "margin_histograms",
    "nc1",
    "nc2",
    "nc3",
    "nc4",
    "nc5",
    "plan",
    "realised_gap",
    "rnc1",
    "spectra",
    "spectral_norm_product",
    "superfluous_information_bound",
    "weight_norm",
]
