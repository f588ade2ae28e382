"""Evaluates metrics by id for the tests, with a classifier and out-of-distribution features."""

from oracle import ORACLES, case
from samples import companions

import ncfast
from ncfast.metrics.catalogue import CATALOGUE

IDS = list(CATALOGUE)


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
