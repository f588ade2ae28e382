"""The forward hook that keeps what a layer returned, and knows which call it was."""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ncfast.tracking.layers import find_tensor

_is_compiling = torch.compiler.is_compiling
_is_exporting = getattr(torch.compiler, "is_exporting", lambda: False)  # not in torch 2.6
_in_backward = torch._C._current_graph_task_id  # -1 outside
_tracing = torch._C._is_tracing  # of torch.jit
_grad_enabled = torch.is_grad_enabled
_TRAINING = 3  # the rank of a call in training mode with gradients


class Hook:
    """Keeps what a layer returned (or got) since the last `take`, while ``enabled``.

    Of several calls the last of the highest rank counts: training mode before eval mode, then with
    gradients before without. A validation pass before the step therefore changes nothing.
    Activation checkpointing runs a layer again in the backward pass; that is not counted. A call
    that is exported or traced by torch.jit leaves nothing behind.

    The hook belongs to the running process: in a copied or pickled model it does nothing, and the
    copy needs no ncfast.

    Args:
        module: the layer.
        from_input: keep its first argument instead of its output.
        whole: keep all of the output, for a pooling function of the user's, not the tensor alone.

    Attributes:
        value: a tensor, or what holds it; None if the layer has not run.
        version: how often the value had been changed in place; -1 for a copy.
        calls: how often the layer ran, at the rank of the value.
        most: more calls than this are worth a warning.
    """

    def __init__(self, module: nn.Module, from_input: bool, whole: bool) -> None:
        self.enabled = True
        self.most: float = 1
        self._from_input, self._whole = from_input, whole
        self._argument = _first_argument(module)
        self.clear()

    def clear(self) -> None:
        """Forget what was kept."""
        self.value: Any = None
        self.version, self.calls, self.rank = -1, 0, -1
        self.seen, self.side = False, None  # for compiled calls

    def __call__(self, module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        """Called by torch after the layer's forward."""
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
            return  # traced by torch.jit, or repeated in a backward pass
        if not plain and type(value).__name__ in ("FakeTensor", "Proxy"):
            return
        self.calls = self.calls + 1 if rank == last else 1
        self.rank = rank
        if plain and not value.is_inference():
            self.value, self.version = value, value._version
        else:
            self._keep(value)

    def take(self) -> Any:
        """The value, which is forgotten; None if there is none.

        Raises:
            ValueError: it was changed in place since.
        """
        value, version = self.value if self.value is not None else self.side, self.version
        self.clear()
        if version >= 0 and self._version(value) != version:
            raise ValueError(_CHANGED)
        return value

    def set_aside(self) -> dict[str, Any]:
        """What was kept, for `put_back`; it is forgotten."""
        names = ("value", "version", "calls", "rank", "seen", "side")
        kept = {name: getattr(self, name) for name in names}
        self.clear()
        return kept

    def put_back(self, kept: dict[str, Any]) -> None:
        """Undo `set_aside`."""
        for name, value in kept.items():
            setattr(self, name, value)

    def calls_to_report(self) -> int:
        """How often the layer ran, if that is more than once and was not said before; else 0."""
        if self.calls <= self.most:
            return 0
        self.most = math.inf
        return self.calls

    def _by_name(self, kwargs: dict[str, Any]) -> Any:
        if self._argument in kwargs:
            return kwargs[self._argument]
        return next(iter(kwargs.values()), None)

    def _keep(self, value: Any) -> None:
        if not self._whole:
            found = value if isinstance(value, Tensor) else find_tensor(value)
            value = value if found is None else found
        if torch.is_inference_mode_enabled():  # no tensor counts its changes there
            value, self.version = pytree.tree_map_only(Tensor, torch.clone, value), -1
        else:
            self.version = self._version(value)
        self.value = value

    @staticmethod
    def _version(value: Any) -> int:
        """How often the value was changed in place; -1 where there is no telling."""
        leaves = [value] if isinstance(value, Tensor) else pytree.tree_leaves(value)
        counts = [x._version for x in leaves if isinstance(x, Tensor) and not x.is_inference()]
        return sum(counts) if counts else -1

    def _keep_compiled(self, value: Any, rank: int) -> None:
        # traced: a number that counts up would make a new graph at every call
        if rank < _TRAINING:
            self.side = value
            return
        self.calls = 2 if self.seen else 1
        self.seen, self.value, self.version, self.rank = True, value, -1, rank

    @property
    def __name__(self) -> str:  # torch.jit.script asks for it
        # no __getattr__: with one Python reads every attribute of the hook the slow way
        raise AttributeError(_NO_SCRIPT)

    def __reduce__(self) -> Any:
        # a function of the standard library that takes anything and returns None
        return getattr, (contextlib.nullcontext(), "__exit__")


def _copied(value: Any) -> Any:
    """A copy in the compiled graph: later changes in place do not reach it."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, tuple) and type(value) is tuple:
        return tuple([_copied(entry) for entry in value])
    if type(value) is dict:
        return {key: _copied(entry) for key, entry in value.items()}
    return value


def _first_argument(module: nn.Module) -> str:
    try:
        return next(iter(inspect.signature(module.forward).parameters), "")
    except (TypeError, ValueError):
        return ""


def idle_hook() -> Callable[..., None]:
    """What models that version 0.1 saved while they were tracked have for a hook."""
    return contextlib.nullcontext().__exit__


_CHANGED = (
    "Expected what the layer returned to be as it was but it was changed in place after the layer "
    "ran, by an nn.ReLU(inplace=True) for example. Track the layer that changed it instead, or "
    "turn inplace off."
)
_NO_SCRIPT = (
    "Expected a model without forward hooks of Python for torch.jit.script but a Tracker has put "
    "one on it. Script the model before the Tracker is made, or after tracker.close()."
)
