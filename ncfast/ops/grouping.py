"""Rows grouped by label once, for every pass over features that share those labels."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from ncfast import _validate
from ncfast._arrays import Array
from ncfast.ops import _raw

# torch sorts a narrow key several times faster than int64
_NARROW = ((1 << 8, torch.uint8), (1 << 15, torch.int16), (1 << 31, torch.int32))
UNSIGNED = (torch.uint16, torch.uint32, torch.uint64)  # few operations of torch take them


class SegmentTable(NamedTuple):
    """The plan cut into segments: runs of at most ``rows`` sorted rows that share a class.

    The number of segments depends on the data, its bound does not: W = N // rows + K, and no value
    is read to allocate. An absent class owns one segment of length zero.
    """

    rows: int  # bound on a segment's length
    # (4, W) int32: start, length, class (-1 in an unused column), slot of the segment's partial
    # result (-1 for a segment that is all of its class)
    segments: Tensor
    # (4, M) int32, classes of several segments: class (-1 in an unused column), first segment,
    # number of segments, first slot
    shared: Tensor
    slots: int  # bound on the number of slots


@dataclass(frozen=True, eq=False)
class LabelPlan:
    """Labels with their rows sorted by class; made by `ncfast.plan`.

    Takes the place of the labels wherever a function of features and labels asks for them, and
    saves their sort on an accelerator. It holds a copy: changing the labels afterwards does not
    change the plan. A captured CUDA graph reads the memory of the plan; keep the plan as long as
    the graph.

    Attributes:
        labels: (N,), as given.
        num_classes: K.
        counts: (K,) int64; labels out of range are counted to class 0.
        permutation: (N,) int32, the rows in the order of their labels; stable.
        offsets: (K,) int64, where each class starts in `permutation`.
        poison: () float64, NaN if a label is out of range, else zero.
    """

    labels: Tensor
    num_classes: int
    counts: Tensor
    permutation: Tensor
    offsets: Tensor
    poison: Tensor
    _tables: dict[int, _Kept] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        """N, the number of rows."""
        return self.labels.shape[0]

    @property
    def device(self) -> torch.device:
        """Where the plan, and the features it is for, live."""
        return self.labels.device

    def classes(self, num_classes: int | None) -> int:
        """K, after a check that a caller who names it too means the same.

        Raises:
            ValueError: another number of classes is asked for.
        """
        if num_classes is None:
            return self.num_classes
        if _validate.check_num_classes(num_classes) != self.num_classes:
            raise ValueError(
                f"Expected argument `num_classes` to be {self.num_classes}, as in the plan, but "
                f"got {num_classes}. Leave it out beside a plan."
            )
        return self.num_classes

    def segments(self, rows: int) -> SegmentTable:
        """The segment table for segments of at most ``rows`` rows, by a kernel of Triton.

        It is kept for the next call.

        On any stream the table can be used at once: the current stream waits until it is written.
        """
        kept = self._tables.get(rows)
        if self.labels.is_cuda and torch.cuda.is_current_stream_capturing():
            # a tensor made during capture holds nothing until the graph is replayed; torch
            # synchronises when a capture begins, so a table made before is written
            return _cut(self, rows) if kept is None else kept.table
        if kept is None:
            kept = self._tables[rows] = _keep(_cut(self, rows))
        elif kept.written is not None:
            stream = torch.cuda.current_stream(self.device)
            stream.wait_event(kept.written)
            for part in (kept.table.segments, kept.table.shared):
                part.record_stream(stream)  # its memory is not reused before this stream is done
        return kept.table


class _Kept(NamedTuple):
    table: SegmentTable
    written: torch.cuda.Event | None  # recorded after the table on the stream that made it


def _keep(table: SegmentTable) -> _Kept:
    device = table.segments.device
    on_cuda = device.type == "cuda"
    return _Kept(table, torch.cuda.current_stream(device).record_event() if on_cuda else None)


Labels = Array | LabelPlan


def labels_of(labels: Labels) -> Array:
    """The labels that a plan was made of; anything else as it is."""
    return labels.labels if isinstance(labels, LabelPlan) else labels


@torch.no_grad()
def plan(labels: Labels, num_classes: int | None = None) -> LabelPlan:
    """Sort the rows by label once, for as many passes over features as share these labels.

    Pass the result in place of the labels: ``ncfast.rnc1(feats, plan)``. On a GPU this saves the
    sort in every call; on the CPU nothing is saved. Nothing is copied to the host.

    Args:
        labels: (N,), any integer dtype, in 0..K-1; N below 2^31.
        num_classes: K. None takes the largest label plus one, which synchronises with an
            accelerator.

    Raises:
        TypeError: a dtype that cannot be used.
        ValueError: a shape that does not fit; no label; a device without float64; labels out of
            range, where they are on the CPU. On an accelerator such a plan turns results into NaN,
            as such labels do.

    Example:
        >>> import torch, ncfast
        >>> labels = torch.arange(100) % 4
        >>> by_class = ncfast.plan(labels, 4)
        >>> ncfast.class_moments(torch.randn(100, 8), by_class).counts.tolist()
        [25, 25, 25, 25]
    """
    labels = _validate.check_labels(labels_of(labels))
    _validate.check_device("labels", labels.device, "Move them to the CPU: labels.cpu().")
    if not 0 < labels.shape[0] < 1 << 31:
        raise ValueError(
            f"Expected argument `labels` to hold 1 to 2^31 - 1 labels but got {labels.shape[0]}."
        )
    if num_classes is None:
        num_classes = _validate.infer_num_classes(labels)
    else:
        num_classes = _validate.check_num_classes(num_classes)
        if _validate.is_on_host(labels):
            _validate.check_label_values(labels, num_classes)
    return build(labels.detach().clone(), num_classes)


def build(labels: Tensor, num_classes: int) -> LabelPlan:
    """The plan of labels that are checked already and will not change; no host synchronisation."""
    wide = labels.to(torch.int64)
    inside = (wide >= 0) & (wide < num_classes)
    wide = torch.where(inside, wide, 0)
    zero = torch.zeros((), dtype=torch.float64, device=labels.device)
    ordered, permutation = torch.sort(wide.to(narrow_dtype(num_classes)), stable=True)
    # counted by bisection: atomic additions would queue at a few addresses
    index = torch.arange(num_classes, device=labels.device).to(ordered.dtype)
    offsets = torch.searchsorted(ordered, index)
    return LabelPlan(
        labels,
        num_classes,
        torch.searchsorted(ordered, index, right=True) - offsets,
        permutation.to(torch.int32),
        offsets,
        torch.where(inside.all(), zero, torch.nan),
    )


def build_on_device(labels: Tensor, num_classes: int) -> LabelPlan:
    """`build` by kernels of Triton, in four launches."""
    from ncfast.kernels.grouping import sorted_classes

    if labels.dtype in UNSIGNED:
        labels = _raw.as_int64(labels)
    counts, permutation, offsets, poison = sorted_classes(
        labels, num_classes, narrow_dtype(num_classes)
    )
    return LabelPlan(labels, num_classes, counts, permutation, offsets, poison)


def narrow_dtype(number: int) -> torch.dtype:
    """The narrowest integer dtype that holds 0..number-1 and that torch sorts fast."""
    return next(dtype for bound, dtype in _NARROW if number <= bound)


def _cut(plan: LabelPlan, rows: int) -> SegmentTable:
    from ncfast.kernels.grouping import cut

    return SegmentTable(rows, *cut(len(plan), plan.counts, plan.offsets, rows))
