"""Reasons not to believe an estimate, in words."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

BIAS = 0.1  # nats of expected bias that are worth a warning
FLOOR = 0.02  # nats by which a signal must differ
# and so many standard errors, and such a share of the estimate; for the trend of conditional
# information another share. Fitted by benchmarks/studies/information_warnings.py
LINEAR, RADII, SQUARES, TREND = 3.0, 2.0, 1.0, 2.0
SHARE, CONDITIONAL_SHARE = 0.1, 0.2
CONDITIONAL_RISE = 1 / 3  # 4 k neighbours blur the condition in proportion, three times as much
OUTLYING = 10  # times the row norm that 95 % of the rows do not exceed
WIDE = 100  # times the smallest spread of a column
_ROWS = 2048  # rows looked at for repeated values


def psi(numbers: Tensor) -> Tensor:
    """The digamma function in float64, also of counts, which torch would take in float32."""
    return torch.digamma(numbers.to(torch.float64))


def digamma(number: float) -> float:
    """The digamma function of one number."""
    return float(psi(torch.tensor(number, dtype=torch.float64, device="cpu")))


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
        f"{samples} samples and k = {k} can show: the true value may be much larger. Use more "
        "samples."
    ]


def hidden_columns(value: float, stderr: float, standardized: float, times: float) -> list[str]:
    """Columns that count for nothing beside one of another scale."""
    if not standardized - value > (BIAS if math.isnan(stderr) else max(FLOOR, 3 * stderr)):
        return []
    return [
        f"One column spreads {times:.0f} times as far as another and hides it: "
        f"standardized columns give {standardized:.2f} nats instead of {value:.2f}. Pass "
        "preprocess='standardize'."
    ]


def outlying(norms: Tensor) -> list[str]:
    """Rows beside noise that is relative to the largest of them."""
    ordered = norms.sort().values
    times = float(ordered[-1] / ordered[int(0.95 * (len(norms) - 1))])
    if not times > OUTLYING:
        return []
    return [
        f"The largest row norm is {times:.0f} times that of 95 % of the rows, and the noise is "
        "relative to it: the other rows drown in noise. Drop or rescale the outlying rows."
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
def gaussian_log_radius(samples: int, k: int, dim: int) -> float:
    """Expected log distance to the k-th neighbour for a standard Gaussian.

    By theory, not by simulation. The mass of the ball that reaches to the k-th neighbour is
    Beta(k, N - k) whatever the distribution; for a Gaussian it is a noncentral chi-squared
    probability, whose inverse is the radius. The mean over the centre and the mass is taken at
    quantiles.
    """
    from scipy.special import betaincinv, chndtrix, gammaincinv  # lazy: importing ncfast is quick

    middle = (torch.arange(32, dtype=torch.float64, device="cpu") + 0.5).numpy() / 32
    centres = 2 * gammaincinv(dim / 2, middle)
    masses = betaincinv(k, samples - k, middle)
    squares = torch.from_numpy(chndtrix(masses[None, :], dim, centres[:, None]))
    return 0.5 * float(squares.log().mean())


def gaussian_bias(samples: int, k: int, dim: int) -> float:
    """Expected bias of the Kozachenko-Leonenko estimate for a standard Gaussian, in nats."""
    ball = dim / 2 * math.log(math.pi) - math.lgamma(dim / 2 + 1)
    radius = gaussian_log_radius(samples, k, dim)
    found = digamma(samples) - digamma(k) + ball + dim * radius
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


def _exceeds(more: float, less: float, noise: float, errors: float, share: float) -> bool:
    """Whether a difference is worth a warning: by a share, a floor and so many standard errors.

    Without a standard error, by `BIAS` nats. False where the larger is NaN. What is below zero
    counts as zero.
    """
    slack = BIAS if math.isnan(noise) else max(FLOOR, errors * noise)
    least = max(less, 0.0)
    return more - least > max(slack, share * least)


def missed(value: float, noise: float, gaussian: float) -> list[str]:
    """Less than what linear dependence alone would give between Gaussians."""
    if not _exceeds(gaussian, value, noise, LINEAR, SHARE):
        return []
    return [
        f"Gaussians with the same canonical correlations share {gaussian:.2f} nats, more than the "
        f"estimate of {value:.2f}: neighbours are too far apart for this dependence, or rows lie "
        "in clusters. Use fewer columns (for example principal components), more samples, or "
        "preprocess='rank' if another is set."
    ]


def missed_directions(value: float, noise: float, directions: float) -> list[str]:
    """Less than what a few directions of the features tell about the labels."""
    if math.isnan(noise) or not _exceeds(directions, value, noise, LINEAR, SHARE):
        return []
    return [
        f"A few linear directions tell {directions:.2f} nats about labels that were held out, more "
        f"than the estimate of {value:.2f}: too many columns for the samples, or of too different "
        "scales. Use fewer columns (for example principal components), more samples, or "
        "preprocess='standardize'."
    ]


def missed_spread(value: float, noise: float, radii: float, squares: float) -> list[str]:
    """Less than what the sizes of x and of y share."""
    known = _exceeds(radii, value, noise, RADII, SHARE) or _exceeds(
        squares, value, noise, SQUARES, SHARE
    )
    if not known:
        return []
    return [
        f"The distances of x and of y from their centres share {max(radii, squares):.2f} nats, "
        f"more than the estimate of {value:.2f}: their spreads move together, as with heavy tails. "
        "Use fewer columns, more samples, or preprocess='rank' if another is set."
    ]


def unsettled(
    value: float, noise: float, wider: float, k: int, share: float | None = None, rise: float = 1.0
) -> list[str]:
    """An estimate that depends on the number of neighbours.

    `share`: of the estimate, `SHARE` by default; `rise`: what counts of an increase.
    """
    share = SHARE if share is None else share
    least = max(value, 0.0)  # below zero is noise, which more neighbours reduce
    change = max(wider, 0.0) - least
    change = rise * change if change > 0 else -change
    if not _exceeds(change + least, least, noise, TREND, share):
        return []
    return [
        f"With {4 * k} neighbours instead of {k} the estimate is {wider:.2f} instead of "
        f"{value:.2f}: it has not converged, and its bias may be as large as this change. Use more "
        "samples, fewer columns or a smaller k."
    ]
