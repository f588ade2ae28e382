"""The norm of many tensors: in torch, and in C++ for the parameters of a module."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from types import ModuleType
from typing import Protocol

import torch
from torch import Tensor, nn

from ncfast._validate import check_device
from ncfast.ops import _raw

# the remedy for parameters on a device without float64
ON_CPU = "Pass copies on the CPU: [p.detach().cpu() for p in model.parameters()]."


class NormReader(Protocol):
    """Norms of many tensors in one call; None for tensors that it cannot read."""

    def of_module(self, module: nn.Module) -> float | None:
        """The norm of all parameters of a module."""

    def of_tensors(self, tensors: list[Tensor]) -> float | None:
        """The norm of a list of tensors."""


class NormWriter(Protocol):
    """Writes norms of a module's parameters one after another into memory of the caller."""

    def push(self, step: int, module: nn.Module) -> bool:
        """Write the next norm; False, and nothing done, without a norm or a free place."""


@functools.cache
def norm_reader(extension: ModuleType | None) -> NormReader | None:
    """The reader of norms; None where there is no `tensor_reader`."""
    reader = _raw.tensor_reader(extension)
    if extension is None or reader is None:
        return None
    made: NormReader = extension.WeightNorm(reader, nn.Module)
    return made


def norm_writer(
    extension: ModuleType | None, values: Tensor, steps: list[int]
) -> NormWriter | None:
    """A writer of norms to ``values`` and steps to ``steps``; None without a `norm_reader`.

    Args:
        extension: the C++ extension.
        values: (R,) float64 on the CPU, contiguous; the caller keeps it alive. A FakeTensor, which
            has no memory, gets None.
        steps: one for each value written so far; shared with the caller.
    """
    reader = norm_reader(extension)
    if extension is None or reader is None or type(values) is not Tensor:
        return None
    made: NormWriter = extension.NormWriter(values.data_ptr(), len(values), steps, reader)
    return made


@torch.no_grad()
def reference(model_or_parameters: nn.Module | Iterable[Tensor]) -> Tensor:
    """`weight_norm` in plain torch, for any device and any kind of tensor."""
    if isinstance(model_or_parameters, nn.Module):
        model_or_parameters = model_or_parameters.parameters()
    tensors = list(model_or_parameters)
    if not tensors:
        raise ValueError(
            "Expected argument `model_or_parameters` to hold at least one parameter but got none."
        )
    for tensor in tensors:
        check_device("model_or_parameters", tensor.device, ON_CPU)
    sharded = [tensor for tensor in tensors if hasattr(tensor, "full_tensor")]
    if not sharded:
        return _norm(tensors)
    plain = [tensor for tensor in tensors if not hasattr(tensor, "full_tensor")]
    whole = _norm(sharded).full_tensor()  # type: ignore[attr-defined]
    return torch.hypot(whole, _norm(plain)) if plain else whole


def _norm(tensors: list[Tensor]) -> Tensor:
    real = [_real(tensor) for tensor in tensors]
    if _raw.traced(*real):  # functorch has no rule for lists of tensors
        norms = [torch.linalg.vector_norm(tensor, dtype=torch.float64) for tensor in real]
    else:  # on a device, few launches for all of them
        norms = list(torch._foreach_norm(real, dtype=torch.float64))
    return torch.linalg.vector_norm(torch.stack(norms))


def _real(tensor: Tensor) -> Tensor:
    if tensor.is_complex():
        return torch.view_as_real(tensor.resolve_conj())
    if not tensor.is_floating_point():
        raise TypeError(
            "Expected argument `model_or_parameters` of a floating or complex dtype but got "
            f"{tensor.dtype} of shape {tuple(tensor.shape)}, whose values may be codes and no "
            "weights. Pass the others: ncfast.weight_norm(p for p in model.parameters() if "
            "p.is_floating_point())."
        )
    return tensor
