"""Collapse metrics: pure functions of `ncfast.ClassMoments`, one file per family."""

from ncfast.metrics.bounds import (
    generalization_bound,
    realised_gap,
    superfluous_information_bound,
)
from ncfast.metrics.calls import (
    Spectra,
    cdnv,
    collapse_metrics,
    nc1,
    nc2,
    nc3,
    nc4,
    nc5,
    rnc1,
    spectra,
)
from ncfast.metrics.catalogue import Description, describe
from ncfast.metrics.joint_moments import RegressionMoments, regression_moments
from ncfast.metrics.margins import class_margins, margin_histograms
from ncfast.metrics.regression import regression_metrics
from ncfast.metrics.self_supervised import alignment, uniformity
from ncfast.metrics.weights import balancedness, spectral_norm_product, weight_norm

__all__ = [
    "Description",
    "RegressionMoments",
    "Spectra",
    "alignment",
    "balancedness",
    "cdnv",
    "class_margins",
    "collapse_metrics",
    "describe",
    "generalization_bound",
    "margin_histograms",
    "nc1",
    "nc2",
    "nc3",
    "nc4",
    "nc5",
    "realised_gap",
    "regression_metrics",
    "regression_moments",
    "rnc1",
    "spectra",
    "spectral_norm_product",
    "superfluous_information_bound",
    "uniformity",
    "weight_norm",
]
