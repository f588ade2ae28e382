"""Class moments packed into rows, many to a tensor, and what the C++ extension does to them.

A row of float64 holds counts (K), means (K, D), within_ss (K), norm_sum and norm_max. The counts
are kept as the bits of int64, so that the extension can write a row in place; or, where they
became weights, as float64.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ncfast.backends import cpu
from ncfast.backends.direct import plain, tensor_reader
from ncfast.moments import ClassMoments

# the order of csrc/gram_metrics.cpp: what needs sums of the moments, products of the means,
# singular values of the means, of the centred means
_MOMENT = ("rnc1.max", "rnc1.mean")
_PAIR = (
    "nc1.quotient",
    "nc1.quotient_sample",
    "nc1.within_fraction",
    "nc1.within_fraction_sample",
    "nc2.equinorm",
    "nc2.etf_error",
    "nc2.etf_error_raw",
    "nc2.cosine_mean",
    "nc2.cosine_std",
    "rank.participation_means",
    "nc1.cdnv",
    "nc1.cdnv_max",
    "nc2.equiangular",
    "nc2.coherence",
    "nc2.distance",
    "nc2.distance_var",
    "nc2.log_energy",
    "nc2.log_energy_var",
    "nc2.riesz_energy",
    "nc2.riesz_energy_var",
)
_SPECTRUM = ("nc2.condition",)
_CENTRED_SPECTRUM = ("nc2.condition_centred", "rank.effective_means", "rank.stable_means")
GRAM_METRICS = (*_MOMENT, *_PAIR, *_SPECTRUM, *_CENTRED_SPECTRUM)
_MOST_CLASSES = 128  # beyond, the products of means are better left to a matrix library
_MOST_SPECTRAL = 32  # and beyond this their singular values


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
        """Views of rows (n, size): counts, means, within_ss, norm_sum, norm_max."""
        k, d = self.classes, self.dim
        counts, means, within, norm_sum, norm_max = states.split([k, k * d, k, 1, 1], -1)
        if self.integer_counts:
            counts = counts.view(torch.int64)
        means = means.unflatten(-1, (k, d))
        return counts, means, within, norm_sum.squeeze(-1), norm_max.squeeze(-1)

    def unpack(self, state: Tensor) -> ClassMoments:
        """One row (size,) as moments that share its memory."""
        return ClassMoments(*self.split(state))


def pack(moments: ClassMoments) -> Tensor:
    """Moments as a row."""
    return torch.cat(
        [
            moments.counts.view(torch.float64),
            moments.means.reshape(-1),
            moments.within_ss,
            moments.norm_sum.reshape(1),
            moments.norm_max.reshape(1),
        ]
    )


class Quick(Protocol):
    """See `RowWriter.quick`."""

    def push(self, step: int, feats: object, labels: object, *norm: object) -> bool:
        """Fill the next row; False, and nothing done, if that takes a closer look.

        With a `NormWriter` and a module after the labels, the norm of its parameters is written in
        the same call, so that nobody finds the one without the other.
        """


class RowWriter:
    """Writes the moments of features straight into rows on the CPU.

    Args:
        states: (R, size) float64 on the CPU, contiguous.
        layout: of its rows.
    """

    def __init__(self, states: Tensor, layout: Layout) -> None:
        k, d = layout.classes, layout.dim
        # held, not only its address: the memory must outlive the writer
        self._states, self._classes, self._dim = states, k, d
        assert cpu.extension is not None, cpu.import_error
        self._class_moments = cpu.extension.class_moments
        self._base, self._row = states.data_ptr(), 8 * layout.size
        self._means, self._within, self._sum = 8 * k, 8 * k * (d + 1), 8 * k * (d + 2)
        self._norm_max = states.numpy()[:, -1]

    def quick(self, steps: list[int]) -> Quick | None:
        """A writer of row after row, all of it in C++; None if this PyTorch has no table for it.

        Its `push(step, feats, labels)` fills row ``len(steps)`` and appends the step, or does
        nothing and returns False where `write` and the checks before it should look instead: at
        types, shapes or devices that do not fit, labels out of range, values that are not finite,
        while something traces, or when all rows are full.

        Args:
            steps: those of the rows that are full; shared with the caller.
        """
        reader = tensor_reader(cpu.extension)
        if cpu.extension is None or reader is None:
            return None
        writer: Quick = cpu.extension.RowWriter(
            self._base, len(self._states), self._classes, self._dim, steps, reader
        )
        return writer

    def is_nan(self, row: int) -> bool:
        """Whether a feature of the batch in that row was not a number, or a label out of range."""
        return bool(self._norm_max[row] != self._norm_max[row])

    def write(self, row: int, feats: Tensor, labels: Tensor) -> bool:
        """Fill a row; False, and nothing written, if the extension cannot read the features."""
        code = cpu._FEATURE_CODES.get(feats.dtype)
        label_code = cpu._LABEL_CODES.get(labels.dtype)
        rows, dim = feats.shape
        stride, step = feats.stride()
        values, classes = feats.data_ptr(), labels.data_ptr()
        if code is None or label_code is None or not values or not classes:
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


def why_not_gram(states: Tensor, layout: Layout) -> str | None:
    """Why `gram_metrics` cannot take these rows; None if it can."""
    if cpu.extension is None:
        return f"the C++ extension is missing: {cpu.import_error}"
    if not plain(states):
        return f"the states are on {states.device}, or traced"
    if layout.classes > min(layout.dim + 1, _MOST_CLASSES):
        return f"{layout.classes} classes are more than {min(layout.dim + 1, _MOST_CLASSES)}"
    return None


def covered(layout: Layout, ids: Iterable[str]) -> list[str]:
    """Those of the metrics that `gram_metrics` knows for rows of this layout."""
    few = layout.classes <= _MOST_SPECTRAL
    known = GRAM_METRICS if few else (*_MOMENT, *_PAIR)
    return [id_ for id_ in ids if id_ in known]


def gram_metrics(states: Tensor, layout: Layout, ids: Sequence[str]) -> Tensor:
    """Metrics of each row by the C++ extension.

    Args:
        states: (n, size) float64 on the CPU, contiguous; see `why_not_gram`.
        layout: of its rows.
        ids: see `covered`.

    Returns:
        (n, len(ids)) float64.
    """
    assert cpu.extension is not None
    columns, wanted = _choice(tuple(ids))
    out = cpu._FLOAT64.new_empty((len(states), len(GRAM_METRICS)))
    cpu.extension.gram_metrics(
        states.data_ptr(),
        len(states),
        layout.size,
        layout.classes,
        layout.dim,
        layout.integer_counts,
        *wanted,
        out.data_ptr(),
    )
    return out.index_select(1, columns)


@functools.lru_cache(maxsize=64)
def _choice(ids: tuple[str, ...]) -> tuple[Tensor, list[bool]]:
    """Columns of the results, and whether the metrics need products, and singular values."""
    groups = (_PAIR, _SPECTRUM, _CENTRED_SPECTRUM)
    columns = torch.tensor([GRAM_METRICS.index(id_) for id_ in ids], device="cpu")
    return columns, [any(id_ in group for id_ in ids) for group in groups]
