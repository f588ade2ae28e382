"""Sigma_W, the (D, D) within-class covariance, class means included."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

import ncfast
from ncfast.benchmarks import availability
from ncfast.benchmarks.registry import Call, Case, Contestant, Inputs, Operation
from ncfast.benchmarks.samples import bytes_read, classes, relative_error
from ncfast.ops.scatter import SCATTER

WHOLE, BATCH, PUBLIC_BATCH = 1 << 62, 512, 128
QUICK: list[dict[str, Any]] = [
    {"N": 10_000, "D": 256, "K": 10, "dtype": "float32"},
    {"N": 10_000, "D": 256, "K": 10, "dtype": "float32", "spread": 1e-5},
]
FULL: list[dict[str, Any]] = [
    {"N": 1000, "D": 200, "K": 10, "dtype": "float32"},
    {"N": 50_000, "D": 512, "K": 10, "dtype": "float32"},
    {"N": 50_000, "D": 512, "K": 1000, "dtype": "float32"},
    {"N": 50_000, "D": 512, "K": 100, "dtype": "bfloat16"},
    {"N": 10_000, "D": 2048, "K": 10, "dtype": "float32"},
    {"N": 50_000, "D": 512, "K": 10, "dtype": "float32", "spread": 1e-3},
    {"N": 50_000, "D": 512, "K": 10, "dtype": "float32", "spread": 1e-5},
]


def cases(quick: bool) -> list[Case]:
    """One read and the symmetric half of the products."""
    found = []
    for sizes in QUICK if quick else FULL:
        n, d = sizes["N"], sizes["D"]
        moved = bytes_read(sizes) + 8 * d * d
        found.append(Case(sizes, bytes=moved, flops=n * d * (d + 1), quick=quick))
    return found


def truth(inputs: Inputs) -> dict[str, Tensor]:
    """Deviations from float64 means, and their products, in float64."""
    found = deviations(inputs["feats"], inputs["labels"], inputs["k"], 4096, torch.float64)
    return {"sigma_w": found.cpu()}


def ours(inputs: Inputs, backend: str) -> Call:
    feats, labels, k = inputs["feats"], inputs["labels"], inputs["k"]
    scatter = SCATTER.select(backend, feats)

    def call() -> dict[str, Tensor]:
        moments = ncfast.class_moments(feats, labels, num_classes=k, backend=backend)
        return {"sigma_w": scatter(feats, labels, moments.means) / len(feats)}

    return call


def deviations(x: Tensor, y: Tensor, k: int, batch: int, dtype: torch.dtype) -> Tensor:
    """Two passes: means by index_add_, then products of deviations."""
    counts = torch.bincount(y, minlength=k).clamp(min=1)
    means = x.new_zeros(k, x.shape[1], dtype=dtype)
    for rows, label in zip(x.split(batch), y.split(batch), strict=True):
        means.index_add_(0, label, rows.to(dtype))
    means /= counts[:, None]
    total = means.new_zeros(x.shape[1], x.shape[1])
    for rows, label in zip(x.split(batch), y.split(batch), strict=True):
        gap = rows.to(dtype) - means[label]
        total += gap.mT @ gap
    return total / len(x)


def masked(x: Tensor, y: Tensor, k: int, batch: int, dtype: torch.dtype) -> Tensor:
    """The same with class sums as products with a (K, B) mask."""
    totals, counts = x.new_zeros(k, x.shape[1], dtype=dtype), x.new_zeros(k, dtype=dtype)
    classes_ = torch.arange(k, device=y.device)
    for rows, label in zip(x.split(batch), y.split(batch), strict=True):
        mask = (label[:, None] == classes_).mT.to(dtype)
        counts += mask.sum(1)
        totals += mask @ rows.to(dtype)
    means = totals / counts.clamp(min=1)[:, None]
    total = x.new_zeros(x.shape[1], x.shape[1], dtype=dtype)
    for rows, label in zip(x.split(batch), y.split(batch), strict=True):
        gap = rows.to(dtype) - means[label]
        total += gap.mT @ gap
    return total / len(x)


def raw_moments(x: Tensor, y: Tensor, k: int, batch: int, dtype: torch.dtype) -> Tensor:
    """E[x x^T] minus the products of the means: one pass, which loses all digits on collapse."""
    total = x.new_zeros(x.shape[1], x.shape[1], dtype=dtype)
    sums = x.new_zeros(k, x.shape[1], dtype=dtype)
    for rows, label in zip(x.split(batch), y.split(batch), strict=True):
        wide = rows.to(dtype)
        sums.index_add_(0, label, wide)
        total += wide.mT @ wide
    counts = torch.bincount(y, minlength=k).clamp(min=1)
    return (total - sums.mT @ (sums / counts[:, None])) / len(x)


def plainly(inputs: Inputs, function: Any, batch: int, dtype: torch.dtype) -> Call:
    feats, labels, k = inputs["feats"], inputs["labels"], inputs["k"]
    return lambda: {"sigma_w": function(feats, labels, k, batch, dtype)}


def compiled(inputs: Inputs) -> Call:
    function = torch.compile(compilable, dynamic=False)
    given = inputs["feats"], inputs["labels"], inputs["k"]
    function(*given)  # compiles outside the timing
    return lambda: {"sigma_w": function(*given)}


def compilable(x: Tensor, y: Tensor, k: int) -> Tensor:
    """The same with operations that torch.compile can fuse."""
    wide = x.float()
    counts = wide.new_zeros(k).index_add(0, y, wide.new_ones(len(y))).clamp(min=1)
    means = wide.new_zeros(k, x.shape[1]).index_add(0, y, wide) / counts[:, None]
    gap = wide - means[y]
    return gap.mT @ gap / len(x)


def covariances(inputs: Inputs) -> Call:
    """np.cov of each class, which computes in float64."""
    import numpy as np

    feats, labels, k = inputs["feats"].numpy(), inputs["labels"].numpy(), inputs["k"]

    def call() -> dict[str, Tensor]:
        total = np.zeros((feats.shape[1], feats.shape[1]))
        for c in range(k):
            rows = feats[labels == c]
            if len(rows):
                total += len(rows) * np.cov(rows, rowvar=False, bias=True)
        return {"sigma_w": torch.from_numpy(total / len(feats))}

    return call


def discriminant(inputs: Inputs) -> Call:
    """The covariance of discriminant analysis in scikit-learn, which also solves for a rule."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    feats, labels = inputs["feats"].numpy(), inputs["labels"].numpy()

    def call() -> dict[str, Tensor]:
        model = LinearDiscriminantAnalysis(solver="lsqr").fit(feats, labels)
        return {"sigma_w": torch.as_tensor(model.covariance_)}

    return call


def _plain(
    label: str, function: Any, kind: Any, batches: tuple[int, ...], *dtypes: torch.dtype
) -> list[Contestant]:
    return [
        Contestant(
            f"{label}, {str(dtype).removeprefix('torch.')}, "
            f"{'whole' if batch == WHOLE else f'{batch} rows'}",
            kind,
            partial(plainly, function=function, batch=batch, dtype=dtype),
        )
        for dtype in dtypes
        for batch in batches
    ]


CONTESTANTS = [
    *availability.backends(lambda name: partial(ours, backend=name)),
    *_plain("deviations", deviations, "torch", (WHOLE, BATCH), torch.float32, torch.float64),
    *_plain("E[xx'] - mm'", raw_moments, "torch", (WHOLE,), torch.float32),
    Contestant("torch.compile, deviations, whole", "torch", compiled, availability.compiler),
    *_plain("published, masks", masked, "public", (PUBLIC_BATCH,), torch.float32),
    Contestant("NumPy, np.cov by class", "library", covariances, availability.for_numpy("numpy")),
    Contestant(
        "scikit-learn LDA, lsqr", "library", discriminant, availability.for_numpy("sklearn")
    ),
]

OPERATION = Operation("sigma_w", cases, classes, truth, relative_error, CONTESTANTS)
