"""Operands of an instruction, as functions that read and write registers of a block."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from ptx.memory import Array, Fault
from ptx.program import DTYPES, UNSIGNED, Instruction, Kernel

# An instruction runs on a block (`machine.Block`) for the threads of a mask, None for all.
Run = Callable[[Any, Any], None]
WORD = np.dtype(np.uint32)
SHARED = 3 << 19  # address of the shared memory, the first window of a `Memory(bits=20)`
OPCODES: dict[str, Callable[[Operands], Run]] = {}


def opcode(*names: str) -> Callable[[Any], Any]:
    """Register what makes the function of every instruction whose opcode begins so."""

    def register(make: Any) -> Any:
        OPCODES.update(dict.fromkeys(names, make))
        return make

    return register


class Operands(NamedTuple):
    """An instruction of a kernel."""

    kernel: Kernel
    instruction: Instruction

    @property
    def parts(self) -> list[str]:
        return self.instruction.parts

    @property
    def args(self) -> list[str]:
        return self.instruction.args

    def unknown(self, what: str = "") -> NotImplementedError:
        return NotImplementedError(f"{what}{' in ' if what else ''}{self.instruction.text}")

    def dtype(self, place: int = -1) -> np.dtype[Any]:
        """The type that a part of the opcode names."""
        return DTYPES[self.parts[place]]

    def vector(self, text: str) -> list[str]:
        """The names of a vector ``{a, b}``, or of a scalar."""
        return re.findall(r"[^\s,{}]+", text)

    def value(self, text: str, dtype: np.dtype[Any]) -> Callable[[Any], Any]:
        """A source: a register, a special register, a constant or the address of shared memory."""
        number = self.kernel.register(text, self.instruction.scope)
        if number is not None:
            return _register(number, text, self.kernel.dtypes[number], dtype)
        if text.startswith("%"):
            return lambda block: block.special[text].astype(dtype)
        constant = self._constant(text, dtype)
        constant = constant if constant.dtype == dtype else constant.view(dtype)
        return lambda block: constant

    def _constant(self, text: str, dtype: np.dtype[Any]) -> Any:
        if re.fullmatch(r"0[fF][0-9a-fA-F]{8}", text):
            return np.uint32(int(text[2:], 16)).view(np.float32)
        if re.fullmatch(r"0[dD][0-9a-fA-F]{16}", text):
            return np.uint64(int(text[2:], 16)).view(np.float64)
        if re.fullmatch(r"-?(0[xX][0-9a-fA-F]+|\d+)U?", text):
            bits = int(text.rstrip("U"), 0) & ((1 << 8 * dtype.itemsize) - 1)
            return np.array(bits, UNSIGNED[dtype.itemsize]).view(dtype)[()]
        if text == "global_smem":
            return dtype.type(SHARED)
        if text in ("true", "false"):
            return np.bool_(text == "true")
        raise self.unknown(f"operand {text}")

    def result(self, text: str) -> Callable[[Any, Any, Any], None]:
        """A destination; a narrower value is extended by its own sign."""
        if text == "_":
            return lambda block, value, mask: None
        number = self.kernel.register(text, self.instruction.scope)
        if number is None:
            raise self.unknown(f"operand {text}")
        held = self.kernel.dtypes[number]
        signed = np.dtype(f"i{held.itemsize}")

        def put(block: Any, value: Any, mask: Any) -> None:
            if mask is None and value.dtype is held:
                block.registers[number] = value
                return
            if value.dtype.itemsize != held.itemsize:
                value = value.astype(signed if value.dtype.kind == "i" else held)
            block.write(number, value if value.dtype == held else value.view(held), mask)

        return put

    def address(self, text: str, bits: int) -> Callable[[Any], Array]:
        """``[register + offset]``, one for each thread."""
        base, _, offset = text.strip("[] ").partition("+")
        start = self.value(base.strip(), np.dtype(f"u{bits // 8}"))
        move = int(offset.strip() or "0", 0)
        return lambda block: block.wide(start(block)).astype(np.int64) + move


def _register(
    number: int, name: str, held: np.dtype[Any], dtype: np.dtype[Any]
) -> Callable[[Any], Any]:
    same, wide = held == dtype, held.itemsize == dtype.itemsize
    narrow = np.dtype(UNSIGNED[dtype.itemsize])

    def read(block: Any) -> Any:
        found = block.registers[number]
        if found is None:
            raise Fault(f"register {name} read before it is written")
        if same:
            return found
        return found.view(dtype) if wide else found.astype(narrow).view(dtype)

    return read
