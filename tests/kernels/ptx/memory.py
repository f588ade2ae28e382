"""Memory of an executed kernel: bytes, whether they were written, and who touched them last.

A `Fault` is raised for an access outside its tensor, an access that is not aligned to its width,
bytes that are read before they are written, and races. A race is an access to bytes that another
thread writes with another value, with no barrier or atomic operation in between.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np

Array = np.ndarray
WARP = 32
OUTSIDE, EMPTY, WRITTEN, IN_FLIGHT = range(4)  # states of a byte
KINDS = {EMPTY: "never written", OUTSIDE: "no part of the tensor", IN_FLIGHT: "copy in flight"}
# A stamp packs the block, the barriers it has passed, the meetings of the warp, and the thread.
# Several threads are recorded by the number of their warp (WARPS + number), several warps by ALL.
BLOCK, EPOCH, STEP, WARPS, ALL = 44, 28, 12, 1024, 0xFFF


class Fault(RuntimeError):
    """What the kernel did wrong, with the instruction and the line of its source."""


class Accessor(Protocol):
    """The part of `machine.Block` that memory asks for the order of accesses."""

    def stamps(self, lanes: Array) -> Array: ...
    def unordered(self, stamps: Array, own: Array) -> Array: ...
    def note(self, what: str) -> None: ...

    strict: bool


class Window(NamedTuple):
    """The bytes that pointers into one tensor may reach: ``row`` of every ``pitch`` bytes."""

    name: str
    base: int  # address
    size: int
    pitch: int
    row: int
    start: int  # of its first byte in the arrays of `Memory`


class Memory:
    """Windows lie far apart in the address space, so a pointer cannot enter another tensor's."""

    def __init__(self, bits: int = 40) -> None:
        """``bits``: the part of an address that counts bytes within a window."""
        self.bits = bits
        self.windows = [Window("no tensor", 0, 0, 1, 1, 0)]
        self._contents, self._states = [np.zeros(16, np.uint8)], [np.zeros(16, np.uint8)]
        self._total = 16

    def add(self, content: Array, state: Array, shift: int = 0) -> int:
        """Place bytes at a position that is ``shift`` past a multiple of 16, and return it."""
        start = -(-self._total // 16) * 16 + shift % 16
        gap = np.zeros(start - self._total, np.uint8)
        self._contents += [gap, content]
        self._states += [gap, state]
        self._total = start + len(content)
        return start

    def window(
        self, name: str, start: int, size: int, shift: int = 0, pitch: int = 0, row: int = 0
    ) -> int:
        """An address, ``shift`` past a multiple of 512, for ``size`` bytes of what was added.

        With a ``pitch``, only the first ``row`` of every ``pitch`` bytes exist, and only they take
        up memory.
        """
        # in the middle of its part of the address space: what lies before it names it, too
        base = (2 * len(self.windows) + 1 << self.bits - 1) + shift
        self.windows.append(Window(name, base, size, pitch or max(size, 1), row or size, start))
        return base

    def freeze(self) -> None:
        """Lay out what was added. No more can be added."""
        end = [np.zeros(16 + -self._total % 16, np.uint8)]
        data, state = np.concatenate(self._contents + end), np.concatenate(self._states + end)
        arrays = data, state, np.full(len(data), -1), np.full(len(data), -1)
        # the bytes, their states, the stamps of their writers and of their readers, by width
        self.rows: dict[int, tuple[Array, Array, Array, Array]] = {
            width: tuple(a.reshape(-1, width) for a in arrays)  # type: ignore[misc]
            for width in (1, 2, 4, 8, 16)
        }
        columns: Any = zip(*(w[1:] for w in self.windows), strict=True)
        self._bases, self._sizes, self._pitches, self._lengths, self._starts = (
            np.array(column, np.int64) for column in columns
        )
        self._packed = -(-self._lengths // 16) * 16  # bytes that a row takes up

    def contents(self, start: int, size: int) -> tuple[Array, Array]:
        """Bytes and their states."""
        part = slice(start, start + size)
        return self.rows[1][0][part, 0], self.rows[1][1][part, 0]

    def place(self, address: Array, width: int) -> Array:
        """Rows of the arrays of this width."""
        number = address >> self.bits
        known = (number > 0) & (number < len(self.windows))
        number = np.where(known, number, 0)
        offset = address - self._bases[number]
        row, within = np.divmod(offset, self._pitches[number])
        if np.any(bad := address % width != 0):
            raise Fault(f"misaligned: {width} bytes at {self.where(address, bad)}")
        beyond = (offset < 0) | (offset + width > self._sizes[number])
        if np.any(bad := ~known | beyond | (within + width > self._lengths[number])):
            raise Fault(f"out of bounds: {width} bytes at {self.where(address, bad)}")
        return (self._starts[number] + row * self._packed[number] + within) // width

    def where(self, address: Array, bad: Array) -> str:
        """Tensor and byte of the first access that is ``bad``, for a message."""
        lane = int(np.flatnonzero(bad)[0])
        number = int(address[lane]) >> self.bits
        window = self.windows[number if 0 < number < len(self.windows) else 0]
        offset = int(address[lane]) - window.base
        return f"{window.name} + {offset} ({np.count_nonzero(bad)} threads, first {lane})"

    def load(self, block: Accessor, lanes: Array, address: Array, width: int) -> Array:
        """(threads, width) bytes."""
        row = self.place(address, width)
        data, state, writer, reader = self.rows[width]
        states = state[row]
        if np.any(bad := (states != WRITTEN).any(1)):
            kind = KINDS[int(states[states != WRITTEN][0])]
            raise Fault(f"{kind}: {width} bytes read at {self.where(address, bad)}")
        stamp = block.stamps(lanes)[:, None]
        if np.any(bad := block.unordered(writer[row], stamp).any(1)):
            raise Fault(f"race: read of another thread's write at {self.where(address, bad)}")
        self._note_readers(block, row, reader, stamp)
        return data[row]

    def _note_readers(self, block: Accessor, row: Array, reader: Array, stamp: Array) -> None:
        warp = warp_of(stamp)
        of_warp = (stamp & ~ALL) | WARPS + warp
        before = reader[row]
        together = np.where(warp_of(before) == warp, of_warp, stamp | ALL)
        after = np.where(block.unordered(before, stamp), together, stamp)
        reader[row] = after
        if np.any(lost := (reader[row] != after).any(1)):  # several threads in this instruction
            reader[row[lost]] = of_warp[lost]
            mixed = (warp_of(reader[row]) != warp).any(1)
            reader[row[mixed]] = stamp[mixed] | ALL

    def store(self, block: Accessor, lanes: Array, address: Array, values: Array) -> None:
        """Store (threads, width) bytes."""
        width = values.shape[1]
        row = self.check_write(block, lanes, address, values)
        data, state, writer, _ = self.rows[width]
        stamp = block.stamps(lanes)[:, None]
        data[row], writer[row], state[row] = values, stamp, WRITTEN
        if np.any(bad := (data[row] != values).any(1)):
            far = (warp_of(writer[row]) != warp_of(stamp)).any(1) & bad
            where = self.where(address, far if far.any() else bad)
            if far.any() or block.strict:
                raise Fault(f"race: threads write different values to {where}")
            block.note("threads of a warp write different values to one address")

    def check_write(self, block: Accessor, lanes: Array, address: Array, values: Array) -> Array:
        """Rows to write. Any thread may write the value that is there already."""
        row = self.place(address, values.shape[1])
        data, state, writer, reader = self.rows[values.shape[1]]
        if np.any(bad := (state[row] == OUTSIDE).any(1)):
            raise Fault(f"no part of the tensor: written at {self.where(address, bad)}")
        if np.any(bad := (state[row] == IN_FLIGHT).any(1)):
            raise Fault(f"copy in flight: written at {self.where(address, bad)}")
        stamp = block.stamps(lanes)[:, None]
        other = (data[row] != values) | (state[row] != WRITTEN)
        if np.any(bad := (other & block.unordered(writer[row], stamp)).any(1)):
            raise Fault(f"race: write over another thread's write at {self.where(address, bad)}")
        if np.any(bad := (other & block.unordered(reader[row], stamp)).any(1)):
            raise Fault(f"race: write over another thread's read at {self.where(address, bad)}")
        return row


def warp_of(stamps: Array) -> Array:
    """The warp of the thread of each stamp; for several warps, a number that no warp has."""
    code = stamps & ALL
    return np.where(code < WARPS, code >> 5, code - WARPS)
