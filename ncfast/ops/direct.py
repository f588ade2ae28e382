"""What the C++ extension reads of tensors and modules by itself, without a call of Python for each.

It looks through the table of C functions that PyTorch's tensors have for DLPack, and takes nothing
but plain tensors and parameters on the CPU while nothing traces.
"""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any, Protocol

import torch
from torch import Tensor, nn

# something true from either: operations are recorded or transformed
_WATCHES = (torch._C._len_torch_dispatch_stack, torch._C._functorch.peek_interpreter_stack)


def plain(*tensors: Tensor) -> bool:
    """Whether these are ordinary CPU tensors and no tracer is active."""
    return (
        all(type(tensor) is Tensor and tensor.device.type == "cpu" for tensor in tensors)
        and not torch.compiler.is_compiling()
        and not any(watches() for watches in _WATCHES)
        # of a negative view the memory holds the negatives of the numbers
        and not any(tensor.is_neg() for tensor in tensors)
    )


class NormReader(Protocol):
    """Norms of many tensors in one call; None for what takes another way."""

    def of_module(self, module: nn.Module) -> float | None:
        """Of all parameters of a module."""

    def of_tensors(self, tensors: list[Tensor]) -> float | None:
        """Of a list of tensors."""


class NormWriter(Protocol):
    """Norms of a module's parameters, one after another into memory of the caller."""

    def push(self, step: int, module: nn.Module) -> bool:
        """The next norm; False, and nothing done, where there is none or no place is left."""


@functools.cache
def tensor_reader(extension: ModuleType | None) -> Any | None:
    """What reads tensors; None without the extension, or with a PyTorch that has no table."""
    table = getattr(Tensor, "__dlpack_c_exchange_api__", None)
    if extension is None or table is None:
        return None
    return extension.TensorReader(Tensor, nn.Parameter, table, _WATCHES, torch.get_num_threads)


@functools.cache
def norm_reader(extension: ModuleType | None) -> NormReader | None:
    """What takes norms; None where there is no `tensor_reader`."""
    reader = tensor_reader(extension)
    if extension is None or reader is None:
        return None
    made: NormReader = extension.WeightNorm(reader, nn.Module)
    return made


def norm_writer(
    extension: ModuleType | None, values: Tensor, steps: list[int]
) -> NormWriter | None:
    """Writes a norm to ``values`` and its step to ``steps``; None without a `norm_reader`.

    Args:
        extension: the C++ extension.
        values: (R,) float64 on the CPU, contiguous; the caller keeps it alive. A FakeTensor, which
            has no memory, gets None.
        steps: one for each value that is there; shared with the caller.
    """
    reader = norm_reader(extension)
    if extension is None or reader is None or type(values) is not Tensor:
        return None
    made: NormWriter = extension.NormWriter(values.data_ptr(), len(values), steps, reader)
    return made
