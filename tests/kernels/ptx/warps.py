"""Instructions of a whole warp: shuffles, reductions, and small matrices."""

from __future__ import annotations

from typing import Any

import numpy as np
from ptx import arithmetic as math
from ptx.access import spread
from ptx.memory import WARP, Array
from ptx.operands import WORD, Operands, Run, opcode


@opcode("shfl")
def _shfl(o: Operands) -> Run:
    kind, put = o.parts[2], o.result(o.args[0])
    a, b, c = (o.value(x, WORD) for x in o.args[1:4])
    if "|" in o.args[0]:
        raise o.unknown()

    known: dict[Any, Array] = {}  # the same for every block if all threads ask for the same

    def shuffle(block: Any, mask: Any) -> None:
        block.step(mask)
        by, clamp = b(block), c(block)
        key = (int(by), int(clamp), block.threads) if np.ndim(by) == np.ndim(clamp) == 0 else None
        source = known.get(key) if key else None
        if source is None:
            source = _source(kind, block.every, *(np.asarray(x, np.int64) for x in (by, clamp)))
            if key:
                known[key] = source
        put(block, block.wide(a(block))[source], mask)

    return shuffle


def _source(kind: str, thread: Array, by: Array, clamp: Array) -> Array:
    """The thread from which each thread takes its value."""
    lane, segment = thread % WARP, clamp >> 8 & 31  # the bits of the lane that stay
    bottom = lane & segment
    top = bottom | clamp & 31 & ~segment
    if kind == "up":
        source, inside = lane - by, lane - by >= top
    elif kind == "down":
        source, inside = lane + by, lane + by <= top
    elif kind == "bfly":
        source, inside = lane ^ by, (lane ^ by) <= top
    else:
        source = bottom | by & 31 & ~segment
        inside = source <= top
    return thread - lane + np.where(inside, source, lane)


_REDUCE: dict[str, Any] = {
    "add": np.add, "min": np.minimum, "max": np.maximum, "and": np.bitwise_and,
    "or": np.bitwise_or, "xor": np.bitwise_xor,
}  # fmt: skip


@opcode("redux")
def _redux(o: Operands) -> Run:
    dtype, put, reduced = o.dtype(), o.result(o.args[0]), _REDUCE[o.parts[2]]
    a = o.value(o.args[1], dtype)
    if dtype.kind == "f":
        raise o.unknown()

    def reduce(block: Any, mask: Any) -> None:
        block.step(mask)
        values = block.wide(a(block)).reshape(-1, WARP)
        put(block, np.repeat(reduced.reduce(values, axis=1, dtype=dtype), WARP), mask)

    return reduce


@opcode("ldmatrix")
def _ldmatrix(o: Operands) -> Run:
    """8 x 8 matrices of 16 bits: 8 threads give the rows, 32 get two entries each."""
    puts = [o.result(name) for name in o.vector(o.args[0])]
    where, turned = o.address(o.args[1], 32), "trans" in o.parts

    def load(block: Any, mask: Any) -> None:
        block.step(mask)
        places, lane = where(block), block.every % WARP
        warp = block.every - lane
        active = np.ones(block.threads, bool) if mask is None else mask
        for number, put in enumerate(puts):
            givers = np.flatnonzero((lane // 8 == number) & active)
            rows = block.shared.load(block, givers, places[givers], 16).view(np.uint16)
            rows = spread(rows, givers, block.threads)
            pair = 2 * (lane % 4)[:, None] + np.arange(2)
            if turned:
                found = rows[(warp + 8 * number)[:, None] + pair, (lane // 4)[:, None]]
            else:
                found = rows[(warp + 8 * number + lane // 4)[:, None], pair]
            put(block, np.ascontiguousarray(found).view(np.uint32)[:, 0], mask)

    return load


@opcode("stmatrix")
def _stmatrix(o: Operands) -> Run:
    """The reverse of ldmatrix."""
    where = o.address(o.args[0], 32)
    sources = [o.value(name, WORD) for name in o.vector(o.args[1])]
    if "trans" in o.parts:
        raise o.unknown()

    def store(block: Any, mask: Any) -> None:
        block.step(mask)
        places, lane = where(block), block.every % WARP
        active = np.ones(block.threads, bool) if mask is None else mask
        for number, source in enumerate(sources):
            givers = np.flatnonzero((lane // 8 == number) & active)
            rows = block.wide(source(block)).reshape(-1, 4)  # of 16 bytes, 8 for each warp
            chosen = givers // WARP * 8 + givers % 8
            values = np.ascontiguousarray(rows[chosen]).view(np.uint8)
            block.shared.store(block, givers, places[givers], values)

    return store


_SHAPES = {
    ("m16n8k8", "tf32"): (16, 8, 8), ("m16n8k16", "bf16"): (16, 8, 16),
    ("m16n8k16", "f16"): (16, 8, 16), ("m8n8k4", "f64"): (8, 8, 4),
}  # fmt: skip


@opcode("mma")
def _mma(o: Operands) -> Run:
    """A product of matrices that a warp holds. Here sums are rounded once, at the end."""
    shape, (result, kind, other) = o.parts[3], o.parts[6:9]
    if (shape, kind) not in _SHAPES or kind != other or result not in ("f32", "f64"):
        raise o.unknown()
    rows, columns, depth = _SHAPES[shape, kind]
    into, left, right, start = (o.vector(text) for text in o.args)
    held = np.dtype(np.float64 if kind == "f64" else np.float32)
    word = held if kind == "f64" else WORD
    puts = [o.result(name) for name in into]
    sources = [[o.value(name, word) for name in names] for names in (left, right)]
    initial = [o.value(name, held) for name in start]
    lane = np.arange(WARP)
    group, inner = lane >> 2, lane & 3
    packed = 2 if kind in ("bf16", "f16") else 1
    a_row = [group + 8 * (j % 2) for j in range(len(left))]
    a_deep = [packed * inner + (depth // 2) * (j // 2) for j in range(len(left))]
    b_deep = [packed * inner + (depth // 2) * j for j in range(len(right))]

    def multiply(block: Any, mask: Any) -> None:
        block.step(mask)
        warps = block.threads // WARP
        a, b = np.zeros((warps, rows, depth)), np.zeros((warps, depth, columns))
        c = np.zeros((warps, rows, columns))
        for j, source in enumerate(sources[0]):
            for half, values in enumerate(entries(block.wide(source(block)), kind)):
                a[:, a_row[j], a_deep[j] + half] = values
        for j, source in enumerate(sources[1]):
            for half, values in enumerate(entries(block.wide(source(block)), kind)):
                b[:, b_deep[j] + half, group] = values
        for j, source in enumerate(initial):
            values = block.wide(source(block)).reshape(-1, WARP)
            c[:, group + 8 * (j // 2), 2 * inner + j % 2] = values
        found = (c + a @ b).astype(held)
        for j, put in enumerate(puts):
            values = found[:, group + 8 * (j // 2), 2 * inner + j % 2]
            put(block, np.ascontiguousarray(values).reshape(-1), mask)

    return multiply


def entries(register: Array, kind: str) -> Array:
    """(entries of a register, warps, lanes) in float64."""
    bits = register.reshape(-1, WARP)
    if kind == "f64":
        return bits[None]
    if kind == "tf32":  # the hardware reads no further bits
        return (bits & WORD.type(0xFFFFE000)).view(np.float32)[None].astype(np.float64)
    halves = np.stack([bits & WORD.type(0xFFFF), bits >> WORD.type(16)]).astype(np.uint16)
    plain = math.from_bf16(halves) if kind == "bf16" else halves.view(np.float16)
    return plain.astype(np.float64)
