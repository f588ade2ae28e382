"""Oracle of neural regression collapse: the definitions in float64 loops."""

import numpy as np
from scipy.optimize import minimize_scalar


def components(h, number):
    """The first principal components, by the eigenvectors of the covariance."""
    mean = sum(h) / len(h)
    covariance = sum(np.outer(row - mean, row - mean) for row in h) / len(h)
    _, vectors = np.linalg.eigh(covariance)
    return [vectors[:, -1 - i] for i in range(number)]


def orthonormal(rows):
    """Gram and Schmidt's basis of the span of linearly independent rows."""
    basis = []
    for row in rows:
        for _ in range(2):
            row = row - sum((b @ row) * b for b in basis) if basis else row
        basis.append(row / np.sqrt(row @ row))
    return basis


def outside(h, basis):
    """Mean squared distance of the rows, scaled to norm 1, from a span."""
    found = []
    for row in h:
        norm = np.sqrt(row @ row)
        if norm == 0:
            continue
        unit = row / norm
        rest = unit - sum((b @ unit) * b for b in basis)
        found.append(rest @ rest)
    return np.mean(found)


def root_of_covariance(y):
    mean = sum(y) / len(y)
    sigma = sum(np.outer(row - mean, row - mean) for row in y) / len(y)
    values, vectors = np.linalg.eigh(sigma)
    return values[0], vectors @ np.diag(np.sqrt(values)) @ vectors.T


def gram_distance(weight, root, gamma):
    a, b = weight @ weight.T, root - np.sqrt(gamma) * np.eye(len(root))
    difference = a / np.sqrt((a**2).sum()) - b / np.sqrt((b**2).sum())
    return (difference**2).sum()


def regression(h, y, weight):
    """Every value but gamma, which is searched on a grid and refined."""
    smallest, root = root_of_covariance(y)
    grid = np.linspace(0, np.sqrt(smallest), 401)
    at = int(np.argmin([gram_distance(weight, root, s**2) for s in grid]))
    found = minimize_scalar(
        lambda s: gram_distance(weight, root, s**2),
        bounds=(grid[max(at - 1, 0)], grid[min(at + 1, 400)]),
        options={"xatol": 1e-12},
        method="bounded",
    )
    return {
        "nrc1.features": outside(h, components(h, y.shape[1])),
        "nrc2.weight": outside(h, orthonormal(list(weight))),
        "nrc3.gram": min(found.fun, gram_distance(weight, root, grid[at] ** 2)),
    }
