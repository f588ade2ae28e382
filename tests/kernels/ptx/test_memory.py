"""Tests that forbidden accesses and races are found, and that what is allowed is not."""

import numpy as np
import pytest
from ptx.machine import Device
from ptx.memory import Fault
from ptx.snippets import execute, place

U32 = np.uint32
X = np.arange(64, dtype=U32)
OUT = np.zeros(64, U32)
SHARED = ".reg .b32 %s; shl.b32 %s, %lane, 2; mov.b32 %r0, global_smem; add.s32 %s, %s, %r0;"
LOAD = place("%b0", "x", "%thread", 4) + "ld.global.b32 %r1, [ %b0 + 0 ];"
STORE = place("%b1", "out", "%thread", 4) + "st.global.b32 [ %b1 + 0 ], %r2;"
# each thread writes its place in shared memory, and reads that of the thread `far` further on
EXCHANGE = """
{shared} {load}
st.shared.b32 [ %s + 0 ], %r1;
{between}
add.s32 %r3, %lane, {far}; and.b32 %r3, %r3, 63; shl.b32 %r3, %r3, 2; add.s32 %r3, %r3, %r0;
ld.shared.b32 %r2, [ %r3 + 0 ];
{store}
"""


def exchange(between, far, **options):
    body = EXCHANGE.format(shared=SHARED, load=LOAD, store=STORE, between=between, far=far)
    return execute(body, threads=64, x=X, out=OUT, **options)["out"]


@pytest.mark.parametrize("width", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("offset", [-16, 0, 128 - 16, 128])
def test_bounds_and_alignment(width, offset):
    vector = {16: "v2.b64 {%b1, %b2}", 8: "b64 %b1", 4: "b32 %r1", 2: "b16 %h0", 1: "b8 %r1"}
    kind, _, names = vector[width].partition(" ")
    body = f"ld.global.{kind} {names}, [ %x + {offset} ];"
    if 0 <= offset < 128:
        execute(body, x=X[:32])
        if width > 1:
            body = f"ld.global.{kind} {names}, [ %x + {offset + width // 2} ];"
            with pytest.raises(Fault, match="misaligned"):
                execute(body, x=X[:32])
    else:
        with pytest.raises(Fault, match=r"out of bounds.* at x \+ .*32 threads, first 0"):
            execute(body, x=X[:32])


def test_a_pointer_does_not_enter_the_next_tensor():
    with pytest.raises(Fault, match=r"out of bounds: 4 bytes at x \+ 256"):
        execute("st.global.b32 [ %x + 256 ], %lane;", x=X, out=OUT)


def test_memory_that_nobody_wrote():
    with pytest.raises(Fault, match=r"never written: 4 bytes read at x \+ 0"):
        execute(LOAD, x=X, empty=["x"])
    body = "mov.b32 %r2, %lane;" + STORE + "ld.global.b32 %r1, [ %b1 + 0 ];"
    assert execute(body, out=OUT[:32], empty=["out"])["out"].tolist() == list(range(32))


def test_a_register_that_nobody_wrote():
    with pytest.raises(Fault, match="register %r2 read before it is written"):
        execute(STORE, out=OUT)


def test_a_narrow_load_of_an_argument_takes_its_low_bytes():
    body = ".reg .b16 %h2; ld.param.u8 %h2, [param_x]; cvt.u32.u16 %r2, %h2;" + STORE
    device = Device()
    found = execute(body, device=device, x=X, out=OUT)["out"]
    assert (found[:32] == device.memory.windows[1].base % 256).all()


def test_a_fault_names_the_instruction_and_its_source():
    body = ".loc 1 7 3 // neighbors.py:7:3\n ld.global.b32 %r1, [ %x + 2 ];"
    with pytest.raises(Fault, match=r"(?s)misaligned.*neighbors\.py:7: ld\.global\.b32 %r1"):
        execute(body, x=X)


def test_shared_memory_between_warps_needs_a_barrier():
    assert (exchange("bar.sync 0;", 32) == np.roll(X, -32)).all()
    with pytest.raises(Fault, match="race: read of another thread's write"):
        exchange("", 32)


def test_shared_memory_within_a_warp():
    """Threads of a warp that have met in between see each other's writes."""
    meeting = "shfl.sync.bfly.b32 %r4, %r1, 1, 31, -1;"
    with pytest.raises(Fault, match="race"):
        exchange("", 1)
    # 31 -> 32 and 63 -> 0 cross the warps: compare threads in pairs of neighbours only
    body = EXCHANGE.replace("add.s32 %r3, %lane, {far}; and.b32 %r3, %r3, 63", "{pairs}")
    given = {"shared": SHARED, "load": LOAD, "store": STORE, "pairs": "xor.b32 %r3, %lane, 1"}
    text = body.format(between=meeting, **given)
    found = execute(text, threads=64, x=X, out=OUT)["out"]
    assert (found == X.reshape(-1, 2)[:, ::-1].reshape(-1)).all()
    with pytest.raises(Fault, match="race"):  # a shuffle orders no memory, taken strictly
        execute(text, threads=64, device=Device(strict=True), x=X, out=OUT)


def test_a_value_that_others_still_read_may_not_be_overwritten():
    """The buffer is used twice; a barrier must also follow the reading."""
    again = "{more} st.shared.b32 [ %s + 0 ], %r2;"
    body = EXCHANGE.format(
        shared=SHARED, load=LOAD, store=STORE + again, between="bar.sync 0;", far=32
    )
    execute(body.format(more="bar.sync 0;"), threads=64, x=X, out=OUT)
    with pytest.raises(Fault, match="race: write over another thread's read"):
        execute(body.format(more=""), threads=64, x=X, out=OUT)


def test_two_values_for_one_address():
    with pytest.raises(Fault, match=r"race: threads write different values to x \+ 0"):
        execute("st.global.b32 [ %x + 0 ], %lane;", threads=64, x=X)
    execute("mov.b32 %r1, 5; st.global.b32 [ %x + 0 ], %r1;", threads=64, x=X)
    device = Device()  # within a warp one of them wins, and which one is not specified
    execute("st.global.b32 [ %x + 0 ], %lane;", device=device, x=X)
    assert device.notes == {"threads of a warp write different values to one address": 1}
    with pytest.raises(Fault, match="race"):
        execute("st.global.b32 [ %x + 0 ], %lane;", device=Device(strict=True), x=X)


def test_blocks_do_not_wait_for_each_other():
    body = "and.b32 %r2, %lane, 31;" + place("%b1", "out", "%lane", 4)
    write = "@!%q st.global.b32 [ %b1 + 0 ], %r2;"
    read = "@%q ld.global.b32 %r1, [ %b1 + 0 ];"
    body += "setp.eq.u32 %q, %block, 1;" + write + read
    for order in ([0, 1], [1, 0]):
        with pytest.raises(Fault, match="race"):
            execute(body, blocks=2, order=order, out=OUT + U32(9))


# the last block to arrive adds what the others have stored
LAST = """
setp.eq.u32 %q, %lane, 0;
add.s32 %r2, %block, 100;
mul.wide.u32 %b1, %block, 4; add.s64 %b1, %out, %b1;
@%q st.global.b32 [ %b1 + 0 ], %r2;
{before}
@%q atom.global.gpu.{order}.add.u32 %r1, [ %counter + 0 ], 1;
{after}
shfl.sync.idx.b32 %r1, %r1, 0, 31, -1;
setp.ne.s32 %q, %r1, 2;
@%q bra END;
ld.global.b32 %r3, [ %out + 0 ];
ld.global.b32 %r4, [ %out + 4 ];
ld.global.b32 %r5, [ %out + 8 ];
add.s32 %r3, %r3, %r4; add.s32 %r3, %r3, %r5;
st.global.b32 [ %total + 0 ], %r3;
END:
"""
BARRIER = "bar.sync 0;"


def arrive(blocks=(0, 1, 2), **parts):
    given = {"before": BARRIER, "after": BARRIER, "order": "acq_rel"} | parts
    arrays = {"out": OUT[:3], "counter": np.zeros(1, U32), "total": np.zeros(1, U32)}
    return execute(LAST.format(**given), blocks=3, order=blocks, empty=["out"], **arrays)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_the_last_block_reads_what_an_atomic_releases(order):
    found = arrive(order)
    assert found["counter"] == 3
    assert found["total"] == 303


@pytest.mark.parametrize("part", [{"order": "relaxed"}, {"before": ""}, {"after": ""}])
def test_without_barriers_or_release_the_last_block_races(part):
    with pytest.raises(Fault, match="race: read of another thread's write"):
        arrive(**part)


def test_atomics_add_up_within_a_block():
    body = "atom.global.gpu.relaxed.add.u32 %r2, [ %counter + 0 ], 2;" + STORE
    found = execute(body, threads=64, counter=np.zeros(1, U32), out=OUT)
    assert found["counter"] == 128
    assert sorted(found["out"].tolist()) == list(range(0, 128, 2))
    body = "red.global.gpu.relaxed.add.u32 [ %counter + 0 ], 2;"
    assert execute(body, threads=64, blocks=2, counter=np.zeros(1, U32))["counter"] == 256
    with pytest.raises(Fault, match="never written: atomic"):
        execute(body, threads=64, counter=np.zeros(1, U32), out=OUT, empty=["counter"])


def test_a_barrier_that_some_threads_do_not_reach():
    skip = "setp.lt.u32 %q, %lane, 32; @%q bra END; bar.sync 0; END:"
    with pytest.raises(Fault, match="barrier after some threads ended"):
        execute(skip, threads=64)
    other = "setp.lt.u32 %q, %lane, 32; @%q bra B; bar.sync 0; bra END; B: bar.sync 0; END:"
    with pytest.raises(Fault, match="threads wait at different barriers"):
        execute(other, threads=64)


def test_a_shuffle_that_a_part_of_a_warp_does_not_reach():
    body = "setp.lt.u32 %q, %lane, {}; @%q bra END; shfl.sync.bfly.b32 %r1, %lane, 1, 31, -1; END:"
    execute(body.format(32), threads=64)
    with pytest.raises(Fault, match="only a part of a warp"):
        execute(body.format(7), threads=64)


# an asynchronous copy of 16 bytes by each of the first 16 threads
COPY = """
.reg .b32 %s, %size; .reg .pred %first;
shl.b32 %s, %lane, 4; mov.b32 %r0, global_smem; add.s32 %s, %s, %r0;
mul.wide.u32 %b0, %lane, 16; add.s64 %b0, %x, %b0;
setp.lt.u32 %first, %lane, 16; setp.lt.u32 %q, %lane, 8; selp.b32 %size, 16, {short}, %q;
@%first cp.async.cg.shared.global [ %s + 0 ], [ %b0 + 0 ], 0x10, %size;
cp.async.commit_group;
{wait}
shl.b32 %r3, %lane, 2; add.s32 %r3, %r3, %r0;
ld.shared.b32 %r2, [ %r3 + 0 ];
"""


def copied(wait="cp.async.wait_group 0; bar.sync 0;", short="16", x=X):
    return execute(COPY.format(wait=wait, short=short) + STORE, threads=64, x=x, out=OUT)["out"]


def test_asynchronous_copies():
    assert (copied() == X).all()
    # a copy of no bytes fills with zeros, and reads nothing
    assert (copied(short="0", x=X[:32]) == np.where(X < 32, X, 0)).all()
    with pytest.raises(Fault, match="out of bounds"):
        copied(x=X[:32])


@pytest.mark.parametrize(
    ("wait", "fault"),
    [
        ("", "copy in flight"),
        ("cp.async.wait_group 1; bar.sync 0;", "copy in flight"),
        ("cp.async.wait_group 0;", "race: read of another thread's write"),
        ("mov.b32 %r5, 9; st.shared.b32 [ %s + 0 ], %r5;", "copy in flight: written"),
    ],
)
def test_asynchronous_copies_must_be_waited_for(wait, fault):
    with pytest.raises(Fault, match=fault):
        copied(wait)


@pytest.mark.parametrize("turned", ["", ".trans"])
def test_matrices_in_shared_memory(turned):
    """8 x 8 entries of 16 bits, of which thread 4 i + j gets two of row i."""
    rows = np.arange(64, dtype=np.uint16).reshape(8, 8)
    words = np.ascontiguousarray(rows).view(U32).reshape(-1)
    body = f"""
    .reg .b32 %s; shl.b32 %s, %lane, 2; mov.b32 %r0, global_smem; add.s32 %s, %s, %r0; {LOAD}
    st.shared.b32 [ %s + 0 ], %r1; bar.sync 0;
    and.b32 %r3, %lane, 7; shl.b32 %r3, %r3, 4; add.s32 %r3, %r3, %r0;
    ldmatrix.sync.aligned.m8n8.x1{turned}.shared.b16 {{%r2}}, [ %r3 + 0 ]; {STORE}
    """
    found = execute(body, x=words, out=OUT[:32])["out"]
    expected = np.ascontiguousarray(rows.T if turned else rows).view(U32).reshape(-1)
    assert (found == expected).all()
    if not turned:
        body += "bar.sync 0; add.s32 %r3, %r3, 1024;"
        body += "stmatrix.sync.aligned.m8n8.x1.shared.b16 [ %r3 + 0 ], {%r2}; bar.sync 0;"
        body += f"ld.shared.b32 %r2, [ %s + 1024 ]; {STORE}"
        assert (execute(body, x=words, out=OUT[:32])["out"] == words).all()
