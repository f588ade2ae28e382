"""Reasons not to believe an estimate, in words."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

BIAS = 0.1  # nats of expected bias that are worth a warning
_ROWS = 2048  # rows looked at for repeated values


def psi(numbers: Tensor) -> Tensor:
    """The digamma function in float64, also of counts, which torch would take in float32."""
    return torch.digamma(numbers.to(torch.float64))


def digamma(number: float) -> float:
    """The digamma function of one number."""
    return float(psi(torch.tensor(number)))


def duplicates(found: int, samples: int) -> list[str]:
    """Rows that repeat."""
    if not found:
        return []
    return [
        f"{found} of {samples} rows repeat another one, which a continuous distribution never does."
    ]


def atoms(name: str, rows: Tensor) -> list[str]:
    """Columns in which one value holds a hundredth of the rows, such as the zeros of a ReLU."""
    ordered = rows[:: max(1, len(rows) // _ROWS)].sort(0).values
    heavy = max(5, len(ordered) // 100)
    constant = ordered[0] == ordered[-1]
    found = int(((ordered[heavy - 1 :] == ordered[: 1 - heavy]).any(0) & ~constant).sum())
    texts = []
    if found:
        texts.append(
            f"{found} of {rows.shape[1]} columns of `{name}` hold repeated values (atoms, such as "
            "ReLU zeros), which the estimator takes for a density."
        )
    return texts + constants(name, rows)


def constants(name: str, rows: Tensor) -> list[str]:
    """Columns without a second value."""
    found = int((rows == rows[0]).all(0).sum())
    return [f"{found} columns of `{name}` are constant."] if found else []


def coincident(found: int, samples: int, k: int) -> list[str]:
    """Rows without a distance to their k-th neighbour."""
    if not found:
        return []
    return [
        f"{found} of {samples} rows occur more than k = {k} times: their distance to the k-th "
        "neighbour is 0, which says nothing about information. Pass method='auto'."
    ]


def copies(found: int, samples: int) -> list[str]:
    """Whole rows that repeat although their parts hardly do."""
    if not found > samples / 20:
        return []
    return [
        f"{found} of {samples} rows are copies of another one in all arguments at once. If samples "
        "were stored twice, the estimate is too large: pass duplicates='drop'."
    ]


def ceiling(value: float, samples: int, k: int) -> list[str]:
    """A nearest-neighbour estimate cannot exceed psi(N) - psi(k), and bends long before."""
    top = digamma(samples) - digamma(k)
    if not value > top / 2:
        return []
    return [
        f"{value:.2f} nats is more than half of psi(N) - psi(k) = {top:.2f}, the most that "
        f"{samples} samples and k = {k} can show: the true value may be much larger."
    ]


def not_finite(value: float) -> list[str]:
    """A value without meaning, because a density was taken where there is none."""
    if math.isfinite(value):
        return []
    return ["Not finite: rows coincide with k others in one of the spaces. Try method='auto'."]


def no_stderr(stderr: float, samples: int, k: int) -> list[str]:
    """A standard error that was asked for and could not be had."""
    if not math.isnan(stderr):
        return []
    if samples < 5 * k:
        return [f"No standard error: N = {samples} samples are fewer than 5 k = {5 * k}."]
    return ["No standard error: the estimate without some of the rows is not finite."]


@lru_cache(maxsize=1024)
def gaussian_bias(samples: int, k: int, dim: int) -> float:
    """Expected bias of the Kozachenko-Leonenko estimate for a standard Gaussian, in nats.

    By theory, not by simulation. The mass of the ball that reaches to the k-th neighbour is
    Beta(k, N - k) whatever the distribution; for a Gaussian it is a noncentral chi-squared
    probability, whose inverse is the radius. The mean over the centre and the mass is taken at
    quantiles.
    """
    from scipy.special import betaincinv, chndtrix, gammaincinv  # lazy: importing ncfast is quick

    middle = (torch.arange(32, dtype=torch.float64) + 0.5).numpy() / 32
    centres = 2 * gammaincinv(dim / 2, middle)
    masses = betaincinv(k, samples - k, middle)
    squares = torch.as_tensor(chndtrix(masses[None, :], dim, centres[:, None]))
    ball = dim / 2 * math.log(math.pi) - math.lgamma(dim / 2 + 1)
    found = digamma(samples) - digamma(k) + ball + dim / 2 * float(squares.log().mean())
    return found - dim / 2 * math.log(2 * math.pi * math.e)


def dimension(samples: int, k: int, dim: int) -> list[str]:
    """Too many columns for the samples, judged by the bias for a Gaussian of that dimension."""
    bias = gaussian_bias(samples, k, dim)
    if abs(bias) <= BIAS:
        return []
    return [
        f"{dim} columns are many for {samples} samples: for a standard Gaussian the estimate would "
        f"be off by {bias:+.2f} nats. Reduce the dimension, for example by PCA."
    ]


def missed(value: float, stderr: float, gaussian: float) -> list[str]:
    """Less than what linear dependence alone would give between Gaussians."""
    slack = BIAS + (0.0 if math.isnan(stderr) else 3 * stderr)
    if not gaussian - value > slack:
        return []
    return [
        f"Gaussians with the same canonical correlations share {gaussian:.2f} nats, more than the "
        f"estimate of {value:.2f}: neighbours are too far apart here, the tails are heavy (try "
        "preprocess='rank', more samples or fewer columns), or rows lie in clusters."
    ]
