"""Distributions whose mutual or conditional mutual information is known, in nats.

They are the forty of Czyz et al. 2023 (arXiv 2306.11078, the package benchmark-mi), written from
their definitions, and others: strong and sparse dependence in many columns, fine structure,
clusters, independence, and conditions of up to fifty columns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.integrate import quad
from scipy.special import gammaln, ndtr, psi

Rows = NDArray[np.float64]
Blocks = tuple[Rows, ...]
Transform = Callable[[Rows], Rows]


@dataclass(frozen=True)
class Task:
    """One distribution of two blocks of columns, or of three, the third being the condition."""

    name: str
    truth: float
    draw: Callable[[int, Generator], Blocks]

    def sample(self, count: int, seed: int) -> Blocks:
        """Blocks of `count` rows, which depend on the name of the task and the seed alone."""
        entropy = [seed, *self.name.encode()]
        return self.draw(count, np.random.default_rng(entropy))


# --- truths ---------------------------------------------------------------------------------------


def gaussian_truth(covariance: Rows, sizes: Sequence[int]) -> float:
    """I(X;Y) or I(X;Y|Z) of a Gaussian with columns x, y and perhaps z."""
    x, y, *z = np.split(np.arange(len(covariance)), np.cumsum(sizes)[:-1])
    given = z[0] if z else np.array([], dtype=int)

    def logdet(*parts: NDArray[np.int64]) -> float:
        index = np.concatenate(parts)
        return float(np.linalg.slogdet(covariance[np.ix_(index, index)])[1]) if len(index) else 0.0

    return 0.5 * (logdet(x, given) + logdet(y, given) - logdet(given) - logdet(x, y, given))


def student_truth(freedom: float, dx: int, dy: int) -> float:
    """I(X;Y) of Student-t with identity dispersion (Arellano-Valle et al. 2013)."""

    def term(number: float) -> float:
        return float(gammaln(number / 2) - number / 2 * psi(number / 2))

    both = term(freedom) + term(freedom + dx + dy)
    return both - term(freedom + dx) - term(freedom + dy)


def pairs_truth(rho: float, pairs: int) -> float:
    return -pairs / 2 * math.log(1 - rho**2)


@cache
def channel_truth(function: Callable[[Rows], Rows], noise: float) -> float:
    """y = f(u) + noise, u uniform on (0, 1): h(y) - h(noise), h(y) by quadrature on a grid."""
    means = function((np.arange(200_000) + 0.5) / 200_000)
    step = noise / 20
    edges = np.arange(means.min() - 10 * noise, means.max() + 10 * noise, step)
    mass = np.histogram(means, edges)[0] / len(means)
    offsets = np.arange(-200, 201) * step
    kernel = np.exp(-(offsets**2) / (2 * noise**2))
    density = np.convolve(mass, kernel / kernel.sum(), mode="same") / step
    density = density[density > 0]
    entropy = -float((density * np.log(density)).sum() * step)
    return entropy - 0.5 * math.log(2 * math.pi * math.e * noise**2)


@cache
def square_truth(noise: float) -> float:
    """y = x^2 + noise, x normal: h(y) - h(noise)."""
    points = np.linspace(-8, 8, 20_001)
    weights = np.exp(-(points**2) / 2) / math.sqrt(2 * math.pi) * (points[1] - points[0])

    def term(value: float) -> float:
        near = np.exp(-((value - points**2) ** 2) / (2 * noise**2))
        density = float((weights * near).sum()) / (noise * math.sqrt(2 * math.pi))
        return -density * math.log(density) if density > 0 else 0.0

    spots = [0.0, 1.0, 4.0]
    entropy = quad(term, -8 * noise, 45, limit=400, points=spots)[0]
    return entropy - 0.5 * math.log(2 * math.pi * math.e * noise**2)


# --- transforms that keep information -------------------------------------------------------------


def half_cube(rows: Rows) -> Rows:
    return np.sign(rows) * np.abs(rows) ** 1.5


def wiggly_x(rows: Rows) -> Rows:
    return (
        rows + 0.4 * np.sin(rows) + 0.2 * np.sin(1.7 * rows + 1) + 0.03 * np.sin(3.3 * rows - 2.5)
    )


def wiggly_y(rows: Rows) -> Rows:
    wave = -0.4 * np.sin(0.4 * rows) + 0.17 * np.sin(1.3 * rows + 3.5)
    return rows + wave + 0.02 * np.sin(4.3 * rows - 2.5)


def spiral(rows: Rows, first: int, second: int, speed: float = 1 / 3) -> Rows:
    """Rotate two columns by an angle that grows with the squared norm of the row."""
    angle = speed * (rows**2).sum(1)
    out = rows.copy()
    out[:, first] = np.cos(angle) * rows[:, first] - np.sin(angle) * rows[:, second]
    out[:, second] = np.sin(angle) * rows[:, first] + np.cos(angle) * rows[:, second]
    return out


def swiss_roll(rows: Rows) -> Rows:
    """Map a uniform column to a spiral in the plane."""
    angle = 1.5 * math.pi * (1 + 2 * ndtr(rows[:, 0]))
    return np.stack((angle * np.cos(angle), angle * np.sin(angle)), 1) / 21


def quantiles_of(centres: tuple[float, float], widths: tuple[float, float], share: float):
    """The monotone map from a normal column to a mixture of two."""
    low = min(c - 9 * w for c, w in zip(centres, widths, strict=True))
    high = max(c + 9 * w for c, w in zip(centres, widths, strict=True))
    grid = np.linspace(low, high, 200_001)
    first, second = (ndtr((grid - c) / w) for c, w in zip(centres, widths, strict=True))
    below = share * first + (1 - share) * second
    return lambda rows: np.interp(ndtr(rows), below, grid)


# --- families -------------------------------------------------------------------------------------


def gaussian(name: str, covariance: Rows, *sizes: int, maps: Sequence[Transform] = ()) -> Task:
    factor = np.linalg.cholesky(covariance)

    def draw(count: int, rng: Generator) -> Blocks:
        rows = rng.standard_normal((count, len(covariance))) @ factor.T
        blocks = np.split(rows, np.cumsum(sizes)[:-1], axis=1)
        steps = maps or [np.asarray] * len(blocks)
        return tuple(step(block) for step, block in zip(steps, blocks, strict=True))

    return Task(name, gaussian_truth(covariance, sizes), draw)


def dense(dim: int, rho: float = 0.5) -> Rows:
    return rho + (1 - rho) * np.eye(2 * dim)


def sparse(dx: int, dy: int, pairs: int, rho: float) -> Rows:
    """The first `pairs` columns of x and y are correlated in pairs."""
    covariance = np.eye(dx + dy)
    for pair in range(pairs):
        covariance[pair, dx + pair] = covariance[dx + pair, pair] = rho
    return covariance


def student(dim: int, freedom: int, maps: Transform = np.asarray, prefix: str = "") -> Task:
    def draw(count: int, rng: Generator) -> Blocks:
        scale = np.sqrt(rng.chisquare(freedom, (count, 1)) / freedom)
        rows = maps(rng.standard_normal((count, 2 * dim)) / scale)
        return rows[:, :dim], rows[:, dim:]

    name = f"{prefix}Student {dim}+{dim}, dof {freedom}"
    return Task(name, student_truth(freedom, dim, dim), draw)


def additive(width: float) -> Task:
    truth = width - math.log(2 * width) if width <= 0.5 else 1 / (4 * width)

    def draw(count: int, rng: Generator) -> Blocks:
        x = rng.uniform(size=(count, 1))
        return x, x + rng.uniform(-width, width, (count, 1))

    return Task(f"additive uniform {width}", truth, draw)


def channel(name: str, function: Callable[[Rows], Rows], noise: float) -> Task:
    def draw(count: int, rng: Generator) -> Blocks:
        x = rng.uniform(size=(count, 1))
        return x, function(x) + noise * rng.standard_normal((count, 1))

    return Task(name, channel_truth(function, noise), draw)


def wave(speed: float, rows: Rows) -> Rows:
    return np.sin(speed * rows)


def wave_of_class(rows: Rows) -> Rows:
    return 3 * np.sin(2 * rows)


def square(noise: float) -> Task:
    def draw(count: int, rng: Generator) -> Blocks:
        x = rng.standard_normal((count, 1))
        return x, x**2 + noise * rng.standard_normal((count, 1))

    return Task(f"square, noise {noise}", square_truth(noise), draw)


def gamma_exponential(shape: float) -> Task:
    """x is Gamma(a), y given x exponential of rate x: psi(a + 1) - ln a."""

    def draw(count: int, rng: Generator) -> Blocks:
        x = rng.gamma(shape, size=(count, 1))
        return x, rng.exponential(size=(count, 1)) / x

    return Task(f"gamma-exponential {shape:g}", float(psi(shape + 1)) - math.log(shape), draw)


def clusters(dim: int, spread: float, rho: float = 0.8, classes: int = 10) -> Task:
    """Ten distant classes that x and y share, and a Gaussian part within them."""
    places = np.random.default_rng(7).standard_normal((2, classes, dim)) * 3
    if dim == 1:
        places = np.stack([np.arange(classes), np.roll(np.arange(classes), 3)])[:, :, None] * 1.0

    def draw(count: int, rng: Generator) -> Blocks:
        labels = rng.integers(0, classes, count)
        part, noise = rng.standard_normal((2, count, dim))
        other = rho * part + math.sqrt(1 - rho**2) * noise
        return places[0][labels] + spread * part, places[1][labels] + spread * other

    truth = math.log(classes) + pairs_truth(rho, dim)
    return Task(f"clusters {dim}+{dim}, std {spread:g}", truth, draw)


def independent(name: str, one: Callable[[int, Generator], Rows]) -> Task:
    return Task(f"independent {name}", 0.0, lambda count, rng: (one(count, rng), one(count, rng)))


def conditional(dz: int, rho: float, maps: Sequence[Transform] = (), dim: int = 1) -> Task:
    """x and y correlate by rho given z; both contain the sum of the columns of z."""
    eye = np.eye(dim)
    noise = np.block([[eye, rho * eye], [rho * eye, eye]])
    top = noise + dz
    cross = np.ones((2 * dim, dz))
    covariance = np.block([[top, cross], [cross.T, np.eye(dz)]])
    name = f"given {dz} columns, rho {rho}, {dim}+{dim}" + (", mapped" if maps else "")
    return gaussian(name, covariance, dim, dim, dz, maps=maps)


def confounded(name: str, curve: Transform, rho: float, discrete: bool = False) -> Task:
    """x and y depend on z by the same curve, and correlate by rho given z."""

    def draw(count: int, rng: Generator) -> Blocks:
        one, two = rng.standard_normal((2, count, 1))
        shape = (count, 1)
        z = rng.integers(0, 4, shape).astype(float) if discrete else rng.standard_normal(shape)
        return curve(z) + one, curve(z) + rho * one + math.sqrt(1 - rho**2) * two, z

    return Task(f"{name}, rho {rho}", pairs_truth(rho, 1), draw)


# --- the suites -----------------------------------------------------------------------------------

CDF = (ndtr, ndtr)
CUBE = (half_cube, half_cube)
SPIRAL = (partial(spiral, first=0, second=1), partial(spiral, first=1, second=2))
TWISTED = tuple((lambda rows, turn=turn: turn(ndtr(rows))) for turn in SPIRAL)


def pair_075(name: str, *maps: Transform) -> Task:
    return gaussian(name, sparse(1, 1, 1, 0.75), 1, 1, maps=maps)


@cache
def published() -> tuple[Task, ...]:
    """The forty of Czyz et al. 2023."""
    bimodal = (quantiles_of((0, 5), (1, 1), 0.3), quantiles_of((-1, 3), (0.3, 0.5), 0.5))
    tasks = [
        pair_075("Gaussian 1+1"),
        pair_075("cdf 1+1", *CDF),
        pair_075("half-cube 1+1", *CUBE),
        pair_075("wiggly 1+1", wiggly_x, wiggly_y),
        pair_075("bimodal 1+1", *bimodal),
        pair_075("swiss roll 2+1", swiss_roll, ndtr),
        additive(0.1),
        additive(0.75),
        gaussian("Gaussian 2-pair 2+2", sparse(2, 2, 2, 0.8), 2, 2),
        student(1, 1),
        student(1, 1, np.arcsinh, "asinh "),
    ]
    tasks += [gaussian(f"Gaussian dense {d}+{d}", dense(d), d, d) for d in (2, 3, 5, 25, 50)]
    for dim in (3, 5, 25):
        two = sparse(dim, dim, 2, 0.8)
        for what, maps in (
            ("Gaussian", ()),
            ("cdf", CDF),
            ("half-cube", CUBE),
            ("spiral", SPIRAL),
            ("spiral-cdf", TWISTED),
        ):
            tasks.append(gaussian(f"{what} 2-pair {dim}+{dim}", two, dim, dim, maps=maps))
    tasks += [student(*which) for which in ((2, 1), (2, 2), (3, 2), (3, 3), (5, 2), (5, 3))]
    tasks += [student(*which, np.arcsinh, "asinh ") for which in ((2, 1), (3, 2), (5, 2))]
    return tuple(tasks)


@cache
def further() -> tuple[Task, ...]:
    """Strong, sparse, fine and clustered dependence."""
    half = (
        gaussian(f"Gaussian all pairs .5, {d}+{d}", sparse(d, d, d, 0.5), d, d) for d in (4, 16, 50)
    )
    cube = (lambda rows: rows**3, np.asarray)
    tail = (lambda rows: np.exp(5 * rows), lambda rows: np.exp(2 * rows))
    return (
        *half,
        gaussian("Gaussian all pairs .2, 20+20", sparse(20, 20, 20, 0.2), 20, 20),
        gaussian("Gaussian all pairs .6, 2+2", sparse(2, 2, 2, 0.6), 2, 2),
        gaussian("one of 20 columns, .9", sparse(20, 1, 1, 0.9), 20, 1),
        gaussian("one of 100 columns, .9", sparse(100, 1, 1, 0.9), 100, 1),
        gaussian("one of 5 columns, .6", sparse(5, 1, 1, 0.6), 5, 1),
        gaussian("cube, .6", sparse(1, 1, 1, 0.6), 1, 1, maps=cube),
        gaussian("lognormal 5 and 2, .6", sparse(1, 1, 1, 0.6), 1, 1, maps=tail),
        gaussian("Gaussian 1+1, .3", sparse(1, 1, 1, 0.3), 1, 1),
        gaussian("Gaussian 1+1, .99", sparse(1, 1, 1, 0.99), 1, 1),
        channel("sin 20x", partial(wave, 20), 0.01),
        channel("sin 6x", partial(wave, 6), 0.2),
        square(0.5),
        gamma_exponential(1),
        gamma_exponential(3),
        clusters(1, 0.1),
        clusters(2, 0.1),
        clusters(4, 0.01),
    )


def _normal(dim: int) -> Callable[[int, Generator], Rows]:
    return lambda count, rng: rng.standard_normal((count, dim))


@cache
def unrelated() -> tuple[Task, ...]:
    """Independent x and y."""

    def heavy(dim: int) -> Callable[[int, Generator], Rows]:
        return lambda n, rng: rng.standard_normal((n, dim)) / np.sqrt(rng.chisquare(2, (n, 1)) / 2)

    def classes(count: int, rng: Generator) -> Rows:
        places = 3 * np.random.default_rng(3).standard_normal((10, 4))
        return places[rng.integers(0, 10, count)] + 0.01 * rng.standard_normal((count, 4))

    return (
        *(independent(f"Gaussian {d}+{d}", _normal(d)) for d in (1, 2, 5, 25, 60)),
        independent("Student 2, 1+1", heavy(1)),
        independent("Student 2, 5+5", heavy(5)),
        independent("uniform 2+2", lambda n, rng: rng.uniform(size=(n, 2))),
        independent("ReLU 5+5", lambda n, rng: np.maximum(rng.standard_normal((n, 5)), 0)),
        independent("Poisson 5, 2+2", lambda n, rng: rng.poisson(5, (n, 2)).astype(float)),
        independent("ten clusters 4+4", classes),
    )


@cache
def conditioned() -> tuple[Task, ...]:
    """Blocks x, y and z."""
    cube: Transform = lambda rows: rows**3  # noqa: E731
    return (
        *(conditional(dz, 0.9) for dz in (1, 2, 5, 10, 20, 50)),
        *(conditional(dz, 0.6) for dz in (1, 3, 8, 30)),
        *(conditional(dz, 0.0) for dz in (1, 5, 20, 50)),
        conditional(1, 0.9, (cube, np.asarray, np.asarray)),
        conditional(4, 0.9, (half_cube, half_cube, np.tanh)),
        conditional(2, 0.7, dim=2),
        conditional(6, 0.7, dim=3),
        conditional(15, 0.5, dim=4),
        *(confounded("given a parabola", np.square, rho) for rho in (0.0, 0.6)),
        *(confounded("given four classes", wave_of_class, rho, True) for rho in (0.0, 0.6)),
    )


def everything() -> tuple[Task, ...]:
    return (*published(), *further(), *unrelated(), *conditioned())
