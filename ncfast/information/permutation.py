"""Whether an information could be chance: a test by permutations, and a scale from 0 to 1."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import SupportsIndex

import torch
from torch import Tensor

from ncfast._arrays import Array, as_integer
from ncfast._optional import Show, shown
from ncfast.information.duplicates import private_generator
from ncfast.information.estimate import Estimate
from ncfast.information.label_information import label_information, label_terms
from ncfast.information.mutual_information import mutual_information, terms_at
from ncfast.information.preprocess import normal_scores, power_of_two
from ncfast.information.samples import (
    as_classes,
    as_samples,
    check_same,
    holds_classes,
)
from ncfast.information.ties import Sample, counted_sample

Reordered = Callable[[Tensor], float]


@dataclass(frozen=True)
class PermutationTest:
    """An estimate, and how often chance gives as much.

    Attributes:
        value: the estimate for the samples as given, in nats.
        p: (1 + permutations with at least that value) / (1 + permutations); never zero.
        null: the estimates for the permuted samples, in nats, in the order drawn.
        estimate: the whole estimate, with its standard error and warnings.
    """

    value: float
    p: float
    null: tuple[float, ...] = field(repr=False)
    estimate: Estimate


@torch.no_grad()
def permutation_test(
    x: Array,
    y: Array,
    *,
    permutations: SupportsIndex = 199,
    k: SupportsIndex = 5,
    generator: torch.Generator | None = None,
    progress: bool | Show = False,
) -> PermutationTest:
    """Test of independence: the information of x with y against that of x with permuted y.

    The p-value is exact at any N, bias and ties included, if rows are exchangeable under
    independence: samples of a time series are not (Phipson & Smyth 2010 for the ones in it). Each
    permutation takes the neighbour search of one estimate, without its standard error and warnings;
    columns are checked and transformed once.

    Args:
        x: (N, dx) or (N,) samples, as in `mutual_information`.
        y: (N, dy) or (N,) samples; or (N,) class labels, integers, booleans or strings, for which
            `label_information` is taken. Counts that are quantities are passed as floats.
        permutations: how many; the smallest p-value is 1 / (1 + permutations).
        k: neighbours.
        generator: of the permutations; None takes a private one with a fixed seed.
        progress: True shows a bar of tqdm; or a function that wraps an iterable, as tqdm does.

    Returns:
        `PermutationTest` with `value` in nats and `p`.

    Raises:
        TypeError, ValueError: see `mutual_information`; `permutations` below one.
        ModuleNotFoundError: `progress=True` without tqdm.

    Example:
        >>> import torch, ncfast
        >>> x, noise = torch.randn(2, 200, generator=torch.Generator().manual_seed(0))
        >>> ncfast.permutation_test(x, x + noise, permutations=99).p
        0.01
    """
    permutations = as_integer("permutations", permutations)
    if permutations < 1:
        raise ValueError(
            f"Expected argument `permutations` to be at least 1 but got {permutations}. "
            "A p-value of 0.01 takes 99 or more."
        )
    classes = holds_classes("y", y)
    first, second = as_samples("x", x), as_classes("y", y) if classes else as_samples("y", y)
    check_same(x=first, y=second)
    k = as_integer("k", k)
    found = (
        label_information(first, second, k=k) if classes else mutual_information(first, second, k=k)
    )
    chance = (_of_labels if classes else _of_samples)(first, second, k)
    null = []
    source = private_generator(torch.device("cpu")) if generator is None else generator
    for _ in shown(progress)(range(permutations)):
        order = torch.randperm(len(first), generator=source, device=source.device)
        null.append(chance(order.to(second.device)))
    reached = sum(value >= found.value for value in null)
    return PermutationTest(found.value, (1 + reached) / (1 + permutations), tuple(null), found)


def _of_samples(x: Tensor, y: Tensor, k: int) -> Reordered:
    """The value of `mutual_information` with the rows of y in another order."""
    blocks = normal_scores(x), normal_scores(y)
    tied = counted_sample((x, y), blocks, "rank", None).cells is not None

    def value(order: Tensor) -> float:
        moved = blocks[0], blocks[1][order]
        sample = Sample(moved, "rank")
        if tied:  # noise and multiplicities are those of the pairs
            sample = counted_sample((x, y[order]), moved, "rank", None)
        return float(terms_at(sample, None, k, "auto", "l2max", "auto").terms.mean())

    return value


def _of_labels(z: Tensor, classes: Tensor, k: int) -> Reordered:
    """The value of `label_information` with the labels in another order."""
    rows = z / power_of_two(z)
    return lambda order: float(
        label_terms(rows, classes[order], k, "ross", "l2", "auto")[0].nanmean()
    )


def information_correlation(nats: float | Estimate) -> float:
    """sqrt(1 - exp(-2 I)), from 0 to 1: the correlation of a Gaussian pair with this information.

    Linfoot 1957. It is defined for every pair of variables whose information is finite, and 1 where
    it is infinite. Estimates below zero give 0. For class labels the share of what could be known,
    I / H(Y), is `estimate.value / estimate.details["label_entropy"]`.

    Args:
        nats: an information in nats, or an `Estimate` of one in nats or bits.

    Returns:
        The correlation, a float; NaN for NaN.

    Example:
        >>> import math, ncfast
        >>> round(ncfast.information_correlation(-0.5 * math.log(1 - 0.6**2)), 6)
        0.6
    """
    value = float(nats)
    if isinstance(nats, Estimate) and nats.unit == "bits":
        value *= math.log(2)
    return value if math.isnan(value) else math.sqrt(-math.expm1(-2 * max(value, 0.0)))
