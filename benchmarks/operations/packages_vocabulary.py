"""NC1 to NC3 of a language model over its vocabulary, from a stream of batches to the values.

A call starts without a state, reads the stream once or twice, and returns the metrics. The stream
is some batches that come ``again`` times, because two million rows in float32 take 6 GB. Only
classes with a row count. Runs only if named: the inputs take 3 GB.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

import ncfast
from ncfast.benchmarks import availability
from ncfast.benchmarks.operations import update
from ncfast.benchmarks.plain import metrics_public
from ncfast.benchmarks.registry import Call, Case, Contestant, Inputs, Operation

# What is linear in the number of classes; pairs of 50,257 classes take minutes.
IDS = (
    *("nc1.quotient", "nc1.quotient_sample", "nc2.equinorm", "nc2.cosine_mean"),
    *("nc3.self_duality", "nc3.cosine", "nc3.uniform_duality_cosine"),
)
MASK_ROWS = 2  # number of batches whose masks a run makes within minutes
Values = dict[str, float]
GPT2: dict[str, Any] = {"K": 50_257, "D": 768, "B": 8192}
QUICK: list[dict[str, Any]] = [
    {"K": 3000, "D": 64, "B": 1024, "batches": 4, "again": 2, "labels": "Zipf"}
]
FULL: list[dict[str, Any]] = [
    GPT2 | {"batches": 61, "again": 4, "labels": "Zipf"},  # 1,998,848 tokens
    GPT2 | {"batches": 2, "again": 1, "labels": "Zipf"},
]


def cases(quick: bool) -> list[Case]:
    """Each batch is read once; the state and the classifier are read once."""
    found = []
    for sizes in QUICK if quick else FULL:
        rows, d, k = sizes["B"] * sizes["batches"] * sizes["again"], sizes["D"], sizes["K"]
        moved = rows * (4 * d + 8) + 12 * k * d
        found.append(Case(sizes, moved, 7 * rows * d + 12 * k * d, budget=1e-2, quick=quick))
    return found


def make(case: Case, seed: int, device: torch.device) -> Inputs:
    """The stream of `update`, and a classifier without a bias."""
    inputs = update.make(case, seed, device)
    draw = torch.Generator(device).manual_seed(seed + 1)
    weight = torch.randn(inputs["k"], inputs["d"], generator=draw, device=device)
    return inputs | {"weight": weight, "again": int(case.sizes["again"])}


def stream(inputs: Inputs) -> Iterator[tuple[Tensor, Tensor]]:
    for _ in range(inputs["again"]):
        yield from inputs["batches"]


def truth(inputs: Inputs) -> Values:
    """Two passes in float64 over the batches, once: repeated rows change no metric."""
    found = update.truth(inputs, scatter=False)
    counts, means, within = (found[name] for name in ("counts", "means", "within_ss"))
    return values_of(counts, means, within, inputs["weight"][found["classes"]].double())


def values_of(counts: Tensor, means: Tensor, within: Tensor, weight: Tensor) -> Values:
    """The formulas of `metrics_public.lite` on the classes with a row."""
    one = means.new_ones(())
    moments = counts, means, within, one, one
    outside = means.new_ones(1, means.shape[1])
    found = metrics_public.lite(moments, weight, means.new_zeros(len(means)), outside)
    return {name: float(found[name]) for name in IDS}


def error(found: Values, exact: Values) -> float:
    """Largest relative error of a metric.

    Raises:
        LookupError: a metric is missing.
    """
    if missing := exact.keys() - found.keys():
        raise LookupError(f"Expected every metric of the truth but {sorted(missing)} are missing.")
    gaps = [abs(found[name] - value) / (abs(value) or 1.0) for name, value in exact.items()]
    return max(gaps) if all(map(math.isfinite, gaps)) else math.nan


def ours(inputs: Inputs) -> Call:
    def call() -> Values:
        state = ncfast.Accumulator(inputs["k"], metrics=IDS)
        state.set_classifier(inputs["weight"])
        for x, y in stream(inputs):
            state.update(x, y)
        return {name: float(value) for name, value in state.compute().items()}

    return call


def two_passes(inputs: Inputs, dtype: torch.dtype) -> Call:
    """Sums by index_add_, then squares around the means in a second pass over the stream."""

    def call() -> Values:
        like = inputs["weight"].new_zeros((), dtype=dtype)
        total, counts = like.new_zeros(inputs["k"], inputs["d"]), like.new_zeros(inputs["k"])
        within = torch.zeros_like(counts)
        for x, y in stream(inputs):
            total.index_add_(0, y, x.to(dtype))
            counts.index_add_(0, y, counts.new_ones(len(y)))
        means = total.div_(counts.clamp(min=1)[:, None])
        for x, y in stream(inputs):
            within.index_add_(0, y, (x - means[y]).square().sum(1))
        return _present(inputs, counts, means, within)

    return call


def masked(inputs: Inputs) -> Call:
    """The neural-collapse package's description: products with a (K, B) mask, in two passes."""
    classes = torch.arange(inputs["k"])

    def call() -> Values:
        total = torch.zeros(inputs["k"], inputs["d"])
        counts, within = total.new_zeros(inputs["k"]), total.new_zeros(inputs["k"])
        for x, y in stream(inputs):
            mask = (y[:, None] == classes).mT.to(x.dtype)
            counts += mask.sum(1)
            total += mask @ x
        means = total.div_(counts.clamp(min=1)[:, None])
        for x, y in stream(inputs):
            mask = (y[:, None] == classes).mT.to(x.dtype)
            within += (mask @ (x - means[y]) ** 2).sum(-1)
        return _present(inputs, counts, means, within)

    return call


def _present(inputs: Inputs, counts: Tensor, means: Tensor, within: Tensor) -> Values:
    known = counts > 0
    weight = inputs["weight"][known].to(means.dtype)
    return values_of(counts[known], means[known], within[known], weight)


OPERATION = Operation(
    "packages.vocabulary",
    cases,
    make,
    truth,
    error,
    [
        Contestant("ncfast Accumulator", "ncfast", ours),
        Contestant("torch, two passes, float32", "torch", partial(two_passes, dtype=torch.float32)),
        Contestant("torch, two passes, float64", "torch", partial(two_passes, dtype=torch.float64)),
        Contestant(
            "neural-collapse package's recipe, masks",
            "public",
            masked,
            availability.within(
                MASK_ROWS * 8192,
                lambda case: math.prod(int(case.sizes[n]) for n in ("B", "batches", "again")),
                "a stream of masks, in rows,",
            ),
        ),
    ],
    when_named=True,
    values=dict,
)
