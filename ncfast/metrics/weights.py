"""Norms of a model's parameters."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


@torch.no_grad()
def weight_norm(model_or_parameters: nn.Module | Iterable[Tensor]) -> Tensor:
    """Global L2 norm of all parameters, sqrt(sum p^2).

    Not the sum of the norms of each tensor, which some public code prints under the same name.

    Args:
        model_or_parameters: a module, or tensors of any floating dtype and shape on one device.

    Returns:
        () float64 on the parameters' device.

    Raises:
        ValueError: there is no parameter.

    Example:
        >>> import torch, ncfast
        >>> ncfast.weight_norm([torch.tensor([3.0]), torch.tensor([[4.0]])]).item()
        5.0
    """
    if isinstance(model_or_parameters, nn.Module):
        model_or_parameters = model_or_parameters.parameters()
    tensors = list(model_or_parameters)
    if not tensors:
        raise ValueError(
            "Expected argument `model_or_parameters` to hold at least one parameter but got none."
        )
    norms = [torch.linalg.vector_norm(tensor, dtype=torch.float64) for tensor in tensors]
    return torch.linalg.vector_norm(torch.stack(norms))
