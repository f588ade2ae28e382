"""Instructions that touch memory: loads, stores, atomic additions and asynchronous copies."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from ptx.memory import BLOCK, EMPTY, EPOCH, IN_FLIGHT, WRITTEN, Array, Fault, Memory
from ptx.operands import WORD, Operands, Run, opcode
from ptx.program import UNSIGNED


def _space(o: Operands) -> tuple[str, int, int]:
    """The state space, the bits of its addresses, and the length of the vector."""
    parts = [part.split("::")[0] for part in o.parts if part not in ("volatile", "relaxed", "gpu")]
    length = next((int(p[1:]) for p in parts if re.fullmatch(r"v[24]", p)), 1)
    if parts[1] not in ("global", "shared", "param"):
        raise o.unknown()
    return parts[1], 64 if parts[1] == "global" else 32, length


def _memory(block: Any, space: str) -> Memory:
    return block.device.memory if space == "global" else block.shared


@opcode("ld")
def _ld(o: Operands) -> Run:
    space, bits, length = _space(o)
    dtype, puts = o.dtype(), [o.result(name) for name in o.vector(o.args[0])]
    if space == "param":
        number = list(o.kernel.params).index(o.args[1].strip("[] "))
        raw = UNSIGNED[dtype.itemsize]  # a narrow load takes the low bytes
        return lambda block, mask: puts[0](
            block, block.arguments[number].reshape(1).view(raw)[0].view(dtype), mask
        )
    where, width = o.address(o.args[1], bits), dtype.itemsize * length

    def load(block: Any, mask: Any) -> None:
        lanes = block.lanes(mask)
        found = _memory(block, space).load(block, lanes, where(block)[lanes], width).view(dtype)
        for column, put in zip(np.ascontiguousarray(found.T), puts, strict=True):
            put(block, spread(column, lanes, block.threads), mask)

    return load


@opcode("st")
def _st(o: Operands) -> Run:
    space, bits, _ = _space(o)
    dtype, where = o.dtype(), o.address(o.args[0], bits)
    sources = [o.value(name, dtype) for name in o.vector(o.args[1])]

    def store(block: Any, mask: Any) -> None:
        lanes = block.lanes(mask)
        values = np.stack([block.wide(source(block))[lanes] for source in sources], 1)
        _memory(block, space).store(block, lanes, where(block)[lanes], values.view(np.uint8))

    return store


@opcode("atom", "red")
def _atom(o: Operands) -> Run:
    """Addition in global memory, one thread after the other."""
    into, address, operand, *more = o.args if o.parts[0] == "atom" else ("_", *o.args)
    if "add" not in o.parts or "global" not in o.parts or more:
        raise o.unknown()
    ordering = "acq_rel" in o.parts
    if not ordering and {"acquire", "release"} & set(o.parts):
        raise o.unknown()
    dtype, put = o.dtype(), o.result(into)
    where, a = o.address(address, 64), o.value(operand, dtype)

    def add(block: Any, mask: Any) -> None:
        places, values = where(block), block.wide(a(block))
        found = np.zeros(block.threads, dtype)
        for lane in block.lanes(mask):
            found[lane] = _add_once(block, lane, places[lane : lane + 1], values[lane], ordering)
        put(block, found, mask)

    return add


def _add_once(block: Any, lane: int, address: Array, value: Any, ordering: bool) -> Any:
    device, memory = block.device, block.device.memory
    row = memory.place(address, value.dtype.itemsize)
    data, state, writer, _ = memory.rows[value.dtype.itemsize]
    heard = device.releases.get(int(row[0]))
    if heard is None:  # nothing but plain accesses so far
        heard = np.zeros_like(block.known)
        if block.unordered(writer[row], block.stamps(np.array([lane]))).any():
            raise Fault(f"race: atomic after a write at {memory.where(address, address > 0)}")
    if (state[row] != WRITTEN).any():
        raise Fault(f"never written: atomic at {memory.where(address, address > 0)}")
    found = data[row].view(value.dtype)[0, 0]
    data[row] = np.array([[found + value]], value.dtype).view(np.uint8)
    # the operation itself is known to those to whom it is released
    writer[row] = block.index << BLOCK | max(block.epoch - 1, 0) << EPOCH | lane
    if ordering:
        released = np.maximum(heard, block.known)
        # what came before the last barrier; all accesses of the thread itself need none
        released[block.index] = block.epoch
        block.heard = np.maximum(block.heard, heard)
        device.releases[int(row[0])] = released
    else:
        device.releases[int(row[0])] = heard
    return found


@opcode("cp")
def _cp(o: Operands) -> Run:
    """Asynchronous copies, read at once. Their target may not be touched before they are done."""
    if o.parts[1] != "async":
        raise o.unknown()
    if o.parts[2] == "commit_group":
        return _commit
    if o.parts[2] == "wait_group":
        left = int(o.args[0])
        return lambda block, mask: _wait(block, left)
    width = int(o.args[2], 0)
    into, source = o.address(o.args[0], 32), o.address(o.args[1], 64)
    size = o.value(o.args[3], WORD) if len(o.args) > 3 else None

    def copy(block: Any, mask: Any) -> None:
        lanes = block.lanes(mask)
        sizes = block.wide(WORD.type(width) if size is None else size(block))[lanes]
        if not np.isin(sizes, (0, width)).all():
            raise o.unknown("a part of a copy")
        values, full = np.zeros((len(lanes), width), np.uint8), sizes == width
        if full.any():
            place = source(block)[lanes[full]]
            values[full] = block.device.memory.load(block, lanes[full], place, width)
        place = into(block)[lanes]
        rows = block.shared.check_write(block, lanes, place, values)
        block.shared.rows[width][1][rows] = IN_FLIGHT
        block.copies.append((lanes, place, values))

    return copy


def _commit(block: Any, mask: Any) -> None:
    block.groups.append(block.copies)
    block.copies = []


def _wait(block: Any, left: int) -> None:
    while len(block.groups) > left:
        for lanes, place, values in block.groups.pop(0):
            width = values.shape[1]
            block.shared.rows[width][1][block.shared.place(place, width)] = EMPTY
            block.shared.store(block, lanes, place, values)


def spread(values: Array, lanes: Array, threads: int) -> Array:
    """Values of some threads, in an array for all."""
    if len(lanes) == threads:
        return values
    found = np.zeros((threads, *values.shape[1:]), values.dtype)
    found[lanes] = values
    return found
