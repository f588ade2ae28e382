"""Dependence by kernels: normalised HSIC and centred kernel alignment, free of scale."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ncfast.information.samples import Array, as_classes, as_samples, check_choice, check_same

Width = Literal["median", "norm"]
Kernel = Literal["linear", "rbf"]


def squared_distances(rows: Tensor) -> Tensor:
    """(B, B) squared Euclidean distances, without a B x B x D array.

    Norms and products cancel to within 1e-16 of the largest squared norm of the centred rows. A
    kernel looks at distances relative to its width, which is of that order, so this is harmless
    here, unlike in a search for neighbours.
    """
    centred = rows - rows.mean(0)
    norms = centred.square().sum(1)
    squares = norms.unsqueeze(1) + norms - 2 * centred @ centred.T
    return squares.clamp_(min=0).fill_diagonal_(0)


def gaussian_kernel(rows: Tensor, width: Width) -> Tensor:
    """(B, B) exp(-norm(a - b)^2 / 2 w^2), w the median distance of rows or the largest norm."""
    squares = squared_distances(rows)
    if width == "norm":
        scale = rows.square().sum(1).max()
    else:
        first, second = torch.triu_indices(len(rows), len(rows), 1, device=rows.device)
        between = squares[first, second]
        scale = between.median()
        # more than half of all pairs coincide: a scale of what differs at all
        scale = torch.where(scale > 0, scale, between.mean())
    return torch.exp(-squares / (2 * torch.where(scale > 0, scale, 1.0)))


def centred(kernel: Tensor) -> Tensor:
    """H K H with H = I - 11^T / B."""
    rows = kernel - kernel.mean(0)
    return rows - rows.mean(1, keepdim=True)


def _kernel(name: str, value: Array, width: Width) -> Tensor:
    """Gaussian for features; for integer labels one within a class and zero between."""
    dtype = str(getattr(value, "dtype", ""))
    if "int" in dtype and getattr(value, "ndim", 0) == 1:
        classes = as_classes(name, value)
        return (classes.unsqueeze(1) == classes).to(torch.float64)
    return gaussian_kernel(as_samples(name, value), width)


@torch.no_grad()
def nhsic(x: Array, y: Array, *, width: Width = "median", ridge: float = 1e-5) -> Tensor:
    """Normalised HSIC, Tr(Kx (Kx + B r I)^-1 Ky (Ky + B r I)^-1) with both kernels centred.

    Fukumizu et al. 2008; the measure of the HSIC bottleneck (Ma, Lewis & Kleijn 2020). The width
    of the Gaussian kernel follows the data, so rescaling a representation changes nothing; with a
    fixed width the value means the scale as much as the dependence. It is not in nats, and it grows
    with the rank that `ridge` lets through. O(B^3) time, O(B^2) memory: pass a batch.

    Args:
        x: (B, d) features, or (B,) integer class labels: tensor or NumPy array.
        y: (B, d) features, or (B,) integer class labels.
        width: "median" distance between rows, or "norm", the largest row norm B_g.
        ridge: r above, relative to the largest possible eigenvalue B.

    Returns:
        () float64 on the arguments' device, from 0 to B - 1; 0 when one of them is constant.
        Detached from the graph.

    Raises:
        TypeError, ValueError: wrong types or shapes, lengths that differ, fewer than two rows, NaN,
            `ridge` not positive, an unknown option.

    Example:
        >>> import torch, ncfast
        >>> x = torch.randn(100, 4, generator=torch.Generator().manual_seed(0))
        >>> bool(torch.isclose(ncfast.nhsic(x, x), ncfast.nhsic(1e3 * x, x)))
        True
    """
    check_choice("width", width, ("median", "norm"))
    if not ridge > 0:
        raise ValueError(f"Expected argument `ridge` to be positive but got {ridge}.")
    kernels = _pair(_kernel("x", x, width), _kernel("y", y, width))
    first, second = (_normalised(kernel, ridge) for kernel in kernels)
    return (first * second).sum()


def _pair(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    check_same(x=x, y=y)
    if len(x) < 2:
        raise ValueError(f"Expected at least two rows but got {len(x)}. Dependence needs pairs.")
    return x, y


def _normalised(kernel: Tensor, ridge: float) -> Tensor:
    middle = centred(kernel)
    loaded = middle + len(kernel) * ridge * torch.eye(len(kernel)).to(middle)
    return torch.cholesky_solve(middle, torch.linalg.cholesky(loaded))


@torch.no_grad()
def cka(x: Array, y: Array, *, kernel: Kernel = "linear", width: Width = "median") -> Tensor:
    """Centred kernel alignment <Kx, Ky> / (norm(Kx) norm(Ky)), both kernels centred.

    Kornblith, Norouzi, Lee & Hinton 2019. One for representations equal up to rotation and scale
    ("linear": and translation). With fewer columns than rows the linear form never builds a B x B
    matrix.

    Args:
        x: (B, d) features: tensor or NumPy array.
        y: (B, e) features.
        kernel: "linear", or "rbf", the Gaussian kernel of `nhsic`.
        width: of the "rbf" kernel.

    Returns:
        () float64 on the arguments' device, in [0, 1]; NaN when one of them is constant.
        Detached from the graph.

    Raises:
        TypeError, ValueError: see `nhsic`.

    Example:
        >>> import torch, ncfast
        >>> x = torch.randn(100, 4, generator=torch.Generator().manual_seed(0))
        >>> round(ncfast.cka(x, 5 * x.flip(1) + 1).item(), 6)
        1.0
    """
    check_choice("kernel", kernel, ("linear", "rbf"))
    check_choice("width", width, ("median", "norm"))
    first, second = _pair(as_samples("x", x), as_samples("y", y))
    if kernel == "linear":
        return _linear_alignment(first - first.mean(0), second - second.mean(0))
    one, two = (centred(gaussian_kernel(rows, width)) for rows in (first, second))
    return (one * two).sum() / (torch.linalg.norm(one) * torch.linalg.norm(two))


def _linear_alignment(x: Tensor, y: Tensor) -> Tensor:
    # alignment does not see scale, and the fourth powers below would leave the range of float64
    x, y = (rows / torch.where(rows.abs().amax() > 0, rows.abs().amax(), 1.0) for rows in (x, y))
    if max(x.shape[1], y.shape[1]) > len(x):
        one, two = x @ x.T, y @ y.T
        return (one * two).sum() / (torch.linalg.norm(one) * torch.linalg.norm(two))
    shared = (x.T @ y).square().sum()
    return shared / (torch.linalg.norm(x.T @ x) * torch.linalg.norm(y.T @ y))
