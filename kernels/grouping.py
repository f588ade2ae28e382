"""Kernels that group rows by label: they make sort keys of labels, and cut sorted rows to segments.

Segments get their numbers without a count of those before them. A class that begins at position b
of the sorted rows has its segments of L rows from number ``b // L + rank`` on. The rank is the
class, or b in a batch with many classes. A class of n rows takes ``ceil(n / L)`` numbers, which is
at most one more than ``(b + n) // L - b // L``, and the rank grows by at least one to the next
class. So no number is used twice; some are not used.

Reference: `ncfast.ops.grouping.build`. The tests in interpreted/test_grouping.py say what a cut is.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ncfast.kernels.launch import OPTIONS, on

_BLOCK = 256
_RANKED = 1024  # most classes whose number is the rank in a batch


@triton.jit(do_not_specialize=["count", "stride", "mask_stride", "ignore", "classes", "missing"])
def fold_labels(
    labels,
    mask,  # (N,) uint8; or None
    keys,  # (N,) of an integer type that holds `missing`
    poison,  # () float64, 0 before the launch: NaN if a label that counts is out of range
    skipped,  # () int64, 0 before the launch: rows left out; or None
    count,
    stride,
    mask_stride,
    ignore,  # label of rows that are left out, with IGNORES
    classes,
    missing,  # key of rows that do not count
    IGNORES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The key of a row is its label, or ``missing``; one program per block of rows."""
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = row < count
    place = row.to(tl.int64)
    label = tl.load(labels + place * stride, mask=live, other=0).to(tl.int64)
    wanted = live
    if mask is not None:
        wanted = wanted & (tl.load(mask + place * mask_stride, mask=live, other=0) != 0)
    if IGNORES:
        wanted = wanted & (label != ignore)
    inside = (label >= 0) & (label < classes)
    tl.store(keys + row, tl.where(wanted & inside, label, missing), mask=live)
    if tl.sum((wanted & ~inside).to(tl.int32), 0) > 0:
        tl.store(poison, float("nan"))
    if skipped is not None:
        tl.atomic_add(skipped, tl.sum((live & ~wanted).to(tl.int64), 0), sem="relaxed")


@triton.jit
def first_at_least(values, count, key, steps):
    """For each ``key``, the first position in sorted ``values`` that is not below it."""
    low = tl.zeros_like(key).to(tl.int32)
    high = low + count
    for _ in tl.range(0, steps):
        middle = low + (high - low) // 2
        inside = low < high
        below = tl.load(values + middle, mask=inside, other=0).to(tl.int64) < key
        low = tl.where(inside & below, middle + 1, low)
        high = tl.where(inside & ~below, middle, high)
    return low


@triton.jit(do_not_specialize=["count", "classes", "steps"])
def find_classes(
    ordered,  # (N,) sorted keys
    order,  # (N,) int64 rows in the order of their keys
    permutation,  # (N,) int32
    counts,  # (K,) int64
    offsets,  # (K,) int64
    count,
    classes,
    steps,  # bits of N
    BLOCK: tl.constexpr,
):
    """Where each class begins and how many rows it has; one program per block of both."""
    lane = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    row = tl.load(order + lane, mask=lane < count, other=0)
    tl.store(permutation + lane, row.to(tl.int32), mask=lane < count)
    owner = lane.to(tl.int64)
    begin = first_at_least(ordered, count, owner, steps)
    end = first_at_least(ordered, count, owner + 1, steps)
    tl.store(offsets + lane, begin.to(tl.int64), mask=lane < classes)
    tl.store(counts + lane, (end - begin).to(tl.int64), mask=lane < classes)


@triton.jit
def last_class(offsets, classes, limit, steps, ROWS, RANK):
    """For each ``limit``, the last class c with ``offsets[c] // ROWS + RANK * c <= limit``."""
    low = tl.zeros_like(limit).to(tl.int32)
    high = low + classes
    for _ in tl.range(0, steps):
        middle = low + (high - low) // 2
        inside = low < high
        begin = tl.load(offsets + middle, mask=inside, other=0)
        right = begin // ROWS + RANK * middle <= limit
        low = tl.where(inside & right, middle + 1, low)
        high = tl.where(inside & ~right, middle, high)
    return tl.maximum(low - 1, 0)


@triton.jit(do_not_specialize=["number", "columns", "classes", "rows", "steps"])
def cut_classes(
    counts,
    offsets,
    segments,  # (4, number) int32, see `SegmentTable`
    shared,  # (4, columns) int32, see `SegmentTable`
    number,
    columns,
    classes,
    rows,  # most rows of a segment
    steps,  # bits of K
    RANKED: tl.constexpr,  # classes of several segments have the number of their class
    BLOCK: tl.constexpr,
):
    """One program per block of both tables."""
    lane = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    owner = last_class(offsets, classes, lane, steps, rows, 1)
    begin = tl.load(offsets + owner)
    held = tl.load(counts + owner)
    inner = lane - (begin // rows + owner)
    used = (inner == 0) | (inner * rows < held)  # an absent class has one segment, too
    length = tl.minimum(tl.maximum(held - inner * rows, 0), rows)
    slot = (begin // rows + owner if RANKED else 2 * begin // rows) + inner
    live = lane < number
    tl.store(segments + lane, tl.where(used, begin + inner * rows, 0).to(tl.int32), mask=live)
    tl.store(segments + number + lane, tl.where(used, length, 0).to(tl.int32), mask=live)
    tl.store(segments + 2 * number + lane, tl.where(used, owner, -1), mask=live)
    slot = tl.where(used & (held > rows), slot, -1).to(tl.int32)
    tl.store(segments + 3 * number + lane, slot, mask=live)

    if RANKED:
        owner = tl.minimum(lane, classes - 1)
    else:  # classes of several segments begin more than `rows` apart
        owner = last_class(offsets, classes, lane, steps, rows + 1, 0)
    begin = tl.load(offsets + owner)
    held = tl.load(counts + owner)
    several = held > rows
    if not RANKED:
        several = several & (begin // (rows + 1) == lane)
    slot = begin // rows + owner if RANKED else 2 * begin // rows
    live = lane < columns
    tl.store(shared + lane, tl.where(several, owner, -1), mask=live)
    tl.store(shared + columns + lane, (begin // rows + owner).to(tl.int32), mask=live)
    tl.store(shared + 2 * columns + lane, ((held + rows - 1) // rows).to(tl.int32), mask=live)
    tl.store(shared + 3 * columns + lane, slot.to(tl.int32), mask=live)


@triton.jit(do_not_specialize=["number", "count", "classes", "rows", "steps"])
def cut_present(
    ordered,  # (N,) sorted keys; K in rows that do not count
    order,  # (N,) int64
    permutation,  # (N,) int32
    segments,  # (5, number) int32, 0 before the launch, see `PresentSegments`
    leaders,  # (N,) int64
    number,
    count,
    classes,
    rows,
    steps,  # bits of N
    RANKED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program per block of sorted rows; the first row of each segment writes it."""
    lane = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = lane < count
    key = tl.load(ordered + lane, mask=live, other=0).to(tl.int64)
    row = tl.load(order + lane, mask=live, other=0)
    tl.store(permutation + lane, row.to(tl.int32), mask=live)
    begin = first_at_least(ordered, count, key, steps)
    held = first_at_least(ordered, count, key + 1, steps) - begin
    counts = live & (key < classes)
    inner = lane - begin
    leader = begin // rows + (key.to(tl.int32) if RANKED else begin)
    tl.store(leaders + row, tl.where(counts, leader, -1).to(tl.int64), mask=live)
    segment = leader + inner // rows
    opens = counts & (inner % rows == 0)
    own = segments + segment
    tl.store(own, lane, mask=opens)
    tl.store(own + number, tl.minimum(held - inner, rows), mask=opens)
    tl.store(own + 2 * number, key.to(tl.int32), mask=opens)
    tl.store(own + 3 * number, segment, mask=opens)
    tl.store(own + 4 * number, tl.where(inner == 0, held, 0), mask=opens)


class PresentSegments(NamedTuple):
    """The rows of a batch that count, cut into segments: runs of rows that share a class.

    Absent classes own no segment. The bound on the number of segments, W = N // L + K for segments
    of L rows, or N // L + N where K is above 1024, does not grow with K. No value is read to
    allocate.
    """

    permutation: Tensor  # (N,) int32: rows in the order of their classes, left-out rows last
    # (5, W) int32: start, length (0 in an unused column), class, the segment's own number, and the
    # rows of the class in its first segment, 0 in the others
    segments: Tensor
    leaders: Tensor  # (N,) int64: the first segment of a row's class; -1 for rows left out
    nan_if_invalid: Tensor  # () float64: NaN if a label that counts is out of range, else 0
    skipped: Tensor  # () int64: rows left out by the mask or `ignore`


def fold(
    labels: Tensor,
    mask: Tensor | None,
    ignore: int | None,
    classes: int,
    missing: int,
    keys: Tensor,
    poison: Tensor,
    skipped: Tensor | None,
) -> None:
    """Write the keys of rows; see `fold_labels`."""
    count = len(labels)
    fold_labels[(triton.cdiv(count, _BLOCK),)](
        labels, mask, keys, poison, skipped, count, labels.stride(0),
        0 if mask is None else mask.stride(0), ignore or 0, classes, missing,
        IGNORES=ignore is not None, BLOCK=_BLOCK, num_warps=4, **OPTIONS,
    )  # fmt: skip


def sorted_classes(
    labels: Tensor, classes: int, narrow: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Counts (K,), permutation (N,), offsets (K,) and poison () of a `LabelPlan`.

    Args:
        labels: (N,) of any integer dtype but the wide unsigned ones.
        classes: K.
        narrow: an integer dtype that holds K - 1.
    """
    count, device = len(labels), labels.device
    keys = torch.empty(count, dtype=narrow, device=device)
    poison = torch.zeros((), dtype=torch.float64, device=device)
    permutation = torch.empty(count, dtype=torch.int32, device=device)
    counts, offsets = torch.empty((2, classes), dtype=torch.int64, device=device).unbind()
    with on(device):
        fold(labels, None, None, classes, 0, keys, poison, None)
        ordered, order = torch.sort(keys, stable=True)
        find_classes[(triton.cdiv(max(count, classes), _BLOCK),)](
            ordered, order, permutation, counts, offsets, count, classes, count.bit_length(),
            BLOCK=_BLOCK, num_warps=4, **OPTIONS,
        )  # fmt: skip
    return counts, permutation, offsets, poison


def cut(count: int, counts: Tensor, offsets: Tensor, rows: int) -> tuple[Tensor, Tensor, int]:
    """Segments (4, W), shared classes (4, M) and slots of a `SegmentTable` of ``count`` rows."""
    classes, device = len(counts), counts.device
    most = count // (rows + 1) + 1  # classes of several segments have more than `rows` rows
    ranked = classes <= most
    number, columns = count // rows + classes, min(classes, most)
    flat = torch.empty(4 * number + 4 * columns, dtype=torch.int32, device=device)
    segments, shared = flat.split((4 * number, 4 * columns))
    with on(device):
        cut_classes[(triton.cdiv(number, _BLOCK),)](
            counts, offsets, segments, shared, number, columns, classes, rows,
            classes.bit_length(), RANKED=ranked, BLOCK=_BLOCK, num_warps=4, **OPTIONS,
        )  # fmt: skip
    slots = number if ranked else 2 * count // rows + 1
    return segments.view(4, number), shared.view(4, columns), slots


def present(
    labels: Tensor,
    mask: Tensor | None,
    ignore: int | None,
    classes: int,
    rows: int,
    narrow: torch.dtype,
) -> PresentSegments:
    """Group the rows that count by class.

    The cuts, and with them the order of all sums, depend on the rows that count alone.

    Args:
        labels: (N,) of any integer dtype but the wide unsigned ones.
        mask: (N,) uint8; rows where it is 0 are left out.
        ignore: rows with this label are left out.
        classes: K.
        rows: most rows of a segment.
        narrow: an integer dtype that holds K.
    """
    count, device = len(labels), labels.device
    ranked = classes <= _RANKED
    number = count // rows + (classes if ranked else count)
    keys = torch.empty(count, dtype=narrow, device=device)
    zeros = torch.zeros(2 + -(-5 * number // 2), dtype=torch.float64, device=device)
    poison, skipped = zeros[0], zeros[1].view(torch.int64)
    table = zeros[2:].view(torch.int32)[: 5 * number]
    permutation = torch.empty(count, dtype=torch.int32, device=device)
    leaders = torch.empty(count, dtype=torch.int64, device=device)
    with on(device):
        fold(labels, mask, ignore, classes, classes, keys, poison, skipped)
        ordered, order = torch.sort(keys, stable=True)
        cut_present[(triton.cdiv(count, _BLOCK),)](
            ordered, order, permutation, table, leaders, number, count, classes, rows,
            count.bit_length(), RANKED=ranked, BLOCK=_BLOCK, num_warps=4, **OPTIONS,
        )  # fmt: skip
    return PresentSegments(permutation, table.view(5, number), leaders, poison, skipped)
