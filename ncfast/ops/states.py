"""Class moments packed into rows, many to a tensor.

A row of float64 holds counts (K), means (K, D), within_ss (K), norm_sum and norm_max. The counts
are kept as the bits of int64, so that the extension can write a row in place; or, where they
became weights, as float64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ncfast.ops import _raw
from ncfast.ops._raw import tensor_reader
from ncfast.ops.summary import Moments


class Layout(NamedTuple):
    """What a row holds."""

    classes: int
    dim: int
    integer_counts: bool = True

    @property
    def size(self) -> int:
        """Entries of a row."""
        return self.classes * (self.dim + 2) + 2

    def split(self, states: Tensor) -> tuple[Tensor, ...]:
        """Views of rows (..., size): counts, means, within_ss, norm_sum, norm_max."""
        k, d = self.classes, self.dim
        counts, means, within, norm_sum, norm_max = states.split([k, k * d, k, 1, 1], -1)
        if self.integer_counts:
            counts = counts.view(torch.int64)
        means = means.unflatten(-1, (k, d))
        return counts, means, within, norm_sum.squeeze(-1), norm_max.squeeze(-1)


def pack(moments: Moments) -> Tensor:
    """Moments as rows (..., size), with the leading axes of the moments."""
    return torch.cat(
        [
            moments.counts.view(torch.float64),
            moments.means.flatten(-2),
            moments.within_ss,
            moments.norm_sum.unsqueeze(-1),
            moments.norm_max.unsqueeze(-1),
        ],
        -1,
    )


class FastRowWriter(Protocol):
    """See `RowWriter.fast_writer`."""

    def push(self, step: int, feats: object, labels: object, *norm: object) -> bool:
        """Fill the next row; False, and nothing done, if that takes a closer look.

        With a `NormWriter` and a module after the labels, the norm of its parameters is written in
        the same call, so that nobody finds the one without the other.
        """

    def fill(self, feats: object, labels: object) -> bool:
        """Fill the next row, which does not count until `count`; False as in `push`."""

    def count(self, step: int, row: int, *norm: object) -> bool:
        """Count ``row``, which was filled, and write the norm as `push` does.

        False, and nothing done, if the norm takes a closer look, or if ``row`` is no longer the
        next one: a signal handler may have emptied the buffer.
        """


def parameter_copier(rows: Tensor) -> Callable[[int, Tensor], bool]:
    """A function that copies a parameter into a row of a contiguous tensor on the CPU.

    It returns False, with nothing copied, if it cannot read the parameter: a full step looks then.

    Args:
        rows: (R, ...); a parameter has the shape and dtype of one row.
    """
    reader = tensor_reader(_raw.extension)
    assert _raw.extension is not None
    assert reader is not None
    copier: Callable[[int, Tensor], bool] = _raw.extension.ParameterRows(rows, reader).copy
    return copier


class RowWriter:
    """Writes the moments of features straight into rows on the CPU.

    Args:
        states: (R, size) float64 on the CPU, contiguous.
        layout: of its rows.
        num_classes: K of the labels; None is that of the layout. Where it is larger, a row holds
            the classes of its batch, in any order, and `write` cannot fill it.
    """

    def __init__(self, states: Tensor, layout: Layout, num_classes: int | None = None) -> None:
        k, d = layout.classes, layout.dim
        # held, not only its address: the memory must outlive the writer
        self._states, self._classes, self._dim = states, k, d
        self._num_classes = k if num_classes is None else num_classes
        assert _raw.extension is not None, _raw.import_error
        self._class_moments = _raw.extension.class_moments
        self._base, self._row = states.data_ptr(), 8 * layout.size
        self._means, self._within, self._sum = 8 * k, 8 * k * (d + 1), 8 * k * (d + 2)
        self._norm_max = states.numpy()[:, -1]

    def fast_writer(self, steps: list[int]) -> FastRowWriter | None:
        """A writer of row after row, all of it in C++; None if this PyTorch has no table for it.

        Its `push(step, feats, labels)` fills row ``len(steps)`` and appends the step, or does
        nothing and returns False where `write` and the checks before it should look instead: at
        types, shapes or devices that do not fit, labels out of range, values that are not finite,
        while something traces, or when all rows are full.

        Args:
            steps: those of the rows that are full; shared with the caller.
        """
        reader = tensor_reader(_raw.extension)
        if _raw.extension is None or reader is None:
            return None
        writer: FastRowWriter = _raw.extension.RowWriter(
            self._base,
            len(self._states),
            self._num_classes,
            self._classes,
            self._dim,
            steps,
            reader,
        )
        return writer

    def is_nan(self, row: int) -> bool:
        """Whether a feature of the batch in that row was not a number, or a label out of range."""
        return bool(self._norm_max[row] != self._norm_max[row])

    def write(self, row: int, feats: Tensor, labels: Tensor) -> bool:
        """Fill a row; False, and nothing written, if the extension cannot read the features."""
        code = _raw.FEATURE_CODES.get(feats.dtype)
        label_code = _raw._LABEL_CODES.get(labels.dtype)
        rows, dim = feats.shape
        stride, step = feats.stride()
        values, classes = feats.data_ptr(), labels.data_ptr()
        if code is None or label_code is None or not values or not classes:
            return False
        if self._num_classes != self._classes:
            return False
        if (step != 1 and dim != 1) or feats.is_neg() or labels.is_neg():
            return False
        at = self._base + row * self._row
        self._class_moments(
            values,
            code,
            rows,
            dim,
            stride,
            classes,
            label_code,
            labels.stride(0),
            self._classes,
            at,
            at + self._means,
            at + self._within,
            at + self._sum,
            at + self._sum + 8,
            torch.get_num_threads(),
        )
        return True
