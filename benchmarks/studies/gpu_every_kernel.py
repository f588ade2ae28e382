"""Runs every Triton kernel once on small shapes, for compute-sanitizer.

compute-sanitizer --tool racecheck python benchmarks/studies/gpu_every_kernel.py [--dtype float32]
TRITON_INTERPRET=1 python benchmarks/studies/gpu_every_kernel.py --rehearse     on a CPU
"""

from __future__ import annotations

import argparse

import torch
from gpu_timing import Bench, features
from torch import Tensor

from ncfast import ClassMoments
from ncfast.information.neighbors import triton_sweep
from ncfast.ops import moments as passes
from ncfast.ops.decisions import STACKED_DECISIONS
from ncfast.ops.gradient import GRADIENT
from ncfast.ops.grouping import build
from ncfast.ops.projection import PROJECTION
from ncfast.ops.scatter import SCATTER
from ncfast.ops.update import UPDATE

# (N, D, K): the launch for tiny inputs, the planned path, more columns than a tile, many classes
SIZES = [(1000, 200, 10), (9000, 64, 40), (600, 4100, 7), (3000, 24, 1500)]
REHEARSED = [(120, 12, 3)]
DTYPES = ("float32", "bfloat16", "float16", "float64")


def every_kernel(bench: Bench, count: int, dim: int, k: int, dtype: torch.dtype) -> list[Tensor]:
    """Results of every operation that has kernels, and of each of its forms."""
    feats, labels = features(bench, count, dim, k, dtype)
    counts, means, within, norm_sum, norm_max = passes.reference(feats, labels, k)
    weight = means - means.mean(0)
    rule = means.mean(0)[None], weight[None], -weight.square().sum(1)[None] / 2
    vectors = torch.linalg.qr(weight[: min(k - 1, dim, 31)].T).Q.T.contiguous()
    points = feats[:400, :3].float()
    halves = [points[:, :1].contiguous(), points[:, 1:].contiguous()]
    state = ClassMoments.empty(k, dim, feats.device)
    total = torch.zeros(dim, dim, dtype=torch.float64, device=feats.device)
    for _ in range(2):
        UPDATE.on_device(feats, labels, state, scatter=total)
    return [
        state.means,
        total,
        passes.compute(feats, labels, k).within_ss,
        passes.planned(feats, build(labels, k)).within_ss,
        PROJECTION.on_device(feats, labels, means, vectors),
        SCATTER.on_device(feats, labels, means),
        STACKED_DECISIONS.on_device(feats, *rule),
        GRADIENT.on_device(feats, labels, counts, means, means, within, norm_sum, norm_max),
        triton_sweep.knn(points, 5, "l2", labels[:400])[0],
        triton_sweep.joint(halves, 5, "l2", False, None)[0],
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument("--dtype", choices=DTYPES, help="one alone")
    arguments = parser.parse_args()
    bench = Bench(arguments.rehearse)
    for count, dim, k in REHEARSED if bench.rehearse else SIZES:
        for dtype in [arguments.dtype] if arguments.dtype else DTYPES:
            results = every_kernel(bench, count, dim, k, getattr(torch, dtype))
            finite = all(bool(result.double().isfinite().all()) for result in results)
            print(count, dim, k, dtype, "finite" if finite else "NOT FINITE", flush=True)
            if not finite:
                raise SystemExit(1)


if __name__ == "__main__":
    main()
