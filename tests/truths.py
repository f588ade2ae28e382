"""Samples of distributions with known entropy or mutual information, in nats."""

import math

import torch


def draw(seed):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=draw(seed), dtype=torch.float64)


def uniform(*shape, seed=0):
    return torch.rand(*shape, generator=draw(seed), dtype=torch.float64)


def gamma(shape_parameter, number, seed=0):
    """Gamma samples as sums of exponentials; the shape is an integer."""
    return -uniform(number, shape_parameter, seed=seed).log().sum(1)


def student(nu, number, dim, seed=0):
    """Multivariate Student-t with identity scale and integer degrees of freedom."""
    square = normal(number, nu, seed=seed + 1).square().sum(1, keepdim=True)
    return normal(number, dim, seed=seed) / (square / nu).sqrt()


def ball(number, dim, seed=0):
    direction = torch.nn.functional.normalize(normal(number, dim, seed=seed), dim=1)
    return direction * uniform(number, 1, seed=seed + 1) ** (1 / dim)


def gaussian_pair(number, rho, dim=1, seed=0):
    """-dim/2 ln(1 - rho^2)."""
    x, noise = normal(2, number, dim, seed=seed)
    return x, rho * x + math.sqrt(1 - rho**2) * noise


def gaussian_information(rho, dim=1):
    return -dim / 2 * math.log(1 - rho**2)


def simplex(classes, dim, norm):
    """Corners of a simplex around the origin in dim >= classes - 1 dimensions."""
    centred = torch.eye(classes, dtype=torch.float64) - 1 / classes
    basis = torch.linalg.qr(centred[:, : classes - 1])[0]
    corners = torch.nn.functional.normalize(centred @ basis, dim=1) * norm
    return torch.nn.functional.pad(corners, (0, dim - classes + 1))


def collapsed(number, classes, dim, spread, norm=10.0, seed=0):
    labels = torch.arange(number) % classes
    return simplex(classes, dim, norm)[labels] + spread * normal(number, dim, seed=seed), labels


def mixture_entropy(classes, dim, spread):
    """Entropy of a mixture of Gaussians that are too far apart to overlap."""
    return math.log(classes) + dim / 2 * math.log(2 * math.pi * math.e * spread**2)
