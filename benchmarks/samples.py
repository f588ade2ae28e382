"""Inputs that several operations share, and the common measure of error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ncfast.benchmarks.registry import Case, Inputs

BLOCK = 1 << 16  # number of rows that are drawn or converted to float64 at once


def classes(case: Case, seed: int, device: torch.device) -> Inputs:
    """Gaussian classes around random means.

    Sizes read: ``N``, ``D``, ``K``, ``dtype``; ``spread`` is the standard deviation over the norm
    of the mean (1 without), ``offset`` is added to every entry (0 without).

    Returns:
        ``feats`` (N, D), ``labels`` (N,) int64, ``k``, and ``centres`` (K, D), the true means.
    """
    n, d, k = (int(case.sizes[name]) for name in ("N", "D", "K"))
    generator = torch.Generator(device).manual_seed(seed)
    drawn: dict[str, Any] = {"generator": generator, "device": device}
    means = torch.randn(k, d, **drawn) + float(case.sizes.get("offset", 0.0))
    labels = torch.randint(0, k, (n,), **drawn)
    labels[: min(n, k)] = torch.arange(min(n, k), device=device)
    scale = float(case.sizes.get("spread", 1.0)) * means.norm(dim=1, keepdim=True) / d**0.5
    feats = torch.empty(n, d, dtype=getattr(torch, str(case.sizes["dtype"])), device=device)
    for start in range(0, n, BLOCK):
        label = labels[start : start + BLOCK]
        noise = torch.randn(len(label), d, **drawn)
        feats[start : start + BLOCK] = means[label] + scale[label] * noise
    return {"feats": feats, "labels": labels, "k": k, "centres": means}


def bytes_read(sizes: Mapping[str, Any]) -> int:
    """Bytes of N x D features and N labels, each read once."""
    n, d = int(sizes["N"]), int(sizes["D"])
    return n * d * int(getattr(torch, sizes["dtype"]).itemsize) + 8 * n


def error_of_found(found: Mapping[str, Tensor], truth: Mapping[str, Tensor]) -> float:
    """`relative_error` of the entries that were computed; zero if there are none."""
    return relative_error(found, {name: truth[name] for name in found})


def relative_error(found: Mapping[str, Tensor], truth: Mapping[str, Tensor]) -> float:
    """Largest over the entries of norm(found - truth) / norm(truth), in float64.

    For a truth of exactly zero it is the norm of the result.
    """
    worst = 0.0
    for name, expected in truth.items():
        wide = found[name].detach().double().cpu()
        size = float(torch.linalg.vector_norm(expected))
        gap = float(torch.linalg.vector_norm(wide - expected)) / (size or 1.0)
        if gap != gap:
            return gap
        worst = max(worst, gap)
    return worst
