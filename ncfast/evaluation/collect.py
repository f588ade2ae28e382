"""Makes an accumulator for each layer, and an `Evaluation` of what the accumulators hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ncfast.accumulator import Accumulator
from ncfast.evaluation.result import Evaluation
from ncfast.features.classifier import Classifier
from ncfast.metrics.catalogue import CATALOGUE

_NO_CLASSIFIER = "needs a classifier"


def accumulators_of(
    classifiers: Mapping[str, Classifier | None],
    num_classes: int,
    metrics: str | Sequence[str],
    **options: Any,
) -> tuple[dict[str, Accumulator], dict[str, str]]:
    """An accumulator for each layer, and the keys that a layer without classifier cannot have.

    Args:
        classifiers: by layer, weight and bias, or None.
        num_classes: K.
        metrics: as for `Accumulator`.
        **options: of `Accumulator`.
    """
    made: dict[str, Accumulator] = {}
    missing: dict[str, str] = {}
    by_name = [] if isinstance(metrics, str) else list(metrics)
    for layer, classifier in classifiers.items():
        chosen: str | Sequence[str] = metrics
        if classifier is None and any(classifiers.values()):
            # ids asked for by name, which another layer can have
            out = [id_ for id_ in by_name if id_ in CATALOGUE and _reads_classifier(id_)]
            missing |= {f"{layer}/{id_}": _NO_CLASSIFIER for id_ in out}
            chosen = [id_ for id_ in by_name if id_ not in out] if out else metrics
        weight, bias = classifier if classifier is not None else (None, None)
        made[layer] = Accumulator(num_classes, metrics=chosen, weight=weight, bias=bias, **options)
    return made, missing


def _reads_classifier(id_: str) -> bool:
    return bool(CATALOGUE[id_].needs & {"classifier", "bias"})


@torch.no_grad()
def collected(
    accumulators: Mapping[str, Accumulator],
    *,
    scores: Sequence[float],
    missing: Mapping[str, str],
    nonfinite: tuple[int, int] = (0, 0),
) -> Evaluation:
    """The metrics of every layer. The host reads the values of a layer at once.

    Args:
        accumulators: by layer.
        scores: numbers of correct and of counted predictions, of all ranks.
        missing: keys that no accumulator was asked for, and why.
        nonfinite: rows that were skipped, of the data and from outside the distribution.

    Raises:
        ValueError: there is no row to measure; see `Accumulator.compute`.
    """
    if not all(map(_rows, accumulators.values())):
        raise ValueError(
            "Expected at least one row to measure but got no batch, or batches whose labels and "
            "masks leave out every row."
        )
    correct, counted = scores
    numbers = {"accuracy": correct / counted} if counted else {}
    left_out = dict(missing)
    for layer, accumulator in accumulators.items():
        prefix = f"{layer}/" if len(accumulators) > 1 else ""
        values = accumulator.compute()
        read = torch.stack(list(values.values())).tolist() if values else []
        numbers |= {prefix + id_: value for id_, value in zip(values, read, strict=True)}
        # after the colon an accumulator names a method of its own, which is no remedy here
        reasons = accumulator.missing.items()
        left_out |= {prefix + id_: why.partition(":")[0] for id_, why in reasons}
    first = next(iter(accumulators.values()))
    return Evaluation(
        numbers,
        layers=tuple(accumulators),
        dims=tuple(accumulator.moments.dim for accumulator in accumulators.values()),
        num_classes=first.num_classes,
        samples=int(first.moments.total),
        ignored=int(first.ignored) - nonfinite[0],
        missing=left_out,
        nonfinite=sum(nonfinite),
    )


def _rows(accumulator: Accumulator) -> int:
    try:
        return int(accumulator.moments.total)
    except ValueError:  # no batch at all
        return 0
