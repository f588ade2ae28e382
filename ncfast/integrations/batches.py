"""Reads masks, labels of later tokens and logits from the batches of other frameworks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ncfast.features.batches import MASK


def mask_of(inputs: Any, labels: Any) -> Tensor | None:
    """The "attention_mask" of a dict of inputs, if it has the shape of the labels."""
    mask = inputs.get(MASK) if isinstance(inputs, Mapping) else None
    fits = isinstance(mask, Tensor) and isinstance(labels, Tensor) and mask.shape == labels.shape
    return mask.detach() if fits and isinstance(mask, Tensor) else None


def next_tokens(labels: Tensor, mask: Tensor | None, shift: int) -> tuple[Tensor, Tensor]:
    """Labels ``shift`` tokens later, and a mask that leaves out the tokens without one.

    Labels and mask stay (B, T), the shape of the features. A pair of tokens counts if the mask
    holds for both.
    """
    mask = torch.ones_like(labels, dtype=torch.bool) if mask is None else mask > 0
    kept = torch.zeros_like(mask)
    kept[:, :-shift] = mask[:, :-shift] & mask[:, shift:]
    return labels.roll(-shift, 1), kept


class Logits:
    """The logits (N, K), or (B, T, K), of a module's forward pass, caught by hooks.

    If the module was called once, its output is taken; otherwise the output of the only direct
    submodule that returned logits once. With no such output, or several, there are none.
    """

    def __init__(self, module: nn.Module, num_classes: int) -> None:
        self._found: list[tuple[bool, Tensor]] = []
        self._num_classes, self._module = num_classes, module
        modules = [module, *module.children()]
        self._handles = [m.register_forward_hook(self._keep) for m in modules]

    def _keep(self, module: nn.Module, args: Any, output: Any) -> None:
        if isinstance(output, Mapping):  # the output of a model of transformers
            output = output.get("logits")
        of_classes = isinstance(output, Tensor) and output.shape[-1:] == (self._num_classes,)
        if of_classes and output.ndim in (2, 3):
            self._found.append((module is self._module, output))

    def take(self) -> Tensor | None:
        """The logits since the last call, which are forgotten."""
        found, self._found = self._found, []
        own = [output for of_module, output in found if of_module]
        # a container returns the very output of its last module
        chosen = {id(output): output for output in own or [output for _, output in found]}
        return next(iter(chosen.values())) if len(chosen) == 1 else None

    def remove(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()
