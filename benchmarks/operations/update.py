"""Class moments and the scatter matrix that grow in place, batch by batch.

A call updates one state by a stream of batches: what a training or an evaluation does. The state
persists between calls, so each call meets it as an epoch would; only the first call is checked.
`update.scatter` adds the (D, D) scatter matrix. `update.vocabulary` has the classes of a
language model: its states take gigabytes, so it runs only when named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

import ncfast
from ncfast.benchmarks import availability
from ncfast.benchmarks.registry import Call, Case, Contestant, Inputs, Operation
from ncfast.benchmarks.samples import relative_error
from ncfast.ops import _raw
from ncfast.ops.states import Layout
from ncfast.ops.update import UPDATE

CENTRES, MASK_ENTRIES, MERGED_ENTRIES = 512, 1 << 21, 1 << 23
QUICK: list[dict[str, Any]] = [
    {"K": 10, "D": 200, "B": 100, "batches": 16, "labels": "uniform"},
    {"K": 1000, "D": 512, "B": 256, "batches": 16, "labels": "uniform"},
]
FULL: list[dict[str, Any]] = [
    {"K": 10, "D": 200, "B": 100, "batches": 16, "labels": "uniform"},
    {"K": 10, "D": 512, "B": 512, "batches": 4, "labels": "uniform"},
    {"K": 100, "D": 512, "B": 512, "batches": 4, "labels": "uniform"},
    {"K": 1000, "D": 2048, "B": 256, "batches": 4, "labels": "uniform"},
    {"K": 21_841, "D": 768, "B": 256, "batches": 16, "labels": "uniform"},
]
VOCABULARY: list[dict[str, Any]] = [
    {"K": 50_257, "D": 768, "B": 8192, "batches": 4, "labels": "Zipf"},
    {"K": 128_000, "D": 1024, "B": 8192, "batches": 4, "labels": "Zipf"},
]
QUICK_VOCABULARY = [{"K": 5000, "D": 64, "B": 1024, "batches": 4, "labels": "Zipf"}]
SCATTER: list[dict[str, Any]] = [
    {"K": 10, "D": 512, "B": 512, "batches": 4, "labels": "uniform"},
    {"K": 1000, "D": 512, "B": 512, "batches": 4, "labels": "uniform"},
    {"K": 10, "D": 200, "B": 100, "batches": 4, "labels": "uniform"},
]


def cases(quick: bool) -> list[Case]:
    return [describe(sizes, quick) for sizes in (QUICK if quick else FULL)]


def vocabulary_cases(quick: bool) -> list[Case]:
    return [describe(sizes, quick) for sizes in (QUICK_VOCABULARY if quick else VOCABULARY)]


def scatter_cases(quick: bool) -> list[Case]:
    """The products of the rows, one triangle."""
    found = []
    for sizes in SCATTER[-1:] if quick else SCATTER:
        case, d = describe(sizes, quick), sizes["D"]
        rows = sizes["B"] * sizes["batches"]
        found.append(replace(case, flops=case.flops + rows * d * (d + 1)))
    return found


def describe(sizes: dict[str, Any], quick: bool) -> Case:
    """Each batch is read once; the rows of its classes are read and written in float64."""
    rows, d = sizes["B"] * sizes["batches"], sizes["D"]
    present = len(labels_of(sizes, 0, torch.device("cpu"))[0].unique()) * sizes["batches"]
    return Case(sizes, bytes=rows * (4 * d + 8) + 16 * d * present, flops=7 * rows * d, quick=quick)


def labels_of(sizes: Any, seed: int, device: torch.device) -> Tensor:
    """(batches, B) labels: uniform, or with the frequencies 1 / rank of words."""
    draw = torch.Generator(device).manual_seed(seed)
    shape = sizes["batches"], sizes["B"]
    if sizes["labels"] == "uniform":
        return torch.randint(sizes["K"], shape, generator=draw, device=device)
    share = 1 / torch.arange(1, sizes["K"] + 1, dtype=torch.float64, device=device)
    words = torch.multinomial(share, shape[0] * shape[1], True, generator=draw).reshape(shape)
    # the frequent ones lie anywhere in the vocabulary
    order = torch.Generator(device).manual_seed(0)
    return torch.randperm(sizes["K"], generator=order, device=device)[words]


def make(case: Case, seed: int, device: torch.device) -> Inputs:
    """A stream of batches around class means."""
    sizes: Any = case.sizes
    draw = torch.Generator(device).manual_seed(seed)
    labels = labels_of(sizes, seed, device)
    centres = torch.randn(CENTRES, sizes["D"], generator=draw, device=device)
    batches = [
        (torch.randn(len(y), sizes["D"], generator=draw, device=device) + centres[y % CENTRES], y)
        for y in labels
    ]
    return {"batches": batches, "k": sizes["K"], "d": sizes["D"]}


def truth(inputs: Inputs, scatter: bool = True) -> dict[str, Tensor]:
    """Two passes in float64 over the whole stream, of the classes in it."""
    labels = torch.cat([y for _, y in inputs["batches"]])
    classes, slots, counts = labels.unique(return_inverse=True, return_counts=True)
    sums = torch.zeros(len(classes), inputs["d"], dtype=torch.float64, device=labels.device)
    within, norms = sums.new_zeros(len(classes)), []
    parts = slots.split([len(y) for _, y in inputs["batches"]])
    for (x, _), slot in zip(inputs["batches"], parts, strict=True):
        sums.index_add_(0, slot, x.double())
        norms.append(x.double().norm(dim=1))
    means = sums / counts[:, None]
    products = sums.new_zeros(inputs["d"], inputs["d"])
    for (x, _), slot in zip(inputs["batches"], parts, strict=True):
        gap = x.double() - means[slot]
        within.index_add_(0, slot, gap.square().sum(1))
        if scatter:
            products.addmm_(gap.T, gap)
    found = {"classes": classes, "counts": counts.double(), "sums": sums, "means": means}
    found |= {"within_ss": within} | ({"scatter": products} if scatter else {})
    found |= {"norm_sum": torch.cat(norms).sum(), "norm_max": torch.cat(norms).max()}
    return {name: value.cpu() for name, value in found.items()}


def error(found: dict[str, Tensor], exact: dict[str, Tensor]) -> float:
    """Of what was computed, in the classes of the stream; zero of nothing, as by a plain read."""
    by_class = ("counts", "sums", "means", "within_ss")
    values = {
        name: value.cpu()[exact["classes"]] if name in by_class else value
        for name, value in found.items()
    }
    return relative_error(values, {name: exact[name] for name in found})


def ours(inputs: Inputs, backend: str) -> Call:
    k, d, batches = inputs["k"], inputs["d"], inputs["batches"]
    moments = ncfast.ClassMoments.empty(k, d, batches[0][0].device)

    def call() -> dict[str, Tensor]:
        for x, y in batches:
            moments.update_(x, y, backend=backend)
        return vars(moments)

    return call


def ours_with_scatter(inputs: Inputs, backend: str) -> Call:
    k, d, batches = inputs["k"], inputs["d"], inputs["batches"]
    device = batches[0][0].device
    moments = ncfast.ClassMoments.empty(k, d, device)
    scatter = torch.zeros(d, d, dtype=torch.float64, device=device)
    update = UPDATE.select(backend, batches[0][0])

    def call() -> dict[str, Tensor]:
        for x, y in batches:
            update(x, y, moments, scatter=scatter)
        return vars(moments) | {"scatter": scatter}

    return call


def merged(inputs: Inputs) -> Call:
    """The moments of a batch, a (K, D) state, merged into those so far: ncfast 0.1."""
    k, d = inputs["k"], inputs["d"]
    state = [ncfast.ClassMoments.empty(k, d, inputs["batches"][0][0].device)]

    def call() -> dict[str, Tensor]:
        for x, y in inputs["batches"]:
            state[0] = state[0].merge(ncfast.class_moments(x, y, num_classes=k))
        return vars(state[0])

    return call


def fast_step(inputs: Inputs) -> Call:
    """A fast step of the tracker: each batch into a row of its own, nothing merged."""
    layout, batches = Layout(inputs["k"], inputs["d"]), inputs["batches"]
    rows, steps = torch.zeros(len(batches), layout.size, dtype=torch.float64), list[int]()
    reader = _raw.tensor_reader(_raw.extension)
    writer = _raw.loaded().RowWriter(
        rows.data_ptr(), len(batches), inputs["k"], inputs["k"], inputs["d"], steps, reader
    )

    def call() -> dict[str, Tensor]:
        steps.clear()
        for x, y in batches:
            writer.push(0, x, y)
        return {"counts": sum_of_counts(rows, inputs["k"])} if len(steps) == len(batches) else {}

    return call


def sum_of_counts(rows: Tensor, k: int) -> Tensor:
    return rows[:, :k].contiguous().view(torch.int64).sum(0)


def read(inputs: Inputs) -> Call:
    """Reading each batch and the float64 rows of its classes, once."""
    means = torch.zeros(inputs["k"], 2 * inputs["d"], device=inputs["batches"][0][0].device)
    stream = [(x, y.unique()) for x, y in inputs["batches"]]
    one = stream[0][1].new_zeros(1)

    def call() -> dict[str, Tensor]:
        for x, classes in stream:
            x.sum()
            torch.nn.functional.embedding_bag(classes, means, one, mode="sum")
        return {}

    return call


def sums(inputs: Inputs) -> Call:
    """index_add_ of the rows: a third of the result."""
    total = inputs["batches"][0][0].new_zeros(inputs["k"], inputs["d"])

    def call() -> dict[str, Tensor]:
        for x, y in inputs["batches"]:
            total.index_add_(0, y, x)
        return {"sums": total}

    return call


def two_passes(inputs: Inputs, scatter: bool = False) -> Call:
    """Sums and counts over the stream by index_add_, then squares around the means."""
    x = inputs["batches"][0][0]
    total, counts = x.new_zeros(inputs["k"], inputs["d"]), x.new_zeros(inputs["k"])
    squares, products = torch.zeros_like(counts), x.new_zeros(inputs["d"], inputs["d"])

    def call() -> dict[str, Tensor]:
        for x, y in inputs["batches"]:
            total.index_add_(0, y, x)
            counts.index_add_(0, y, counts.new_ones(len(y)))
        for x, y in inputs["batches"]:
            gap = x - total[y] / counts[y, None]
            squares.index_add_(0, y, gap.square().sum(1))
            if scatter:
                products.addmm_(gap.T, gap)
        found = {"counts": counts, "sums": total, "within_ss": squares}
        return found | ({"scatter": products} if scatter else {})

    return call


def masked(inputs: Inputs) -> Call:
    """The neural-collapse package: class sums and variances as products with a (K, B) mask."""
    x, y = inputs["batches"][0]
    k = inputs["k"]
    classes = torch.arange(k, device=y.device)
    total, counts, squares = x.new_zeros(k, inputs["d"]), x.new_zeros(k), x.new_zeros(k)

    def masks() -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for x, y in inputs["batches"]:
            yield x, y, (y[:, None] == classes).mT.to(x.dtype)

    def call() -> dict[str, Tensor]:
        for x, _, mask in masks():
            counts.add_(mask.sum(1))
            total.add_(mask @ x)
        for x, y, mask in masks():
            gap = x - total[y] / counts[y, None]
            squares.add_((mask @ gap**2).sum(-1))
        return {"counts": counts, "sums": total, "within_ss": squares}

    return call


def product(inputs: Inputs) -> Call:
    """The float32 product X^T X of each batch."""
    out = inputs["batches"][0][0].new_zeros(inputs["d"], inputs["d"])

    def call() -> dict[str, Tensor]:
        for x, _ in inputs["batches"]:
            torch.mm(x.T, x, out=out)
        return {}

    return call


def _entries(one: str, other: str) -> Callable[[Case], int]:
    return lambda case: int(case.sizes[one]) * int(case.sizes[other])


def _tracked(case: Case) -> str | None:
    if case.sizes["B"] != 100:
        return "only where the call itself is what costs"
    return None if _raw.tensor_reader(_raw.extension) else "this PyTorch has no table for DLPack"


CONTESTANTS = [
    *availability.backends(lambda name: partial(ours, backend=name)),
    Contestant(
        "class_moments and merge",
        "ncfast",
        merged,
        availability.within(MERGED_ENTRIES, _entries("K", "D"), "a state of float64"),
    ),
    Contestant("the tracker's fast step, nothing merged", "ncfast", fast_step, _tracked),
    Contestant("plain read of batches and rows", "baseline", read),
    Contestant("index_add_ of the sums alone", "baseline", sums),
    Contestant("torch, two passes", "torch", two_passes),
    Contestant(
        "neural-collapse package, masks",
        "public",
        masked,
        availability.within(MASK_ENTRIES, _entries("K", "B"), "a mask"),
    ),
]
OPERATION = Operation("update", cases, make, truth, error, CONTESTANTS)
VOCABULARY_OPERATION = replace(
    OPERATION, name="update.vocabulary", cases=vocabulary_cases, when_named=True
)
SCATTER_OPERATION = Operation(
    "update.scatter",
    scatter_cases,
    make,
    truth,
    error,
    [
        *availability.backends(lambda name: partial(ours_with_scatter, backend=name)),
        Contestant("float32 product X^T X of each batch", "baseline", product),
        Contestant("torch, two passes with products", "torch", partial(two_passes, scatter=True)),
    ],
)
