"""The texts of the warnings that an estimate can carry, and the conditions for each."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

BIAS = 0.1  # expected bias in nats above which an estimate carries a warning
FLOOR = 0.02  # least difference in nats between a signal and an estimate
# A signal must also differ by this many standard errors, and by this share of the estimate. The
# trend of conditional information has a share of its own. The values are fitted by
# benchmarks/studies/information_warnings.py.
LINEAR, RADII, SQUARES, TREND = 3.0, 2.0, 1.0, 2.0
SHARE, CONDITIONAL_SHARE = 0.1, 0.2
CONDITIONAL_RISE = 1 / 3  # with 4 k neighbours the condition is less sharp: a rise counts less
OUTLYING = 10  # largest row norm over the 95 % quantile of the row norms
WIDE = 100  # largest spread of a column over the smallest
_ROWS = 2048  # number of rows that are searched for repeated values


def psi(numbers: Tensor) -> Tensor:
    """The digamma function in float64. For integers torch would compute it in float32."""
    return torch.digamma(numbers.to(torch.float64))


def digamma(number: float) -> float:
    """The digamma function of one number."""
    return float(psi(torch.tensor(number, dtype=torch.float64, device="cpu")))


def duplicates(found: int, samples: int) -> list[str]:
    """Warns of rows that are equal to another row."""
    if not found:
        return []
    return [
        f"{found} of {samples} rows repeat another one. Rows of a continuous distribution never do."
    ]


def atoms(name: str, rows: Tensor) -> list[str]:
    """Warns of columns in which at least 1 % of the rows have the same value, as after a ReLU."""
    ordered = rows[:: max(1, len(rows) // _ROWS)].sort(0).values
    heavy = max(5, len(ordered) // 100)
    constant = ordered[0] == ordered[-1]
    found = int(((ordered[heavy - 1 :] == ordered[: 1 - heavy]).any(0) & ~constant).sum())
    texts = []
    if found:
        texts.append(
            f"{found} of {rows.shape[1]} columns of `{name}` hold repeated values (atoms, such as "
            "ReLU zeros). The estimator assumes a density."
        )
    return texts + constants(name, rows)


def constants(name: str, rows: Tensor) -> list[str]:
    """Warns of columns in which all values are equal."""
    found = int((rows == rows[0]).all(0).sum())
    return [f"{found} columns of `{name}` are constant."] if found else []


def coincident(found: int, samples: int, k: int) -> list[str]:
    """Warns of rows whose distance to the k-th neighbour is zero."""
    if not found:
        return []
    return [
        f"{found} of {samples} rows occur more than k = {k} times: their distance to the k-th "
        "neighbour is 0 and tells nothing about information. Pass method='auto'."
    ]


def copies(found: int, samples: int) -> list[str]:
    """Warns of rows that are equal in all arguments at once, where each argument alone is not."""
    if not found > samples / 20:
        return []
    return [
        f"{found} of {samples} rows are copies of another one in all arguments at once. If samples "
        "were stored twice, the estimate is too large: pass duplicates='drop'."
    ]


def ceiling(value: float, samples: int, k: int) -> list[str]:
    """Warns near psi(N) - psi(k), the largest value that an estimate by neighbours can have."""
    top = digamma(samples) - digamma(k)
    if not value > top / 2:
        return []
    return [
        f"{value:.2f} nats is more than half of psi(N) - psi(k) = {top:.2f}, the largest "
        f"possible estimate for {samples} samples and k = {k}: the true value may be much larger. "
        "Use more samples."
    ]


def hidden_columns(value: float, stderr: float, standardized: float, times: float) -> list[str]:
    """Warns of columns that have no influence because the scale of another is much larger."""
    if not standardized - value > (BIAS if math.isnan(stderr) else max(FLOOR, 3 * stderr)):
        return []
    return [
        f"One column has {times:.0f} times the spread of another and hides it: "
        f"standardized columns give {standardized:.2f} nats instead of {value:.2f}. Pass "
        "preprocess='standardize'."
    ]


def outlying(norms: Tensor) -> list[str]:
    """Warns if a few rows have a far larger norm than the others: the noise is relative to it."""
    ordered = norms.sort().values
    times = float(ordered[-1] / ordered[int(0.95 * (len(norms) - 1))])
    if not times > OUTLYING:
        return []
    return [
        f"The largest row norm is {times:.0f} times that of 95 % of the rows, and the noise is "
        "relative to it. It hides the other rows. Drop or rescale the outlying rows."
    ]


def not_finite(value: float) -> list[str]:
    """Warns of NaN and infinity, which arise where the variables have no density."""
    if math.isfinite(value):
        return []
    return ["Not finite: rows are equal to k others in one of the spaces. Try method='auto'."]


def no_stderr(stderr: float, samples: int, k: int) -> list[str]:
    """Warns if the standard error is NaN although it was requested."""
    if not math.isnan(stderr):
        return []
    if samples < 5 * k:
        return [f"No standard error: N = {samples} samples are fewer than 5 k = {5 * k}."]
    return ["No standard error: the estimate without some of the rows is not finite."]


@lru_cache(maxsize=1024)
def gaussian_log_radius(samples: int, k: int, dim: int) -> float:
    """Expected log distance to the k-th neighbour for a standard Gaussian, from theory.

    The ball around a sample that reaches to its k-th neighbour holds a probability with the
    distribution Beta(k, N - k), whatever the distribution of the samples. For a Gaussian this
    probability is a noncentral chi-squared one, and its inverse gives the radius. The function
    averages the log radius over quantiles of the centre and of the probability.
    """
    from scipy.special import (
        betaincinv,
        chndtrix,
        gammaincinv,
    )  # lazy: `import ncfast` must stay fast

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
    """Warns of too many columns, by the bias for a standard Gaussian of the same dimension."""
    bias = gaussian_bias(samples, k, dim)
    if abs(bias) <= BIAS:
        return []
    return [
        f"{dim} columns are many for {samples} samples: for a standard Gaussian the estimate has "
        f"a bias of {bias:+.2f} nats. Reduce the dimension, for example by PCA."
    ]


def _exceeds(more: float, less: float, noise: float, errors: float, share: float) -> bool:
    """Whether `more` exceeds `less` far enough for a warning.

    The difference must be larger than `errors` standard errors (`noise`), than `FLOOR` nats and
    than `share` of `less`. Without a standard error it must be larger than `BIAS` nats. A negative
    `less` counts as zero. The result is False if `more` is NaN.
    """
    slack = BIAS if math.isnan(noise) else max(FLOOR, errors * noise)
    least = max(less, 0.0)
    return more - least > max(slack, share * least)


def missed(value: float, noise: float, gaussian: float) -> list[str]:
    """Warns of an estimate below the information of Gaussians with the same correlations."""
    if not _exceeds(gaussian, value, noise, LINEAR, SHARE):
        return []
    return [
        f"Gaussians with the same canonical correlations share {gaussian:.2f} nats, more than the "
        f"estimate of {value:.2f}: neighbours are too far apart for this dependence, or the rows "
        "form clusters. Use fewer columns (for example principal components), more samples, or "
        "preprocess='rank' if another is set."
    ]


def missed_directions(value: float, noise: float, directions: float) -> list[str]:
    """Warns of an estimate below the information in a few directions of the features."""
    if math.isnan(noise) or not _exceeds(directions, value, noise, LINEAR, SHARE):
        return []
    return [
        f"A few linear directions give {directions:.2f} nats about held-out labels, more than the "
        f"estimate of {value:.2f}: there are too many columns for the samples, or their scales "
        "differ too much. Use fewer columns (for example principal components), more samples, or "
        "preprocess='standardize'."
    ]


def missed_spread(value: float, noise: float, radii: float, squares: float) -> list[str]:
    """Warns of an estimate below the information that the sizes of x and of y share."""
    known = _exceeds(radii, value, noise, RADII, SHARE) or _exceeds(
        squares, value, noise, SQUARES, SHARE
    )
    if not known:
        return []
    return [
        f"The distances of x and of y from their centres share {max(radii, squares):.2f} nats, "
        f"more than the estimate of {value:.2f}: their spreads depend on each other, as with heavy "
        "tails. "
        "Use fewer columns, more samples, or preprocess='rank' if another is set."
    ]


def unsettled(
    value: float, noise: float, wider: float, k: int, share: float | None = None, rise: float = 1.0
) -> list[str]:
    """Warns of an estimate that changes with the number of neighbours.

    Args:
        value: the estimate with k neighbours.
        noise: its standard error.
        wider: the estimate with 4 k neighbours.
        k: number of neighbours.
        share: least change relative to the estimate; None takes `SHARE`.
        rise: weight of an increase against a decrease.
    """
    share = SHARE if share is None else share
    least = max(value, 0.0)  # a negative estimate is noise, which more neighbours reduce
    change = max(wider, 0.0) - least
    change = rise * change if change > 0 else -change
    if not _exceeds(change + least, least, noise, TREND, share):
        return []
    return [
        f"With {4 * k} neighbours instead of {k} the estimate is {wider:.2f} instead of "
        f"{value:.2f}: it has not converged, and its bias may be as large as this change. Use more "
        "samples, fewer columns or a smaller k."
    ]
