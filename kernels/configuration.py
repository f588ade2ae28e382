"""Launch configurations of the kernels, and the rules that choose them.

This module does not import Triton. The rules count bytes and rows; none of their constants was
tuned on a device.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace

# The following tables are keyed by the bytes of an entry.
# The widest row of a tile, in entries. It takes 4 or 8 warps, so several programs share a
# multiprocessor. For wider rows a program loops over blocks of columns.
_WIDEST = {8: 1024, 4: 2048, 2: 1024}
# Entries of one row that a thread holds. The shift and both sums each take this many registers.
_PER_THREAD = {8: 4, 4: 8, 2: 8}
# Bytes of a tile that a thread loads. The register counts in aot.json let 20 warps reside on a
# multiprocessor, which keeps at least 40 KB in flight. Hiding a latency of 700 ns at 4.3 TB/s over
# 132 multiprocessors needs 23 KB.
_THREAD_BYTES = {8: 128, 4: 128, 2: 64}
_WARPS_RESIDENT = {8: 16, 4: 20, 2: 20}
_TINY_WARPS = 8
_TINY_ENTRIES = 16  # most entries of a tile per thread
_TINY_ROWS = {8: 8, 4: 16, 2: 16}  # most rows of a tile
_SHORTEST, _LONGEST = 32, 256  # bounds on the rows of a segment


@dataclass(frozen=True)
class SegmentsConfig:
    """Launch of the segments kernel: one program per segment: rows that share a class."""

    tile_rows: int  # rows loaded at once
    tile_cols: int  # columns loaded at once, a power of two
    segment_rows: int  # largest number of rows in a segment, a multiple of tile_rows
    warps: int


@dataclass(frozen=True)
class TinyConfig:
    """Launch of the single kernel for small inputs: one program per class."""

    tile_rows: int
    tile_cols: int
    labels: int  # labels read at once, a power of two
    classes: int  # power of two, at least K; the last program holds all norms at once
    warps: int


@dataclass(frozen=True)
class ProjectConfig:
    """Launch of the projection: a program strides over tiles of rows for one block of vectors."""

    tile_rows: int
    tile_cols: int  # columns multiplied in one step of the product
    vectors: int  # vectors of a program, a power of two of at least 16
    blocks: int  # number of programs along the vectors; each block reads all features
    programs: int  # number of programs along the rows
    warps: int
    stages: int


@dataclass(frozen=True)
class GradientConfig:
    """Launch of the gradient through moments: one program per tile of rows."""

    tile_rows: int
    tile_cols: int  # columns of one step, a power of two
    warps: int


@dataclass(frozen=True)
class ScatterConfig:
    """Launch of the scatter matrix: one program per tile of its lower triangle and part of rows."""

    side: int  # edge of a tile, a power of two
    tiles: int  # number of tiles in the lower triangle
    rows: int  # rows multiplied in one step of the product
    flush: int  # rows summed in float32 before they are added in float64
    parts: int  # number of parts of the rows
    span: int  # rows in a part
    warps: int
    stages: int


@dataclass(frozen=True)
class DecideConfig:
    """Launch of the decisions: tiles of rows by tiles of classes, in float32, then in float64."""

    tile_rows: int
    tile_cols: int
    tile_classes: int
    warps: int
    stages: int
    block: int  # rows in which a program of the float64 launch looks for undecided rows
    exact_rows: int
    exact_cols: int
    exact_classes: int


@dataclass(frozen=True)
class NeighborsConfig:
    """Launch of a neighbor search: one program compares a tile of rows with all candidate rows."""

    tile_rows: int
    tile_cols: int
    warps: int


@dataclass(frozen=True)
class MergeConfig:
    """Launch of the merge: one program per block of columns of a class of several segments."""

    tile_segments: int  # segments read at once
    tile_cols: int
    warps: int


@dataclass(frozen=True)
class UpdateConfig:
    """Launches of an update: segments, their merge into the state, and the scatter matrix."""

    segments: SegmentsConfig
    merge: MergeConfig
    scatter: ScatterConfig


def power_of_two(number: int) -> int:
    """The smallest power of two that is at least ``number``."""
    return 1 << (number - 1).bit_length()


def alignment(*numbers: int) -> int:
    """The largest of 16, 8, 4, 2, 1 that divides all of them.

    A kernel receives ``D / alignment`` and multiplies it by the constant ``alignment``. The
    compiler then knows that no vector load crosses the last column. Without this it does not use
    128-bit loads at D = 200.
    """
    return math.gcd(16, *numbers)


def most_registers(warps: int) -> int:
    """Registers of a thread with which 20 warps, in whole programs, share a multiprocessor."""
    programs = max(1, 20 // warps)
    return (1 << 16) // (32 * warps * programs) // 8 * 8


def segments_config(
    rows: int, dim: int, num_classes: int, itemsize: int, multiprocessors: int
) -> SegmentsConfig:
    """The launch for ``rows`` x ``dim`` features of ``itemsize`` bytes in ``num_classes``."""
    cols = min(max(power_of_two(dim), 16), _WIDEST[itemsize])
    per_row = 32 * _PER_THREAD[itemsize]  # entries of a row that a warp holds
    warps = max(1, cols // per_row)
    tile_rows = min(32, 32 * warps * _THREAD_BYTES[itemsize] // (cols * itemsize))
    resident = multiprocessors * max(1, _WARPS_RESIDENT[itemsize] // warps)
    length = _segment_rows(rows, num_classes, resident)
    return SegmentsConfig(tile_rows, cols, -(-length // tile_rows) * tile_rows, warps)


def _segment_rows(rows: int, num_classes: int, resident: int) -> int:
    """The segment length that fills whole waves of ``resident`` programs, at most 256 rows.

    Longer segments produce fewer partial results. A partial result is 8 bytes a column, written
    once and read once, and one program per class merges them. A partly filled last wave would leave
    multiprocessors idle. The bound of 256 rows keeps the sums in float32 short and limits the
    effect of an outlier among a segment's first rows.
    """
    waves = -(-rows // (_LONGEST * resident))
    programs = max(1, waves * resident - num_classes)  # each class ends in a shorter segment
    per_class = -(-rows // num_classes)  # longer segments would be empty at the end
    return min(_LONGEST, max(_SHORTEST, min(-(-rows // programs), 2 * per_class)))


def merge_config(rows: int, dim: int, num_classes: int, segment_rows: int) -> MergeConfig:
    """The launch that merges the segments of each class; more segments take larger tiles.

    Blocks of 128 columns give ten classes enough programs for a third of the multiprocessors.
    """
    segments = power_of_two(max(1, -(-rows // (num_classes * segment_rows))))
    tile_segments, cols = min(max(segments, 8), 16), min(128, max(16, power_of_two(dim)))
    return MergeConfig(tile_segments, cols, 8 if tile_segments * cols > 1024 else 4)


def update_config(rows: int, dim: int, itemsize: int, multiprocessors: int) -> UpdateConfig:
    """The launches of an update by ``rows`` x ``dim`` features of ``itemsize`` bytes.

    Segments and merge are the same for any number of rows. A batch with rows left out is then cut
    and summed exactly as the batch without these rows. Segments are short because a batch is, and
    because most classes of a large vocabulary have few rows in it.
    """
    segments = replace(segments_config(1, dim, 1, itemsize, 1), segment_rows=64)
    cols = min(512, max(16, power_of_two(dim)))
    merge = MergeConfig(4, cols, 8 if cols > 256 else 4)
    return UpdateConfig(segments, merge, scatter_config(rows, dim, multiprocessors))


@functools.lru_cache(maxsize=256)  # a call of a few microseconds waits for it
def tiny_config(rows: int, dim: int, num_classes: int, itemsize: int) -> TinyConfig | None:
    """The launch for an input so small that launches cost more than reading it, otherwise None.

    In the worst case one class holds all rows and one multiprocessor reads them alone. The bounds
    keep that case to tens of microseconds, about the cost of sorting the labels.
    """
    if rows > 4096 or num_classes > 1024 or dim > 2048 or rows * dim * itemsize > 4 << 20:
        return None
    cols = max(16, power_of_two(dim))
    held = 32 * _TINY_WARPS * _TINY_ENTRIES
    tile_rows = max(1, min(_TINY_ROWS[itemsize], held // cols))
    return TinyConfig(
        tile_rows,
        cols,
        min(1024, max(32 * _TINY_WARPS, power_of_two(rows))),
        max(32, power_of_two(num_classes)),
        _TINY_WARPS,
    )


def project_config(rows: int, num_vectors: int, multiprocessors: int) -> ProjectConfig:
    """The launch for ``rows`` rows and ``num_vectors`` directions."""
    vectors = min(64, max(16, power_of_two(num_vectors)))
    tile_rows = 32 if vectors == 64 else 64  # tf32x3 holds three pieces of every operand
    programs = min(-(-rows // tile_rows), 4 * multiprocessors)
    blocks = -(-num_vectors // vectors)
    return ProjectConfig(tile_rows, 32, vectors, blocks, programs, 4, 3)


def gradient_config(rows: int, dim: int) -> GradientConfig:
    """The launch for ``rows`` x ``dim`` features: 8 float64 of a tile for each thread."""
    tile_cols = min(256, power_of_two(dim))
    tile_rows = min(1024 // tile_cols, power_of_two(rows))
    return GradientConfig(tile_rows, tile_cols, 4)


def scatter_config(rows: int, dim: int, multiprocessors: int) -> ScatterConfig:
    """The launch for ``rows`` x ``dim`` features: enough parts for every multiprocessor."""
    side = min(128, max(16, power_of_two(dim)))
    high = -(-dim // side)
    tiles = high * (high + 1) // 2
    wanted = max(1, 4 * multiprocessors // tiles)
    span = -(-rows // (16 * wanted)) * 16
    return ScatterConfig(side, tiles, 16, 512, -(-rows // span), span, 8 if side > 32 else 4, 2)


def decide_config(num_classes: int) -> DecideConfig:
    """The launch for ``num_classes`` scores; a tile is no wider than the classes need."""
    classes = min(64, max(16, power_of_two(num_classes)))
    return DecideConfig(64, 32, classes, 8 if classes == 64 else 4, 3, 256, 32, 16, 32)


def neighbors_config(
    rows: int, itemsize: int, multiprocessors: int, neighbors: int = 1
) -> NeighborsConfig:
    """The launch for ``rows`` rows; few rows get narrow tiles, to occupy all multiprocessors."""
    # a long list of neighbors takes as many registers as the scores
    tile = (8 if neighbors > 16 else 16) if itemsize == 8 else 32
    while tile > 8 and rows // tile < 2 * multiprocessors:
        tile //= 2
    return NeighborsConfig(tile, 64, 4)
