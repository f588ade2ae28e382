"""What an estimate by neighbours is compared with before it is believed, in nats.

An estimate that misses dependence fails to match one of three numbers: the linear part of the
dependence; what the spreads of x and y share, by their norms or their squared columns; the estimate
at four times the neighbours, whose bias is that of a quarter of the samples.
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

ROWS = 10_000  # rows that are looked at: bounds the cost
DIRECTIONS = 3  # for labels
WIDER = 4  # times the neighbours
SPREAD = 0.4  # standard deviation of KSG with 10 neighbours at independence, times the root of N
At = Callable[[Tensor, int], float]  # (rows, k) -> estimate


def looked_at(count: int, device: torch.device) -> Tensor:
    """(M,) rows for the signals: all of them, or `ROWS` at random, always the same."""
    if count <= ROWS:
        return torch.arange(count, device=device)
    generator = private_generator(torch.device("cpu"), 1)
    order = torch.randperm(count, generator=generator, device="cpu")
    return order[:ROWS].sort().values.to(device)


def random_scores(blocks: Sequence[Tensor]) -> list[Tensor]:
    """Normal scores of each column, equal values ranked at random and apart in every column.

    A variable with private noise shares no more than the variable itself, so that what these share
    is a lower bound for counts and zeros too, which mean ranks are not.
    """
    generator = private_generator(torch.device("cpu"), 2)
    return [scores_of_ranks(_ranks(rows, generator), len(rows)) for rows in blocks]


def _ranks(rows: Tensor, generator: torch.Generator) -> Tensor:
    """(N, d) ranks from one, ties in random order."""
    ordered, order = rows.sort(0)
    if bool((ordered[1:] == ordered[:-1]).any()):
        keys = torch.rand(rows.shape, generator=generator, dtype=rows.dtype, device="cpu")
        mixed = keys.argsort(0).to(rows.device)
        order = mixed.gather(0, rows.gather(0, mixed).argsort(dim=0, stable=True))
    numbers = torch.arange(1, len(rows) + 1, dtype=rows.dtype, device=rows.device)
    return torch.empty_like(rows).scatter_(0, order, numbers.unsqueeze(1).expand_as(rows))


def radii_information(x: Tensor, y: Tensor, backend: str = "auto", k: int = 10) -> float:
    """KSG between the norms of the rows of x and of y, both as normal scores.

    A function of x and one of y share at most I(X;Y), and one column a side is estimated well: it
    sees dependence of scale, which heavy tails are made of, in any number of columns.

    Args:
        x: (N, dx) normal scores.
        y: (N, dy) normal scores.
        backend: of the neighbour search.
        k: neighbours.
    """
    if len(x) < 5 * k:
        return math.nan
    blocks = random_scores([rows.square().sum(1, keepdim=True) for rows in (x, y)])
    found = joint_radii_and_counts(blocks, k, backend=backend)
    terms = sum(psi(count + 1) for count in found.counts)
    assert isinstance(terms, Tensor)
    return digamma(k) + digamma(len(x)) - float(terms.mean())


def squares_information(x: Tensor, y: Tensor) -> float:
    """`held_out_information` of the squares of normal scores: dependence of scale in few columns.

    NaN with fewer than 40 rows.
    """
    if len(x) < 40:
        return math.nan
    first, second = ((rows.square() - 1) / math.sqrt(2) for rows in (x, y))
    return held_out_information(first, second)


def pair_signals(blocks: Sequence[Tensor], at: At | None, k: int, backend: str) -> dict[str, float]:
    """The signals of I(X;Y): "gaussian", and with `at` also "radii", "squares" and "wider".

    Args:
        blocks: x and y as the estimator sees them, (N, dx) and (N, dy).
        at: the estimate on some rows with another number of neighbours; None where there is no
            standard error to judge the others by.
        k: neighbours of the estimate.
        backend: of the neighbour search.
    """
    rows = looked_at(len(blocks[0]), blocks[0].device)
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
    """The signals of I(X;Y|Z): "gaussian", of residuals given z, and with `at` also "wider"."""
    rows = looked_at(len(blocks[0]), blocks[0].device)
    x, y = random_scores([block[rows] for block in blocks[:2]])
    z = normal_scores(blocks[2][rows])  # with noise of its own it would explain less
    gaussian = partial_information(x, y, z, backend)
    if at is None:
        return {"gaussian": gaussian}
    return {
        "gaussian": gaussian,
        "wider": wider(at, rows, len(blocks[0]), k),
    }


def label_signal(rows: Tensor, classes: Tensor, of: Callable[[Tensor, Tensor], float]) -> float:
    """What few canonical directions of one half of the rows tell about the labels of the other.

    A lower bound of I(Z;Y) that a single informative column among hundreds reaches. NaN with few
    columns, where neighbours do as well, or fewer than ten rows a class.

    Args:
        rows: (N, d) features.
        classes: (N,) class numbers without gaps.
        of: the estimate of some features and their classes.
    """
    enough = len(rows) >= max(40, 10 * (int(classes.max()) + 1))
    if rows.shape[1] <= DIRECTIONS or not enough:
        return math.nan
    index = looked_at(len(rows), rows.device)
    (scores,), classes = random_scores([rows[index]]), classes[index]
    members = torch.nn.functional.one_hot(classes).to(rows.dtype)
    one, two = halves(len(index), rows.device)
    found = 0.0
    for fitted, tested in ((one, two), (two, one)):
        code = canonical_codes(scores, members, fitted, tested)[0][:, :DIRECTIONS]
        found += of(code, torch.unique(classes[tested], return_inverse=True)[1]) / 2
    return found


def wider(at: At, rows: Tensor, count: int, k: int) -> float:
    """The estimate where neighbours are as far as four times k of all rows; NaN with too few.

    Bias is a function of about k / N: on M of N rows it takes 4 k M / N neighbours, at least k.
    """
    reach = max(k, round(WIDER * k * len(rows) / count))
    return at(rows, reach) if reach < len(rows) / 5 else math.nan


def doubts(value: float, stderr: float, count: int, k: int, found: dict[str, float]) -> list[str]:
    """Warnings from the signals that were `found`, of N = `count` samples.

    Their own noise is that of the rows that were looked at; that of neighbours is at least `SPREAD`
    over the root of their number, also where the estimate counts and hardly spreads.
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
