"""Differences of pairs of vectors from products, exact where products cancel."""

from __future__ import annotations

import torch
from torch import Tensor

from ncfast._validate import labels_are_on_host

_EDGE_CPU, _EDGE_GPU = 512, 4096  # tiles of 2 MB stay in a CPU's cache; 128 MB fill a GPU
_CLOSE = 1e-5  # below this 1 - cos has lost more than 1e-10 of its value


def edge(rows: Tensor) -> int:
    """Rows and columns of a tile."""
    return _EDGE_CPU if rows.device.type == "cpu" else _EDGE_GPU


def one_minus_cosine(u: Tensor, v: Tensor, *, diagonal: bool = False) -> Tensor:
    """1 - <u_i, v_j> of unit rows, (..., I, J); a zero row counts as orthogonal to everything.

    A matrix product where that is accurate. An accelerator takes differences of coordinates at
    once, because asking whether any value is small would wait for it.
    """
    if labels_are_on_host(u):
        h = torch.addmm(u.new_ones(()), u, v.T, alpha=-1) if u.ndim == 2 else 1 - u @ v.mT
        if diagonal:
            _fill_diagonal(h)
        if bool((h.amin() > _CLOSE).logical_not()):
            h = torch.where(h < _CLOSE, _from_differences(u, v), h)
    else:
        h = _from_differences(u, v)
    return _fill_diagonal(h) if diagonal else h


def _fill_diagonal(h: Tensor) -> Tensor:
    h.diagonal(dim1=-2, dim2=-1).fill_(1)
    return h


def _from_differences(u: Tensor, v: Tensor) -> Tensor:
    distance = torch.cdist(u, v, compute_mode="donot_use_mm_for_euclid_dist")
    half = distance.square().mul_(0.5)
    # a zero vector stands for a mean without a direction: its cosine counts as zero, h as one
    zero = (u.square().sum(-1) == 0).unsqueeze(-1) | (v.square().sum(-1) == 0).unsqueeze(-2)
    return torch.where(zero, 1.0, half)


def squared_distance(a: Tensor, b: Tensor, h: Tensor) -> Tensor:
    """norm(x_i - y_j)^2 from the norms a (..., I) and b (..., J) and h = 1 - cos."""
    a, b = a.unsqueeze(-1), b.unsqueeze(-2)
    return (2 * a * b).mul_(h).add_((a - b).square_())
