"""A driver for Triton that compiles for a GPU and launches nothing, and a count of launches.

Kernels are compiled for the target as on a machine that has it. They are given tensors on the CPU,
whose memory stays as it is. So tests count launches, and ``python tests/fake_driver.py`` prints
what a call costs the host.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from typing import NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

# views and allocations
NO_LAUNCH = {
    "alias", "as_strided", "detach", "diagonal", "empty", "empty_like", "empty_strided", "expand",
    "new_empty", "permute", "select", "slice", "split", "split_with_sizes", "squeeze", "t",
    "transpose", "unbind", "unsqueeze", "view", "_reshape_alias", "_unsafe_view",
}  # fmt: skip


class Launch(NamedTuple):
    """One launch of a compiled kernel."""

    kernel: str
    grid: tuple[int, int, int]


class _Utils:
    def load_binary(self, name, kernel, shared, device):
        return 0, name, 0, 0, 1024  # module, function, registers, spills, threads

    def unload_module(self, module):
        pass

    def get_device_properties(self, device):
        return {"max_shared_mem": 227 << 10, "multiprocessor_count": 132}


class FakeDriver:
    """Stands for the CUDA driver of a device of capability 9.0.

    Attributes:
        launches: what was launched.
        arguments: those of the last launch alone: tensors that are held cost the next ones time.
    """

    def __init__(self):
        self.launches, self.arguments = [], ()
        self.utils = _Utils()

    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self):
        return 99  # Triton keeps compiled kernels by device: no real device must find these

    def get_current_stream(self, device):
        return 0

    def launcher_cls(self, src, metadata):
        """What launches a compiled kernel."""

        def launch(x, y, z, stream, function, packed, launched, enter, leave, *arguments):
            self.launches.append(Launch(metadata.name, (x, y, z)))
            self.arguments = arguments

        return launch


_DRIVER = FakeDriver()  # compiled kernels hold it


@contextlib.contextmanager
def fake_driver():
    """Makes a `FakeDriver` the driver of Triton."""
    before = driver._active
    driver.set_active(_DRIVER)
    _DRIVER.launches.clear()
    try:
        yield _DRIVER
    finally:
        driver._active = before


class TorchLaunches(TorchDispatchMode):
    """Lists the operations of torch that launch something; reading a value is an error.

    A few of them launch more than one kernel on a device, such as a sort.
    """

    def __init__(self):
        super().__init__()
        self.operations = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name().split("::")[1].split(".")[0]
        if name in ("_local_scalar_dense", "nonzero", "equal"):
            raise AssertionError(f"{name} would wait for the device")
        if name not in NO_LAUNCH:
            self.operations.append(name)
        return func(*args, **(kwargs or {}))


def count(call):
    """The operations of torch and the kernels that a call launches once it is compiled."""
    with fake_driver() as launched:
        call()
        launched.launches.clear()
        with TorchLaunches() as seen:
            call()
        return seen.operations, [each.kernel for each in launched.launches]


def microseconds(call, calls=500, repeats=15):
    """Median time of this thread in a call."""
    times = []
    for _ in range(repeats):
        start = time.thread_time()
        for _ in range(calls):
            call()
        times.append((time.thread_time() - start) / calls * 1e6)
    return statistics.median(times)


def main():
    from ncfast.ops import moments

    torch.set_num_threads(1)
    feats, labels = torch.randn(1000, 200), torch.arange(1000) % 10
    with fake_driver():
        moments.compute(feats, labels, 10)
        spent = microseconds(lambda: moments.compute(feats, labels, 10))
    print(f"class moments of 1000 x 200 features in one launch: {spent:.1f} us of Python a call")


if __name__ == "__main__":
    main()
