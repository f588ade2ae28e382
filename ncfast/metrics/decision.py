"""NC4: whether the classifier decides like the nearest class mean.

Most rows are decided at once. A rule that chooses class c at mu_c chooses it within a ball around
mu_c that no boundary cuts: of half the distance to the nearest other mean, or of the smallest
margin. A row of class c inside the ball needs no search (Hamerly 2010), and of collapsed features
nearly all are. The balls cost K^2 D where the search costs N K D.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from ncfast.metrics.inputs import MetricInputs, given
from ncfast.metrics.metric import Metric, few_present
from ncfast.ops import _raw
from ncfast.ops.decisions import Rule, comparable, compared, own_distances
from ncfast.ops.decisions import decisions as decide

_ROWS = 1 << 14  # rows gathered for one search
_FEW_CLASSES = 16  # a search among so few costs as much as reading the rows
_FEW_ROWS = 1024  # a search over so few costs less than finding the balls
_SURE = 1 - 1e-9  # covers the rounding of the distances compared
_ROUNDING = 64 * torch.finfo(torch.float64).eps  # that of the means, relative to the largest norm


class Correct(NamedTuple):
    """How many samples of each class are correct, and which share of all samples."""

    by_class: Tensor  # (2, size) float64 numbers: `agreements`, `hits`
    shares: Tensor | None = None  # (2,) of both; None where nobody computed them

    @property
    def agreements(self) -> Tensor:
        """Samples that the classifier gives to the class of the nearest mean, (size,)."""
        return self.by_class.select(0, 0)

    @property
    def hits(self) -> Tensor:
        """Samples whose nearest mean is that of their own class, (size,)."""
        return self.by_class.select(0, 1)


def correct_by_class(inputs: MetricInputs, feats: Tensor, labels: Tensor, size: int) -> Correct:
    """`Correct` over some of the samples.

    Args:
        inputs: the moments of all samples, and the classifier.
        feats: (N, D) features.
        labels: (N,) their classes, any integers.
        size: length of the results, at least K. Entries behind K - 1 hold no meaning.
    """
    moments = inputs.moments
    if comparable(inputs.backend, feats, labels, moments) and searches_all(inputs):
        weight = None if inputs.weight is None else inputs.classifier
        return Correct(*compared(feats, labels, moments, weight, inputs.bias, size))
    labels = labels.to(torch.int64).clamp(0, size - 1)  # out of range: nan_if_invalid is NaN
    nearest, chosen = decisions(inputs, feats, labels)
    # whole numbers in float64: the sum is exact in any order, so atomics stay deterministic
    correct = torch.stack([nearest == chosen, nearest == labels]).to(torch.float64)
    sums = torch.zeros((2, size), dtype=torch.float64, device=feats.device)
    return Correct(sums.scatter_add_(1, labels.expand(2, -1), correct))


def _correct(inputs: MetricInputs) -> Correct:
    if inputs.sums is not None:
        parts = (given(inputs.sums.agreements, "feats"), given(inputs.sums.hits, "feats"))
        return Correct(torch.stack(parts))
    return correct_by_class(inputs, *inputs.samples, inputs.moments.num_classes)


def agreements(inputs: MetricInputs) -> Tensor:
    """Samples of each class that the classifier gives to the class of the nearest mean, (K,)."""
    return inputs.once(_correct).agreements


def hits(inputs: MetricInputs) -> Tensor:
    """Samples of each class that are nearest to the mean of their own class, (K,)."""
    return inputs.once(_correct).hits


def by_class(inputs: MetricInputs, correct: Tensor) -> Tensor:
    """Share of correct samples of each class, (K,); NaN for absent classes."""
    return correct / inputs.moments.counts.to(torch.float64) + inputs.nan_if_invalid


def _samples(row: int) -> Callable[[MetricInputs], Tensor]:
    def function(inputs: MetricInputs) -> Tensor:
        correct = inputs.once(_correct)
        if correct.shares is not None:
            return correct.shares.select(0, row)
        return correct.by_class.select(0, row).sum() / inputs.total + inputs.nan_if_invalid

    return function


def _classes(correct: Callable[[MetricInputs], Tensor]) -> Callable[[MetricInputs], Tensor]:
    def function(inputs: MetricInputs) -> Tensor:
        shares = by_class(inputs, correct(inputs))
        present = inputs.moments.present
        return torch.where(present, shares, 0.0).sum() / inputs.number + inputs.nan_if_invalid

    return function


def decisions(inputs: MetricInputs, feats: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Index of the nearest present class mean and of the largest logit, (N,) int64 each.

    Without a classifier the second is -1.

    Args:
        inputs: the moments of all samples, and the classifier.
        feats: (N, D), all of the samples or some.
        labels: (N,) their classes.
    """
    searches = [inputs.once(_nearest_mean)]
    if inputs.weight is not None:
        searches.append(inputs.once(_classifier))
    found = _decide(inputs, searches, feats, labels)
    nothing = torch.full_like(found[0], -1)
    return found[0], found[1] if len(found) > 1 else nothing


class _Search(NamedTuple):
    """A rule over some of the classes."""

    rule: Rule
    classes: Tensor | None  # (P,) which its rows stand for, ascending; None for all

    def named(self, found: Tensor) -> Tensor:
        """The classes that rows of the rule stand for."""
        return found if self.classes is None else self.classes.index_select(0, found)


def _nearest_mean(inputs: MetricInputs) -> _Search:
    # norm(x - mu)^2 orders as norm(mu)^2 / 2 - <x, mu>. Around a mean in the midst of the others
    # this does not cancel, even where one class holds an outlier that moves the mean of means away.
    means, classes = inputs.moments.means, few_present(inputs.moments)
    if classes is None:
        away = torch.where(inputs.present, inputs.norms, torch.inf)
    else:
        means = means.index_select(0, classes)
        away = torch.linalg.vector_norm(means - inputs.moments.mean_of_means, dim=1)
    centre = means.index_select(0, away.argmin(0, keepdim=True)).squeeze(0)
    means = means - centre
    offset = -means.square().sum(1) / 2
    if classes is None:
        offset = torch.where(inputs.present, offset, -torch.inf)
    return _Search(Rule(centre, means, offset), classes)


def _classifier(inputs: MetricInputs) -> _Search:
    weight = inputs.classifier
    bias = weight.new_zeros(len(weight)) if inputs.bias is None else inputs.bias
    return _Search(Rule(torch.zeros_like(weight.narrow(0, 0, 1)).squeeze(0), weight, bias), None)


def _searched(backend: str, feats: Tensor, searches: list[_Search]) -> list[Tensor]:
    found = decide(backend, feats, [search.rule for search in searches])
    return [search.named(rows) for search, rows in zip(searches, found, strict=True)]


def _pays(inputs: MetricInputs, products: int) -> bool:
    """Whether that many K x K x D products in float64 cost less than a search in float32."""
    return max(_FEW_ROWS, 2 * products * inputs.moments.num_classes) < float(inputs.total)


def _plans_pairs(inputs: MetricInputs) -> bool:
    return any(use.startswith("pairs.") for use in inputs.planned)


def searches_all(inputs: MetricInputs) -> bool:
    """Whether no ball saves a search: the classes are few, or so are the rows."""
    if inputs.moments.num_classes <= _FEW_CLASSES:
        return True
    free = "margins" in inputs.planned or _plans_pairs(inputs)
    return not (free or _pays(inputs, 1))


def _half_gaps(inputs: MetricInputs) -> Tensor | None:
    if not (_plans_pairs(inputs) or _pays(inputs, 1)):
        return None
    return inputs.nearest_gaps / 2


def _margin_radii(inputs: MetricInputs) -> Tensor | None:
    if not ("margins" in inputs.planned or _pays(inputs, 2)):
        return None
    return inputs.margins().radius


def _decide(
    inputs: MetricInputs, searches: list[_Search], feats: Tensor, labels: Tensor
) -> list[Tensor]:
    backend = inputs.backend
    if backend == "reference" or not _raw.readable(feats):
        return _searched(backend, feats, searches)
    radii = [_half_gaps(inputs), _margin_radii(inputs) if len(searches) > 1 else None]
    radii = radii[: len(searches)]
    if all(radius is None for radius in radii):
        return _searched(backend, feats, searches)
    own = labels.to(torch.int64).clamp(max=inputs.moments.num_classes - 1)
    distances = own_distances(feats, own, inputs.moments.means)
    distances += _ROUNDING * inputs.moments.norm_max
    found = []
    for search, radius in zip(searches, radii, strict=True):
        if radius is None:
            found += _searched(backend, feats, [search])
            continue
        sure = distances < _SURE * radius.index_select(0, own)
        open_rows = sure.logical_not().nonzero().squeeze(1)
        if 2 * len(open_rows) > len(own):  # not worth gathering
            found += _searched(backend, feats, [search])
            continue
        chosen = own.clone()
        for rows in open_rows.split(_ROWS):
            chosen[rows] = _searched(backend, feats.index_select(0, rows), [search])[0]
        found.append(chosen)
    return found


_FEATURES = frozenset({"moments", "revisit"})
_BOTH = _FEATURES | {"classifier"}
_SOURCE = "Papyan, Han & Donoho 2020"
_AGREE = "argmax_c <w_c, g> + b_c equals argmin_c norm(g - mu_c)"
_OWN = "argmin_c norm(g - mu_c) is the label"

_decision = partial(Metric, tier="full", uses=frozenset({"decisions"}))

METRICS = {
    "nc4.agreement": _decision(
        _samples(0),
        f"share of samples on which {_AGREE}",
        _SOURCE,
        "[0, 1]",
        "1: nearest-class-mean rule",
        needs=_BOTH,
    ),
    "nc4.agreement_class": _decision(
        _classes(agreements),
        f"mean over classes of the share of samples on which {_AGREE}",
        _SOURCE,
        "[0, 1]",
        "1: nearest-class-mean rule",
        needs=_BOTH,
    ),
    "nc4.ncc_accuracy": _decision(
        _samples(1),
        f"share of samples on which {_OWN}",
        "nearest class centre accuracy; Galanti, György & Hutter 2021",
        "[0, 1]",
        "1: separated",
        needs=_FEATURES,
    ),
    "nc4.ncc_accuracy_class": _decision(
        _classes(hits),
        f"mean over classes of the share of samples on which {_OWN}",
        "nearest class centre accuracy, every class counting the same",
        "[0, 1]",
        "1: separated",
        needs=_FEATURES,
    ),
}
