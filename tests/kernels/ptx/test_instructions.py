"""Tests what single instructions compute, against NumPy."""

import numpy as np
import pytest
import torch
from ptx.machine import Device
from ptx.program import DTYPES
from ptx.snippets import execute, place

THREADS = 32
RNG = np.random.default_rng(0)
F32, F64, U32 = np.float32, np.float64, np.uint32
SPECIAL = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-40, 1.0, -1.5, 2.5, -3.5, 1e30, 3e38]


def run(body, into, *given, seed=None, threads=THREADS):
    """The %d of every thread after ``body``; %a0, %a1, ... are its entries of the arrays given."""
    arrays = {f"in{n}": np.resize(np.asarray(a), threads) for n, a in enumerate(given)}
    into = np.dtype(into)
    lines = []
    for number, array in enumerate(arrays.values()):
        kind = f".b{8 * array.itemsize}"
        lines += [f".reg {kind} %a{number};", place("%b0", f"in{number}", "%lane", array.itemsize)]
        lines += [f"ld.global{kind} %a{number}, [ %b0 + 0 ];"]
    lines += [f".reg .b{8 * into.itemsize} %d;", body, place("%b0", "out", "%lane", into.itemsize)]
    lines += [f"st.global.b{8 * into.itemsize} [ %b0 + 0 ], %d;"]
    arrays["out"] = np.zeros(threads, into)
    return execute("\n".join(lines), threads, device=Device(seed), **arrays)["out"]


def floats(dtype, count=THREADS):
    values = RNG.standard_normal(count) * 10.0 ** RNG.integers(-6, 6, count)
    values[: len(SPECIAL)] = SPECIAL
    with np.errstate(over="ignore"):
        return RNG.permutation(values).astype(dtype)


def integers(dtype, count=THREADS):
    limits = np.iinfo(dtype)
    values = RNG.integers(limits.min, limits.max, count, dtype, endpoint=True)
    values[:4] = [0, 1, limits.min, limits.max]
    return values


def same(found, expected):
    expected = np.asarray(expected)
    assert found.dtype == expected.dtype
    nan = np.isnan(expected) if expected.dtype.kind == "f" else np.zeros(len(expected), bool)
    bits = f"u{expected.itemsize}"
    np.testing.assert_array_equal(found[~nan].view(bits), expected[~nan].view(bits))
    assert np.isnan(found[nan].astype(float)).all()


BINARY = {"add": np.add, "sub": np.subtract, "mul": np.multiply}


@pytest.mark.parametrize("kind", ["f32", "f64"])
@pytest.mark.parametrize("name", [*BINARY, "div", "min", "max"])
@np.errstate(all="ignore")
def test_arithmetic_of_floats(name, kind):
    dtype = DTYPES[kind]
    a, b = floats(dtype), floats(dtype)
    functions = BINARY | {"div": np.divide, "min": np.fmin, "max": np.fmax}
    opcode = f"{name}.rn.{kind}" if name == "div" else f"{name}.{kind}"
    expected = functions[name](a, b)
    if name in ("min", "max"):  # NumPy may return either zero
        both = (a == 0) & (b == 0)
        sign = np.signbit(a) | np.signbit(b) if name == "min" else np.signbit(a) & np.signbit(b)
        expected = np.where(both, np.copysign(dtype.type(0), np.where(sign, -1, 1)), expected)
    same(run(f"{opcode} %d, %a0, %a1;", dtype, a, b), expected.astype(dtype))


@pytest.mark.parametrize("kind", ["s32", "u32", "s64", "u64", "s16"])
@pytest.mark.parametrize("name", [*BINARY, "min", "max"])
@np.errstate(all="ignore")
def test_arithmetic_of_integers_wraps_around(name, kind):
    dtype = DTYPES[kind]
    a, b = integers(dtype), RNG.permutation(integers(dtype))
    functions = BINARY | {"min": np.minimum, "max": np.maximum}
    opcode = f"mul.lo.{kind}" if name == "mul" else f"{name}.{kind}"
    same(run(f"{opcode} %d, %a0, %a1;", dtype, a, b), functions[name](a, b))


def test_wide_products():
    a, b = integers(np.int32), RNG.permutation(integers(np.int32))
    same(run("mul.wide.s32 %d, %a0, %a1;", np.int64, a, b), a.astype(np.int64) * b)
    c = integers(np.int64)
    with np.errstate(over="ignore"):
        expected = a.astype(np.int64) * b + c
    same(run("mad.wide.s32 %d, %a0, %a1, %a2;", np.int64, a, b, c), expected)


def test_division_of_integers_truncates():
    a, b = np.array([7, -7, 7, -7], np.int32), np.array([2, 2, -2, -2], np.int32)
    same(run("div.s32 %d, %a0, %a1;", np.int32, a, b)[:4], np.array([3, -3, -3, 3], np.int32))
    same(run("rem.s32 %d, %a0, %a1;", np.int32, a, b)[:4], np.array([1, -1, 1, -1], np.int32))


def test_fused_product_is_rounded_once():
    """Cases in which two roundings, also those of float64, give another result."""
    from fractions import Fraction

    a = np.array([1 + 2**-12, 1 + 2**-23, 3.0, 1e-30, 2.0**-100, 1 + 2**-12], F32)
    b = np.array([1 + 2**-12, 1 - 2**-23, 1 / 3, 1e-15, 2.0**-40, 1.0], F32)
    c = np.array([-1.0, -1.0, -1.0, 0.0, 2.0**-126, 2.0**-80], F32)
    found = run("fma.rn.f32 %d, %a0, %a1, %a2;", F32, a, b, c)[: len(a)]
    for x, y, z, value in zip(a, b, c, found, strict=True):
        exact = Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z))
        steps = [np.nextafter(value, F32(s * np.inf)) for s in (-1, 1)]
        distance = abs(Fraction(float(value)) - exact)
        assert all(distance <= abs(Fraction(float(step)) - exact) for step in steps)
    wide = run("fma.rn.f64 %d, %a0, %a1, %a2;", F64, *([1 + 2**-30] * 2), -1.0)
    assert wide[0] == 2**-29 + 2**-60


@pytest.mark.parametrize("shift", [0, 1, 31, 32, 40])
def test_shifts(shift):
    a = integers(np.int32)
    bits = a.astype(np.int64) >> min(shift, 31)
    same(run(f"shr.s32 %d, %a0, {shift};", np.int32, a), bits.astype(np.int32))
    plain = a.view(U32).astype(np.uint64)
    same(run(f"shr.u32 %d, %a0, {shift};", U32, a), (plain >> np.uint64(shift)).astype(U32))
    same(run(f"shl.b32 %d, %a0, {shift};", U32, a), (plain << np.uint64(shift)).astype(U32))


@pytest.mark.parametrize("name", ["eq", "ne", "lt", "le", "gt", "ge", "ltu", "geu", "num", "nan"])
def test_comparisons(name):
    a, b = floats(F32), RNG.permutation(floats(F32))
    with np.errstate(invalid="ignore"):
        missing = np.isnan(a) | np.isnan(b)
        plain = {"eq": a == b, "ne": a != b, "lt": a < b, "le": a <= b, "gt": a > b, "ge": a >= b}
    expected = {"num": ~missing, "nan": missing}.get(name)
    if expected is None:
        expected = plain[name[:2]] & ~missing
        expected = expected | missing if name.endswith("u") and len(name) == 3 else expected
    body = f"setp.{name}.f32 %q, %a0, %a1; selp.b32 %d, 1, 0, %q;"
    same(run(body, U32, a, b), expected.astype(U32))


def test_a_predicate_combines_with_another():
    a = np.arange(THREADS, dtype=np.int32)
    body = "setp.gt.s32 %q, %a0, 5; setp.lt.and.s32 %q, %a0, 9, %q; selp.b32 %d, 1, 0, %q;"
    assert np.flatnonzero(run(body, U32, a)).tolist() == [6, 7, 8]


def test_a_guard_leaves_the_other_threads_alone():
    a = np.arange(THREADS, dtype=U32)
    body = "mov.b32 %d, 7; setp.ge.u32 %q, %a0, 30; @!%q add.s32 %d, %d, %a0;"
    same(run(body, U32, a), np.where(a < 30, 7 + a, 7).astype(U32))


# conversions

MODES = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["s32", "u32", "s64", "s8"])
def test_floats_to_integers_round_and_saturate(kind, mode):
    a = np.concatenate((floats(F32, 16), np.array([0.5, 1.5, 2.5, -0.5, -2.5, 127.5, 3e9], F32)))
    limits = np.iinfo(DTYPES[kind])
    expected = [
        0 if np.isnan(x) else int(np.clip(float(MODES[mode](x)), limits.min, limits.max))
        for x in a.astype(F64)
    ]
    into = np.int32 if kind == "s8" else DTYPES[kind]
    expected = np.array([min(x, limits.max) for x in expected]).astype(into)
    same(run(f"cvt.{mode}.{kind}.f32 %d, %a0;", into, a)[: len(a)], expected)
    if mode != "rzi" and kind == "s32":
        same(run(f"cvt.{mode}.f32.f32 %d, %a0;", F32, a)[: len(a)], MODES[mode](a))


@pytest.mark.parametrize("mode", ["rn", "rz", "rm", "rp"])
@np.errstate(all="ignore")
def test_rounding_modes_of_narrower_floats(mode):
    a = np.concatenate((floats(F64, 20), 1 + 2.0 ** -np.arange(20, 32.0)))
    found = run(f"cvt.{mode}.f32.f64 %d, %a0;", F32, a)
    near = a.astype(F32)
    wrong = {"rn": near != near, "rz": abs(near) > abs(a), "rm": near > a, "rp": near < a}[mode]
    toward = {"rn": near, "rz": F32(0) * near, "rm": F32(-np.inf), "rp": F32(np.inf)}[mode]
    same(found, np.where(wrong & ~np.isnan(near), np.nextafter(near, toward), near))


@np.errstate(all="ignore")
def test_half_precision():
    a = floats(F32)
    same(run("cvt.rn.f16.f32 %d, %a0;", np.float16, a), a.astype(np.float16))
    halves = np.arange(0, 2**16, 2**11 + 1, dtype=np.uint16)
    expected = np.resize(halves, THREADS).view(np.float16)
    same(run("cvt.f32.f16 %d, %a0;", F32, halves), expected.astype(F32))
    same(run("cvt.f64.f16 %d, %a0;", F64, halves), expected.astype(F64))


def bfloat(x):
    """The bits of the nearest bfloat16, by torch."""
    return torch.from_numpy(np.array(x, F32)).to(torch.bfloat16).view(torch.int16).numpy()


def test_bfloat16_rounds_to_the_even_neighbour():
    ties = np.array([1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8, 3.4e38, 1e-40], F32)
    a = np.concatenate((ties, floats(F32, 27)))
    number = ~np.isnan(a)
    found = run("cvt.rn.bf16.f32 %d, %a0;", np.int16, a)
    assert (found[number] == bfloat(a)[number]).all()
    assert found[~number].tolist() == [0x7FFF] * (~number).sum()
    same(run("cvt.f32.bf16 %d, %a0;", F32, found), (found.view("u2").astype(U32) << 16).view(F32))
    pairs = run("cvt.rn.bf16x2.f32 %d, %a0, %a1;", U32, np.ones(32, F32), a)
    assert (pairs >> 16 == 0x3F80).all()
    assert ((pairs & 0xFFFF).astype(np.uint16) == found.view(np.uint16)).all()


def test_bfloat16_arithmetic():
    a, b = (RNG.standard_normal(THREADS).astype(F32) for _ in range(2))
    bits_a, bits_b = bfloat(a), bfloat(b)
    exact_a, exact_b = ((x.view("u2").astype(U32) << 16).view(F32) for x in (bits_a, bits_b))
    for name, function in (("max", np.maximum), ("min", np.minimum), ("add", np.add)):
        found = run(f"{name}.bf16 %d, %a0, %a1;", np.int16, bits_a, bits_b)
        same(found, bfloat(function(exact_a, exact_b)))
    same(run("abs.bf16 %d, %a0;", np.int16, bits_a), bits_a & np.int16(0x7FFF))
    pairs = [x.view("u2").astype(U32) << 16 | 0x3F80 for x in (bits_a, bits_b)]
    found = run("max.bf16x2 %d, %a0, %a1;", U32, *pairs)
    expected = bfloat(np.maximum(exact_a, exact_b)).view("u2").astype(U32) << 16 | 0x3F80
    same(found, expected.astype(U32))


def test_tf32_rounds_ties_away_from_zero():
    a = np.array([1 + 2**-11, -1 - 2**-11, 1 + 2**-12, 0.1], F32)
    expected = np.array([1 + 2**-10, -1 - 2**-10, 1.0, 0.0999755859375], F32)
    same(run("cvt.rna.tf32.f32 %d, %a0;", F32, a)[:4], expected)


def test_approximate_instructions_err_within_their_bound():
    a, b = (np.abs(RNG.standard_normal(THREADS).astype(F32)) + F32(0.1) for _ in range(2))
    cases = {"div.full.f32 %d, %a0, %a1;": (a / b, 2), "sqrt.approx.f32 %d, %a0;": (np.sqrt(a), 1)}
    for body, (exact, units) in cases.items():
        same(run(body, F32, a, b), exact)
        errors = run(body, F32, a, b, seed=1).view(np.int32) - exact.view(np.int32)
        assert 0 < np.abs(errors).max() <= units
        assert (run(body, F32, a, b, seed=2) != run(body, F32, a, b, seed=1)).any()


def test_subnormal_numbers_are_flushed_where_the_instruction_says_so():
    a = np.array([1e-40, -1e-40, 1.0], F32)
    same(run("add.ftz.f32 %d, %a0, %a0;", F32, a)[:3], np.array([0.0, -0.0, 2.0], F32))
    same(run("add.f32 %d, %a0, %a0;", F32, a)[:3], a + a)


def test_bit_fields_bytes_and_parts():
    a, b = integers(U32), integers(U32)
    same(run("bfe.u32 %d, %a0, 4, 8;", U32, a), a >> 4 & 255)
    signed = (a << U32(20)).view(np.int32) >> 24
    same(run("bfe.s32 %d, %a0, 4, 8;", np.int32, a), signed)
    expected = (a >> 8 & 0xFF) | (b << U32(8) & 0xFF00) | (a << U32(16))
    same(run("prmt.b32 %d, %a0, %a1, 0x1041;", U32, a, b), expected)
    parts = ".reg .b16 %x, %y; mov.b32 {%x, %y}, %a0; mov.b32 %d, {%y, %x};"
    same(run(parts, U32, a), a >> 16 | a << U32(16))
    same(run("popc.b32 %d, %a0;", U32, a), np.array([bin(x).count("1") for x in a], U32))


def test_narrow_values_are_extended_by_their_sign():
    a = np.array([-1, 5], np.int8)
    same(run("cvt.s32.s8 %d, %a0;", np.int32, a)[:2], np.array([-1, 5], np.int32))
    same(run("cvt.u32.u8 %d, %a0;", U32, a)[:2], np.array([255, 5], U32))


def test_an_unknown_instruction_is_named():
    with pytest.raises(NotImplementedError, match=r"mul\.hi\.u32"):
        run("mul.hi.u32 %d, %a0, %a0;", U32, integers(U32))
    with pytest.raises(NotImplementedError, match=r"add\.rz\.f32"):
        run("add.rz.f32 %d, %a0, %a0;", F32, floats(F32))


# instructions of a warp


@pytest.mark.parametrize("threads", [32, 128])
def test_shuffles(threads):
    lane = np.arange(threads) % 32
    base = np.arange(threads) - lane
    a = integers(U32, threads)
    sources = {
        "bfly.b32 %d, %a0, 5, 31": base + (lane ^ 5),
        "down.b32 %d, %a0, 3, 31": base + np.where(lane + 3 > 31, lane, lane + 3),
        "up.b32 %d, %a0, 4, 0": base + np.where(lane < 4, lane, lane - 4),
        "idx.b32 %d, %a0, 9, 31": base + 9,
        "bfly.b32 %d, %a0, 1, 0x1c1f": base + (lane ^ 1),  # in segments of four
        "down.b32 %d, %a0, 1, 0x1c1f": base + np.where(lane % 4 == 3, lane, lane + 1),
        "idx.b32 %d, %a0, 2, 0x1c1f": base + lane // 4 * 4 + 2,
        "idx.b32 %d, %a0, %a1, 31": base + (lane * 7) % 32,
    }
    for body, source in sources.items():
        body = f"shfl.sync.{body}, -1;"
        found = run(body, U32, a, (lane * 7 % 32).astype(U32), threads=threads)
        same(found, a[source])


def test_reductions_of_a_warp():
    a = integers(np.int32, 64)
    for name, function in (("min", np.min), ("max", np.max)):
        found = run(f"redux.sync.{name}.s32 %d, %a0, -1;", np.int32, a, threads=64)
        assert (found.reshape(2, 32) == function(a.reshape(2, 32), 1)[:, None]).all()
    found = run("redux.sync.or.b32 %d, %a0, -1;", U32, np.arange(32, dtype=U32) % 8)
    assert (found == 7).all()


@pytest.mark.parametrize("kind", ["tf32", "bf16", "f16", "f64"])
def test_products_of_small_matrices(kind):
    """The fragments as the manual lays them out, entry by entry."""
    rows, columns, deep = {"tf32": (16, 8, 8), "f64": (8, 8, 4)}.get(kind, (16, 8, 16))
    a = RNG.integers(-8, 8, (rows, deep)).astype(F64)
    b = RNG.integers(-8, 8, (deep, columns)).astype(F64)
    c = RNG.integers(-8, 8, (rows, columns)).astype(F64)
    lane = np.arange(32)
    group, member = lane // 4, lane % 4
    if kind == "f64":
        given = [a[group, member], b[member, group], c[group, 2 * member], c[group, 2 * member + 1]]
        body = "mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {X, %r}, {%a0}, {%a1}, {%a2, %a3};"
        places, dtype = [(group, 2 * member), (group, 2 * member + 1)], F64
        given = [x.astype(F64) for x in given]
    else:
        per = 1 if kind == "tf32" else 2
        left = [(group + 8 * (j % 2), per * member + deep // 2 * (j // 2), per) for j in range(4)]
        right = [(per * member + deep // 2 * j, per) for j in range(2)]
        given = [pack([a[r, k + i] for i in range(n)], kind) for r, k, n in left]
        given += [pack([b[k + i, group] for i in range(n)], kind) for k, n in right]
        places = [(group + 8 * (j // 2), 2 * member + j % 2) for j in range(4)]
        given += [c[where].astype(F32) for where in places]
        shape = "m16n8k8" if kind == "tf32" else "m16n8k16"
        names = [
            ", ".join(f"%a{n}" for n in part) for part in (range(4), range(4, 6), range(6, 10))
        ]
        body = (
            f"mma.sync.aligned.{shape}.row.col.f32.{kind}.{kind}.f32 {{X, %r, %s, %u}}, "
            f"{{{names[0]}}}, {{{names[1]}}}, {{{names[2]}}};"
        )
        dtype = F32
    expected = a @ b + c
    declared = f".reg .b{8 * np.dtype(dtype).itemsize} %r, %s, %u;"
    for number, where in enumerate(places):
        names = ["%r", "%s", "%u"]
        names.insert(number, "%d")
        outputs = ", ".join(names[: len(places)])
        start = body.index("{X"), body.index("}") + 1
        text = declared + body[: start[0]] + "{" + outputs + "}" + body[start[1] :]
        same(run(text, dtype, *given), expected[where].astype(dtype))


def pack(values, kind):
    """A register of 32 bits with one or two entries."""
    if kind == "tf32":
        return values[0].astype(F32).view(U32)
    halves = [
        bfloat(v).view(np.uint16) if kind == "bf16" else v.astype(np.float16).view(np.uint16)
        for v in values
    ]
    return halves[0].astype(U32) | halves[1].astype(U32) << 16


def test_divergent_paths_meet_again():
    """A loop whose length differs by thread, then a shuffle that needs all of them."""
    body = """
    mov.b32 %d, 0;
    AGAIN:
    add.s32 %d, %d, 1;
    setp.lt.u32 %q, %d, %a0;
    @%q bra AGAIN;
    shfl.sync.bfly.b32 %d, %d, 1, 31, -1;
    """
    a = np.arange(1, 33, dtype=U32)
    same(run(body, U32, a), a.reshape(-1, 2)[:, ::-1].reshape(-1))
