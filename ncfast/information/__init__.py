"""Estimators of entropy and mutual information by nearest neighbours, in nats."""

from ncfast.information.conditional import conditional_mutual_information
from ncfast.information.differential_entropy import entropy
from ncfast.information.discrete import discrete_mutual_information
from ncfast.information.estimate import Estimate, EstimateWarning
from ncfast.information.kernel_dependence import cka, nhsic
from ncfast.information.labels import label_information
from ncfast.information.mutual import mutual_information
from ncfast.information.permutation import (
    PermutationTest,
    information_correlation,
    permutation_test,
)
from ncfast.information.plane import InformationPlane, PlanePoint, information_plane
from ncfast.information.superfluous import noise_sensitivity, superfluous_information

__all__ = [
    "Estimate",
    "EstimateWarning",
    "InformationPlane",
    "PermutationTest",
    "PlanePoint",
    "cka",
    "conditional_mutual_information",
    "discrete_mutual_information",
    "entropy",
    "information_correlation",
    "information_plane",
    "label_information",
    "mutual_information",
    "nhsic",
    "noise_sensitivity",
    "permutation_test",
    "superfluous_information",
]
