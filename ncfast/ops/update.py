"""Update of class moments in place: a batch is merged into the rows of the classes that it holds.

The reference gives the classes of the batch numbers of their own, takes the moments of the batch by
these numbers, and merges them (Chan, Golub & LeVeque 1983) into the rows of the state. Its cost and
its memory do not grow with the number of classes of the state.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ncfast.kernels.configuration import update_config
from ncfast.ops import _comparison, _raw
from ncfast.ops import moments as class_moments
from ncfast.ops._registry import Operation, operator
from ncfast.ops.blocks import multiprocessors, residuals
from ncfast.ops.grouping import UNSIGNED, narrow_dtype
from ncfast.ops.kept_rows import Kept, keep, out_of_range
from ncfast.ops.moments import RawMoments
from ncfast.ops.summary import Moments

WITH_SCATTER = "with the scatter matrix"  # the path of an update that has one
_OPTIONS = ("mask", "ignore_index", "ignored", "scatter")


@torch.no_grad()
def reference(
    feats: Tensor,
    labels: Tensor,
    state: Moments,
    *,
    mask: Tensor | None = None,
    ignore_index: int | None = None,
    ignored: Tensor | None = None,
    scatter: Tensor | None = None,
) -> None:
    """Merge a batch into ``state``, in place; no host synchronisation.

    Args:
        feats: (N, D) in floats of 16 to 64 bits.
        labels: (N,) integers.
        state: class moments of K classes and D columns, contiguous. The rows of classes that are
            not in the batch are not touched.
        mask: (N,) bool; rows where it is False are left out, whatever they hold.
        ignore_index: rows with this label are left out; None leaves out none.
        ignored: () int64; the number of rows that were left out is added to it.
        scatter: (D, D) float64, N Sigma_W of the rows so far: the sum of the outer products of
            their deviations from the class means. It becomes that of all rows, the whole matrix,
            exactly symmetric.

    Raises:
        ValueError: on the CPU, a label outside 0..K-1 that is not left out; nothing is written.
            On a device, and while something traces, such a label makes the norms NaN.
    """
    if feats.shape[0] == 0:
        return
    kept = keep(feats, labels, state.counts.shape[0], mask, ignore_index)
    raw = class_moments.reference(kept.feats, kept.slots, len(kept.classes))
    counts_here = kept.classes < state.counts.shape[0]
    rows = kept.classes.clamp(max=state.counts.shape[0] - 1)
    before = state.counts.index_select(0, rows).to(torch.float64)
    added = torch.where(counts_here, raw.counts, 0)
    share = added / (before + added).clamp(min=1)
    delta = raw.means - state.means.index_select(0, rows)
    delta = torch.where((added > 0).unsqueeze(1), delta, 0.0)
    between = before * share
    squares = torch.linalg.vector_norm(delta, dim=1).square() * between
    if scatter is not None:
        _add_scatter(scatter, kept, raw.means, delta, between)
    # atomic additions on a device, but the classes differ: only zeros are added to one place twice
    state.means.index_add_(0, rows, delta * share.unsqueeze(1))
    state.within_ss.index_add_(0, rows, torch.where(counts_here, raw.within_ss, 0.0) + squares)
    state.counts.index_add_(0, rows, added)
    state.norm_sum.add_(raw.norm_sum + kept.nan_if_invalid)
    state.norm_max.copy_(torch.maximum(state.norm_max, raw.norm_max + kept.nan_if_invalid))
    if ignored is not None:
        ignored.add_(kept.skipped)


def _add_scatter(
    scatter: Tensor, kept: Kept, means: Tensor, delta: Tensor, between: Tensor
) -> None:
    for residual, _ in residuals(kept.feats, kept.slots, means):
        scatter.addmm_(residual.T, residual)
    scaled = delta * between.sqrt().unsqueeze(1)
    scatter.addmm_(scaled.T, scaled)
    scatter.copy_(scatter.triu() + scatter.triu(1).T)  # a product need not be exactly symmetric


def _cpu(feats: Tensor, labels: Tensor, state: Moments, **options: Any) -> None:
    """By the extension: one pass over the batch and the rows of its classes, all in float64."""
    mask, ignored, scatter = options.get("mask"), options.get("ignored"), options.get("scatter")
    if not _writable(state, ignored, scatter) or not _raw.have_memory(labels, mask):
        return reference(feats, labels, state, **options)
    read, code = _raw.with_code(labels)
    row = _raw.loaded().update_moments(
        *_raw.matrix(feats),
        read.data_ptr(),
        code,
        read.stride(0),
        0 if mask is None else mask.data_ptr(),
        0 if mask is None else mask.stride(0),
        options.get("ignore_index"),
        state.counts.numel(),
        state.counts.data_ptr(),
        state.means.data_ptr(),
        state.within_ss.data_ptr(),
        state.norm_sum.data_ptr(),
        state.norm_max.data_ptr(),
        0 if ignored is None else ignored.data_ptr(),
        0 if scatter is None else scatter.data_ptr(),
        torch.get_num_threads(),
    )
    if row >= 0:
        raise out_of_range(labels, row, len(state.counts))
    return None


def update_plain(feats: object, labels: object, state: Moments) -> bool:
    """Merge a batch of plain CPU tensors into ``state`` in one call of the extension.

    Returns:
        False, with nothing changed, where the checks of `ClassMoments.update_` and an `Operation`
        must look: at anything but plain tensors that fit.

    Raises:
        ValueError: a label outside 0..K-1; nothing is written.
    """
    reader = _raw.tensor_reader(_raw.extension)
    if reader is None:
        return False
    row = reader.update_moments(
        feats,
        labels,
        state.counts,
        state.means,
        state.within_ss,
        state.norm_sum,
        state.norm_max,
    )
    if row >= 0:
        assert isinstance(labels, Tensor)
        raise out_of_range(labels, row, len(state.counts))
    return bool(row == -1)


def _writable(state: Moments, ignored: Tensor | None, scatter: Tensor | None) -> bool:
    """Whether the extension can write to these tensors where they lie."""
    wide, whole = torch.float64, torch.int64
    for tensor, dtype in (  # no function for each: the whole takes a microsecond
        (state.means, wide),
        (state.counts, whole),
        (state.within_ss, wide),
        (state.norm_sum, wide),
        (state.norm_max, wide),
        (ignored, whole),
        (scatter, wide),
    ):
        if tensor is None:
            continue
        if type(tensor) is not Tensor or tensor.dtype is not dtype or not tensor.is_cpu:
            return False
        if not tensor.is_contiguous() or tensor.is_neg():
            return False
    classes, dim = state.means.shape
    fits = state.counts.numel() == classes and state.within_ss.numel() == classes
    return fits and (scatter is None or scatter.numel() == dim * dim)


def _triton(feats: Tensor, labels: Tensor, state: Moments, **options: Any) -> None:
    """By kernels that read the features once, and once more for the scatter matrix.

    The moments have the same bits with rows left out as without these rows. The scatter matrix is
    accurate to float32; with float64 features the reference computes it.
    """
    from ncfast.kernels.grouping import present
    from ncfast.kernels.update import update

    scatter, mask = options.get("scatter"), options.get("mask")
    (count, dim), classes = feats.shape, state.counts.shape[0]
    if count == 0:
        return
    if scatter is not None and feats.dtype == torch.float64:
        return reference(feats, labels, state, **options)
    if labels.dtype in UNSIGNED:
        labels = _raw.as_int64(labels)
    config = update_config(count, dim, feats.dtype.itemsize, multiprocessors(feats.device))
    rows = present(
        labels.resolve_neg(),
        None if mask is None else mask.to(torch.bool).view(torch.uint8),
        options.get("ignore_index"),
        classes,
        config.segments.segment_rows,
        narrow_dtype(classes + 1),
    )
    gained = update(
        feats.resolve_neg(),
        rows,
        state,
        config,
        ignored=options.get("ignored"),
        with_scatter=scatter is not None,
    )
    if scatter is not None:
        scatter.add_(gained)


def _by_operator(feats: Tensor, labels: Tensor, state: Moments, **options: Any) -> None:
    """`_triton` through the dispatcher: can be traced, faked and compiled."""
    parts = state.counts, state.means, state.within_ss, state.norm_sum, state.norm_max
    _OPERATOR(feats.detach(), labels, *parts, *(options.get(name) for name in _OPTIONS))


def _eagerly(feats: Tensor, labels: Tensor, state: Moments, **options: Any) -> None:
    UPDATE.eagerly(feats, labels, state, **options)


def _path(feats: Tensor, labels: Tensor, state: Moments, **options: Any) -> str:
    del feats, labels, state
    return "" if options.get("scatter") is None else WITH_SCATTER


def _implemented(run: Callable[..., None]) -> Callable[..., None]:
    """``run`` with the arguments in the order of the operator's schema."""

    def call(feats: Tensor, labels: Tensor, *given: Any) -> None:
        run(feats, labels, RawMoments(*given[:5]), **dict(zip(_OPTIONS, given[5:], strict=True)))

    return call


_OPERATOR = operator(
    "triton_update(Tensor feats, Tensor labels, Tensor(a!) counts, Tensor(b!) means, "
    "Tensor(c!) within_ss, Tensor(d!) norm_sum, Tensor(e!) norm_max, Tensor? mask, "
    "int? ignore_index, Tensor(f!)? ignored, Tensor(g!)? scatter) -> ()",
    lambda *given: None,
    cpu=_implemented(reference),
    cuda=_implemented(_eagerly),
)
UPDATE = Operation(
    "the update of class moments",
    reference,
    _cpu,
    triton=_triton,
    operator=_by_operator,
    float64=True,
    comparison=_comparison.UPDATE,
    path=_path,
)
