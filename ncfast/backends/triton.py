"""Class moments by Triton kernels, for tensors on a CUDA device.

Triton is imported when the first such tensor arrives, not before. Where its kernels do not
compile or launch, the reference takes over for the rest of the process, with one warning.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import warnings

import torch
from torch import Tensor
from torch._subclasses import FakeTensor

from ncfast.backends import reference
from ncfast.backends._types import MomentsFunction, RawMoments
from ncfast.backends.plan import LabelPlan, build
from ncfast.kernels.configuration import items_config, merge_config, project_config, tiny_config

_UNKNOWN_MULTIPROCESSORS = 132  # of an H200; only without a device to ask
_INSTALLED = importlib.util.find_spec("triton") is not None  # looks, imports nothing
_failure: str | None = None


def why_not(feats: Tensor | None = None) -> str | None:
    """Why the backend cannot run here, or not on ``feats``; None if it can. Imports nothing."""
    if feats is not None and not feats.is_cuda:
        return f"the features are on {feats.device}"
    if not _INSTALLED:
        return "triton is not installed"
    if _failure is not None:
        return f"the kernels failed on this machine: {_failure}"
    if feats is None and not torch.cuda.is_available():
        return "torch finds no CUDA device"
    return None


def describe() -> str:
    """What runs, for `ncfast.backends`."""
    return f"Triton {importlib.metadata.version('triton')}, tensors on a CUDA device"


def select(feats: Tensor, plan: LabelPlan | None) -> MomentsFunction:
    """The kernels behind an operator while something traces, called directly otherwise.

    A traced graph holds no plan: it takes the labels as they are at each call.
    """
    if torch.compiler.is_compiling() or type(feats) is FakeTensor or _is_dispatching():
        from ncfast.backends import triton_operator

        return triton_operator.class_moments
    return functools.partial(class_moments, plan=plan)


def _is_dispatching() -> bool:
    return bool(
        torch._C._len_torch_dispatch_stack() or torch._C._functorch.peek_interpreter_stack()
    )


def class_moments(
    feats: Tensor, labels: Tensor, num_classes: int, *, plan: LabelPlan | None = None
) -> RawMoments:
    """Moments by the kernels, or by the reference once they have failed."""
    if _failure is None:
        try:
            return compute(feats, labels, num_classes, plan)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever a compiler, a launcher or a driver raises
            _give_up(feats, error)
    return reference.class_moments(feats, labels, num_classes)


def _give_up(feats: Tensor, error: Exception) -> None:
    global _failure
    _failure = f"{type(error).__name__}: {error}".strip()
    warnings.warn(
        "ncfast falls back to the reference backend: its Triton kernels do not run on "
        f"{feats.device} ({_failure}). Results stay correct and come slower.",
        RuntimeWarning,
        stacklevel=5,
    )


def compute(
    feats: Tensor, labels: Tensor, num_classes: int, plan: LabelPlan | None = None
) -> RawMoments:
    """The kernels, whatever they raise. No host synchronisation."""
    tiny = tiny_config(*feats.shape, num_classes, feats.dtype.itemsize)
    if tiny is None:
        return planned(feats, build(labels, num_classes) if plan is None else plan)
    from ncfast.kernels.launch import tiny_moments

    counts, rest = tiny_moments(feats, labels, num_classes, tiny)
    return RawMoments(counts, *rest)


def planned(feats: Tensor, plan: LabelPlan) -> RawMoments:
    """The main path: two launches over rows sorted by class, and a third for what they leave."""
    from ncfast.kernels.launch import Grouped, grouped_moments

    (count, dim), itemsize, classes = feats.shape, feats.dtype.itemsize, plan.num_classes
    config = items_config(count, dim, classes, itemsize, _multiprocessors(feats.device))
    table = plan.items(config.item_rows)
    rows = Grouped(
        plan.permutation, table.items, table.shared, table.slots, plan.counts, plan.poison
    )
    merge = merge_config(count, dim, classes, config.item_rows)
    # a copy: whoever changes the moments' counts in place must not change the plan
    return RawMoments(plan.counts.clone(), *grouped_moments(feats, rows, config, merge))


def projected_ss(feats: Tensor, labels: Tensor, means: Tensor, vectors: Tensor) -> Tensor:
    """Sum over all rows of <x - mean of its class, v>^2 for each row v of ``vectors`` (V, D).

    One more read of the features, in the order they lie in; no D x D and no N x V matrix.

    Args:
        feats: (N, D), float16, bfloat16 or float32, on a CUDA device.
        labels: (N,) class indices; one outside 0..K-1 makes every sum NaN.
        means: (K, D) class means, float64.
        vectors: (V, D).

    Returns:
        (V,) float64; relative error of float32 rounding at any collapse level.

    Raises:
        TypeError: ``feats`` is float64.
    """
    from ncfast.kernels.launch import projected_ss

    config = project_config(len(feats), len(vectors), _multiprocessors(feats.device))
    return projected_ss(feats, labels, means, vectors, config)


@functools.lru_cache
def _multiprocessors(device: torch.device) -> int:
    if device.type != "cuda":
        return _UNKNOWN_MULTIPROCESSORS
    return torch.cuda.get_device_properties(device).multi_processor_count
