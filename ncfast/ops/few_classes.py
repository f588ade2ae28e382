"""Computes the primitives of `ncfast.ops.summary` in C++, for few classes on a CPU."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ncfast.ops import _raw, summary
from ncfast.ops._raw import plain
from ncfast.ops.pairs import QUANTITIES, Statistic
from ncfast.ops.scalars import Scalar
from ncfast.ops.spectra import Axes, AxisSums
from ncfast.ops.summary import (
    Between,
    Condition,
    Gram,
    Moments,
    Ranks,
    RowProducts,
    Rows,
    Sizes,
    Spread,
    Traces,
)

_MOST_CLASSES = 128  # beyond, the products of means are better left to a matrix library
_MOST_SPECTRAL = 32  # and beyond this their singular values


class FewClasses:
    """Primitives of states on the CPU, computed by the C++ extension; see `few_classes`.

    One pass over the states computes everything planned. A result that was not planned costs
    another pass.

    Args:
        moments: with at most one leading axis.
        planned: see `MetricInputs`.
    """

    def __init__(self, moments: Moments, planned: frozenset[str]) -> None:
        assert _raw.extension is not None
        counts, means, within = moments.counts, moments.means, moments.within_ss
        norm_sum, norm_max = moments.norm_sum, moments.norm_max
        *self._batch, classes, dim = means.shape
        self.spectral = classes <= _MOST_SPECTRAL
        self.wide = classes <= dim
        self._shape = classes, dim
        if not (_dense(counts, 1) and _dense(means, 2) and _dense(within, 1)):
            counts, means, within = counts.contiguous(), means.contiguous(), within.contiguous()
        parts = (counts, means, within, norm_sum, norm_max)
        self._kept = parts  # the extension holds addresses alone
        self._states = _raw.extension.States(  # written out, each call of Python counts
            self._batch[0] if self._batch else 1,
            classes,
            dim,
            counts.dtype == torch.int64,
            counts.data_ptr(),
            means.data_ptr(),
            within.data_ptr(),
            norm_sum.data_ptr(),
            norm_max.data_ptr(),
            *([part.stride(0) for part in parts] if self._batch else _NO_STRIDES),
        )
        self._parts = planned & (_PART_NAMES if self.spectral else _WITHOUT_SPECTRA)
        if not planned.isdisjoint(_PAIRS):
            self._parts |= {"products", "pairs"}
        self._columns: Tensor | list[float] | None = None
        self._groups: dict[str, Any] = {}

    def group(self, name: str, part: str = "") -> Any:
        """One group of `_SUMMARY`.

        Args:
            name: of the group.
            part: the member of `_PARTS` that the group belongs to; "" is always computed.
        """
        if self._columns is None or (part and part not in self._parts):
            self._summarise(part)
        found = self._groups.get(name)
        if found is None:
            assert self._columns is not None
            found = self._groups[name] = _SUMMARY.group(name, self._columns)
        return found

    def _summarise(self, part: str) -> None:
        if part:
            self._parts |= {part, "products"} if part == "pairs" else {part}
        parts = self._parts
        out = _raw.FLOAT64.new_empty((*self._batch, _SUMMARY.size))
        self._groups = {}
        self._states.summarise(*[each in parts for each in _PARTS], out.data_ptr())
        self._columns = out if self._batch else out.tolist()

    def axes(self) -> Axes:
        """Singular values and right singular vectors of the centred means; at most D classes."""
        number, dim = self._shape
        out = _raw.FLOAT64.new_empty((*self._batch, number * (1 + dim)))
        self._states.axes(out.data_ptr())
        values, directions = out.split([number, number * dim], -1)
        return Axes(values, directions.unflatten(-1, (number, dim)))

    def axis_sums(self, feats: Tensor, labels: Tensor) -> AxisSums:
        """See `AxisSums`; for one state and at most D classes.

        Args:
            feats: (N, D), of which `_raw.readable` says yes.
            labels: (N,) plain, in 0..K-1.
        """
        labels, code = _raw.with_code(labels)
        out = _raw.FLOAT64.new_empty(2)
        self._states.axis_sums(
            *_raw.matrix(feats),
            labels.data_ptr(),
            code,
            labels.stride(0),
            out.data_ptr(),
            torch.get_num_threads(),
        )
        numbers: Any = map(Scalar, out.tolist())
        return AxisSums(*numbers)

    def classifier(self, weight: Tensor, bias: Tensor | None, *, products: bool) -> OfClassifier:
        """What metrics read of a classifier.

        Args:
            weight: (K, D) float64, or one for each state.
            bias: (K,) float64, or one for each state.
            products: whether to compute the Gram matrices.
        """
        weight = weight if _dense(weight, 2) else weight.contiguous()
        out = _raw.FLOAT64.new_empty((*self._batch, _CLASSIFIER.size))
        stride = weight.stride(0) if weight.ndim > 2 else 0
        if bias is not None and not _dense(bias, 1):
            bias = bias.contiguous()
        self._states.classifier(
            weight.data_ptr(),
            stride,
            0 if bias is None else bias.data_ptr(),
            bias.stride(0) if bias is not None and bias.ndim > 1 else 0,
            products,
            out.data_ptr(),
        )
        columns: Tensor | list[float] = out if self._batch else out.tolist()
        group = _CLASSIFIER.group
        rows = Rows(*[group(name, columns) for name in Rows._fields])
        found = None
        if products:
            found = RowProducts(*[group(name, columns) for name in RowProducts._fields])
        return OfClassifier(rows, found, group("logits", columns))


class Logits(NamedTuple):
    """Of the classifier at the mean of all samples, (...)."""

    norm: Tensor  # norm(W mu_G + b) over present classes; NaN without a bias


class OfClassifier(NamedTuple):
    """What metrics read of a classifier."""

    rows: Rows
    products: RowProducts | None  # None unless they were asked for
    logits: Logits


class _Columns:
    """A NamedTuple of columns of the extension's output, each of which is cut when first read.

    Args:
        out: (states, fields).
        places: where each field of the NamedTuple is.
    """

    def __init__(self, out: Tensor, places: dict[str, int]) -> None:
        self._out, self._places = out, places

    def __getattr__(self, name: str) -> Tensor:
        """A field that was not read before; from then on it is an ordinary attribute."""
        place = self.__dict__["_places"].get(name)
        if place is None:
            raise AttributeError(name)
        column = self._out.select(-1, place)
        self.__dict__[name] = column
        return column


# parts of the summary that the extension computes on request
_PARTS = ("products", "pairs", "spectrum", "centred_spectrum")
_PART_NAMES = frozenset(_PARTS)
_WITHOUT_SPECTRA = frozenset({"products", "pairs"})
_PAIRS = frozenset(f"pairs.{quantity}" for quantity in QUANTITIES)
_NO_STRIDES = (0, 0, 0, 0, 0)


class _Fields:
    """The extension's fields, in order.

    Args:
        kinds: the NamedTuple of each group of fields, by the name of the group.
    """

    def __init__(self, kinds: dict[str, Any]) -> None:
        self.names = [f"{name}.{field}" for name, kind in kinds.items() for field in kind._fields]
        self.size = len(self.names)
        self._kinds = kinds
        self._places = {
            name: {field: self.names.index(f"{name}.{field}") for field in kind._fields}
            for name, kind in kinds.items()
        }
        self._slices = {
            name: slice(min(places.values()), max(places.values()) + 1)
            for name, places in self._places.items()
        }

    def group(self, name: str, columns: Tensor | list[float]) -> Any:
        """The fields of one group: a `Scalar` each of one state, else a tensor each.

        Args:
            name: of the group.
            columns: (states, fields), or a list of the fields of one state.
        """
        if isinstance(columns, list):
            return self._kinds[name](*[Scalar(value) for value in columns[self._slices[name]]])
        return _Columns(columns, self._places[name])


_ROWS: dict[str, Any] = {"size": Sizes, "norm": Spread, "dot": Spread, "cosine": Spread}
_CLASSIFIER = _Fields(_ROWS | {"logits": Logits} | dict.fromkeys(RowProducts._fields, Gram))
_SUMMARY = _Fields(
    {
        "traces": Traces,
        "condition": Condition,
        "rank": Ranks,
        "between": Between,
        "norm": Spread,
        "gram": Gram,
        "gram_raw": Gram,
        "cosine": Statistic,
        **dict.fromkeys(QUANTITIES, Statistic),
    }
)


def _check() -> None:
    """Raise ImportError unless the extension's fields are those above: it may be an old build."""
    if _raw.extension is None:
        return
    for fields, name in ((_SUMMARY, "SUMMARY_FIELDS"), (_CLASSIFIER, "CLASSIFIER_FIELDS")):
        if tuple(fields.names) != getattr(_raw.extension, name, None):
            raise ImportError("ncfast._C is from another version of ncfast. Build it again.")


_check()


def traces_of(feats: object, labels: object, num_classes: int | None) -> Traces | None:
    """`summary.traces` of the class moments of plain CPU tensors, in one call of the extension.

    The fields are `Scalar`.

    Args:
        feats: (N, D) features.
        labels: (N,) their classes.
        num_classes: K, at least 1; None takes the largest label plus one.

    Returns:
        None where the checks of `class_moments` must look, at anything but plain tensors that fit
        and labels in range, and with many classes.
    """
    if torch.compiler.is_compiling():
        return None
    reader = _raw.tensor_reader(_raw.extension)
    if reader is None:
        return None
    columns = reader.traces(feats, labels, num_classes or 0, _MOST_CLASSES)
    if columns is None:
        return None
    found: Traces = _SUMMARY.group("traces", columns)
    return found


def traces(moments: Moments, backend: str) -> Traces:
    """`summary.traces` of these moments, with `Scalar` fields if the extension computes them."""
    few = few_classes(moments, frozenset(), backend)
    return summary.traces(moments) if few is None else few.group("traces")


def few_classes(moments: Moments, planned: frozenset[str], backend: str) -> FewClasses | None:
    """The primitives of these moments from the extension; None where `why_not` gives a reason."""
    return FewClasses(moments, planned) if why_not(moments, backend) is None else None


def why_not(moments: Moments, backend: str = "auto") -> str | None:
    """The reason why `FewClasses` cannot take these moments; None if it can."""
    if backend not in ("auto", "cpu"):
        return f"the backend is {backend}"
    if _raw.extension is None:
        return f"the C++ extension is missing: {_raw.import_error}"
    counts, means, within = moments.counts, moments.means, moments.within_ss
    norm_sum, norm_max = moments.norm_sum, moments.norm_max
    if not plain(means, counts, within, norm_sum, norm_max):
        return f"the moments are on {means.device}, or traced"
    shape = means.shape
    classes, dim = shape[-2:]
    if classes > min(dim + 1, _MOST_CLASSES):
        return f"{classes} classes are more than {min(dim + 1, _MOST_CLASSES)}"
    double = means.dtype == within.dtype == norm_sum.dtype == norm_max.dtype == torch.float64
    if len(shape) > 3 or not double or counts.dtype not in _COUNT_DTYPES:
        return "the moments have more than one leading axis, or other dtypes than ClassMoments has"
    return None


_COUNT_DTYPES = (torch.int64, torch.float64)  # the latter are weights


def _dense(tensor: Tensor, axes: int) -> bool:
    """Whether the last axes lie in memory one element after the other."""
    if tensor.ndim == axes:  # one state
        return tensor.is_contiguous()
    size = 1
    for axis in range(-1, -axes - 1, -1):
        if tensor.stride(axis) != size and tensor.shape[axis] != 1:
            return False
        size *= tensor.shape[axis]
    return True
