"""Pooling over tokens that leaves out padding, and the attention mask that tells it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ncfast.features.hook import Portable
from ncfast.features.layers import PRESETS, Pool, batch_first, tensor_of

MASK = "attention_mask"


class MaskedPool:
    """Pooling that leaves out the padding of the batch at hand.

    Args:
        how: "last" or "gap".

    Attributes:
        mask: (B, T) bool of the batch; None where nothing is padded.
        unfit: whether the tokens of the last call had another shape than the mask.
        pooled: whether the last call pooled tokens (B, T, D).
    """

    def __init__(self, how: str) -> None:
        self._how = how
        self.mask: Tensor | None = None
        self.pooled = self.unfit = False

    def __call__(self, output: Any) -> Tensor:
        """Features (B, D) of tokens (B, T, D); of anything else what the preset makes of it."""
        tensor, mask = tensor_of(output), self.mask
        self.pooled = tensor.ndim == 3
        self.unfit = self.pooled and mask is not None and mask.shape != tensor.shape[:2]
        if mask is None or not self.pooled or self.unfit:
            return PRESETS[self._how](output)
        mask = mask.to(tensor.device)
        if self._how == "gap":
            kept = torch.where(mask.unsqueeze(2), tensor, 0)
            wide = torch.promote_types(tensor.dtype, torch.float32)
            return kept.sum(1, dtype=wide) / mask.sum(1, keepdim=True).clamp(min=1)
        position = torch.arange(mask.shape[1], device=mask.device)
        last = torch.where(mask, position, 0).amax(1)
        return tensor[torch.arange(len(tensor), device=tensor.device), last]


def masked_pool(how: str, layer: nn.Module) -> tuple[MaskedPool, Pool]:
    """A `MaskedPool`, and the pooling of the outputs of a layer, which may be (T, B, D)."""
    masked = MaskedPool(how)
    if batch_first(PRESETS[how], layer) is PRESETS[how]:
        return masked, masked

    def transposed(output: Any) -> Tensor:
        tensor = tensor_of(output)
        return masked(tensor.transpose(0, 1) if tensor.ndim == 3 else tensor)

    return masked, transposed


class Padding(Portable):
    """Keeps the attention mask of a model's last forward pass, as a hook before it.

    As with `Hook`, the last call of the highest rank is kept. The mask is the argument
    ``attention_mask``, by keyword or by position.

    Args:
        model: whose calls are observed.

    Attributes:
        mask: (B, T) bool, or None where there was none.
        tokens: whether the first argument of the call held integers: sequences of token ids, which
            may be padded.
    """

    def __init__(self, model: nn.Module) -> None:
        self.enabled = True
        names = _parameters(model.forward)
        self._position = names.index(MASK) if MASK in names else -1
        self.clear()

    def clear(self) -> None:
        """Forget the mask."""
        self.mask: Tensor | None = None
        self.tokens, self._rank = False, -1

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """PyTorch calls this before the model's forward."""
        rank = 2 * module.training + torch.is_grad_enabled()
        if not self.enabled or rank < self._rank:
            return
        mask = kwargs.get(MASK)
        if mask is None and 0 <= self._position < len(args):
            mask = args[self._position]
        fits = isinstance(mask, Tensor) and mask.ndim == 2
        self.mask = mask.detach() > 0 if fits and isinstance(mask, Tensor) else None
        first = next(iter((*args, *kwargs.values())), None)
        self.tokens = isinstance(first, Tensor) and not first.is_floating_point()
        self._rank = rank

    def set_aside(self) -> dict[str, Any]:
        """Forget the mask and return it, for `put_back`."""
        kept = {"mask": self.mask, "tokens": self.tokens, "_rank": self._rank}
        self.clear()
        return kept

    def put_back(self, kept: dict[str, Any]) -> None:
        """Undo `set_aside`."""
        for name, value in kept.items():
            setattr(self, name, value)


def _parameters(forward: Callable[..., Any]) -> list[str]:
    try:
        return list(inspect.signature(forward).parameters)
    except (TypeError, ValueError):
        return []
