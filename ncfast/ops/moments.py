"""Class moments: counts, means, sums of squares and norms of the rows by class, in one pass.

The reference is the definition every faster form is held against. It takes one pass over blocks of
rows in the order of their classes. Each row is taken relative to a pilot, the first row of its
class, in float64. A pilot that belongs to the class makes the sums as small as the spread of the
class, so nothing cancels however collapsed the features are: the error of ``S2 - |S1|^2 / n`` is at
most (n + 1) times the rounding of float64 (Chan, Golub & LeVeque 1983, shifted data).
"""

from __future__ import annotations

import functools
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ncfast.kernels import autotune
from ncfast.kernels.configuration import (
    SegmentsConfig,
    TinyConfig,
    merge_config,
    segments_config,
    tiny_config,
)
from ncfast.ops import _auto, _comparison, _raw, _second_net
from ncfast.ops._fallback import with_fallback
from ncfast.ops._registry import NAMES, operator, why_not_cpu, why_not_triton
from ncfast.ops.blocks import first_pass_rows, fold_invalid, multiprocessors, take_rows
from ncfast.ops.grouping import LabelPlan, build_on_device
from ncfast.ops.runs import Pieces, sort_by_class, sum_runs

NAME = "class moments"  # in verdicts and warnings
ONE_LAUNCH, SORTED_ROWS = PATHS = ("one launch", "sorted rows")  # of the kernels
COMPARISON = _comparison.MOMENTS


class RawMoments(NamedTuple):
    """The numbers one pass yields, all on the features' device.

    A label outside ``0..K-1`` makes every floating-point entry NaN; a class without a row has
    count, mean and sum of squares zero.
    """

    counts: Tensor  # (K,) int64
    means: Tensor  # (K, D) float64
    within_ss: Tensor  # (K,) float64, sum over the class of |x - mean|^2
    norm_sum: Tensor  # () float64, sum of row norms
    norm_max: Tensor  # () float64


class MomentsFunction(Protocol):
    """``moments(feats, labels, num_classes)`` of a backend; arguments are validated already."""

    def __call__(self, feats: Tensor, labels: Tensor, num_classes: int) -> RawMoments:
        """The moments of ``feats`` (N, D) by ``labels`` (N,)."""


def select(name: str, feats: Tensor, plan: LabelPlan | None = None) -> MomentsFunction:
    """The moments function of backend ``name`` for ``feats``, and for ``plan`` if it uses one.

    "auto" takes the extension for tensors on the CPU: no size was found where the reference, the
    only other engine in float64, is faster. On a CUDA device it takes the kernels that a self-check
    found correct. While something traces, an operator is called.

    Raises:
        ValueError: the name is unknown, or that backend cannot run here; the reason is given.
    """
    if name not in NAMES:
        raise ValueError(f"Expected argument `backend` to be one of {NAMES} but got {name!r}.")
    if name == "reference":
        return reference
    if name == "auto" and why_not_triton(feats) is None:
        kernels = _auto.offered(NAME, feats.dtype, feats.device, feats.numel())
        return functools.partial(if_proven, plan=plan) if kernels else reference
    if name == "auto" and not _raw.present(feats):
        return reference
    why_not = why_not_triton(feats) if name == "triton" else why_not_cpu(feats)
    if why_not is not None:
        if name == "auto":
            return reference
        raise ValueError(f"Backend {name!r} cannot run here: {why_not}. Use backend='auto'.")
    if name == "triton":
        # a traced graph holds no plan: it takes the labels as they are at each call
        return triton_operator if _raw.traced(feats) else functools.partial(triton, plan=plan)
    return cpu_operator if _raw.traced(feats) else cpu


def reference(feats: Tensor, labels: Tensor, num_classes: int) -> RawMoments:
    """Accumulate the moments of ``feats`` (N, D) by ``labels`` (N,); no host synchronisation.

    A CPU takes the rows as they lie. Another device takes them sorted by class: it adds the rows of
    a class side by side, where it would wait for one addition after another.
    """
    run = in_order if feats.device.type == "cpu" else sorted_by_class
    return run(feats, labels, num_classes)


def in_order(feats: Tensor, labels: Tensor, num_classes: int) -> RawMoments:
    """The reference, block by block of rows as they lie."""
    labels, nan_if_invalid = fold_invalid(labels.to(torch.int64), num_classes)
    counts = torch.zeros(num_classes, dtype=torch.int64, device=feats.device)
    counts.scatter_add_(0, labels, torch.ones_like(labels))
    pilots = take_rows(feats, _first_rows(labels, num_classes))

    shift_sum, shift_ss = torch.zeros_like(pilots), pilots.new_zeros(num_classes)
    norm_sum, norm_max = pilots.new_zeros(()), pilots.new_zeros(())
    rows = first_pass_rows(feats)
    for stored, label in zip(feats.split(rows), labels.split(rows), strict=True):
        block = stored.to(torch.float64)
        norms = torch.linalg.vector_norm(block, dim=1)
        norm_sum = norm_sum + norms.sum()
        norm_max = torch.maximum(norm_max, norms.amax())
        residual = block - pilots.index_select(0, label)
        shift_sum.index_add_(0, label, residual)
        shift_ss = shift_ss.index_add(0, label, torch.linalg.vector_norm(residual, dim=1).square())
    return _around(pilots, counts, (shift_sum, shift_ss), (norm_sum, norm_max), nan_if_invalid)


def _first_rows(labels: Tensor, num_classes: int) -> Tensor:
    """Index of each class's first row; the last row of all for a class that has none."""
    row = torch.arange(labels.shape[0], device=labels.device)
    last = torch.full((num_classes,), labels.shape[0] - 1, device=labels.device)
    return last.scatter_reduce_(0, labels, row, "amin")


def _around(
    pilots: Tensor,
    counts: Tensor,
    shifts: tuple[Tensor, Tensor],
    norms: tuple[Tensor, Tensor],
    nan_if_invalid: Tensor,
) -> RawMoments:
    """The moments from sums of deviations from a pilot, and of their squares, by class."""
    shift_sum, shift_ss = shifts
    divisor = counts.clamp(min=1).to(torch.float64)
    # where, not a product: the pilot of an absent class is an arbitrary row and may be NaN
    means = torch.where(counts.unsqueeze(1) > 0, pilots + shift_sum / divisor.unsqueeze(1), 0.0)
    within = shift_ss - torch.linalg.vector_norm(shift_sum, dim=1).square() / divisor
    values = (means, within.clamp(min=0), *norms)
    return RawMoments(counts, *(value + nan_if_invalid for value in values))


def sorted_by_class(feats: Tensor, labels: Tensor, num_classes: int) -> RawMoments:
    """The reference, block by block of rows sorted by class."""
    labels, nan_if_invalid = fold_invalid(labels.to(torch.int64), num_classes)
    runs = sort_by_class(labels, num_classes)
    counts, begins = runs.counts, runs.begins
    # the pilot of an absent class is an arbitrary row
    first = runs.order.index_select(0, begins.clamp(max=len(labels) - 1))
    pilots = take_rows(feats, first)

    row_norms: list[Tensor] = []
    spreads: list[Tensor] = []

    def residuals(rows: Tensor, label: Tensor) -> Tensor:
        block = take_rows(feats, rows)
        row_norms.append(torch.linalg.vector_norm(block, dim=1))
        block = block.sub_(pilots.index_select(0, label))
        spreads.append(torch.linalg.vector_norm(block, dim=1))
        return block

    shift_sum = Pieces(runs, first_pass_rows(feats), feats.shape[1]).sums(residuals)
    squares, norms = torch.cat(spreads).square(), torch.cat(row_norms)
    shift_ss = sum_runs(squares.unsqueeze(1), None, begins).squeeze(1)
    return _around(
        pilots, counts, (shift_sum, shift_ss), (norms.sum(), norms.amax()), nan_if_invalid
    )


def cpu(feats: Tensor, labels: Tensor, num_classes: int) -> RawMoments:
    """By the extension: one fused pass, see ``csrc/``.

    Rows may lie any stride apart. Columns that are not adjacent go to the reference, block by
    block: no full copy is made either way.
    """
    if not _raw.dense_rows(feats, labels):
        return reference(feats, labels, num_classes)
    rows, dim = feats.shape
    labels, label_code = _raw.with_code(labels)
    counts = _raw.INT64.new_empty(num_classes)
    means = _raw.FLOAT64.new_empty((num_classes, dim))
    within = _raw.FLOAT64.new_empty(num_classes)
    norm_sum = _raw.FLOAT64.new_empty(())
    norm_max = _raw.FLOAT64.new_empty(())
    assert _raw.extension is not None, _raw.import_error
    _raw.extension.class_moments(  # 20 us at 1,000 rows: written out, each call of Python counts
        feats.data_ptr(),
        _raw.FEATURE_CODES[feats.dtype],
        rows,
        dim,
        feats.stride()[0],
        labels.data_ptr(),
        label_code,
        labels.stride()[0],
        num_classes,
        counts.data_ptr(),
        means.data_ptr(),
        within.data_ptr(),
        norm_sum.data_ptr(),
        norm_max.data_ptr(),
        torch.get_num_threads(),
    )
    return RawMoments(counts, means, within, norm_sum, norm_max)


def if_proven(
    feats: Tensor, labels: Tensor, num_classes: int, *, plan: LabelPlan | None = None
) -> RawMoments:
    """`triton` where a self-check found its kernels correct, else the reference."""
    given = (feats, labels, num_classes)
    # the sizes decide the path: traced code would have to look at them at every call
    traced = _raw.traced(feats)
    paths = (ONE_LAUNCH, SORTED_ROWS) if traced else (_path(_tiny(feats, num_classes)),)
    for path in paths:
        if not _auto.usable(NAME, path, feats, (*given, plan is None)):
            return reference(*given)
    return triton_operator(*given) if traced else triton(*given, plan=plan)


def triton(
    feats: Tensor, labels: Tensor, num_classes: int, *, plan: LabelPlan | None = None
) -> RawMoments:
    """By Triton's kernels, or by the reference once they have failed."""
    tiny = _tiny(feats, num_classes)
    return with_fallback(
        NAME,
        feats,
        lambda: _compute(feats, labels, num_classes, plan, tiny),
        lambda: reference(feats, labels, num_classes),
        _path(tiny),
        lambda: _error(feats, labels, num_classes, tiny),
    )


def _path(tiny: TinyConfig | None) -> str:
    return SORTED_ROWS if tiny is None else ONE_LAUNCH


def _error(feats: Tensor, labels: Tensor, num_classes: int, tiny: TinyConfig | None) -> Tensor:
    """The largest error on the first rows, by the path that all rows take."""
    path = compute if tiny is not None else by_sorted_rows
    return _second_net.error_on_first_rows(COMPARISON, path, reference, feats, labels, num_classes)


def by_sorted_rows(feats: Tensor, labels: Tensor, num_classes: int) -> RawMoments:
    """The kernels of the main path for features of any size, whatever they raise."""
    return _compute(feats, labels, num_classes, None, None)


def compute(
    feats: Tensor, labels: Tensor, num_classes: int, plan: LabelPlan | None = None
) -> RawMoments:
    """The kernels, whatever they raise. No host synchronisation."""
    return _compute(feats, labels, num_classes, plan, _tiny(feats, num_classes))


def _tiny(feats: Tensor, num_classes: int) -> TinyConfig | None:
    return tiny_config(*feats.shape, num_classes, feats.dtype.itemsize)


def _compute(
    feats: Tensor,
    labels: Tensor,
    num_classes: int,
    plan: LabelPlan | None,
    tiny: TinyConfig | None,
) -> RawMoments:
    feats, labels = feats.resolve_neg(), labels.resolve_neg()
    if tiny is None:
        return planned(feats, build_on_device(labels, num_classes) if plan is None else plan)
    from ncfast.kernels.launch import tiny_moments

    counts, rest = tiny_moments(feats, labels, num_classes, tiny)
    return RawMoments(counts, *rest)


def planned(feats: Tensor, plan: LabelPlan) -> RawMoments:
    """The main path: three launches over rows sorted by class."""
    rule = segments_config(
        *feats.shape, plan.num_classes, feats.dtype.itemsize, multiprocessors(feats.device)
    )
    if autotune.wanted(feats.device):
        rule = autotune.segments(feats, plan.num_classes, rule, lambda c: _planned(feats, plan, c))
    return _planned(feats, plan, rule)


def _planned(feats: Tensor, plan: LabelPlan, config: SegmentsConfig) -> RawMoments:
    from ncfast.kernels.launch import Grouped, grouped_moments

    table = plan.segments(config.segment_rows)
    rows = Grouped(
        plan.permutation, table.segments, table.shared, table.slots, plan.counts, plan.poison
    )
    merge = merge_config(*feats.shape, plan.num_classes, config.segment_rows)
    # a copy: a change of the moments' counts in place must not change the plan
    return RawMoments(plan.counts.clone(), *grouped_moments(feats, rows, config, merge))


def cpu_operator(feats: Tensor, labels: Tensor, num_classes: int) -> RawMoments:
    """`cpu` through the dispatcher: can be traced, faked and compiled."""
    return RawMoments(*_CPU(feats, labels, num_classes))


def triton_operator(feats: Tensor, labels: Tensor, num_classes: int) -> RawMoments:
    """`triton` through the dispatcher; the reference on the CPU, where opcheck needs no GPU."""
    return RawMoments(*_TRITON(feats, labels, num_classes))


_Five = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def _five(raw: RawMoments) -> _Five:
    return (*raw,)  # a schema wants a plain tuple


def _fake(feats: Tensor, labels: Tensor, num_classes: int) -> _Five:
    del labels
    double = torch.float64
    return (
        feats.new_empty(num_classes, dtype=torch.int64),
        feats.new_empty((num_classes, feats.shape[1]), dtype=double),
        feats.new_empty(num_classes, dtype=double),
        feats.new_empty((), dtype=double),
        feats.new_empty((), dtype=double),
    )


def _on_cpu(feats: Tensor, labels: Tensor, num_classes: int) -> _Five:
    run = reference if _raw.extension is None else cpu
    return _five(run(feats, labels, num_classes))


def _by_reference(feats: Tensor, labels: Tensor, num_classes: int) -> _Five:
    return _five(reference(feats, labels, num_classes))


def _by_kernels(feats: Tensor, labels: Tensor, num_classes: int) -> _Five:
    return _five(triton(feats, labels, num_classes))


_ARGUMENTS = (
    "(Tensor feats, Tensor labels, SymInt num_classes) -> (Tensor, Tensor, Tensor, Tensor, Tensor)"
)
_CPU = operator(f"class_moments{_ARGUMENTS}", _fake, cpu=_on_cpu)
_TRITON = operator(f"triton_moments{_ARGUMENTS}", _fake, cpu=_by_reference, cuda=_by_kernels)
