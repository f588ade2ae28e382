"""Decisions of the nearest class mean and of the classifier, with most rows decided at once.

A rule that chooses class c at mu_c chooses it within a ball around mu_c that no boundary cuts: of
half the distance to the nearest other mean, or of the smallest margin. A row of class c inside the
ball needs no search (Hamerly 2010), and of collapsed features nearly all are. The balls cost K^2 D
where the search costs N K D.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ncfast.backends.decide import Rule
from ncfast.metrics._evidence import Evidence

_ROWS = 1 << 14  # rows gathered for one search
_SURE = 1 - 1e-9  # covers the rounding of the distances compared


def decisions(evidence: Evidence) -> tuple[Tensor, Tensor]:
    """Index of the nearest present class mean and of the largest logit, (N,) int64 each.

    Without a classifier the second is -1.
    """
    rules = [_nearest_mean(evidence)]
    if evidence.weight is not None:
        rules.append(_classifier(evidence, evidence.weight))
    found = _decide(evidence, rules)
    nothing = torch.full_like(found[0], -1)
    return found[0], found[1] if len(found) > 1 else nothing


def _nearest_mean(evidence: Evidence) -> Rule:
    # norm(x - mu)^2 orders as norm(mu)^2 / 2 - <x, mu>; centring keeps it from cancelling
    means = evidence.centred
    offset = torch.where(evidence.moments.present, -means.square().sum(1) / 2, -torch.inf)
    return Rule(evidence.moments.mean_of_means, means, offset)


def _classifier(evidence: Evidence, weight: Tensor) -> Rule:
    bias = weight.new_zeros(len(weight)) if evidence.bias is None else evidence.bias
    return Rule(torch.zeros_like(weight.narrow(0, 0, 1)).squeeze(0), weight, bias)


def _pays(evidence: Evidence, products: int) -> bool:
    """Whether that many K x K x D products in float64 cost less than a search in float32."""
    feats, _ = evidence.rows
    return 2 * products * evidence.moments.num_classes < len(feats)


def _half_gaps(evidence: Evidence) -> Tensor | None:
    if not (evidence.wanted_pairs or _pays(evidence, 1)):
        return None
    return evidence.nearest_gaps / 2


def _margin_radii(evidence: Evidence) -> Tensor | None:
    if not (evidence.wants_margins or _pays(evidence, 2)):
        return None
    return evidence.margins().radius


def _decide(evidence: Evidence, rules: list[Rule]) -> list[Tensor]:
    feats, labels = evidence.rows
    engine = evidence.engine
    if engine.own_distances is None:
        return engine.decisions(feats, rules)
    radii = [_half_gaps(evidence), _margin_radii(evidence) if len(rules) > 1 else None]
    radii = radii[: len(rules)]
    if all(radius is None for radius in radii):
        return engine.decisions(feats, rules)
    own = labels.to(torch.int64)
    distances = engine.own_distances(feats, own, evidence.moments.means)
    found = []
    for rule, radius in zip(rules, radii, strict=True):
        if radius is None:
            found += engine.decisions(feats, [rule])
            continue
        sure = distances < _SURE * radius.index_select(0, own)
        open_rows = sure.logical_not().nonzero().squeeze(1)
        if 2 * len(open_rows) > len(own):  # not worth gathering
            found += engine.decisions(feats, [rule])
            continue
        chosen = own.clone()
        for rows in open_rows.split(_ROWS):
            chosen[rows] = engine.decisions(feats.index_select(0, rows), [rule])[0]
        found.append(chosen)
    return found
