"""The hooks that keep the output of a layer, and the attention mask that the model got."""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ncfast.features.batches import MASK
from ncfast.features.pooling import find_tensor

_is_compiling = torch.compiler.is_compiling
_is_exporting = getattr(torch.compiler, "is_exporting", lambda: False)  # not in torch 2.6
_in_backward = torch._C._current_graph_task_id  # -1 outside of a backward pass
_tracing = torch._C._is_tracing  # torch.jit.trace is running
_grad_enabled = torch.is_grad_enabled
_TRAINING = 3  # the rank of a call in training mode with gradients


class Portable:
    """A hook that belongs to the running process.

    In a copied or pickled model it does nothing, and the copy does not need ncfast.
    """

    @property
    def __name__(self) -> str:  # torch.jit.script reads this attribute
        # a __getattr__ would make every attribute of the hook slow to read
        raise AttributeError(_NO_SCRIPT)

    def __reduce__(self) -> Any:
        # a copy holds a function of the standard library that accepts anything and returns None
        return getattr, (contextlib.nullcontext(), "__exit__")

    _state: ClassVar[tuple[str, ...]]  # the attributes that belong to one forward pass

    def clear(self) -> None:
        """Forget the forward pass."""
        raise NotImplementedError

    def set_aside(self) -> dict[str, Any]:
        """Forget the forward pass and return it, for `put_back`."""
        kept = {name: getattr(self, name) for name in self._state}
        self.clear()
        return kept

    def put_back(self, kept: dict[str, Any]) -> None:
        """Undo `set_aside`."""
        for name, value in kept.items():
            setattr(self, name, value)


class Hook(Portable):
    """Keeps the output (or the input) of a layer since the last `take`, while ``enabled``.

    Each call has a rank: training mode ranks above eval mode, then gradients above none. The last
    call of the highest rank is kept, so a validation pass before the step changes nothing.
    Activation checkpointing runs a layer again in the backward pass; the hook ignores these calls,
    and those that torch.export or torch.jit record.

    Args:
        module: the layer.
        from_input: keep the layer's first argument instead of its output.
        keep_all: keep the whole output, for a pooling function of the user's, not its tensor alone.

    Attributes:
        value: the tensor, or the object that holds it; None if the layer has not run.
        version: the number of changes in place that the value had then; -1 for a copy.
        calls: how often the layer ran at the rank of the value.
        max_calls: a warning reports more calls than this.
        rank: the rank of the value; -1 if the layer has not run.
    """

    _state = ("value", "version", "calls", "rank", "compiled", "lower_value")

    def __init__(self, module: nn.Module, from_input: bool, keep_all: bool) -> None:
        self.enabled = True
        self.max_calls: float = 1
        self._from_input, self._keep_all = from_input, keep_all
        self._argument = next(iter(_parameters(module.forward)), "")
        self.clear()

    def clear(self) -> None:
        """Forget the value."""
        self.value: Any = None
        self.version, self.calls, self.rank = -1, 0, -1
        # for compiled calls: whether one was kept, and the value of a call below training rank
        self.compiled, self.lower_value = False, None

    def __call__(self, module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        """PyTorch calls this after the layer's forward."""
        if not self.enabled:
            return
        value = output
        if self._from_input:
            value = args[0] if args else self._by_name(kwargs)
        rank = 2 * module.training + _grad_enabled()
        if _is_compiling():
            if not _is_exporting():
                self._keep_compiled(_copied(value), rank)
            return
        last, plain = self.rank, type(value) is Tensor
        if rank < last or _tracing() or (last >= 0 and _in_backward() != -1):
            return  # torch.jit.trace, or a checkpoint that is computed again
        if not plain and type(value).__name__ in ("FakeTensor", "Proxy"):
            return
        self.calls = self.calls + 1 if rank == last else 1
        self.rank = rank
        if plain and not value.is_inference():
            self.value, self.version = value, value._version
        else:
            self._keep(value)

    def take(self) -> Any:
        """Return the value and forget it; None if there is none.

        Raises:
            ValueError: the value was changed in place after the layer ran.
        """
        value, version = self.value if self.value is not None else self.lower_value, self.version
        self.clear()
        if type(value).__name__ == "FakeTensor":
            return None  # of an export: torch 2.6 does not tell it from a compilation
        if version >= 0 and self._version(value) != version:
            raise ValueError(_CHANGED)
        return value

    def calls_to_report(self) -> int:
        """The number of calls if it is above 1 and was not reported before; else 0."""
        if self.calls <= self.max_calls:
            return 0
        self.max_calls = math.inf
        return self.calls

    def _by_name(self, kwargs: dict[str, Any]) -> Any:
        if self._argument in kwargs:
            return kwargs[self._argument]
        return next(iter(kwargs.values()), None)

    def _keep(self, value: Any) -> None:
        if not self._keep_all:
            found = value if isinstance(value, Tensor) else find_tensor(value)
            value = value if found is None else found
        if torch.is_inference_mode_enabled():  # its tensors do not count changes in place
            value, self.version = pytree.tree_map_only(Tensor, torch.clone, value), -1
        else:
            self.version = self._version(value)
        self.value = value

    @staticmethod
    def _version(value: Any) -> int:
        """The number of changes in place of all tensors in the value; -1 if none counts them."""
        leaves = [value] if isinstance(value, Tensor) else pytree.tree_leaves(value)
        counts = [x._version for x in leaves if isinstance(x, Tensor) and not x.is_inference()]
        return sum(counts) if counts else -1

    def _keep_compiled(self, value: Any, rank: int) -> None:
        # torch.compile traces this: a counter would make a new graph at every call
        if rank < _TRAINING:
            self.lower_value = value
            return
        self.calls = 2 if self.compiled else 1
        self.compiled, self.value, self.version, self.rank = True, value, -1, rank


def _copied(value: Any) -> Any:
    """A copy made in the compiled graph, which later changes in place do not reach."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, tuple) and type(value) is tuple:
        return tuple([_copied(entry) for entry in value])
    if type(value) is dict:
        return {key: _copied(entry) for key, entry in value.items()}
    return value


_CHANGED = (
    "Expected what the layer returned to be as it was but it was changed in place after the layer "
    "ran, by an nn.ReLU(inplace=True) for example. Track the layer that changed it instead, or "
    "turn inplace off."
)
_NO_SCRIPT = (
    "Expected a model without forward hooks of Python for torch.jit.script but a Tracker has put "
    "one on it. Script the model before the Tracker is made, or after tracker.close()."
)


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

    _state = ("mask", "tokens", "_rank")

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
        given = list(args)
        if len(given) == 1 and isinstance(given[0], Mapping):  # the model takes a batch as it is
            kwargs = {**given.pop(), **kwargs}
        mask = kwargs.get(MASK)
        if mask is None and 0 <= self._position < len(given):
            mask = given[self._position]
        fits = isinstance(mask, Tensor) and mask.ndim == 2
        self.mask = mask.detach() > 0 if fits and isinstance(mask, Tensor) else None
        first = next(iter((*given, *kwargs.values())), None)
        self.tokens = isinstance(first, Tensor) and not first.is_floating_point()
        self._rank = rank


def _parameters(forward: Callable[..., Any]) -> list[str]:
    try:
        return list(inspect.signature(forward).parameters)
    except (TypeError, ValueError):
        return []
