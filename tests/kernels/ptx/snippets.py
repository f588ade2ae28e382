"""Runs a few instructions of PTX on arrays, to test what they do."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ptx.machine import Device
from ptx.memory import EMPTY, WRITTEN, Array
from ptx.program import parse

# registers for the body; %thread counts through all blocks
DECLARED = """
.reg .b16 %h0, %h1;
.reg .b32 %thread, %lane, %block, %r<9>;
.reg .b64 %b<9>;
.reg .pred %q;
mov.u32 %lane, %tid.x;
mov.u32 %block, %ctaid.x;
"""


def execute(
    body: str,
    threads: int = 32,
    blocks: int = 1,
    order: Sequence[int] | None = None,
    device: Device | None = None,
    empty: Sequence[str] = (),
    **arrays: Array,
) -> dict[str, Array]:
    """Run ``body``, for which %NAME is the address of each array, and return the arrays after it.

    The bytes of those in ``empty`` count as never written.
    """
    device = device or Device()
    places, addresses = {}, []
    for name, array in arrays.items():
        state = np.full(array.nbytes, EMPTY if name in empty else WRITTEN, np.uint8)
        places[name] = device.memory.add(array.view(np.uint8).copy(), state)
        addresses.append(device.memory.window(name, places[name], array.nbytes))
    device.memory.freeze()
    params = ", ".join(f".param .u64 param_{name}" for name in arrays)
    pointers = [f".reg .b64 %{name}; ld.param.u64 %{name}, [param_{name}];" for name in arrays]
    start = f"mad.lo.s32 %thread, %block, {threads}, %lane;"
    head = f".visible .entry snippet({params}) .reqntid {threads} {{"
    kernel = parse("\n".join([head, DECLARED, *pointers, start, body, "ret; }"]))
    device.launch(kernel, (blocks, 1, 1), addresses, 4096, order)
    return {
        name: device.memory.contents(places[name], array.nbytes)[0].view(array.dtype)
        for name, array in arrays.items()
    }


def place(register: str, array: str, index: str, size: int) -> str:
    """Instructions that put the address of an entry into a register."""
    return f"mul.wide.u32 {register}, {index}, {size}; add.s64 {register}, %{array}, {register};"
