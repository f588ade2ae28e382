"""The fast path of `Tracker.step`: an ordinary batch in one call of the extension."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from ncfast._arrays import Array
from ncfast.features.hook import Hook
from ncfast.ops.grouping import Labels
from ncfast.ops.states import FastRowWriter
from ncfast.ops.weight_norm import NormWriter


class FastStep:
    """Measures batches of one split into one buffer.

    A full step records where its batch was written; later batches of the same kind reuse that
    route. A batch of another kind changes nothing here, and a full step measures it. Training
    leaves the caches cold, so the cost of a step is mostly the fetching of its code.

    Args:
        split: the first part of the keys.
        hook: the hook that holds the features; None if they are passed in.
        writer: the writer of the buffer's rows.
        norms: the writer of the norms of ``model``.
        model: the model whose norm is measured; None for no norm.
        clear: called after a batch that was passed in, to drop the features that hooks hold.
        min_rank: the rank of the calls that are measured (see `Hook`). Calls of a lower rank go to
            the full step.
        copy: copies the classifier to a row of the buffer; False if it cannot. None where no metric
            reads a classifier.
        steps: of the filled rows of the buffer.
    """

    __slots__ = ("_clear", "_copy", "_hook", "_min_rank", "_norm", "_push", "_split", "_steps")

    def __init__(
        self,
        split: str,
        hook: Hook | None,
        writer: FastRowWriter,
        norms: NormWriter | None = None,
        model: nn.Module | None = None,
        clear: Callable[[], None] | None = None,
        min_rank: int = -1,
        copy: Callable[[int], bool] | None = None,
        steps: Sequence[int] = (),
    ) -> None:
        self._copy, self._steps = copy, steps
        self._clear, self._min_rank = clear, min_rank
        self._split, self._hook, self._push = split, hook, writer.push
        self._norm = () if model is None else (norms, model)

    def __call__(self, step: int, labels: Labels | None, feats: Array | None, split: str) -> bool:
        """Measure the batch of ``step``; False, with nothing changed, if a full step must."""
        hook = self._hook
        if split != self._split or (feats is None) is (hook is None):
            return False
        if hook is None:
            done = self._push(step, feats, labels, *self._norm)
            if done and self._clear is not None:
                self._clear()
            return done
        value, version = hook.value, hook.version
        if value is None or hook.calls > hook.max_calls or hook.rank < self._min_rank:
            return False
        if version >= 0 and value._version != version:
            return False
        if self._copy is None:
            if not self._push(step, value, labels, *self._norm):
                return False
        elif not self._push_with_classifier(step, value, labels):
            return False
        if hook.compiled:
            hook.clear()
        else:  # what `clear` does, as far as an uncompiled call needs it
            hook.value, hook.rank = None, -1
        return True

    def _push_with_classifier(self, step: int, feats: Tensor, labels: Labels | None) -> bool:
        """Copy the classifier, then write the row: no row ever has that of an earlier block."""
        assert self._copy is not None
        row = len(self._steps)
        if not self._copy(row) or not self._push(step, feats, labels, *self._norm):
            return False
        if len(self._steps) != row + 1:  # a signal handler has flushed in between
            self._copy(len(self._steps) - 1)
        return True
