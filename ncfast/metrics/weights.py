"""Norms of a model's parameters, and how its consecutive layers balance."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ncfast._arrays import Array, as_tensor
from ncfast._validate import check_device
from ncfast.ops import _raw
from ncfast.ops.weight_norm import ON_CPU, norm_reader, reference


def weight_norm(model_or_parameters: nn.Module | Iterable[Array]) -> Tensor:
    """Global L2 norm of all parameters, sqrt(sum |p|^2); detached from the graph.

    Not the sum of the norms of each tensor, which some public code prints under the same name.
    For the last layer alone pass its parameters: `ncfast.weight_norm([head.weight, head.bias])`.
    Sharded parameters (DTensor, as FSDP2 makes them) count whole: then all ranks must call it.
    Accumulated in float64. Plain parameters on the CPU are read by the C++ extension, with the same
    bits for any number of threads; `ncfast.ops.weight_norm.reference` is for everything else.

    Args:
        model_or_parameters: a module, or tensors or arrays of any floating or complex dtype and
            shape on one device.

    Returns:
        () float64 on the parameters' device.

    Raises:
        ValueError: there is no parameter, or its device has no float64.
        TypeError: a parameter holds integers, such as the codes of a quantised layer, or is not an
            array of numbers.

    Example:
        >>> import torch, ncfast
        >>> ncfast.weight_norm([torch.tensor([3.0]), torch.tensor([[4.0]])]).item()
        5.0
    """
    module: nn.Module | None = None
    tensors: list[Tensor] = []
    if isinstance(model_or_parameters, nn.Module):
        module = model_or_parameters
    else:
        tensors = _tensors("model_or_parameters", model_or_parameters)
    reader = None if torch.compiler.is_compiling() else norm_reader(_raw.extension)
    if reader is not None:
        found = reader.of_module(module) if module is not None else reader.of_tensors(tensors)
        if found is not None:
            return _raw.FLOAT64.new_full((), found)
    return reference(tensors if module is None else module)


@torch.no_grad()
def balancedness(last: Array, previous: Array, *, relative: bool = True) -> Tensor:
    """How far two consecutive linear layers are from balanced; zero means balanced.

    norm_F(A - B) with A = W_L^T W_L and B = W_{L-1} W_{L-1}^T, over norm_F(A) + norm_F(B) when
    relative. Under gradient descent with L2 weight decay the absolute gap of two linear layers
    decays as (1 - eta lambda)^(2 t): the mechanism behind the second time scale of grokking
    (Sakamoto & Sato 2025, arXiv 2509.20829, Theorem 4.3).

    Args:
        last: W_L, (K, H), as in `nn.Linear(H, K).weight`, floats of 16 to 64 bits.
        previous: W_{L-1}, (H, D), on the same device.
        relative: divide by norm_F(A) + norm_F(B); the value then lies in [0, 1].

    Returns:
        () float64; NaN when relative and both are zero. Detached from the graph.

    Raises:
        ValueError: the shapes do not chain, or the devices differ or have no float64.
        TypeError: an argument is not an array of numbers.

    Example:
        >>> import torch, ncfast
        >>> w = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
        >>> ncfast.balancedness(w, w).item()
        0.0
    """
    last, previous = as_tensor("last", last), as_tensor("previous", previous)
    if last.ndim != 2 or previous.ndim != 2 or last.shape[1] != previous.shape[0]:
        raise ValueError(
            "Expected arguments `last` of shape (K, H) and `previous` of shape (H, D) but got "
            f"{tuple(last.shape)} and {tuple(previous.shape)}. Pass the weights of two "
            "consecutive linear layers, the later one first."
        )
    for name, matrix in (("last", last), ("previous", previous)):
        check_device(name, matrix.device, f"Move it to the CPU: {name}.cpu().")
    if last.device != previous.device:
        raise ValueError(
            f"Expected argument `previous` on {last.device}, as `last`, but got {previous.device}."
        )
    upper, lower = last.to(torch.float64), previous.to(torch.float64)
    a, b = upper.T @ upper, lower @ lower.T
    gap = torch.linalg.matrix_norm(a - b)
    return gap / (torch.linalg.matrix_norm(a) + torch.linalg.matrix_norm(b)) if relative else gap


@torch.no_grad()
def spectral_norm_product(model_or_weights: nn.Module | Iterable[Array]) -> Tensor:
    """Product over layers of the largest singular value of the weight matrix.

    An upper bound of the Lipschitz constant of a network of linear layers and 1-Lipschitz
    activations (Bartlett, Foster & Telgarsky 2017). Convolution kernels are flattened to
    (out, rest), which is a diagnostic and no bound. On CUDA the decomposition waits for the device.

    Args:
        model_or_weights: a module, of which every parameter with at least two axes counts, or
            such tensors or arrays.

    Returns:
        () float64. Detached from the graph.

    Raises:
        ValueError: there is no weight matrix, or its device has no float64.

    Example:
        >>> import torch, ncfast
        >>> ncfast.spectral_norm_product([2 * torch.eye(3), 3 * torch.eye(3)]).item()
        6.0
    """
    if isinstance(model_or_weights, nn.Module):
        model_or_weights = model_or_weights.parameters()
    tensors = _tensors("model_or_weights", model_or_weights)
    matrices = [w for w in tensors if w.ndim >= 2]
    if not matrices:
        raise ValueError(
            "Expected argument `model_or_weights` to hold at least one weight matrix but got none."
        )
    for matrix in matrices:
        check_device("model_or_weights", matrix.device, ON_CPU)
    flat = (matrix.flatten(1).to(torch.float64) for matrix in matrices)
    return torch.stack([torch.linalg.svdvals(matrix).amax() for matrix in flat]).prod()


def _tensors(name: str, given: Iterable[Array]) -> list[Tensor]:
    if not isinstance(given, Iterable):
        raise TypeError(
            f"Expected argument `{name}` to be a torch.nn.Module or a list of tensors but got "
            f"{type(given).__name__}."
        )
    if isinstance(given, Tensor) and given.ndim == 0:
        given = [given]
    return [as_tensor(name, each) for each in given]
