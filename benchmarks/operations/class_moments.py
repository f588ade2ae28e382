"""Class moments: counts, means, within-class sums of squares and row norms by class.

`class_moments.grid` has many more shapes, and a plain read of the same features. It runs only if
named.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

import ncfast
from ncfast.benchmarks import availability
from ncfast.benchmarks.plain import moments as plain
from ncfast.benchmarks.registry import Call, Case, Contestant, Inputs, Operation
from ncfast.benchmarks.samples import bytes_read, classes, error_of_found, relative_error

WHOLE, BATCH = 1 << 62, 512
ONE_HOT_ENTRIES = 1 << 26
FIELDS = ("counts", "means", "within_ss", "norm_sum", "norm_max")
QUICK: list[dict[str, Any]] = [
    {"N": 1000, "D": 200, "K": 10, "dtype": "float32"},
    {"N": 20_000, "D": 512, "K": 100, "dtype": "float32"},
    {"N": 20_000, "D": 512, "K": 10, "dtype": "float32", "spread": 1e-5},
]
FULL: list[dict[str, Any]] = [
    {"N": 100, "D": 200, "K": 10, "dtype": "float32"},
    {"N": 1000, "D": 200, "K": 10, "dtype": "float32"},
    {"N": 200_000, "D": 512, "K": 10, "dtype": "float32"},
    {"N": 200_000, "D": 512, "K": 100, "dtype": "float32"},
    {"N": 200_000, "D": 512, "K": 1000, "dtype": "float32"},
    {"N": 1_000_000, "D": 128, "K": 10, "dtype": "float32"},
    {"N": 20_000, "D": 512, "K": 10_000, "dtype": "float32"},
    {"N": 200_000, "D": 512, "K": 100, "dtype": "bfloat16"},
    {"N": 100_000, "D": 512, "K": 100, "dtype": "float64"},
    {"N": 100_000, "D": 512, "K": 10, "dtype": "float32", "spread": 1e-3},
    {"N": 100_000, "D": 512, "K": 10, "dtype": "float32", "spread": 1e-5},
    {"N": 100_000, "D": 512, "K": 10, "dtype": "float32", "spread": 1e-3, "offset": 100.0},
]
# The offset keeps the sum of all features, the result of a plain read, away from zero.
GRID: list[dict[str, Any]] = [
    {"N": n, "D": d, "K": k, "dtype": dtype, "offset": 1.0}
    for dtype, shapes, classes_ in (
        ("float32", [(200_000, 512)], (10, 100, 1000)),
        *((other, [(200_000, 512)], (100,)) for other in ("bfloat16", "float16", "float64")),
        (
            "float32",
            [(100, 16), (1000, 200), (10_000, 64), (20_000, 512), (1_000_000, 16),
             (1_000_000, 128)],
            (2, 10, 100, 1000, 10_000),
        ),
    )
    for n, d in shapes
    for k in classes_
]  # fmt: skip
READ = "plain read"


def cases(quick: bool) -> list[Case]:
    return [describe(sizes, quick) for sizes in (QUICK if quick else FULL)]


def grid(quick: bool) -> list[Case]:
    """The grid; in a quick run two small cases."""
    sizes = [each for each in GRID if each["N"] == 100][:2] if quick else GRID
    return [describe(each, quick) for each in sizes]


def describe(sizes: dict[str, Any], quick: bool) -> Case:
    """Features and labels are read once; the means are written in float64."""
    n, d, k = sizes["N"], sizes["D"], sizes["K"]
    # Shift, add, square and add; and square and add for the norm.
    return Case(sizes, bytes=bytes_read(sizes) + 8 * k * d, flops=6 * n * d, quick=quick)


def truth(inputs: Inputs) -> dict[str, torch.Tensor]:
    """Two passes in float64 over the stored features."""
    feats, labels, k = inputs["feats"], inputs["labels"], inputs["k"]
    found = plain.two_pass(feats, labels, k, 4096, torch.float64)
    return {name: value.double().cpu() for name, value in zip(FIELDS, found, strict=True)}


def truth_of_read(inputs: Inputs) -> dict[str, torch.Tensor]:
    """The truth of the moments, and the sum that a plain read gives; none in half types."""
    feats = inputs["feats"]
    if feats.itemsize == 2:
        return truth(inputs)
    parts = [part.double().sum() for part in feats.split(4096)]
    return truth(inputs) | {"sum": torch.stack(parts).sum().cpu()}


def words(feats: torch.Tensor) -> torch.Tensor:
    """The features, those of half types two by two as float32.

    torch adds half types in their own precision, which overflows, or adds them 30 times as slowly.
    """
    return feats.view(torch.float32) if feats.itemsize == 2 else feats


def read(inputs: Inputs) -> Call:
    """A plain read of the features; its sum is the result where it means something."""
    feats = words(inputs["feats"])

    def call() -> dict[str, torch.Tensor]:
        total = feats.sum()
        return {} if inputs["feats"].itemsize == 2 else {"sum": total}

    return call


def ours(inputs: Inputs, backend: str) -> Call:
    feats, labels, k = inputs["feats"], inputs["labels"], inputs["k"]

    def call() -> dict[str, torch.Tensor]:
        found = ncfast.class_moments(feats, labels, num_classes=k, backend=backend)
        return {name: getattr(found, name) for name in FIELDS}

    return call


def plainly(
    inputs: Inputs, function: Callable[..., plain.Result], batch: int, dtype: torch.dtype
) -> Call:
    """A function of `plain.moments` in a given dtype."""
    feats, labels, k = inputs["feats"], inputs["labels"], inputs["k"]
    return lambda: dict(zip(FIELDS, function(feats, labels, k, batch, dtype), strict=True))


def compiled(inputs: Inputs) -> Call:
    function = torch.compile(plain.compilable, dynamic=False)
    given = inputs["feats"], inputs["labels"], inputs["k"]
    function(*given)  # compiles outside the timing
    return lambda: dict(zip(FIELDS, function(*given), strict=True))


def naive_bayes(inputs: Inputs) -> Call:
    """Means and variances by GaussianNB, and norms by NumPy."""
    import numpy as np
    from sklearn.naive_bayes import GaussianNB

    feats, labels = inputs["feats"].numpy(), inputs["labels"].numpy()

    def call() -> dict[str, torch.Tensor]:
        model = GaussianNB(var_smoothing=0.0).fit(feats, labels)
        norms = np.linalg.norm(feats, axis=1)
        within = model.var_.sum(1) * model.class_count_
        values = (model.class_count_, model.theta_, within, norms.sum(), norms.max())
        return {n: torch.as_tensor(np.asarray(v)) for n, v in zip(FIELDS, values, strict=True)}

    return call


def _plain(
    label: str, name: str, kind: Any, *, batches: Sequence[int], wide: bool = False
) -> list[Contestant]:
    """A function of `plain.moments` with several numbers of rows per batch."""
    dtype = torch.float64 if wide else torch.float32

    def reason(case: Case, batch: int) -> str | None:
        if not wide and case.sizes["dtype"] == "float64":
            return "the features are float64"
        entries = min(int(case.sizes["N"]), batch) * int(case.sizes["K"])
        if name == "one_hot" and entries > ONE_HOT_ENTRIES:
            return f"a mask of {entries:,} entries is over {ONE_HOT_ENTRIES:,}"
        return None

    return [
        Contestant(
            f"{label}, {'float64' if wide else 'float32'}, "
            f"{'whole' if batch == WHOLE else f'{batch} rows'}",
            kind,
            partial(plainly, function=plain.REFERENCES[name], batch=batch, dtype=dtype),
            partial(reason, batch=batch),
        )
        for batch in batches
    ]


CONTESTANTS = [
    *availability.backends(lambda name: partial(ours, backend=name)),
    *_plain("index_add_ of shifted rows", "pivoted", "torch", batches=(WHOLE, BATCH)),
    *_plain("index_add_ of shifted rows", "pivoted", "torch", batches=(BATCH,), wide=True),
    *_plain("two passes", "two_pass", "torch", batches=(WHOLE, BATCH)),
    *_plain("two passes", "two_pass", "torch", batches=(WHOLE, BATCH), wide=True),
    *_plain("one-hot product, two passes", "one_hot", "torch", batches=(WHOLE, BATCH)),
    *_plain("index_add_, E[x^2] - E[x]^2", "sums", "torch", batches=(BATCH,)),
    *_plain("index_add_, E[x^2] - E[x]^2", "sums", "torch", batches=(BATCH,), wide=True),
    Contestant("torch.compile, two passes, whole", "torch", compiled, availability.compiler),
    *_plain("published, E[x^2] - E[x]^2", "published", "public", batches=(WHOLE, BATCH)),
    Contestant(
        "scikit-learn GaussianNB", "library", naive_bayes, availability.for_numpy("sklearn")
    ),
]

OPERATION = Operation("class_moments", cases, classes, truth, relative_error, CONTESTANTS)
GRID_OPERATION = replace(
    OPERATION,
    name="class_moments.grid",
    cases=grid,
    truth=truth_of_read,
    error=error_of_found,
    contestants=[*CONTESTANTS, Contestant(READ, "baseline", read)],
    when_named=True,
)
