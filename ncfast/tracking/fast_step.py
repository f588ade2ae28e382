"""The fast path of `Tracker.step`: an ordinary batch in one call of the extension."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from ncfast._arrays import Array
from ncfast.features.hook import Hook
from ncfast.ops.grouping import Labels
from ncfast.ops.states import FastRowWriter
from ncfast.ops.weight_norm import NormWriter
from ncfast.tracking.buffer import MomentsBuffer


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
        push: measures a batch where a row holds more than its moments, see `row_with_extras`.
    """

    __slots__ = ("_clear", "_hook", "_min_rank", "_norm", "_push", "_split")

    def __init__(
        self,
        split: str,
        hook: Hook | None,
        writer: FastRowWriter,
        norms: NormWriter | None = None,
        model: nn.Module | None = None,
        clear: Callable[[], None] | None = None,
        min_rank: int = -1,
        push: Callable[..., bool] | None = None,
    ) -> None:
        self._clear, self._min_rank = clear, min_rank
        self._split, self._hook = split, hook
        self._push = writer.push if push is None else push
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
        if not self._push(step, value, labels, *self._norm):
            return False
        if hook.compiled:
            hook.clear()
        else:  # what `clear` does, as far as an uncompiled call needs it
            hook.value, hook.rank = None, -1
        return True


def row_with_extras(buffer: MomentsBuffer, head: nn.Linear | None) -> Callable[..., bool] | None:
    """What `FastRowWriter.push` does, for rows with a classifier or with metrics of the batch.

    A row counts once all of it is written, so no row ever has the extras of an earlier block. A
    signal handler that flushes in between leaves the batch to a full step.

    Args:
        buffer: with a fast writer.
        head: the classifier of the layer; None if there is none.

    Returns:
        None if only a full step can write such rows.
    """
    writer, keeps, measures = buffer.fast_writer, buffer.extras.keeps, buffer.extras.measures
    assert writer is not None
    if keeps and head is None:
        return None
    copy = buffer.fast_copy(head) if keeps and head is not None else None
    measure = buffer.fast_measure(head) if measures else None

    def push(step: int, feats: Tensor, labels: Tensor, *norm: object) -> bool:
        row = buffer.number
        if copy is not None and not copy(row):
            return False
        if not writer.fill(feats, labels):
            return False
        if measure is not None and not measure(row, feats, labels):
            return False
        return writer.count(step, row, *norm)

    return push
