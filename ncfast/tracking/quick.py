"""The ordinary step of a training loop: nothing to look into, as few instructions as it takes."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from ncfast.ops.states import Quick
from ncfast.ops.weight_norm import NormWriter
from ncfast.tracking.hook import Hook


class QuickStep:
    """A fast step: measures batches of one split into one ring.

    A full step records where its batch was written; later batches of the same kind reuse that
    route. Training leaves the caches cold, so a step costs what fetching its code takes. A batch
    of another kind changes nothing here and is left to the full step.

    Args:
        split: of the keys.
        hook: what holds the features; None if they are passed in.
        writer: of the ring's rows.
        norms: where the norm of ``model`` goes.
        model: None where no norm is measured.
        forget: called where the features are passed in, for those that hooks hold.
        least: the rank of the calls that are measured (see `Hook`); lower ones are looked into.
    """

    __slots__ = ("_forget", "_hook", "_least", "_norm", "_push", "_split")

    def __init__(
        self,
        split: str,
        hook: Hook | None,
        writer: Quick,
        norms: NormWriter | None = None,
        model: nn.Module | None = None,
        forget: Callable[[], None] | None = None,
        least: int = -1,
    ) -> None:
        self._forget, self._least = forget, least
        self._split, self._hook, self._push = split, hook, writer.push
        self._norm = () if model is None else (norms, model)

    def __call__(self, step: int, labels: Tensor | None, feats: Tensor | None, split: str) -> bool:
        """Measure the batch of ``step``; False, and nothing done, if that takes a full step."""
        hook = self._hook
        if split != self._split or (feats is None) is (hook is None):
            return False
        if hook is None:
            done = self._push(step, feats, labels, *self._norm)
            if done and self._forget is not None:
                self._forget()
            return done
        value, version = hook.value, hook.version
        if value is None or hook.calls > hook.most or hook.rank < self._least:
            return False
        if version >= 0 and value._version != version:
            return False
        if not self._push(step, value, labels, *self._norm):
            return False
        if hook.seen:
            hook.clear()
        else:  # the same, as far as it is needed
            hook.value, hook.rank = None, -1
        return True
