"""Fast, trustworthy metrics for neural collapse, grokking and the information bottleneck."""

# isort: off
from ncfast import _interrupt  # noqa: F401  before torch, which takes a second

# isort: on
from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from ncfast.accumulator import Accumulator
from ncfast.metrics import (
    RegressionMoments,
    alignment,
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
    regression_metrics,
    regression_moments,
    rnc1,
    spectra,
    spectral_norm_product,
    superfluous_information_bound,
    uniformity,
    weight_norm,
)
from ncfast.moments import ClassMoments, class_moments
from ncfast.ops import LabelPlan, backends, plan

if TYPE_CHECKING:
    from ncfast.evaluation import Evaluation, evaluate
    from ncfast.information import (
        Estimate,
        EstimateWarning,
        InformationPlane,
        PermutationTest,
        PlanePoint,
        cka,
        conditional_mutual_information,
        discrete_mutual_information,
        entropy,
        information_correlation,
        information_plane,
        label_information,
        mutual_information,
        nhsic,
        noise_sensitivity,
        permutation_test,
        superfluous_information,
    )
    from ncfast.tracking.tracker import Tracker

__version__ = version("ncfast")
__all__ = [
    "Accumulator",
    "ClassMoments",
    "Estimate",
    "EstimateWarning",
    "Evaluation",
    "InformationPlane",
    "LabelPlan",
    "PermutationTest",
    "PlanePoint",
    "RegressionMoments",
    "Tracker",
    "alignment",
    "backends",
    "balancedness",
    "cdnv",
    "cka",
    "class_margins",
    "class_moments",
    "collapse_metrics",
    "conditional_mutual_information",
    "describe",
    "discrete_mutual_information",
    "entropy",
    "evaluate",
    "generalization_bound",
    "information_correlation",
    "information_plane",
    "label_information",
    "margin_histograms",
    "mutual_information",
    "nc1",
    "nc2",
    "nc3",
    "nc4",
    "nc5",
    "nhsic",
    "noise_sensitivity",
    "permutation_test",
    "plan",
    "realised_gap",
    "regression_metrics",
    "regression_moments",
    "rnc1",
    "spectra",
    "spectral_norm_product",
    "superfluous_information",
    "superfluous_information_bound",
    "uniformity",
    "weight_norm",
]


# imported when first used: they are most of the package, and a program seldom needs all of them
_LATER = ("evaluation", "information", "losses", "tracking")
_HOME = {
    "Evaluation": "ncfast.evaluation",
    "Tracker": "ncfast.tracking.tracker",
    "evaluate": "ncfast.evaluation",
}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return import_module(f"ncfast.{name}")
    if name not in __all__:
        raise AttributeError(f"module 'ncfast' has no attribute {name!r}")
    value = getattr(import_module(_HOME.get(name, "ncfast.information")), name)
    globals()[name] = value  # the next use does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_LATER})
