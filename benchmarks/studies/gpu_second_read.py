"""Checks second reads and nearest neighbours on a GPU against float64, and times them."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

import torch
from gpu_timing import Bench, features, must_not_change
from torch import Tensor

from ncfast.information.neighbors import reference as brute
from ncfast.information.neighbors import triton_sweep
from ncfast.kernels.configuration import neighbors_config
from ncfast.ops import moments as passes
from ncfast.ops.blocks import multiprocessors
from ncfast.ops.decisions import STACKED_DECISIONS
from ncfast.ops.projection import PROJECTION
from ncfast.ops.scatter import SCATTER

SIZES = [(100_000, 512, 10), (1_000_000, 512, 10), (1_000_000, 512, 1000), (200_000, 4096, 100)]
QUICK = [(100_000, 512, 10)]
REHEARSAL = [(300, 24, 3)]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# (N, d, spread over the norm of the mean); the last is collapsed
CLOUDS = [(1000, 4, 1.0), (20_000, 10, 1.0), (60_000, 20, 1.0), (60_000, 20, 1e-4)]
NEIGHBOURS = 5


Measure = Callable[[], list[dict[str, Any]]]  # the rows of a case


def second_read_cases(bench: Bench, read_gb_s: float, *, quick: bool) -> Iterator[Measure]:
    """Projection on K - 1 directions, scatter and decisions, with their references."""
    for size in REHEARSAL if bench.rehearse else QUICK if quick else SIZES:
        for name, dtype in DTYPES.items():
            yield functools.partial(_second_reads, bench, *size, name, dtype, read_gb_s)


def _second_reads(
    bench: Bench, count: int, dim: int, k: int, name: str, dtype: torch.dtype, read_gb_s: float
) -> list[dict[str, Any]]:
    feats, labels = features(bench, count, dim, k, dtype)
    means = passes.reference(feats, labels, k).means
    centre = means.mean(0)
    weight = means - centre
    rule = centre[None], weight[None], -weight.square().sum(1)[None] / 2
    vectors = torch.linalg.qr(weight[: min(k - 1, dim)].T).Q.T.contiguous()
    calls: dict[str, tuple[Callable[[], Tensor], Callable[[], Tensor]]] = {
        "projected_ss": (
            lambda: PROJECTION.on_device(feats, labels, means, vectors),
            lambda: PROJECTION.reference(feats, labels, means, vectors),
        ),
        "scatter": (
            lambda: SCATTER.on_device(feats, labels, means),
            lambda: SCATTER.reference(feats, labels, means),
        ),
        "decisions": (
            lambda: STACKED_DECISIONS.on_device(feats, *rule),
            lambda: STACKED_DECISIONS.reference(feats, *rule),
        ),
    }
    rows = []
    for label, (fast, plain) in calls.items():
        row = {"call": label, "rows": count, "dim": dim, "classes": k, "dtype": name}
        row |= _verified(bench, label, fast, plain)
        row["read_ms"] = feats.numel() * feats.element_size() / read_gb_s / 1e6
        row["triton_ms"] = bench.milliseconds(fast)
        row["reference_ms"] = bench.milliseconds(plain, 7)
        rows.append(row)
    return rows


def _verified(
    bench: Bench, label: str, fast: Callable[[], Tensor], plain: Callable[[], Tensor]
) -> dict[str, Any]:
    found, expected = fast(), plain()
    if label == "decisions":
        # If two scores differ only by float64 rounding, both decisions are right.
        error = float((found != expected).double().mean())
        bound = 1e-7
    else:
        error, bound = float((found - expected).norm() / expected.norm()), 1e-5
    if error > bound:
        raise SystemExit(f"wrong: {label}, error {error:.1e}")
    must_not_change(bench, label, lambda: (fast(),))
    return {"error": error}


def neighbour_cases(bench: Bench, *, quick: bool) -> Iterator[Measure]:
    """k nearest rows, with torch.cdist and topk and, if installed, FAISS."""
    for cloud in [(60, 3, 1e-4)] if bench.rehearse else CLOUDS[:2] if quick else CLOUDS:
        yield functools.partial(_neighbours, bench, *cloud)


def _neighbours(bench: Bench, count: int, dim: int, level: float) -> list[dict[str, Any]]:
    generator = torch.Generator(bench.device).manual_seed(count)
    made = {"device": bench.device, "generator": generator}
    centres = torch.randn(10, dim, **made)
    labels = torch.randint(0, 10, (count,), **made)
    x = centres[labels] + level * torch.randn(count, dim, **made)
    row: dict[str, Any] = {"rows": count, "dim": dim, "level": level}
    _same_as_brute_force(x)
    must_not_change(bench, "neighbours", lambda: triton_sweep.knn(x, NEIGHBOURS, "l2", None)[:2])
    row["float64_ms"] = bench.milliseconds(lambda: triton_sweep.knn(x, NEIGHBOURS, "l2", None), 7)
    row["float32_ms"] = bench.milliseconds(_in_float32(x), 7)
    row["cdist_topk_ms"] = bench.milliseconds(lambda: _cdist(x), 7)
    row["cdist_zeros"] = float((_cdist(x)[:, 1:] == 0).double().mean())
    row["faiss_ms"] = _faiss_milliseconds(bench, x)
    return [row]


def _same_as_brute_force(x: Tensor) -> None:
    """Check the first rows against float64 scores of all rows."""
    distances, _, _ = triton_sweep.knn(x, NEIGHBOURS, "l2", None)
    some = torch.arange(min(256, len(x)), device=x.device)
    scores = brute.scores(x[some].double(), x.double(), "l2")
    scores[some, some] = torch.inf
    expected = brute.distance(scores.topk(NEIGHBOURS, largest=False).values, "l2")
    if not torch.equal(distances[some], expected):
        raise SystemExit(f"wrong: neighbours at {tuple(x.shape)}")


def _in_float32(x: Tensor) -> Callable[[], object]:
    """The kernel on float32 points, for the cost of float64."""
    from ncfast.kernels.neighbors import nearest_rows

    points = x.T.contiguous()[None]
    begins = torch.zeros(len(x), dtype=torch.int32, device=x.device)
    config = neighbors_config(len(x), 4, multiprocessors(x.device), NEIGHBOURS)
    ranges = begins, begins + len(x)
    return lambda: nearest_rows(points, [0, x.shape[1]], ranges, NEIGHBOURS, True, config)


def _cdist(x: Tensor) -> Tensor:
    """The k + 1 smallest distances of each row, in blocks of 4096 rows."""
    near = [
        torch.cdist(rows, x).topk(NEIGHBOURS + 1, largest=False).values for rows in x.split(4096)
    ]
    return torch.cat(near)


def _faiss_milliseconds(bench: Bench, x: Tensor) -> float | None:
    if bench.rehearse or importlib.util.find_spec("faiss") is None:
        return None
    import faiss
    import faiss.contrib.torch_utils

    if not hasattr(faiss, "StandardGpuResources"):
        return None
    resources = faiss.StandardGpuResources()
    return bench.milliseconds(lambda: faiss.knn_gpu(resources, x, x, NEIGHBOURS + 1), 7)
