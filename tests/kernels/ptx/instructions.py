"""Instructions that compute: arithmetic, comparisons, conversions and moves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from ptx import access, warps  # noqa: F401  (they register their opcodes)
from ptx import arithmetic as math
from ptx.memory import Array
from ptx.operands import OPCODES, WORD, Operands, Run, opcode
from ptx.program import DTYPES, Kernel

BOOL = np.dtype(bool)


def bind(kernel: Kernel) -> None:
    """Give every instruction its function, once."""
    for instruction in kernel.instructions:
        if instruction.kind == "plain" and instruction.run is None:
            operands = Operands(kernel, instruction)
            make = OPCODES.get(instruction.parts[0])
            if make is None:
                raise operands.unknown()
            instruction.run = make(operands)


@opcode(*math.UNARY, *math.BINARY, "fma", "mad", "min", "max", "shl", "shr", "rem")
def _arithmetic(o: Operands) -> Run:
    base, parts, dtype = o.parts[0], o.parts, o.dtype()
    if {"rz", "rm", "rp", "sat", "hi", "cc"} & set(parts):
        raise o.unknown()
    kinds = [dtype] * 3
    if base in ("shl", "shr"):
        kinds[1] = WORD
    if base == "mad" and "wide" in parts:
        kinds[2] = np.dtype(f"{dtype.kind}{2 * dtype.itemsize}")
    put = o.result(o.args[0])
    sources = [o.value(a, k) for a, k in zip(o.args[1:], kinds, strict=False)]
    compute = _formats(parts[-1], _function(o, base, dtype))
    loose = next((n for (op, how), n in math.LOOSE.items() if op == base and how in parts), 0)
    flush = "ftz" in parts and dtype == np.float32

    def run(block: Any, mask: Any) -> None:
        operands = [source(block) for source in sources]
        if flush:
            operands = [math.flushed(operand) for operand in operands]
        found = compute(*operands)
        if flush:
            found = math.flushed(found)
        if loose and block.device.seed is not None:
            found = math.off_by(loose, np.asarray(found), block.device.seed)
        put(block, found, mask)

    return run


def _formats(kind: str, compute: Callable[..., Any]) -> Callable[..., Any]:
    """A function of floats, for operands in the bits of bfloat16 or in pairs of 16 bits."""
    if kind == "bf16":
        return lambda *given: math.to_bf16(compute(*(math.from_bf16(a) for a in given)))
    if kind == "f16x2":
        half = lambda *given: math.raw(compute(*(a.view(np.float16) for a in given)))  # noqa: E731
    elif kind == "bf16x2":
        half = _formats("bf16", compute)
    else:
        return compute

    def both(*given: Array) -> Array:
        low, high = (
            half(*((a >> WORD.type(by)).astype(np.uint16) for a in given)).astype(np.uint32)
            for by in (0, 16)
        )
        return low | high << WORD.type(16)

    return both


def _function(o: Operands, base: str, dtype: np.dtype[Any]) -> Callable[..., Any]:
    parts = o.parts
    floating = dtype.kind == "f" or parts[-1] in ("bf16", "bf16x2", "f16x2")
    if base == "fma":
        if dtype.kind != "f" or dtype == np.float16:
            raise o.unknown()
        return math.fma32 if dtype == np.float32 else math.fma64
    if base in ("mul", "mad"):
        if "wide" in parts:
            wide = np.dtype(f"{dtype.kind}{2 * dtype.itemsize}")
            product = lambda a, b: a.astype(wide) * b.astype(wide)  # noqa: E731
        else:
            product = np.multiply
        return product if base == "mul" else lambda a, b, c: product(a, b) + c
    if base in ("shl", "shr"):
        return lambda a, b: math.shift(base, a, b)
    if base in ("min", "max"):
        if not floating or "NaN" in parts:
            return np.minimum if base == "min" else np.maximum
        return math.minimum if base == "min" else math.maximum
    if base in ("div", "rem") and not floating:
        return math.quotient if base == "div" else math.remainder
    if base == "neg" and dtype.kind == "u" and not floating:
        raise o.unknown()
    return math.UNARY.get(base) or math.BINARY[base]


@opcode("setp")
def _setp(o: Operands) -> Run:
    name, dtype = o.parts[1], o.dtype()
    put = o.result(o.args[0])
    a, b = (o.value(x, dtype) for x in o.args[1:3])
    flush = "ftz" in o.parts
    if o.parts[-1] in ("bf16", "f16x2", "bf16x2") or len(o.args) > 4:
        raise o.unknown()
    combine = math.BINARY[o.parts[2]] if len(o.args) == 4 else lambda found, _: found
    c = o.value(o.args[3], BOOL) if len(o.args) == 4 else lambda block: None

    def run(block: Any, mask: Any) -> None:
        x, y = a(block), b(block)
        if flush:
            x, y = math.flushed(x), math.flushed(y)
        put(block, combine(math.compare(name, x, y), c(block)), mask)

    return run


@opcode("selp")
def _selp(o: Operands) -> Run:
    dtype, put = o.dtype(), o.result(o.args[0])
    a, b = (o.value(x, dtype) for x in o.args[1:3])
    p = o.value(o.args[3], BOOL)
    return lambda block, mask: put(block, np.asarray(np.where(p(block), a(block), b(block))), mask)


@opcode("bfe")
def _bfe(o: Operands) -> Run:
    if o.dtype().itemsize != 4:
        raise o.unknown()
    put, a = o.result(o.args[0]), o.value(o.args[1], o.dtype())
    b, c = (o.value(x, WORD) for x in o.args[2:])
    return lambda block, mask: put(block, math.bit_field(a(block), b(block), c(block)), mask)


@opcode("prmt")
def _prmt(o: Operands) -> Run:
    if o.parts != ["prmt", "b32"]:
        raise o.unknown()
    put, (a, b, c) = o.result(o.args[0]), (o.value(x, WORD) for x in o.args[1:])
    return lambda block, mask: put(block, math.permuted_bytes(a(block), b(block), c(block)), mask)


@opcode("cvt")
def _cvt(o: Operands) -> Run:
    into, source = o.parts[-2:]
    put, a = o.result(o.args[0]), o.value(o.args[1], DTYPES[source])
    if into in ("bf16x2", "f16x2"):
        b, convert = o.value(o.args[2], DTYPES[source]), _conversion(o, into[:-2], source)

        def pair(block: Any, mask: Any) -> None:
            high, low = (math.raw(convert(x(block))).astype(np.uint32) for x in (a, b))
            put(block, high << WORD.type(16) | low, mask)

        return pair
    convert = _conversion(o, into, source)
    return lambda block, mask: put(block, convert(a(block)), mask)


def _conversion(o: Operands, into: str, source: str) -> Callable[[Any], Any]:
    to, how = DTYPES[into], next((p for p in o.parts if p in math.ROUND), "")
    toward = next((p for p in o.parts if p in math.TOWARD), "")
    if {"sat", "satfinite", "relu", "ftz"} & set(o.parts):
        raise o.unknown()
    if source == "bf16" and into in ("f32", "f64"):
        return lambda a: math.from_bf16(a).astype(to)
    if (into, source) == ("bf16", "f32") and not toward:
        return math.to_bf16
    if (into, source) == ("tf32", "f32") and "rna" in o.parts:
        return math.to_tf32
    if {into, source} & {"bf16", "tf32"}:
        raise o.unknown()
    if source[0] == "f" and into[0] != "f":
        return lambda a: math.float_to_int(math.ROUND[how](a), to)
    if source == into and how:
        return math.ROUND[how]
    if toward and source[0] == "f":
        return lambda a: math.directed(a, to, toward)
    if toward:
        raise o.unknown()
    return lambda a: a.astype(to)


@opcode("mov")
def _mov(o: Operands) -> Run:
    into, source = o.args
    if into.startswith("{"):
        return _unpack(o)
    if source.startswith("{"):
        return _pack(o)
    put, a = o.result(into), o.value(source, o.dtype())
    return lambda block, mask: put(block, a(block), mask)


def _unpack(o: Operands) -> Run:
    names = o.vector(o.args[0])
    narrow = np.dtype(f"u{o.dtype().itemsize // len(names)}")
    puts, a = [o.result(name) for name in names], o.value(o.args[1], o.dtype())

    def run(block: Any, mask: Any) -> None:
        value = a(block)
        for place, put in enumerate(puts):
            by = value.dtype.type(8 * narrow.itemsize * place)
            put(block, (value >> by).astype(narrow), mask)

    return run


def _pack(o: Operands) -> Run:
    names, dtype, put = o.vector(o.args[1]), o.dtype(), o.result(o.args[0])
    narrow = np.dtype(f"u{dtype.itemsize // len(names)}")
    sources = [o.value(name, narrow) for name in names]

    def run(block: Any, mask: Any) -> None:
        value = dtype.type(0)
        for place, source in enumerate(sources):
            by = dtype.type(8 * narrow.itemsize * place)
            value = value | source(block).astype(dtype) << by
        put(block, value, mask)

    return run
