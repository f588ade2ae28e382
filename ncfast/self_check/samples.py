"""Features and labels on which the self-check runs the kernels, and how they lie in memory."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

LAYOUTS = ("dense", "guarded", "shifted", "every other column", "columns first")


class Sample(NamedTuple):
    """Features of classes, on the CPU."""

    name: str  # the words for a reason
    feats: Tensor  # (N, D)
    labels: Tensor  # (N,) int64
    num_classes: int
    layout: str = "dense"


def collapsed(
    level: float, rows: int, dim: int, num_classes: int, dtype: torch.dtype, seed: int = 0
) -> Sample:
    """Classes whose spread is ``level`` times the norm of their mean; the last one is absent.

    All rows have the same class if there is one alone.
    """
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(num_classes, dim, generator=generator, dtype=torch.float64)
    labels = torch.randint(max(1, num_classes - 1), (rows,), generator=generator)
    noise = torch.randn(rows, dim, generator=generator, dtype=torch.float64)
    size = means.norm(dim=1).index_select(0, labels).unsqueeze(1) / dim**0.5
    feats = (means.index_select(0, labels) + level * size * noise).to(dtype)
    name = f"{rows} x {dim} in {num_classes} classes, spread {level:g}"
    return Sample(name, feats, labels, num_classes)


def accuracy(dtype: torch.dtype, shapes: tuple[tuple[int, int, int], ...]) -> list[Sample]:
    """Every shape (N, D, K) at three levels of collapse."""
    return [collapsed(level, *shape, dtype) for shape in shapes for level in (1.0, 1e-3, 1e-7)]


def edges(dtype: torch.dtype, rows: int, dim: int) -> list[Sample]:
    """Magnitudes and first rows that mislead a scale, and rows that are all the same."""
    base = collapsed(0.1, rows, dim, 4, dtype, seed=1)
    tiny, huge = (1e-4, 1e3) if dtype == torch.float16 else (1e-30, 1e30)
    first = base.feats.clone()
    first[:4] = 0
    faint = base.feats.clone()
    faint[:4] = 0 if dtype == torch.float16 else 1e-22
    outlier = base.feats.clone()
    outlier[:4] *= 1e3
    constant = torch.full_like(base.feats, 0.123)
    constant[:4] = 0
    constant[rows // 2, ::2] = 0
    same = base.feats[:1].expand(rows, dim).contiguous()
    return [
        base._replace(name="identical rows", feats=same),
        base._replace(name="outliers in the first rows", feats=outlier),
        base._replace(name="columns that are nearly constant", feats=constant),
        base._replace(name="first rows of zero", feats=first),
        base._replace(name="first rows 1e-22 of the others", feats=faint),
        base._replace(name="small magnitudes", feats=base.feats * tiny),
        base._replace(name="large magnitudes", feats=base.feats * huge),
    ]


def layouts(dtype: torch.dtype, rows: int) -> list[Sample]:
    """One sample in every layout; 33 columns leave a mask on each vector load."""
    base = collapsed(0.5, rows, 33, 5, dtype, seed=2)
    return [base._replace(name=f"layout: {name}", layout=name) for name in LAYOUTS]


def placed(sample: Sample, device: torch.device) -> Tensor:
    """The features of a sample on a device in its layout; the memory around them holds NaN."""
    feats = sample.feats.to(device)
    rows, dim = feats.shape
    if sample.layout == "guarded":
        whole = feats.new_full((rows + 16, dim + 31), torch.nan)
        view = whole[8 : rows + 8, 16 : dim + 16]
    elif sample.layout == "shifted":
        view = feats.new_full((rows, dim + 1), torch.nan)[:, 1:]
    elif sample.layout == "every other column":
        view = feats.new_full((rows, 2 * dim), torch.nan)[:, ::2]
    elif sample.layout == "columns first":
        view = feats.new_full((dim, rows), torch.nan).T
    else:
        return feats
    return view.copy_(feats)
