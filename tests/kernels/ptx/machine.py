"""Runs the blocks of a grid, one after the other, the threads of a block in lockstep.

A register is a NumPy array with one entry for each thread, or a scalar that all threads share.
Threads whose paths part are run path by path, the earliest instruction first, so that they meet
again where the code does. A `Fault` is raised for a barrier or an instruction of a whole warp that
some threads do not reach.

Not modelled: time, caches, and weak memory beyond "ordered or not". Blocks never overlap, but an
access to what another block wrote is a race unless an atomic operation orders the two.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from ptx.instructions import bind
from ptx.memory import ALL, BLOCK, EMPTY, EPOCH, STEP, WARP, Array, Fault, Memory, warp_of
from ptx.program import DTYPES, Instruction, Kernel


class Device:
    """Global memory, and what is remembered of one launch."""

    def __init__(self, seed: int | None = None, strict: bool = False) -> None:
        """With a seed, approximate instructions err by up to what their manual allows.

        With ``strict``, instructions that join a warp (shfl, redux) order none of its accesses.
        """
        self.seed, self.strict = seed, strict
        self.memory = Memory()
        self.notes: Counter[str] = Counter()  # no fault, but not specified either
        # by the place of an atomic counter: the barriers of each block that its readers know of
        self.releases: dict[int, Array] = {}

    def launch(
        self,
        kernel: Kernel,
        grid: tuple[int, int, int],
        arguments: Sequence[int | float],
        shared_bytes: int = 0,
        order: Sequence[int] | None = None,
    ) -> None:
        """Run all blocks, in the order given. ``arguments`` are numbers and addresses."""
        bind(kernel)
        leaders = {n + 1 for n, i in enumerate(kernel.instructions) if i.kind == "branch"}
        leaders |= set(kernel.labels.values())
        kinds = kernel.params.values()
        values = [np.array(a).astype(DTYPES[k]) for k, a in zip(kinds, arguments, strict=True)]
        with np.errstate(all="ignore"):
            for index in range(int(np.prod(grid))) if order is None else order:
                Block(self, kernel, int(index), grid, values, shared_bytes, leaders).run()


class Block:
    """The threads of one block, between two instructions."""

    def __init__(
        self,
        device: Device,
        kernel: Kernel,
        index: int,
        grid: tuple[int, int, int],
        arguments: list[Array],
        shared_bytes: int,
        leaders: set[int],  # instructions where paths may meet
    ) -> None:
        self.device, self.kernel, self.index, self.leaders = device, kernel, index, leaders
        self.threads, self.strict, self.arguments = kernel.threads, device.strict, arguments
        self.place = index % grid[0], index // grid[0] % grid[1], index // grid[0] // grid[1]
        size = max(shared_bytes, 1)
        self.shared = Memory(bits=20)
        start = self.shared.add(np.zeros(size, np.uint8), np.full(size, EMPTY, np.uint8))
        self.shared.window("shared memory", start, size)
        self.shared.freeze()
        self.registers: list[Any] = [None] * len(kernel.dtypes)
        self.every = np.arange(self.threads)
        self.special = {"%tid.x": self.every.astype(np.uint32), "%ntid.x": np.uint32(self.threads)}
        self.special["%laneid"] = self.special["%tid.x"] % np.uint32(WARP)
        self.special["%warpid"] = self.special["%tid.x"] // np.uint32(WARP)
        for axis, here, length in zip("xyz", self.place, grid, strict=True):
            self.special[f"%ctaid.{axis}"] = np.uint32(here)
            self.special[f"%nctaid.{axis}"] = np.uint32(length)
        self.epoch = 0  # barriers passed
        self.steps = np.zeros(self.threads, np.int64)  # meetings of each thread's warp
        # barriers that each block had passed when this block last heard of it: all threads know
        # what `known` says, one thread what `heard` says, until the next barrier
        self.known = self.heard = np.zeros(int(np.prod(grid)), np.int64)
        self.copies: list[Any] = []  # asynchronous copies of the open group
        self.groups: list[list[Any]] = []

    # what memory asks

    def stamps(self, lanes: Array) -> Array:
        return self.index << BLOCK | self.epoch << EPOCH | self.steps[lanes] << STEP | lanes

    def unordered(self, stamps: Array, own: Array) -> Array:
        """Whether accesses with these stamps may happen at the same time as the threads' own."""
        there = stamps >= 0
        here = stamps >> EPOCH == self.index << BLOCK - EPOCH | self.epoch
        racing = here & (stamps & ALL != own & ALL)
        if not self.strict and racing.any():
            racing &= (warp_of(stamps) != warp_of(own)) | ((stamps ^ own) >> STEP == 0)
        block = stamps >> BLOCK
        if np.any(abroad := there & (block != self.index)):
            epoch = stamps >> EPOCH & 0xFFFF
            racing |= abroad & (epoch >= self.known[np.where(there, block, 0)])
        return racing

    def note(self, what: str) -> None:
        self.device.notes[what] += 1

    # what instructions use

    def step(self, mask: Array | None) -> None:
        """The threads of a warp meet."""
        if mask is not None:
            active = mask.reshape(-1, WARP)
            if np.any(active.any(1) != active.all(1)):
                raise Fault("only a part of a warp reaches this")
        self.steps += 1 if mask is None else mask
        self.steps &= 0xFFFF

    def write(self, register: int, value: Any, mask: Array | None) -> None:
        if mask is not None:
            before = self.registers[register]
            before = np.zeros((), value.dtype) if before is None else before
            value = np.where(mask, value, before)
        self.registers[register] = value

    def lanes(self, mask: Array | None) -> Array:
        """The numbers of the active threads."""
        return self.every if mask is None else np.flatnonzero(mask)

    def wide(self, value: Any) -> Array:
        """One entry for each thread."""
        return value if np.ndim(value) else np.full(self.threads, value)

    # control flow

    def run(self) -> None:
        code = self.kernel.instructions
        counter = np.zeros(self.threads, np.int64)  # where each thread is
        waiting = np.zeros(self.threads, bool)
        while True:
            live = counter < len(code)
            ready = live & ~waiting
            if not ready.any():
                if not live.any():
                    return
                self._barrier(counter, live)
                waiting[:] = False
                ready = live
            position = int(counter[ready].min())
            active = ready & (counter == position)
            counter[active], waiting[active] = self._run_from(position, active)

    def _barrier(self, counter: Array, live: Array) -> None:
        code = self.kernel.instructions
        if len(set(counter[live].tolist())) > 1:
            raise self._fault("threads wait at different barriers", code[counter[live].max() - 1])
        if not live.all():
            raise self._fault("barrier after some threads ended", code[counter.min() - 1])
        self.epoch += 1
        if self.epoch >> BLOCK - EPOCH:
            raise NotImplementedError("more barriers than a stamp can count")
        self.known = np.maximum(self.known, self.heard)

    def _run_from(self, position: int, active: Array) -> tuple[Any, bool]:
        """Run the active threads to where paths part or meet.

        Returns where each of them goes on, and whether they wait there.
        """
        code, whole = self.kernel.instructions, bool(active.all())
        mask, start = None if whole else active, position
        while position < len(code):
            if not whole and position in self.leaders and position != start:
                return position, False
            here = code[position]
            if here.kind == "plain":
                if here.guard is None:
                    self._execute(here, mask)
                elif (taken := self._taken(here, active)).any():
                    self._execute(here, None if taken.all() else taken)
            elif here.kind == "barrier":
                self._check_barrier(here)
                return position + 1, True
            else:
                taken = active if here.guard is None else self._taken(here, active)
                target = here.target if here.kind == "branch" else len(code)
                if taken.any():
                    if not np.array_equal(taken, active):
                        return np.where(taken[active], target, position + 1), False
                    if not whole:
                        return target, False
                    start = position = target
                    continue
            position += 1
        return position, False

    def _taken(self, here: Instruction, active: Array) -> Array:
        number, negated = here.guard  # type: ignore[misc]
        held = self.registers[number]
        if held is None:
            raise self._fault("predicate that was never set", here)
        return self.wide(held != negated) & active

    def _execute(self, here: Instruction, mask: Array | None) -> None:
        try:
            here.run(self, mask)  # type: ignore[misc]
        except Fault as fault:
            raise self._fault(str(fault), here) from None

    def _check_barrier(self, here: Instruction) -> None:
        alone = here.parts[:2] == ["bar", "warp"] and self.threads == WARP
        if here.guard is not None or not (alone or here.args == ["0"]):
            raise NotImplementedError(f"a barrier of some threads: {here.text}")

    def _fault(self, what: str, here: Instruction) -> Fault:
        return Fault(f"{what}\n  {here.source}: {here.text} (block {self.place})")
