"""Pairs and triples of variables with equal values and known information, in nats."""

import math

import numpy as np
import torch
from scipy import stats


def entropy(table):
    table = table[table > 0]
    return float(-(table * np.log(table)).sum())


def table_information(table):
    """I(X;Y) of a table of probabilities."""
    table = table / table.sum()
    return entropy(table.sum(0)) + entropy(table.sum(1)) - entropy(table)


def gaussians(rng, n, rho, dim=1):
    x, noise = rng.standard_normal((2, n, dim))
    return x, rho * x + math.sqrt(1 - rho**2) * noise


def gaussian(rho, dim=1):
    return -dim / 2 * math.log(1 - rho**2)


def rounded(step, rho, dim=1):
    return lambda rng, n: tuple(np.round(x / step) * step for x in gaussians(rng, n, rho, dim))


def rounded_information(step, rho):
    """I(X;Y) of two correlated Gaussians rounded to a step, from their table of probabilities."""
    edges = (np.arange(-int(6 / step), int(6 / step) + 2) - 0.5) * step
    fine = 40
    x = edges[:-1, None] + (np.arange(fine) + 0.5) / fine * step
    given = stats.norm.cdf((edges - rho * x[..., None]) / math.sqrt(1 - rho**2))
    weight = stats.norm.pdf(x)[..., None]
    return table_information((np.diff(given, axis=2) * weight).mean(1))


def relu(rho, dim=1):
    return lambda rng, n: tuple(np.maximum(x, 0) for x in gaussians(rng, n, rho, dim))


def relu_information(rho):
    """I(X;Y) of two rectified correlated Gaussians: the atom, the edges and the quarter plane."""
    count, reach = 400, 7.0
    x = (np.arange(count) + 0.5) / count * reach
    step, density = reach / count, stats.norm.pdf(x)
    edge = density * stats.norm.cdf(-rho * x / math.sqrt(1 - rho**2))
    square = x[:, None] ** 2 - 2 * rho * np.outer(x, x) + x**2
    plane = np.exp(-square / (2 * (1 - rho**2))) / (2 * math.pi * math.sqrt(1 - rho**2))
    corner = plane.sum() * step**2
    inside = (plane * np.log(plane / np.outer(density, density))).sum() * step**2
    edges = 2 * (edge * np.log(edge / (density / 2))).sum() * step
    return corner * math.log(4 * corner) + edges + inside


def common_poisson(common, own):
    def draw(rng, n):
        shared = rng.poisson(common, n)
        return shared + rng.poisson(own, n), shared + rng.poisson(own, n)

    return draw


def common_poisson_information(common, own):
    count = int(common + own + 10 * math.sqrt(common + own) + 10)
    shared, alone = (stats.poisson.pmf(np.arange(count), mean) for mean in (common, own))
    table = np.zeros((count, count))
    for value in range(count):
        moved = np.zeros(count)
        moved[value:] = alone[: count - value]
        table += shared[value] * np.outer(moved, moved)
    return table_information(table)


def apart(draw):
    """Two independent draws."""
    return lambda rng, n: (draw(rng, n), draw(rng, n))


def same(draw):
    def pair(rng, n):
        x = draw(rng, n)
        return x, x

    return pair


def three(draw):
    return lambda rng, n: tuple(draw(rng, n) for _ in range(3))


def bfloat16(rho):
    return lambda rng, n: tuple(torch.from_numpy(x).bfloat16() for x in gaussians(rng, n, rho))


def die(rng, n, faces=6):
    return rng.integers(0, faces, n)


def normal(rng, n):
    return rng.standard_normal(n)


def half_copied(rng, n):
    x = die(rng, n)
    return x, np.where(rng.random(n) < 0.5, x, die(rng, n))


def copied_coins(rng, n):
    x, other = rng.integers(0, 2, (2, n, 3))
    return x, np.where(rng.random((n, 3)) < 0.8, x, other)


def zero_inflated(rng, n):
    x = rng.exponential(size=n)
    return x, np.where(rng.random(n) < 0.15, 0, rng.poisson(x))


def uniform_on_integer(rng, n):
    x = die(rng, n, 5)
    return x, x + 2 * rng.random(n)


def with_outlier(rng, n):
    x = rng.poisson(10.0, n).astype(float)
    x[0] = 1e12
    return x, rng.poisson(10, n)


def shifted_float32(rng, n):
    return tuple((x + 1e6).astype(np.float32) for x in gaussians(rng, n, 0.6))


PAIRS = {
    "coins": (0, apart(lambda rng, n: rng.integers(0, 2, n))),
    "dice": (0, apart(die)),
    "one die": (math.log(6), same(die)),
    "half copied die": (
        table_information(np.full((6, 6), 1 / 72) + np.eye(6) / 12),
        half_copied,
    ),
    "one of 100 faces": (math.log(100), same(lambda rng, n: die(rng, n, 100))),
    "Poisson 2": (0, apart(lambda rng, n: rng.poisson(2, n))),
    "Poisson 10": (0, apart(lambda rng, n: rng.poisson(10, n))),
    "Poisson 100": (0, apart(lambda rng, n: rng.poisson(100, n))),
    "Poisson 6 + 4": (common_poisson_information(6, 4), common_poisson(6, 4)),
    "Poisson 60 + 40": (common_poisson_information(60, 40), common_poisson(60, 40)),
    "geometric": (0, apart(lambda rng, n: rng.geometric(0.3, n))),
    "negative binomial 2": (0, apart(lambda rng, n: rng.negative_binomial(2, 0.1, n))),
    "negative binomial 0.5": (0, apart(lambda rng, n: rng.negative_binomial(0.5, 0.01, n))),
    **{
        f"rounded {step}, {rho}": (rounded_information(step, rho), rounded(step, rho))
        for step in (0.5, 0.2, 0.1, 0.05)
        for rho in (0.0, 0.6, 0.95)
    },
    "rounded 0.01, 0.6": (gaussian(0.6), rounded(0.01, 0.6)),
    "rounded 0.5, two columns": (2 * rounded_information(0.5, 0.6), rounded(0.5, 0.6, 2)),
    "ReLU": (0, relu(0.0)),
    "ReLU, 0.6": (relu_information(0.6), relu(0.6)),
    "ReLU, 0.95": (relu_information(0.95), relu(0.95)),
    "ReLU, five columns": (0, relu(0.0, 5)),
    "bfloat16": (0, bfloat16(0.0)),
    "bfloat16, 0.6": (gaussian(0.6), bfloat16(0.6)),
    "bfloat16, 0.95": (gaussian(0.95), bfloat16(0.95)),
    "float32 far from zero": (gaussian(0.6), shifted_float32),
    "one huge count": (0, with_outlier),
    "zero-inflated Poisson": (0.256058057, zero_inflated),
    "uniform on an integer": (math.log(5) - 0.8 * math.log(2), uniform_on_integer),
    "die and normal": (0, lambda rng, n: (die(rng, n), normal(rng, n))),
    "lattice of 5 x 5, twice": (2 * math.log(5), same(lambda rng, n: rng.integers(0, 5, (n, 2)))),
    "coins in five columns": (0, apart(lambda rng, n: rng.integers(0, 2, (n, 5)))),
    "copied coins in three columns": (
        3 * table_information(np.array([[0.45, 0.05], [0.05, 0.45]])),
        copied_coins,
    ),
    "two constants": (0, lambda rng, n: (np.ones(n), np.full(n, 3.3))),
    "constant and die": (0, lambda rng, n: (np.ones(n), die(rng, n))),
    "constant and normal": (0, lambda rng, n: (np.ones(n), normal(rng, n))),
}


def parity(rng, n):
    x, y = rng.integers(0, 2, (2, n))
    return x, y, x ^ y


def one_die_given_coin(rng, n):
    x = die(rng, n)
    return x, x, rng.integers(0, 2, n)


def one_die_given_normal(rng, n):
    x = die(rng, n)
    return x, x, normal(rng, n)


def normals_given(condition):
    """x and y, which correlate by 0.6 given the condition."""

    def draw(rng, n):
        z = condition(rng, n)
        one, two = gaussians(rng, n, 0.6)
        return z + one[:, 0], z + two[:, 0], z

    return draw


def rounded_chain(step):
    return lambda rng, n: tuple(np.round(x / step) * step for x in normals_given(normal)(rng, n))


TRIPLES = {
    "dice given a coin": (0, lambda rng, n: (die(rng, n), die(rng, n), rng.integers(0, 2, n))),
    "one die given a coin": (math.log(6), one_die_given_coin),
    "one die given a normal": (math.log(6), one_die_given_normal),
    "bits given their parity": (math.log(2), parity),
    "three dice": (0, three(die)),
    "three Poisson 10": (0, three(lambda rng, n: rng.poisson(10, n))),
    "three ReLUs": (0, three(lambda rng, n: np.maximum(normal(rng, n), 0))),
    "three rounded to 0.5": (0, three(lambda rng, n: np.round(2 * normal(rng, n)) / 2)),
    "three rounded to 0.1": (0, three(lambda rng, n: np.round(normal(rng, n), 1))),
    "three rounded to 0.01": (0, three(lambda rng, n: np.round(normal(rng, n), 2))),
    "rounded to 0.01": (gaussian(0.6), rounded_chain(0.01)),
    "normals given four values": (gaussian(0.6), normals_given(lambda rng, n: die(rng, n, 4))),
    "normal and die given counts": (
        0,
        lambda rng, n: (normal(rng, n), die(rng, n), rng.poisson(10, n)),
    ),
    "two constants": (0, lambda rng, n: (np.ones(n), np.ones(n), normal(rng, n))),
    "one die given a constant": (math.log(6), lambda rng, n: (*same(die)(rng, n), np.ones(n))),
}
