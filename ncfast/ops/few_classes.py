"""The primitives of `ncfast.ops.summary` by the C++ extension, for few classes on a CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ncfast.ops import _raw
from ncfast.ops._raw import plain
from ncfast.ops.pairs import QUANTITIES, Statistic
from ncfast.ops.summary import (
    Between,
    Condition,
    Gram,
    Moments,
    RowProducts,
    Sizes,
    Spread,
    Traces,
)

_MOST_CLASSES = 128  # beyond, the products of means are better left to a matrix library
_MOST_SPECTRAL = 32  # and beyond this their singular values


class FewClasses:
    """The primitives of states on the CPU by the C++ extension; see `few_classes`.

    One pass over the states computes all that is planned; what is asked for beside that takes
    another pass.

    Args:
        moments: with at most one leading axis.
        planned: see `MetricInputs`.
    """

    def __init__(self, moments: Moments, planned: frozenset[str]) -> None:
        assert _raw.extension is not None
        *self._batch, classes, dim = moments.means.shape
        self.spectral = classes <= _MOST_SPECTRAL
        self._rank = min(classes, dim)
        counts, means, within = moments.counts, moments.means, moments.within_ss
        if not (_dense(counts, 1) and _dense(means, 2) and _dense(within, 1)):
            counts, means, within = (part.contiguous() for part in (counts, means, within))
        parts = (counts, means, within, moments.norm_sum, moments.norm_max)
        self._kept = parts  # the extension holds addresses alone
        number = self._batch[0] if self._batch else 1
        strides = (part.stride(0) if self._batch else 0 for part in parts)
        self._states = _raw.extension.States(
            number,
            classes,
            dim,
            counts.dtype == torch.int64,
            *(part.data_ptr() for part in parts),
            *strides,
        )
        self._parts: set[str] = {part for part in _PARTS if part in planned}
        if any(use.startswith("pairs.") for use in planned):
            self._parts |= {"products", "pairs"}
        self._found: dict[str, Any] | None = None

    def part(self, part: str) -> dict[str, Any]:
        """The groups of `_SUMMARY` with those of one of `_PARTS`, or with the traces alone ("")."""
        if part and part not in self._parts:
            self._parts |= {part, "products"} if part == "pairs" else {part}
            self._found = None
        if self._found is None:
            out = _raw.FLOAT64.new_empty((*self._batch, _SIZE + self._rank))
            self._states.summarise(*(each in self._parts for each in _PARTS), out.data_ptr())
            found = _SUMMARY if "pairs" in self._parts else _PRODUCTS
            found = found if "products" in self._parts else _TRACES
            self._found, self._out = _grouped(out, found), out
        return self._found

    def singular_values(self) -> Tensor:
        """Of the centred means, largest first, (..., R)."""
        self.part("centred_spectrum")
        return self._out.narrow(-1, _SIZE, self._rank)

    def classifier(self, weight: Tensor, *, products: bool) -> dict[str, Any]:
        """The groups of `_CLASSIFIER`; those with Gram matrices only if ``products``.

        Args:
            weight: (K, D) float64, or one for each state.
            products: whether Gram matrices are wanted.
        """
        weight = weight if _dense(weight, 2) else weight.contiguous()
        groups = _CLASSIFIER if products else _ROWS
        out = _raw.FLOAT64.new_empty((*self._batch, _size(_CLASSIFIER)))
        stride = weight.stride(0) if weight.ndim > 2 else 0
        self._states.classifier(weight.data_ptr(), stride, products, out.data_ptr())
        return _grouped(out, groups)


# what the extension computes only where it is planned
_PARTS = ("products", "pairs", "spectrum", "centred_spectrum")
# the extension's fields, in order: see `_check`
_TRACES: dict[str, Any] = {"traces": Traces, "condition": Condition}
_PRODUCTS: dict[str, Any] = _TRACES | {
    "between": Between,
    "norm": Spread,
    "gram": Gram,
    "gram_raw": Gram,
    "cosine": Statistic,
}
_SUMMARY: dict[str, Any] = _PRODUCTS | dict.fromkeys(QUANTITIES, Statistic)
_ROWS: dict[str, Any] = {"size": Sizes, "norm": Spread, "dot": Spread, "cosine": Spread}
_CLASSIFIER: dict[str, Any] = _ROWS | dict.fromkeys(RowProducts._fields, Gram)


def _size(groups: dict[str, Any]) -> int:
    return sum(len(kind._fields) for kind in groups.values())


_SIZE = _size(_SUMMARY)


def _grouped(out: Tensor, groups: dict[str, Any]) -> dict[str, Any]:
    """The first columns of the extension's output as one NamedTuple a group."""
    columns, start, found = out.narrow(-1, 0, _size(groups)).unbind(-1), 0, {}
    for name, kind in groups.items():
        end = start + len(kind._fields)
        found[name] = kind(*columns[start:end])
        start = end
    return found


def _check() -> None:
    """That the extension's fields are those above; they come apart only in an old build."""
    if _raw.extension is None:
        return
    for groups, fields in (
        (_SUMMARY, "SUMMARY_FIELDS"),
        (_CLASSIFIER, "CLASSIFIER_FIELDS"),
    ):
        names = (f"{name}.{field}" for name, kind in groups.items() for field in kind._fields)
        if tuple(names) != getattr(_raw.extension, fields, None):
            raise ImportError("ncfast._C is from another version of ncfast. Build it again.")


_check()


def few_classes(moments: Moments, planned: frozenset[str], backend: str) -> FewClasses | None:
    """The extension's primitives; None where `why_not` has a reason."""
    return FewClasses(moments, planned) if why_not(moments, backend) is None else None


def why_not(moments: Moments, backend: str = "auto") -> str | None:
    """Why `FewClasses` cannot take these moments; None if it can."""
    if backend not in ("auto", "cpu"):
        return f"the backend is {backend}"
    if _raw.extension is None:
        return f"the C++ extension is missing: {_raw.import_error}"
    parts = (moments.means, moments.counts, moments.within_ss, moments.norm_sum, moments.norm_max)
    if not plain(*parts):
        return f"the moments are on {moments.means.device}, or traced"
    *batch, classes, dim = moments.means.shape
    if classes > min(dim + 1, _MOST_CLASSES):
        return f"{classes} classes are more than {min(dim + 1, _MOST_CLASSES)}"
    if len(batch) > 1 or any(part.dtype not in _DTYPES for part in parts):
        return "the moments have more than one leading axis, or other dtypes than ClassMoments has"
    return None


_DTYPES = (torch.float64, torch.int64)


def _dense(tensor: Tensor, axes: int) -> bool:
    """Whether the last axes lie in memory one element after the other."""
    if tensor.ndim == axes:
        return tensor.is_contiguous()
    size = 1
    for axis in range(-1, -axes - 1, -1):
        if tensor.stride(axis) != size and tensor.shape[axis] != 1:
            return False
        size *= tensor.shape[axis]
    return True
