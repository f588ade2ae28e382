"""Class moments by Triton kernels, for tensors on a CUDA device.

Triton is imported when the first such tensor arrives, not before. Where its kernels do not
compile or launch, the reference takes over for the rest of the process, with one warning, in the
operation that failed: the others go on.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import warnings
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor
from torch._subclasses import FakeTensor

from ncfast.kernels import autotune
from ncfast.kernels.configuration import (
    ItemsConfig,
    decide_config,
    items_config,
    merge_config,
    project_config,
    scatter_config,
    tiny_config,
)
from ncfast.ops import reference
from ncfast.ops._types import MomentsFunction, RawMoments
from ncfast.ops.decide import Rule
from ncfast.ops.decide import decisions as decide_plainly
from ncfast.ops.plan import LabelPlan, build

T = TypeVar("T")
_UNKNOWN_MULTIPROCESSORS = 132  # of an H200; only without a device to ask
_INSTALLED = importlib.util.find_spec("triton") is not None  # looks, imports nothing
_MOMENTS = "class moments"
_failures: dict[str, str] = {}  # by operation


def why_not(feats: Tensor | None = None) -> str | None:
    """Why the backend cannot run here, or not on ``feats``; None if it can. Imports nothing."""
    if feats is not None and not feats.is_cuda:
        return f"the features are on {feats.device}"
    if not _INSTALLED:
        return "triton is not installed"
    if _MOMENTS in _failures:
        return f"the kernels failed on this machine: {_failures[_MOMENTS]}"
    if feats is None and not torch.cuda.is_available():
        return "torch finds no CUDA device"
    return None


def describe() -> str:
    """What runs, for `ncfast.backends`."""
    failed = "".join(f"; {name} failed here: {why}" for name, why in _failures.items())
    return f"Triton {importlib.metadata.version('triton')}, tensors on a CUDA device{failed}"


def select(feats: Tensor, plan: LabelPlan | None) -> MomentsFunction:
    """The kernels behind an operator while something traces, called directly otherwise.

    A traced graph holds no plan: it takes the labels as they are at each call.
    """
    if _is_traced(feats):
        from ncfast.ops import triton_operator

        return triton_operator.class_moments
    return functools.partial(class_moments, plan=plan)


def _is_traced(feats: Tensor) -> bool:
    return (
        torch.compiler.is_compiling()
        or type(feats) is FakeTensor
        or bool(
            torch._C._len_torch_dispatch_stack() or torch._C._functorch.peek_interpreter_stack()
        )
    )


def class_moments(
    feats: Tensor, labels: Tensor, num_classes: int, *, plan: LabelPlan | None = None
) -> RawMoments:
    """Moments by the kernels, or by the reference once they have failed."""
    return guarded(
        _MOMENTS,
        feats,
        lambda: compute(feats, labels, num_classes, plan),
        lambda: reference.class_moments(feats, labels, num_classes),
    )


def guarded(operation: str, feats: Tensor, kernels: Callable[[], T], plain: Callable[[], T]) -> T:
    """The result of the kernels, or the plain one once those of this operation have failed."""
    if operation not in _failures:
        try:
            return kernels()
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever a compiler, a launcher or a driver raises
            _give_up(operation, feats, error)
    return plain()


def _give_up(operation: str, feats: Tensor, error: Exception) -> None:
    _failures[operation] = f"{type(error).__name__}: {error}".strip()
    warnings.warn(
        f"ncfast falls back to the reference backend for {operation}: its Triton kernels do not "
        f"run on {feats.device} ({_failures[operation]}). Results stay correct and come slower.",
        RuntimeWarning,
        stacklevel=6,
    )


def compute(
    feats: Tensor, labels: Tensor, num_classes: int, plan: LabelPlan | None = None
) -> RawMoments:
    """The kernels, whatever they raise. No host synchronisation."""
    feats, labels = feats.resolve_neg(), labels.resolve_neg()
    tiny = tiny_config(*feats.shape, num_classes, feats.dtype.itemsize)
    if tiny is None:
        return planned(feats, build(labels, num_classes) if plan is None else plan)
    from ncfast.kernels.launch import tiny_moments

    counts, rest = tiny_moments(feats, labels, num_classes, tiny)
    return RawMoments(counts, *rest)


def planned(feats: Tensor, plan: LabelPlan) -> RawMoments:
    """The main path: two launches over rows sorted by class."""
    rule = items_config(
        *feats.shape, plan.num_classes, feats.dtype.itemsize, multiprocessors(feats.device)
    )
    if autotune.wanted(feats.device):
        rule = autotune.items(feats, plan.num_classes, rule, lambda c: _planned(feats, plan, c))
    return _planned(feats, plan, rule)


def _planned(feats: Tensor, plan: LabelPlan, config: ItemsConfig) -> RawMoments:
    from ncfast.kernels.launch import Grouped, grouped_moments

    table = plan.items(config.item_rows)
    rows = Grouped(
        plan.permutation, table.items, table.shared, table.slots, plan.counts, plan.poison
    )
    merge = merge_config(*feats.shape, plan.num_classes, config.item_rows)
    # a copy: whoever changes the moments' counts in place must not change the plan
    return RawMoments(plan.counts.clone(), *grouped_moments(feats, rows, config, merge))


def projected_ss(feats: Tensor, labels: Tensor, means: Tensor, vectors: Tensor) -> Tensor:
    """Sum over all rows of <x - mean of its class, v>^2 for each row v of ``vectors`` (V, D).

    One more read of the features, in the order they lie in; no D x D and no N x V matrix.

    Args:
        feats: (N, D), on a CUDA device; float64 is left to the reference.
        labels: (N,) class indices; one outside 0..K-1 makes every sum NaN.
        means: (K, D) class means, float64.
        vectors: (V, D).

    Returns:
        (V,) float64; relative error of float32 rounding at any collapse level.
    """
    if _is_traced(feats):
        from ncfast.ops import triton_operator

        return triton_operator.projected_ss(feats, labels, means, vectors)
    return projected_ss_now(feats, labels, means, vectors)


def projected_ss_now(feats: Tensor, labels: Tensor, means: Tensor, vectors: Tensor) -> Tensor:
    """`projected_ss`, where nothing traces."""
    feats, labels = feats.resolve_neg(), labels.resolve_neg()

    def kernels() -> Tensor:
        from ncfast.kernels.second_read import projected_ss

        config = project_config(len(feats), len(vectors), multiprocessors(feats.device))
        return projected_ss(feats, labels, means, vectors, config)

    def plain() -> Tensor:
        return reference.projected_ss(feats, labels, means, vectors)

    if feats.dtype == torch.float64:
        return plain()
    return guarded("projections", feats, kernels, plain)


def scatter(feats: Tensor, labels: Tensor, means: Tensor) -> Tensor:
    """Sum over all rows of (x - mean of its class)(x - mean of its class)^T.

    Residuals in float32 around the exact mean, products of three bfloat16 pieces a factor on
    tensor cores, sums of 512 rows added in float64.

    Args:
        feats: (N, D), on a CUDA device; float64 is left to the reference.
        labels: (N,) class indices; one outside 0..K-1 makes every entry NaN.
        means: (K, D) class means, float64.

    Returns:
        (D, D) float64, exactly symmetric; of N times the covariance Sigma_W.
    """
    if _is_traced(feats):
        from ncfast.ops import triton_operator

        return triton_operator.scatter(feats, labels, means)
    return scatter_now(feats, labels, means)


def scatter_now(feats: Tensor, labels: Tensor, means: Tensor) -> Tensor:
    """`scatter`, where nothing traces."""
    feats, labels = feats.resolve_neg(), labels.resolve_neg()

    def kernels() -> Tensor:
        from ncfast.kernels.second_read import scatter

        config = scatter_config(*feats.shape, multiprocessors(feats.device))
        return scatter(feats, labels, means, config)

    def plain() -> Tensor:
        return reference.scatter(feats, labels, means)

    if feats.dtype == torch.float64:
        return plain()
    return guarded("the scatter matrix", feats, kernels, plain)


def decisions(feats: Tensor, centres: Tensor, weights: Tensor, offsets: Tensor) -> Tensor:
    """argmax_c <x - centre, weight_c> + offset_c for each row x, by R rules at once.

    With a centre m, weights mu_c - m and offsets -norm(mu_c - m)^2 / 2 that is the nearest class
    mean; with centre zero, a classifier's weights and its bias, the classifier's choice. Decided
    in float32 where the two largest scores differ by more than rounding can, in float64 where they
    do not; which rows those are is found on the device. No N x K matrix.

    Args:
        feats: (N, D), on a CUDA device; all of float64 is scored in float64.
        centres: (R, D), float64.
        weights: (R, K, D), float64.
        offsets: (R, K), float64, minus infinity for classes out of the question.

    Returns:
        (R, N) int64; ties go to the smaller index, and a row that holds NaN to index 0.
    """
    if _is_traced(feats):
        from ncfast.ops import triton_operator

        return triton_operator.decisions(feats, centres, weights, offsets)
    return decisions_now(feats, centres, weights, offsets)


def decisions_now(feats: Tensor, centres: Tensor, weights: Tensor, offsets: Tensor) -> Tensor:
    """`decisions`, where nothing traces."""
    feats = feats.resolve_neg()

    def kernels() -> Tensor:
        from ncfast.kernels.second_read import decisions

        return decisions(feats, centres, weights, offsets, decide_config(weights.shape[1]))

    def plain() -> Tensor:
        return plain_decisions(feats, centres, weights, offsets)

    return guarded("decisions", feats, kernels, plain)


def plain_decisions(feats: Tensor, centres: Tensor, weights: Tensor, offsets: Tensor) -> Tensor:
    """`decisions` in plain torch, on any device."""
    rules = [Rule(*parts) for parts in zip(centres, weights, offsets, strict=True)]
    return torch.stack(decide_plainly(feats, rules))


def decide(feats: Tensor, rules: Sequence[Rule]) -> list[Tensor]:
    """`decisions` for a list of rules; those of as many classes share a launch."""
    if len({rule.rows.shape for rule in rules}) > 1:
        return [found for rule in rules for found in decide(feats, [rule])]
    return list(decisions(feats, *(torch.stack(parts) for parts in zip(*rules, strict=True))))


@functools.lru_cache
def multiprocessors(device: torch.device) -> int:
    """Of a CUDA device; those of an H200 for the CPU, where only the interpreter asks."""
    if device.type != "cuda":
        return _UNKNOWN_MULTIPROCESSORS
    return torch.cuda.get_device_properties(device).multi_processor_count
