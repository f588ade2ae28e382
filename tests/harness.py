"""Evaluates metrics by id for the tests, with a classifier and out-of-distribution features."""

from oracle import ORACLES, case
from samples import companions

import ncfast
from ncfast.metrics.catalogue import CATALOGUE

IDS = list(CATALOGUE)
DEFINED_FOR_ONE_CLASS = {
    *("rnc1.max", "rnc1.mean", "nc2.condition", "nc1.within_fraction"),
    *("nc1.within_fraction_sample", "nc3.bias_collapse"),
    *("nc4.agreement", "nc4.agreement_class", "nc4.ncc_accuracy", "nc4.ncc_accuracy_class"),
    *("nc5.ood_cosine", "rank.effective", "rank.participation", "rank.stable"),
    *("rank.rankme", "rank.alpha_req", "rank.alpha_req_error"),
    *("bound.generalization", "bound.generalization_trace"),
}


def evaluate_all(feats, labels, num_classes, weight=None, bias=None, ood=None, **options):
    if weight is None:
        weight, bias, ood = companions(num_classes, feats.shape[1])
    values = ncfast.collapse_metrics(
        feats,
        labels,
        weight=weight,
        bias=bias,
        ood_feats=ood,
        num_classes=num_classes,
        **options,
    )
    return {name: float(value) for name, value in values.items()}


def evaluate(name, feats, labels, num_classes, backend="auto"):
    return evaluate_all(feats, labels, num_classes, metrics=name, backend=backend)[name]


def expect(name, feats, labels, num_classes):
    return ORACLES[name](case(feats, labels, num_classes, *companions(num_classes, feats.shape[1])))
