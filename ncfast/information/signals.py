"""Signals, in nats, that show when an estimate by neighbours misses dependence.

An estimate is compared with three signals: the information in linear dependence; the information
that the spreads of x and y share, from their norms or their squared columns; and the estimate with
four times as many neighbours, which has the bias of a quarter of the samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ncfast.information import caveats
from ncfast.information.caveats import digamma, psi
from ncfast.information.duplicates import private_generator
from ncfast.information.gaussian import (
    canonical_codes,
    halves,
    held_out_information,
    linear_information,
    partial_information,
)
from ncfast.information.neighbors import joint_radii_and_counts
from ncfast.information.preprocess import normal_scores, scores_of_ranks

ROWS = 10_000  # largest number of rows for the signals; bounds the cost
DIRECTIONS = 3  # number of linear directions for labels
WIDER = 4  # factor between the two numbers of neighbours
SPREAD = 0.4  # sqrt(N) times the standard deviation of KSG with k = 10 at independence
At = Callable[[Tensor, int], float]  # (rows, k) -> estimate


def chosen_rows(count: int, device: torch.device) -> Tensor:
    """(M,) row numbers for the signals: all, or `ROWS` random ones, the same in every call."""
    if count <= ROWS:
        return torch.arange(count, device=device)
    generator = private_generator(torch.device("cpu"), 1)
    order = torch.randperm(count, generator=generator, device="cpu")
    return order[:ROWS].sort().values.to(device)


def random_scores(blocks: Sequence[Tensor]) -> list[Tensor]:
    """Normal scores of each column; equal values get a random order, different in each column.

    Independent noise does not increase the information that a variable shares. The information of
    these scores is therefore a lower bound also for counts and repeated zeros. That of mean ranks
    is not.
    """
    generator = private_generator(torch.device("cpu"), 2)
    return [scores_of_ranks(_ranks(rows, generator), len(rows)) for rows in blocks]


def _ranks(rows: Tensor, generator: torch.Generator) -> Tensor:
    """(N, d) ranks in 1..N, with ties in random order."""
    ordered, order = rows.sort(0)
    if bool((ordered[1:] == ordered[:-1]).any()):
        keys = torch.rand(rows.shape, generator=generator, dtype=rows.dtype, device="cpu")
        mixed = keys.argsort(0).to(rows.device)
        order = mixed.gather(0, rows.gather(0, mixed).argsort(dim=0, stable=True))
    numbers = torch.arange(1, len(rows) + 1, dtype=rows.dtype, device=rows.device)
    return torch.empty_like(rows).scatter_(0, order, numbers.unsqueeze(1).expand_as(rows))


def radii_information(x: Tensor, y: Tensor, backend: str = "auto", k: int = 10) -> float:
    """The KSG estimate between the row norms of x and of y, both as normal scores.

    A function of x and a function of y share at most I(X;Y), and KSG is accurate for one column
    each. The estimate detects dependence of scale, as in heavy tails, in any number of columns. It
    is NaN with fewer than 5 k rows.

    Args:
        x: (N, dx) normal scores.
        y: (N, dy) normal scores.
        backend: engine of the neighbour search.
        k: number of neighbours.
    """
    if len(x) < 5 * k:
        return math.nan
    blocks = random_scores([rows.square().sum(1, keepdim=True) for rows in (x, y)])
    found = joint_radii_and_counts(blocks, k, backend=backend)
    terms = sum(psi(count + 1) for count in found.counts)
    assert isinstance(terms, Tensor)
    return digamma(k) + digamma(len(x)) - float(terms.mean())


def squares_information(x: Tensor, y: Tensor) -> float:
    """`held_out_information` of the squares of normal scores.

    It detects dependence of scale between a few of the columns. It is NaN with fewer than 40 rows.
    """
    if len(x) < 40:
        return math.nan
    first, second = ((rows.square() - 1) / math.sqrt(2) for rows in (x, y))
    return held_out_information(first, second)


def pair_signals(blocks: Sequence[Tensor], at: At | None, k: int, backend: str) -> dict[str, float]:
    """The signals of I(X;Y): "gaussian", and with `at` also "radii", "squares" and "wider".

    Args:
        blocks: x (N, dx) and y (N, dy) after preprocessing.
        at: computes the estimate on some rows with another number of neighbours. None skips all
            signals but the first, because there is no standard error to compare them with.
        k: number of neighbours of the estimate.
        backend: engine of the neighbour search.
    """
    rows = chosen_rows(len(blocks[0]), blocks[0].device)
    x, y = random_scores([block[rows] for block in blocks])
    gaussian = linear_information(x, y)
    if at is None:
        return {"gaussian": gaussian}
    return {
        "gaussian": gaussian,
        "radii": radii_information(x, y, backend),
        "squares": squares_information(x, y),
        "wider": wider(at, rows, len(blocks[0]), k),
    }


def conditional_signals(
    blocks: Sequence[Tensor], at: At | None, k: int, backend: str
) -> dict[str, float]:
    """The signals of I(X;Y|Z): "gaussian" from residuals given z, and with `at` also "wider"."""
    rows = chosen_rows(len(blocks[0]), blocks[0].device)
    x, y = random_scores([block[rows] for block in blocks[:2]])
    z = normal_scores(blocks[2][rows])  # random order of equal values would weaken the condition
    gaussian = partial_information(x, y, z, backend)
    if at is None:
        return {"gaussian": gaussian}
    return {
        "gaussian": gaussian,
        "wider": wider(at, rows, len(blocks[0]), k),
    }


def label_signal(rows: Tensor, classes: Tensor, of: Callable[[Tensor, Tensor], float]) -> float:
    """Information about held-out labels in a few canonical directions of the features.

    The directions are fitted to one half of the rows and tested on the other, both ways. The result
    is a lower bound of I(Z;Y) that one informative column among hundreds is enough to reach. It is
    NaN with few columns, where neighbours are as accurate, and with fewer than ten rows per class.

    Args:
        rows: (N, d) features.
        classes: (N,) class numbers without gaps.
        of: computes the estimate of features and their classes.
    """
    enough = len(rows) >= max(40, 10 * (int(classes.max()) + 1))
    if rows.shape[1] <= DIRECTIONS or not enough:
        return math.nan
    index = chosen_rows(len(rows), rows.device)
    (scores,), classes = random_scores([rows[index]]), classes[index]
    members = torch.nn.functional.one_hot(classes).to(rows.dtype)
    one, two = halves(len(index), rows.device)
    found = 0.0
    for fitted, tested in ((one, two), (two, one)):
        code = canonical_codes(scores, members, fitted, tested)[0][:, :DIRECTIONS]
        found += of(code, torch.unique(classes[tested], return_inverse=True)[1]) / 2
    return found


def wider(at: At, rows: Tensor, count: int, k: int) -> float:
    """The estimate with four times as many neighbours; NaN if there are too few rows.

    The bias depends on about k / N. M of N rows therefore take 4 k M / N neighbours, at least k.
    """
    reach = max(k, round(WIDER * k * len(rows) / count))
    return at(rows, reach) if reach < len(rows) / 5 else math.nan


def doubts(value: float, stderr: float, count: int, k: int, found: dict[str, float]) -> list[str]:
    """Warnings from the signals `found` for an estimate of N = `count` samples.

    The noise of a signal follows from the number of rows it was computed on. For signals by
    neighbours it is at least `SPREAD` over the root of that number, even if the estimate counts
    equal rows and therefore varies little.
    """
    noise = stderr * math.sqrt(max(1.0, count / ROWS))
    texts = caveats.missed(value, noise, found["gaussian"])
    least = SPREAD / math.sqrt(min(count, ROWS))
    noise = noise if math.isnan(noise) else max(noise, least)
    wider = found.get("wider", math.nan)
    if "radii" in found:
        texts += caveats.missed_spread(value, noise, found["radii"], found["squares"])
        return texts + caveats.unsettled(value, noise, wider, k)
    share, rise = caveats.CONDITIONAL_SHARE, caveats.CONDITIONAL_RISE
    return texts + caveats.unsettled(value, noise, wider, k, share, rise)
