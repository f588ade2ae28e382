"""Fuzzed calls, a family of entry points at a time, each compared with float64 or long double.

A family is a function from a generator to a list of answers: one for each call of ncfast. An answer
is "" where the numbers are right, `UNDEFINED` where the definition leaves them open, and otherwise
says what is wrong.
"""

from __future__ import annotations

import itertools
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

import ncfast
from ncfast.benchmarks.reliability import inputs, truth
from ncfast.benchmarks.reliability.gradients import losses
from ncfast.benchmarks.reliability.information import information
from ncfast.benchmarks.reliability.misuse import misuse
from ncfast.tracking import Tracker

BACKENDS = ("cpu", "reference")
UNDEFINED = "undefined"
_MOST = 1e-6  # relative error of class moments that docs/accuracy.md allows
# ids between 0 and 1, or of the order of 1, that are roots of differences: rounding of 1e-16
# becomes 1e-8
_ROOTS = {
    *("nc1.bounded", "nc1.vci", "nc2.etf_error", "nc2.etf_error_raw", "nc2.etf_error_weight"),
    *("nc2.etf_error_weight_raw", "nc2.equiangular", "nc2.cosine_std", "nc2.coherence"),
    *("nc2.equinorm", "nc2.equinorm_weight", "nc3.cross_coherence", "nc3.self_duality"),
    *("nc2.distance_var", "nc2.log_energy_var", "nc2.riesz_energy_var", "nc3.weight_sum"),
    *("nc3.uniform_duality_cosine", "nc2.log_energy", "nc2.cosine_mean", "nc3.cosine"),
    *("nc3.self_duality_squared", "nc5.ood_cosine"),
}
# where rounding decides: see docs/accuracy.md, "At the edges"
_DIRECTIONS = {
    *("nc1.bounded", "nc1.vci", "nc5.neco_auroc", "nc5.neco_fpr95", "ssl.lidar"),
}


def moments(rng: np.random.Generator) -> Iterator[str]:
    """`class_moments` in one call, by `merge` and by `update_`, against long double."""
    one = inputs.sample(rng, rows=200, extreme=True)
    expected = truth.moments(one.x, one.y, one.classes)
    half = int(rng.integers(len(one.x) + 1))
    for backend in BACKENDS:
        options: dict[str, Any] = {"num_classes": one.classes, "backend": backend}
        whole = ncfast.class_moments(one.feats, one.labels, **options)
        yield _wrong_moments(whole, expected, one)
        feats, labels = torch.as_tensor(one.x), one.y  # float64: mean and spread merge in it
        empty = ncfast.ClassMoments.empty(one.classes, feats.shape[1])
        parts = [
            ncfast.class_moments(feats[part], labels[part], **options)
            if len(feats[part])
            else empty
            for part in (slice(None, half), slice(half, None))
        ]
        yield _wrong_moments(parts[0].merge(parts[1]), expected, one)
        mask = torch.zeros(len(feats), dtype=torch.bool)
        mask[:half] = True
        empty.update_(one.feats, one.labels, mask=mask, backend=backend)
        empty.update_(one.feats, one.labels, mask=~mask, backend=backend)
        yield _wrong_moments(empty, expected, one)


def _wrong_moments(found: Any, expected: dict[str, Any], one: inputs.Sample) -> str:
    """The first field that is off by more than `_MOST`, relative, and by more than rounding."""
    largest, widest = float(expected["norm_max"]), float(expected["within_ss"].max())
    floors = {
        "means": _MOST * np.sqrt(widest) + 1e-7 * _MOST * largest,
        # means are stored in float64: their rounding moves the parts of a class
        "within_ss": 5e-16 * largest * np.sqrt(len(one.x) * widest) + 1e-30 * largest**2,
    }
    for name, value in expected.items():
        off = np.abs(getattr(found, name).numpy().astype(np.longdouble) - value)
        share = 0.0 if name in ("counts", "means") else _MOST
        allowed = np.maximum(share * np.abs(value), floors.get(name, 0.0))
        if not (off <= allowed).all():
            return f"{name} off by {float((off - allowed).max()):.3g} on {one.kind}"
    return ""


def metrics(rng: np.random.Generator) -> Iterator[str]:
    """`collapse_metrics`: every id of the catalogue, against the oracles of the tests."""
    one = inputs.sample(rng)
    weight, bias, outside = inputs.classifier(rng, one.classes, one.x.shape[1])
    expected = truth.metrics(one, weight, bias, outside)
    for backend in BACKENDS:
        found = ncfast.collapse_metrics(
            one.feats,
            one.labels,
            weight=weight,
            bias=bias,
            ood_feats=outside,
            num_classes=one.classes,
            backend=backend,
        )
        yield _wrong_metrics(found, expected, one)


def streams(rng: np.random.Generator) -> Iterator[str]:
    """`Accumulator` over random batches with rows left out, and its second look."""
    one = inputs.sample(rng)
    weight, bias, outside = inputs.classifier(rng, one.classes, one.x.shape[1])
    kept = torch.from_numpy(rng.random(len(one.x)) < 0.8)
    kept[int(rng.integers(len(kept)))] = True
    inside = one._replace(x=one.x[kept], y=one.y[kept])
    expected = truth.metrics(inside, weight, bias, outside)
    feats, labels = (
        torch.as_tensor(np.array(one.feats)) if not torch.is_tensor(one.feats) else (one.feats),
        one.y.clone(),
    )
    left_out = ~kept
    if rng.random() < 0.5:
        labels[left_out] = -100
        kept = torch.ones_like(kept)
    size = int(rng.integers(1, len(feats) + 1))
    for backend in BACKENDS:
        acc = ncfast.Accumulator(
            one.classes, metrics="all", weight=weight, bias=bias, backend=backend
        )
        for look in (acc.update, acc.revisit):
            for part in torch.arange(len(feats)).split(size):
                look(feats[part], labels[part], mask=kept[part])
            again = acc.update_ood if look == acc.update else acc.revisit_ood
            again(outside)
        yield _wrong_metrics(acc.compute(), expected, inside)


def _wrong_metrics(found: Any, expected: Any, one: inputs.Sample) -> str:
    """The first id whose value is neither right nor left open by its definition."""
    truth.use_tests()
    from harness import DEFINED_FOR_ONE_CLASS

    present = torch.unique(one.y)
    alone = len(present) == 1
    scale = float(one.x.abs().max())
    means = [one.x[one.y == c].mean(0) for c in present.tolist()]
    pairs = [*itertools.combinations(means, 2), *((m, sum(means) / len(means)) for m in means)]
    gaps = [float((a - b).abs().max()) for a, b in pairs]  # of a centred mean without a direction
    coincide = not alone and min(gaps) <= 1e-12 * scale
    point = bool((one.x - one.x[0]).abs().max() <= 1e-12 * scale)
    low = not (torch.is_tensor(one.feats) and one.feats.dtype == torch.float64)
    for name, value in found.items():
        if alone and name not in DEFINED_FOR_ONE_CLASS:
            if np.isfinite(float(value)):
                return f"{name} is {float(value)} for one class on {one.kind}"
            continue
        if point or coincide or (name in _DIRECTIONS and _is_thin(one)):
            continue
        if name == "ssl.lidar" and one.kind.startswith("scaled"):  # adds 1e-4 to a covariance
            continue
        if name == "nc1.svd" and _are_dependent(means):  # 0 / 0 along a direction without means
            continue
        floor = 1e-6 if name in _ROOTS else 1e-13
        tolerance = 1e-5 if low else 1e-7
        if name.startswith("rank.alpha_req"):  # a line through logarithms of small variances
            if _is_thin(one):
                continue
            tolerance = 1e-4
        if name.startswith("nc2.condition"):  # the error of the smallest singular value
            tolerance = max(tolerance, 1e-7 * min(expected[name], 1e10))
        wrong = truth.problem(float(value), expected[name], tolerance, floor)
        if wrong and not _close_call(name, one):
            return f"{name} is {wrong} on {one.kind}"
    return UNDEFINED if point or coincide else ""


def _is_thin(one: inputs.Sample) -> bool:
    """Whether some direction has so little variance that rounding decides what is along it."""
    values = torch.linalg.svdvals(one.x - one.x.mean(0))
    return bool(values[-1] <= 1e-4 * values[0]) or one.x.shape[0] <= one.x.shape[1]


def _are_dependent(means: list[Tensor]) -> bool:
    """Whether the centred means have a lower rank than their number and D allow."""
    stacked = torch.stack(means)
    values = torch.linalg.svdvals(stacked - stacked.mean(0))
    rank = min(len(means) - 1, stacked.shape[1])
    return bool(values[rank - 1] <= 1e-6 * stacked.abs().max())


def _close_call(name: str, one: inputs.Sample) -> bool:
    """Whether a decision of NC4 or a rank of NC5 may go either way: a tie up to rounding."""
    return name.startswith(("nc4", "nc5.neco")) and one.kind.startswith(("equal", "dup", "sparse"))


def weights(rng: np.random.Generator) -> Iterator[str]:
    """Norms, balancedness, margins, their histograms and the bounds, against NumPy."""
    classes, hidden, dim = (int(n) for n in rng.integers(2, 9, 3))
    scale = 10.0 ** rng.uniform(-12, 12)
    dtype = inputs.FLOATS[rng.integers(2, 4)]
    upper, lower = (
        torch.from_numpy(scale * rng.standard_normal(shape)).to(dtype)
        for shape in ((classes, hidden), (hidden, dim))
    )
    a, b = (tensor.to(torch.float64).numpy() for tensor in (upper, lower))
    norm = float(np.sqrt((a**2).sum() + (b**2).sum()))
    yield truth.problem(float(ncfast.weight_norm([upper, lower])), norm, 1e-12)
    gram, product = a.T @ a, b @ b.T
    gap = np.linalg.norm(gram - product) / (np.linalg.norm(gram) + np.linalg.norm(product))
    yield truth.problem(float(ncfast.balancedness(upper, lower)), gap, 1e-10)
    spectral = np.linalg.norm(a, 2) * np.linalg.norm(b, 2)
    yield truth.problem(float(ncfast.spectral_norm_product([upper, lower])), spectral, 1e-10)
    yield from _margins(rng, classes, hidden)


def _margins(rng: np.random.Generator, classes: int, dim: int) -> Iterator[str]:
    count = int(rng.integers(1, 30))
    x, w = rng.standard_normal((count, dim)), rng.standard_normal((classes, dim))
    b, y = rng.standard_normal(classes), rng.integers(0, classes, count)
    pair = tuple(int(c) for c in rng.choice(classes, 2, replace=False))
    normal = w[pair[0]] - w[pair[1]]
    expected = (x @ normal + b[pair[0]] - b[pair[1]]) / np.linalg.norm(normal)
    found = ncfast.class_margins(x, w, b, pairs=[pair])
    off = np.abs(found.numpy()[:, 0] - expected).max()
    yield "" if off <= 1e-10 * (1 + np.abs(expected).max()) else f"class_margins off by {off}"
    edges = np.linspace(-10, 10, 9)
    counts = ncfast.margin_histograms(found, torch.from_numpy(y), pairs=[pair], bins=8)[0]
    own = [np.histogram(found.numpy()[y == c, 0], edges)[0] for c in pair]
    yield "" if np.array_equal(counts.numpy(), own) else f"margin_histograms {counts} not {own}"
    feats, labels = torch.from_numpy(x), torch.from_numpy(y)
    stats = truth.moments(feats, labels, classes)
    noise = float(rng.uniform(0.01, 2))
    trace = float(stats["within_ss"].sum() / count)
    bound = trace / (2 * noise**2 * float(stats["norm_max"]) ** 2)
    options: dict[str, Any] = {"sigma": noise, "form": "trace", "num_classes": classes}
    value = float(ncfast.superfluous_information_bound(feats, labels, **options))
    yield truth.problem(value, bound, 1e-9, 1e-15)


def tracker(rng: np.random.Generator) -> Iterator[str]:
    """`Tracker.step` on random batches, by batch, window and moving average."""
    classes, dim, steps = int(rng.integers(2, 7)), int(rng.integers(1, 12)), 20
    dtype = inputs.FLOATS[rng.integers(4)]
    kind = str(rng.choice(["batch", "window:3", "ema:0.7"]))
    batches = []
    for _ in range(steps):
        count = int(rng.integers(2, 40))
        y = torch.from_numpy(rng.integers(0, classes, count))
        x = torch.from_numpy(rng.standard_normal((classes, dim)))[y]
        x = x + 10.0 ** rng.uniform(-3, 0) * torch.from_numpy(rng.standard_normal((count, dim)))
        batches.append((x.to(dtype), y))
    records: list[Any] = []
    with Tracker(
        num_classes=classes, stream=kind, metrics="rnc1.mean", sinks=[records.append]
    ) as t:
        for x, y in batches:
            t.step(feats=x, labels=y)
    prefix = "train" if kind == "batch" else f"{kind.split(':')[0]}/train"
    for step, record in enumerate(records):
        value = record[f"{prefix}/rnc1.mean"]
        yield truth.problem(value, _rnc1(batches[: step + 1], classes, kind), 1e-5, 1e-12)


def _rnc1(batches: list[tuple[Tensor, Tensor]], classes: int, kind: str) -> float:
    """RNC1 by mean norm of a stream, by the formulas of docs/tracking.md, in long double."""
    each = [truth.moments(x.to(torch.float64), y, classes) for x, y in batches]
    name, _, size = kind.partition(":")
    weights = np.ones(len(each))
    if name == "batch":
        return float(each[-1]["within_ss"].sum() * len(batches[-1][1]) / each[-1]["norm_sum"] ** 2)
    if name == "window":
        each, weights = each[-int(size) :], weights[-int(size) :]
    else:
        weights = float(size) ** np.arange(len(each))[::-1]
    counts, squares = (np.stack([e[key] for e in each]) for key in ("counts", "within_ss"))
    share = weights @ counts
    squared, free = weights @ squares, weights @ np.maximum(counts - 1, 0)
    variance = np.where(free > 0, squared / np.where(free > 0, free, 1), squared.sum() / free.sum())
    norm = weights @ np.stack([e["norm_sum"] for e in each]) / share.sum()
    return float((share * variance).sum() / share.sum() / norm**2)


FAMILIES: dict[str, Callable[[np.random.Generator], Iterator[str]]] = {
    "class moments": moments,
    "metrics of one call": metrics,
    "streams": streams,
    "weights and margins": weights,
    "losses and gradients": losses,
    "information": information,
    "tracker": tracker,
    "wrong arguments": misuse,
}


def fuzz(name: str, calls: int, seed: int = 0) -> dict[str, Any]:
    """Make ``calls`` calls of a family.

    Returns:
        Counts of calls, of wrong answers, and of answers that a definition leaves open; the first
        wrong answers; the CPU time.
    """
    family = FAMILIES[name]
    found: dict[str, Any] = {"calls": 0, "wrong": 0, "undefined": 0, "problems": []}
    start = time.process_time()
    for number in itertools.count():
        if found["calls"] >= calls:
            break
        rng = np.random.default_rng([seed, number])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            answers = _answers(family(rng))
        for answer in answers:
            found["calls"] += 1
            found["undefined"] += answer == UNDEFINED
            if answer and answer != UNDEFINED:
                found["wrong"] += 1
                found["problems"] = [*found["problems"], f"input {number}: {answer}"][:20]
    found["cpu_seconds"] = time.process_time() - start
    return found


def _answers(answers: Iterator[str]) -> list[str]:
    found = []
    try:
        for answer in answers:
            found.append(answer)  # noqa: PERF402  keeps those before an exception
    except Exception as error:
        found.append(f"{type(error).__name__}: {str(error)[:300]}")
    return found
