"""Number formats and roundings of PTX in NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from ptx.memory import Array
from ptx.program import UNSIGNED


def fma32(a: Array, b: Array, c: Array) -> Array:
    """Rounded once: the product is exact in float64, and the sum is rounded to odd there."""
    product, c = a.astype(np.float64) * b, c.astype(np.float64)
    total = np.asarray(product + c)
    bits = total.view(np.int64)
    # a second rounding matters at the ties of float32, and below 2^-126, where they lie elsewhere
    if ((bits << 35) == -(2**63)).any() or (np.abs(total) < 2.0**-126).any():
        part = total - product
        error = (product - (total - part)) + (c - part)
        odd = bits + np.where((error > 0) == (total > 0), 1, -1)
        inexact = np.isfinite(error) & (error != 0) & (bits & 1 == 0) & (total != 0)
        total = np.where(inexact, odd, bits).view(np.float64)
    return total.astype(np.float32)


def fma64(a: Array, b: Array, c: Array) -> Array:
    """Product and sum with their errors; rounded twice in rare ties."""
    product = a * b
    (a1, a2), (b1, b2) = _halves(a), _halves(b)
    error = ((a1 * b1 - product) + a1 * b2 + a2 * b1) + a2 * b2
    total = product + c
    part = total - product
    rest = error + ((product - (total - part)) + (c - part))
    return np.where(np.isfinite(rest), total + rest, total)


def _halves(x: Array) -> tuple[Array, Array]:
    high = x * 134217729.0
    high = high - (high - x)
    return high, x - high


def to_bf16(x: Array) -> Array:
    """The bits of the nearest bfloat16; ties go to the even one."""
    bits = np.asarray(x, np.float32).view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))
    return np.where(np.isnan(x), np.uint32(0x7FFF), rounded >> np.uint32(16)).astype(np.uint16)


def from_bf16(bits: Array) -> Array:
    return (np.asarray(bits).astype(np.uint32) << np.uint32(16)).view(np.float32)


def to_tf32(x: Array) -> Array:
    """The bits of the nearest tf32; ties go away from zero."""
    return (np.asarray(x).view(np.uint32) + np.uint32(0x1000)) & np.uint32(0xFFFFE000)


def flushed(x: Array) -> Array:
    """Subnormal float32 are 0."""
    return np.where(np.abs(x) < np.float32(2.0**-126), np.copysign(np.float32(0), x), x)


ROUND: dict[str, Callable[[Array], Array]] = {
    "rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil,
}  # fmt: skip


TOWARD = {"rz": 0.0, "rm": -np.inf, "rp": np.inf}


def directed(x: Array, dtype: np.dtype[Any], how: str) -> Array:
    """A narrower float, rounded toward zero, minus or plus infinity."""
    near = x.astype(dtype)
    exact, wide = x.astype(np.float64), near.astype(np.float64)
    beyond = {"rz": np.abs(wide) > np.abs(exact), "rm": wide > exact, "rp": wide < exact}[how]
    return np.where(beyond, np.nextafter(near, dtype.type(TOWARD[how])), near)


def float_to_int(x: Array, dtype: np.dtype[Any]) -> Array:
    """Integers beyond the range are its ends, NaN is 0."""
    limits = np.iinfo(dtype)
    low, high = float(limits.min), float(limits.max)
    inside = np.clip(np.nan_to_num(x.astype(np.float64), nan=0.0), low, high)
    below = np.where(inside >= high, 0.0, inside).astype(np.int64)
    if dtype == np.uint64:  # values from 2^63 on do not fit int64
        below = np.where(inside >= high, 0.0, inside).astype(np.uint64)
    return np.where(inside >= high, dtype.type(limits.max), below.astype(dtype))


def quotient(a: Array, b: Array) -> Array:
    """Of integers, rounded toward zero. All bits are set where ``b`` is 0."""
    size = np.floor_divide(np.abs(a), np.abs(np.where(b == 0, b.dtype.type(1), b)))
    found = np.where((a < 0) != (b < 0), -size, size)
    return np.where(b == 0, np.invert(a.dtype.type(0)), found)


def remainder(a: Array, b: Array) -> Array:
    """Of integers, with the sign of ``a``."""
    return a - quotient(a, b) * b


def shift(name: str, a: Array, b: Array) -> Array:
    """Shifts by the width or more leave 0, or the sign."""
    bits = 8 * a.dtype.itemsize
    over = b >= bits
    by = np.where(over, 0, b).astype(a.dtype)
    if name == "shl":
        return np.where(over, a.dtype.type(0), a << by)
    rest = a >> a.dtype.type(bits - 1) if a.dtype.kind == "i" else a.dtype.type(0)
    return np.where(over, rest, a >> by)


def bit_field(a: Array, start: Array, length: Array) -> Array:
    """Of 32 bits; signed values extend the top bit of the field."""
    start, length = (np.asarray(x).astype(np.int64) & 0xFF for x in (start, length))
    found = a.astype(np.int64) >> np.minimum(start, 63)
    found &= (np.int64(1) << np.minimum(length, 32)) - 1
    if a.dtype.kind == "i":
        # the top bit of a field that reaches beyond the value is the value's sign
        top = np.int64(1) << np.maximum(np.minimum(length, 32) - 1, 0)
        found = np.where(length > 0, (found ^ top) - top, 0)
    return found.astype(a.dtype)


def permuted_bytes(a: Array, b: Array, selector: Array) -> Array:
    """Four of the eight bytes of ``a`` and ``b``; a selector above 7 repeats the byte's sign."""
    both = a.astype(np.uint64) | b.astype(np.uint64) << np.uint64(32)
    found = np.zeros(np.broadcast(a, b, selector).shape, np.uint64)
    for place in range(4):
        control = selector.astype(np.uint64) >> np.uint64(4 * place)
        byte = both >> (control & np.uint64(7)) * np.uint64(8) & np.uint64(0xFF)
        sign = np.where(byte & np.uint64(0x80), np.uint64(0xFF), np.uint64(0))
        byte = np.where(control & np.uint64(8), sign, byte)
        found |= byte << np.uint64(8 * place)
    return found.astype(np.uint32)


_COMPARE: dict[str, Callable[[Array, Array], Array]] = {
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal,
    "gt": np.greater, "ge": np.greater_equal, "lo": np.less, "ls": np.less_equal,
    "hi": np.greater, "hs": np.greater_equal,
}  # fmt: skip


def compare(name: str, a: Array, b: Array) -> Array:
    """Comparisons of floats are false if one is NaN, or true if the name ends with ``u``."""
    if a.dtype.kind != "f":
        return _COMPARE[name](a, b)
    missing = np.isnan(a) | np.isnan(b)
    if name in ("num", "nan"):
        return missing == (name == "nan")
    if len(name) == 3:
        return _COMPARE[name[:2]](a, b) | missing
    return _COMPARE[name](a, b) & ~missing


def minimum(a: Array, b: Array) -> Array:
    """The other one if one is NaN, and -0 below +0."""
    return np.where((a == b) & np.signbit(a), a, np.fmin(a, b))


def maximum(a: Array, b: Array) -> Array:
    return np.where((a == b) & ~np.signbit(a), a, np.fmax(a, b))


# units in the last place by which a result may be wrong
LOOSE = {("div", "full"): 2, ("div", "approx"): 2, ("sqrt", "approx"): 1, ("rcp", "approx"): 1}
LOOSE |= {("rsqrt", "approx"): 2, ("ex2", "approx"): 2, ("lg2", "approx"): 2}


def off_by(units: int, x: Array, seed: int) -> Array:
    """Wrong by up to so many units in the last place; the same for the same value."""
    mixed = (x.view(np.uint32) ^ np.uint32(seed)) * np.uint32(2654435761) >> np.uint32(16)
    error = (mixed % np.uint32(2 * units + 1)).astype(np.int32) - np.int32(units)
    usual = np.isfinite(x) & (np.abs(x) > 2.0**-120)
    return np.where(usual, (x.view(np.int32) + error).view(np.float32), x)


UNARY: dict[str, Callable[[Array], Array]] = {
    "neg": np.negative, "abs": np.abs, "not": np.invert, "sqrt": np.sqrt,
    "popc": lambda a: np.bitwise_count(a).astype(np.uint32),
    "rcp": lambda a: a.dtype.type(1) / a, "rsqrt": lambda a: a.dtype.type(1) / np.sqrt(a),
    "ex2": np.exp2, "lg2": np.log2,
}  # fmt: skip
BINARY: dict[str, Callable[[Array, Array], Array]] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "and": np.bitwise_and,
    "or": np.bitwise_or, "xor": np.bitwise_xor, "div": np.divide,
}  # fmt: skip


def raw(x: Array) -> Array:
    """The bits as unsigned integers."""
    return x.view(UNSIGNED[x.dtype.itemsize])
