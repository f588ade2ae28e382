"""Launches of Triton kernels without a GPU: compiled for one, executed by `machine`.

Inside ``with Executed(80) as gpu:`` Triton sees a CUDA device of capability 8.0 and compiles for
it, up to PTX. A launch copies the bytes of its tensors, which lie on the CPU, runs the grid, and
copies back. Memory of ``torch.empty`` counts as never written until a kernel, or an operation of
torch in place, writes to it.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable
from ctypes import c_uint8
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch
import triton
from ptx.machine import Device
from ptx.memory import EMPTY, OUTSIDE, WRITTEN, Array
from ptx.program import parse
from torch.overrides import TorchFunctionMode
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import CUDABackend

DENSE = (
    1 << 26
)  # bytes; of a tensor that extends over more, the memory between its rows is left out
_FRESH = (torch.empty, torch.empty_like, torch.empty_strided, torch.Tensor.new_empty)
_IN_PLACE = ("__setitem__", "__iadd__", "__isub__", "__imul__", "__itruediv__")
_parsed = functools.lru_cache(maxsize=32)(parse)  # a kernel of 10,000 instructions takes 30 MB


class Executed(TorchFunctionMode):
    """A device for Triton, and a watch over new memory."""

    def __init__(
        self,
        capability: int,
        seed: int | None = None,
        strict: bool = False,
        edit: Callable[[str], str] = lambda text: text,
    ) -> None:
        """With a seed, approximate instructions err and blocks run in random order.

        ``edit`` changes the PTX, to plant faults in it. `Device` explains ``strict``.
        """
        super().__init__()
        self.capability, self.seed, self.strict, self.edit = capability, seed, strict, edit
        self.launched: Counter[str] = Counter()
        self.notes: Counter[str] = Counter()
        self._fresh: dict[int, tuple[torch.Tensor, Array]] = {}  # states by address of a storage
        pair = divmod(capability, 10)
        self._patches = [
            mock.patch.object(triton.runtime.driver, "_active", _driver(self)),
            mock.patch.object(torch.cuda, "get_device_capability", return_value=pair),
            # PTX takes the place of machine code, also in the key of Triton's cache
            mock.patch.object(CUDABackend, "make_cubin", lambda _, source, *rest: source.encode()),
            mock.patch.object(CUDABackend, "hash", lambda self: f"PTX {self.target.arch}"),
        ]

    def __enter__(self) -> Executed:
        for patch in self._patches:
            patch.start()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for patch in reversed(self._patches):
            patch.stop()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        found = func(*args, **kwargs)
        if func in _FRESH and found.numel():
            storage = found.untyped_storage()
            torch.tensor([], dtype=torch.uint8).set_(storage).fill_(0xFF)
            self._fresh[storage.data_ptr()] = found, np.full(storage.nbytes(), EMPTY, np.uint8)
            return found
        written = [kwargs.get("out")]
        name = getattr(func, "__name__", "")
        if (name.endswith("_") and not name.endswith("__")) or name in _IN_PLACE:
            written.append(args[0])
        for tensor in written:
            if isinstance(tensor, torch.Tensor) and tensor.numel():
                storage = tensor.untyped_storage()
                if held := self._fresh.get(storage.data_ptr()):
                    _own(held[1][tensor.data_ptr() - storage.data_ptr() :], tensor)[...] = WRITTEN
        return found

    def execute(
        self, text: str, shared_bytes: int, grid: tuple[int, int, int], values: dict[str, Any]
    ) -> None:
        """Run a kernel on its arguments by name, tensors and numbers."""
        text = self.edit(text)
        kernel, device = _parsed(text), Device(self.seed, self.strict)
        tensors = {n: v for n, v in values.items() if isinstance(v, torch.Tensor)}
        regions = [_Region(group, self._fresh) for group in _overlapping(tensors)]
        addresses: dict[str, int] = {}
        for region in regions:
            addresses |= region.lend(device)
        device.memory.freeze()
        arguments = [addresses.get(name, value) for name, value in values.items()]
        # pointers to scratch memory, which these kernels do not use
        arguments += [0] * (len(kernel.params) - len(arguments))
        order = np.arange(int(np.prod(grid)))
        if self.seed is not None:
            np.random.default_rng(self.seed).shuffle(order)
        device.launch(kernel, grid, arguments, shared_bytes, order.tolist())
        for region in regions:
            region.take_back(device)
        self.launched[kernel.name] += 1
        self.notes.update({f"{kernel.name}: {note}": n for note, n in device.notes.items()})


def _driver(gpu: Executed) -> SimpleNamespace:
    """What Triton asks of a driver."""
    memory = {"max_shared_mem": 166_912 if gpu.capability < 90 else 232_448}
    return SimpleNamespace(
        gpu=gpu,
        get_current_device=lambda: gpu.capability,  # kernels are kept by number of the device
        get_current_stream=lambda device: 0,
        get_current_target=lambda: GPUTarget("cuda", gpu.capability, 32),
        launcher_cls=_Launcher,
        utils=SimpleNamespace(
            get_device_properties=lambda device: memory,
            load_binary=lambda name, binary, shared, device: (None, (binary, shared), 0, 0, 1024),
        ),
    )


class _Launcher:
    """A compiled kernel's launches, on the device that is current at the time."""

    def __init__(self, source: Any, metadata: Any) -> None:
        self.source, self.metadata, self.signature = source, metadata, source.signature
        self.older: tuple[bytes, int] | None = None

    def __call__(self, x: int, y: int, z: int, stream: Any, function: Any, *rest: Any) -> None:
        arguments = dict(zip(self.signature, rest[4:], strict=True))
        values = {n: arguments[n] for n, kind in self.signature.items() if kind != "constexpr"}
        binary, shared = function
        if b"wgmma" in binary:
            binary, shared = self._for_sm_80()
        with torch._C.DisableTorchFunction():
            triton.runtime.driver.active.gpu.execute(binary.decode(), shared, (x, y, z), values)

    def _for_sm_80(self) -> tuple[bytes, int]:
        """In place of products of groups of warps, which `warps` does not know."""
        if self.older is None:
            names = ("num_warps", "num_stages", "enable_fp_fusion")
            options = {name: getattr(self.metadata, name) for name in names}
            target = GPUTarget("cuda", 80, 32)
            made = triton.compile(self.source, target=target, options=options)
            self.older = made.asm["cubin"], made.metadata.shared
        return self.older


def _overlapping(tensors: dict[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
    """Tensors by name, in groups that share memory."""
    groups: list[dict[str, torch.Tensor]] = []
    end = -1
    for name, tensor in sorted(tensors.items(), key=lambda item: item[1].data_ptr()):
        if tensor.data_ptr() >= end or not tensor.numel():
            groups.append({})
        groups[-1][name] = tensor
        end = max(end, tensor.data_ptr() + _extent(tensor))
    return groups


class _Region:
    """The memory over which tensors extend, as rows that are ``pitch`` bytes apart."""

    def __init__(self, tensors: dict[str, torch.Tensor], fresh: dict[int, Any]) -> None:
        self.tensors, one = tensors, next(iter(tensors.values()))
        self.first = one.data_ptr()
        ends = [tensor.data_ptr() + _extent(tensor) for tensor in tensors.values()]
        self.size = self.pitch = self.row = max(ends) - self.first
        self.sparse = self.size > DENSE
        if self.sparse:
            self.pitch, self.row = one.stride(0) * one.element_size(), _extent(one[0])
            if len(tensors) > 1 or self.pitch % 16 or self.pitch < self.row:
                raise NotImplementedError("an argument that extends over so much memory")
        storage = one.untyped_storage().data_ptr()
        held = fresh.get(storage)
        self.fresh = self._rows(held[1][self.first - storage :]) if held else None

    def _rows(self, flat: Array) -> Array:
        shape = -(-self.size // self.pitch) if self.size else 0, self.row
        return np.lib.stride_tricks.as_strided(flat, shape, (self.pitch, 1))

    def _live(self) -> Array:
        if not self.size:
            return np.zeros((0, 0), np.uint8)
        memory = (c_uint8 * self.size).from_address(self.first)
        return self._rows(np.frombuffer(memory, np.uint8))

    def lend(self, device: Device) -> dict[str, int]:
        """Copy into the device's memory, and return the addresses there."""
        live, memory = self._live(), device.memory
        state = np.full(live.shape, OUTSIDE, np.uint8)
        for tensor in self.tensors.values() if self.size else ():
            for row, piece in zip(state, tensor if self.sparse else [tensor], strict=True):
                begin = 0 if self.sparse else tensor.data_ptr() - self.first
                _own(row[begin:], piece)[...] = WRITTEN
        if self.fresh is not None:
            state = np.where(state == WRITTEN, self.fresh, state)
        padding = ((0, 0), (0, -self.row % 16 if self.sparse else 0))
        padded = [np.pad(array, padding).reshape(-1) for array in (live, state)]
        self.start = memory.add(padded[0], padded[1], self.first)
        return {name: self._window(device, name, tensor) for name, tensor in self.tensors.items()}

    def _window(self, device: Device, name: str, tensor: torch.Tensor) -> int:
        place, shift = tensor.data_ptr() - self.first, tensor.data_ptr() % 512
        rows = (self.pitch, self.row) if self.sparse else ()
        return device.memory.window(name, self.start + place, _extent(tensor), shift, *rows)

    def take_back(self, device: Device) -> None:
        """Copy from the device's memory, and note what was written."""
        live = self._live()
        width = self.row + (-self.row % 16 if self.sparse else 0)
        content, state = (
            array.reshape(-1, max(width, 1))[:, : self.row]
            for array in device.memory.contents(self.start, len(live) * width)
        )
        changed = live != content  # memory that nobody wrote may be of the system, and unwritable
        live[changed] = content[changed]
        if self.fresh is not None:
            self.fresh[state == WRITTEN] = WRITTEN


def _extent(tensor: torch.Tensor) -> int:
    """Bytes from the first to the last, those between the rows too."""
    if not tensor.numel():
        return 0
    steps = ((n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True))
    return (1 + sum(steps)) * tensor.element_size()


def _own(flat: Array, tensor: torch.Tensor) -> Array:
    """The bytes of the tensor's own entries, among those from its first to its last."""
    each = tensor.element_size()
    steps = (*(step * each for step in tensor.stride()), 1)
    return np.lib.stride_tricks.as_strided(flat, (*tensor.shape, each), steps)
