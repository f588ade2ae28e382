"""What code bases print: formulas of those that are no package, calls of those that are.

A formula follows the public source of its code base.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

import ncfast

CLASSES, DIM, COUNT = 10, 32, 1000


class Sample(NamedTuple):
    """Features, labels, classifier and features from outside the distribution."""

    feats: Tensor
    labels: Tensor
    weight: Tensor
    bias: Tensor
    ood: Tensor

    def metrics(self) -> dict[str, float]:
        found = ncfast.collapse_metrics(
            self.feats, self.labels, weight=self.weight, bias=self.bias, ood_feats=self.ood
        )
        return {name: float(value) for name, value in found.items()}


class Printed(NamedTuple):
    """A number that a code base prints: its name, its formula, and the same number from an id."""

    name: str
    prints: Callable[[Sample], float]
    id: str
    relation: str
    from_id: Callable[[float], float]
    exact: tuple[str, ...] = ("equal", "unequal")


def same(value: float) -> float:
    return value


def by_class(x: Sample) -> tuple[Tensor, Tensor, Tensor]:
    """Class means (K, D), the within-class covariance, and counts."""
    counts = x.labels.bincount().double()
    means = torch.stack([x.feats[x.labels == c].mean(0) for c in range(CLASSES)])
    gap = x.feats - means[x.labels]
    return means, gap.T @ gap / len(gap), counts


def around_mean_of_means(x: Sample) -> tuple[Tensor, Tensor]:
    """Centred class means and their covariance, every class counting the same."""
    means = by_class(x)[0]
    centred = means - means.mean(0)
    return centred, centred.T @ centred / CLASSES


def around_global_mean(x: Sample) -> tuple[Tensor, Tensor]:
    """Class means minus the mean of all samples, and their covariance, not weighted."""
    centred = by_class(x)[0] - x.feats.mean(0)
    return centred, centred.T @ centred / CLASSES


def structure_error(product: Tensor) -> float:
    """Distance of a K x K matrix from the simplex, after division by its norm."""
    ideal = (torch.eye(CLASSES) - 1 / CLASSES).double() / (CLASSES - 1) ** 0.5
    return float((product / product.norm() - ideal).norm())


def truncated_inverse(x: Sample) -> float:
    """Tr(Sw inv(Sb)) from the K - 1 largest singular pairs."""
    u, s, _ = torch.linalg.svd(around_mean_of_means(x)[1])
    top = u[:, : CLASSES - 1]
    return float((by_class(x)[1] @ top @ torch.diag(1 / s[: CLASSES - 1]) @ top.T).trace())


def variation(lengths: Tensor) -> float:
    """Coefficient of variation with torch.std, which divides by K - 1."""
    return float(lengths.std() / lengths.mean())


def coherence(vectors: Tensor) -> float:
    unit = vectors / vectors.norm(dim=1, keepdim=True)
    cosines = unit @ unit.T + 1 / (CLASSES - 1)
    return float((cosines - cosines.diag().diag()).abs().sum() / (CLASSES * (CLASSES - 1)))


def duality(x: Sample) -> float:
    centred = around_mean_of_means(x)[0]
    return float((x.weight / x.weight.norm() - centred / centred.norm()).square().sum())


def mismatch(x: Sample) -> float:
    nearest = torch.cdist(x.feats, by_class(x)[0]).argmin(1)
    return float((nearest != (x.feats @ x.weight.T + x.bias).argmax(1)).double().mean())


def pinv(x: Sample) -> float:
    product = by_class(x)[1] @ torch.linalg.pinv(around_global_mean(x)[1])
    return float(product.trace() / CLASSES)


def pairs(x: Sample, function: Callable[[Tensor], Tensor]) -> Tensor:
    """A function of the distances of normalised centred class means, for each pair."""
    centred = around_mean_of_means(x)[0]
    return function(torch.pdist(centred / centred.norm(dim=1, keepdim=True)))


def distances(x: Sample) -> Tensor:
    return pairs(x, lambda gap: gap)


def energies(x: Sample) -> Tensor:
    return pairs(x, lambda gap: (1 / gap).log())


def cdnv(x: Sample) -> float:
    """With variances as E[x^2] - E[x]^2."""
    means = by_class(x)[0]
    square = torch.stack([x.feats[x.labels == c].square().sum(1).mean() for c in range(CLASSES)])
    variances = (square - means.square().sum(1)).abs()
    one, two = torch.triu_indices(CLASSES, CLASSES, 1)
    ratio = (variances[one] + variances[two]) / 2 / (means[one] - means[two]).square().sum(1)
    return float(ratio.mean())


def quotient(x: Sample) -> float:
    means, within, counts = by_class(x)
    share = counts / counts.sum()
    apart = (means - x.feats.mean(0)).square().sum(1)
    return float(within.trace() / ((share * apart).sum() + 1e-8))


def condition(x: Sample) -> float:
    means = by_class(x)[0]
    return float(torch.linalg.cond(means @ means.T).sqrt())


def calinski_harabasz(x: Sample) -> float:
    from sklearn.metrics import calinski_harabasz_score

    return float(calinski_harabasz_score(x.feats.numpy(), x.labels.numpy()))


def nearest_centroid(x: Sample) -> float:
    from sklearn.neighbors import NearestCentroid

    feats, labels = x.feats.numpy(), x.labels.numpy()
    return float(NearestCentroid().fit(feats, labels).score(feats, labels))


def calinski_of_torchmetrics(x: Sample) -> float:
    from torchmetrics.clustering import CalinskiHarabaszScore

    return float(CalinskiHarabaszScore()(x.feats, x.labels))


def calinski_of_quotient(value: float) -> float:
    return (COUNT - CLASSES) / ((CLASSES - 1) * value)


SPREAD = (CLASSES / (CLASSES - 1)) ** 0.5
FORMULA = "(N − K) / ((K − 1) × id)"
BALANCED = ("equal",)
CODE: dict[str, tuple[Printed, ...]] = {
    "neuralcollapse/neuralcollapse (the notebook of Papyan, Han & Donoho)": (
        Printed("Sw_invSb", truncated_inverse, "nc1.svd", "K × id", lambda value: CLASSES * value),
        Printed(
            "norm_M_CoV",
            lambda x: variation(around_mean_of_means(x)[0].norm(dim=1)),
            "nc2.equinorm",
            "√(K / (K − 1)) × id",
            lambda value: SPREAD * value,
        ),
        Printed(
            "norm_W_CoV",
            lambda x: variation(x.weight.norm(dim=1)),
            "nc2.equinorm_weight",
            "√(K / (K − 1)) × id",
            lambda value: SPREAD * value,
        ),
        Printed(
            "cos_M",
            lambda x: coherence(around_mean_of_means(x)[0]),
            "nc2.equiangular",
            "id",
            same,
        ),
        Printed("W_M_dist", duality, "nc3.self_duality_squared", "id", same),
        Printed("NCC_mismatch", mismatch, "nc4.agreement", "1 − id", lambda value: 1 - value),
    ),
    "tding1/Neural-Collapse (Zhu et al.)": (
        Printed("collapse_metric", pinv, "nc1.pinv", "id if classes are equal", same, BALANCED),
        Printed(
            "ETF_metric",
            lambda x: structure_error(x.weight @ x.weight.T),
            "nc2.etf_error_weight_raw",
            "id",
            same,
        ),
        Printed(
            "WH_relation_metric",
            lambda x: structure_error(x.weight @ around_global_mean(x)[0].T),
            "nc3.cross_coherence",
            "id if classes are equal",
            same,
            BALANCED,
        ),
        Printed(
            "Wh_b_relation_metric",
            lambda x: float((x.weight @ x.feats.mean(0) - x.bias).norm()),
            "nc3.bias_collapse",
            "id with bias=−b",
            same,
        ),
    ),
    "rhubarbwu/neural-collapse (Wu & Papyan)": (
        Printed("class_dist_norm_vars, mean", cdnv, "nc1.cdnv", "id", same),
        Printed(
            "simplex_etf_error",
            lambda x: structure_error(around_mean_of_means(x)[0] @ around_mean_of_means(x)[0].T),
            "nc2.etf_error",
            "id",
            same,
        ),
        Printed(
            "kernel_stats(dist_kernel)",
            lambda x: float(distances(x).mean()),
            "nc2.distance",
            "id",
            same,
        ),
        Printed(
            "kernel_stats(log_kernel)",
            lambda x: float(energies(x).mean()),
            "nc2.log_energy",
            "id",
            same,
        ),
        Printed(
            "kernel_stats(log_kernel), variance",
            lambda x: float(energies(x).var(correction=0)),
            "nc2.log_energy_var",
            "id",
            same,
        ),
        Printed(
            "alignment_error",
            lambda x: structure_error(x.weight @ around_mean_of_means(x)[0].T),
            "nc3.cross_coherence",
            "id",
            same,
        ),
    ),
    "keitaroskmt/collapse-dynamics (Sakamoto & Sato)": (
        Printed("nc1_score", quotient, "nc1.quotient_sample", "id", same),
        Printed("nc2_score", condition, "nc2.condition", "id", same),
    ),
    "TomerGalanti/NeuralCollapseDepth (Galanti)": (
        Printed("avg_cdnv", cdnv, "nc1.cdnv", "id", same),
    ),
    "scikit-learn": (
        Printed(
            "calinski_harabasz_score",
            calinski_harabasz,
            "nc1.quotient_sample",
            FORMULA,
            calinski_of_quotient,
        ),
        Printed("NearestCentroid().score", nearest_centroid, "nc4.ncc_accuracy", "id", same),
    ),
    "torchmetrics": (
        Printed(
            "CalinskiHarabaszScore",
            calinski_of_torchmetrics,
            "nc1.quotient_sample",
            FORMULA,
            calinski_of_quotient,
        ),
    ),
}
