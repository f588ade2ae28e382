"""Primitives of class moments that many metrics share, for one state or many at once.

A metric is arithmetic on these numbers. The functions are the reference, in torch: for any device,
any number of classes, and any leading axes. `FewClasses` has the same numbers from the C++
extension, which is faster where the classes are few.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from ncfast.ops import cpu
from ncfast.ops.direct import plain
from ncfast.ops.pairs import QUANTITIES, Statistic

_MOST_CLASSES = 128  # beyond, the products of means are better left to a matrix library
_MOST_SPECTRAL = 32  # and beyond this their singular values


class Moments(Protocol):
    """Class moments; leading axes in common are many states."""

    counts: Tensor  # (..., K) int64, or float64 weights
    means: Tensor  # (..., K, D)
    within_ss: Tensor  # (..., K)
    norm_sum: Tensor  # (...)
    norm_max: Tensor  # (...)


class Traces(NamedTuple):
    """Sums over the classes and what follows from them, (...) each."""

    total: Tensor  # N, the number of samples
    number: Tensor  # P, the number of present classes
    bessel: Tensor  # P / (P - 1), NaN with fewer than two present classes
    within: Tensor  # Tr(Sigma_W), population normalisation
    norm_mean: Tensor  # mean norm of the rows
    nan_if_invalid: Tensor  # NaN when the features or labels are unusable, or absent; else zero


class Spread(NamedTuple):
    """Mean and population variance over the present classes, (...) each."""

    mean: Tensor
    variance: Tensor


class Gram(NamedTuple):
    """Of a matrix A = L R^T of the products of the rows of present classes, (...) each."""

    trace: Tensor
    norm: Tensor  # norm_F(A)
    simplex_distance: Tensor  # norm_F(A / norm_F(A) - E), E = (I - 11^T/P) / sqrt(P - 1)


class Condition(NamedTuple):
    """Condition numbers of the present means, (...) each."""

    raw: Tensor
    centred: Tensor  # without the singular value that centring makes zero


class Between(NamedTuple):
    """Tr(Sigma_B), (...) each."""

    trace: Tensor  # every class counting the same
    trace_sample: Tensor  # every sample counting the same


class Sizes(NamedTuple):
    """Norms of a classifier's rows of present classes together, (...) each."""

    frobenius: Tensor  # norm_F(W)
    sum: Tensor  # norm(sum_c w_c)
    gap: Tensor  # norm_F(W / norm_F(W) - M / norm_F(M)), M the centred means


class Rows(NamedTuple):
    """Of a classifier's rows w_c of present classes beside the centred means.

    NaN with fewer than two present classes, or where the moments are invalid.
    """

    size: Sizes
    norm: Spread  # of norm(w_c)
    dot: Spread  # of <w_c, mu_c - m>
    cosine: Spread  # of cos(w_c, mu_c - m)


class RowProducts(NamedTuple):
    """Gram matrices of a classifier's rows of present classes; NaN as `Rows` is."""

    cross: Gram  # W M^T
    gram: Gram  # of w_c minus their mean
    gram_raw: Gram  # of w_c


def traces(moments: Moments) -> Traces:
    """Sums over the classes."""
    total = moments.counts.sum(-1).to(torch.float64)
    number = (moments.counts > 0).sum(-1).to(torch.float64)
    within = moments.within_ss.sum(-1)
    return Traces(
        total,
        number,
        torch.where(number > 1, number / (number - 1), torch.nan),
        within / total,
        moments.norm_sum / total,
        0 * (moments.norm_sum + within) / total,
    )


def spread(values: Tensor, present: Tensor) -> Spread:
    """Mean and population variance of values (..., K) over the present classes."""
    number = present.sum(-1)
    mean = torch.where(present, values, 0.0).sum(-1) / number
    deviation = torch.where(present, values - mean.unsqueeze(-1), 0.0)
    return Spread(mean, deviation.square().sum(-1) / number)


def between_trace_sample(centred: Tensor, counts: Tensor) -> Tensor:
    """sum_c (n_c / N) norm(mu_c - mu_G)^2, (...), from the means centred on m, (..., K, D)."""
    # around m first: mu_G is then a small correction, and nothing cancels far from the origin
    share = counts.to(torch.float64) / counts.sum(-1, keepdim=True)
    centre = (share.unsqueeze(-2) @ centred).squeeze(-2)
    return (share * (centred - centre.unsqueeze(-2)).square().sum(-1)).sum(-1)


def gram(
    left: Tensor,
    right: Tensor,
    present: Tensor,
    products: Callable[[], tuple[Tensor, Tensor]] | None = None,
) -> Gram:
    """Trace and norm of A = left right^T, and its distance from the Gram matrix E of a simplex ETF.

    More than D + 1 classes take only D x D products: expanding the square of the distance gives
    2 - 2 <A, E> / norm_F(A), which cancels near an ETF. More than D + 1 classes cannot be an ETF:
    the square is at least (P - 1 - D) / (P - 1), so the expansion is safe exactly where it saves
    anything. (It has an absolute error of 1e-8 when absent classes bring a perfect ETF of
    P <= D + 1 to K > D + 1.)

    Args:
        left: (..., K, D), zero rows for absent classes.
        right: likewise.
        present: (..., K) bool.
        products: left^T left and right^T right, (..., D, D) each, where the caller has them.
    """
    mask = present.to(left.dtype)
    number = mask.sum(-1)
    trace = (left * right).sum((-2, -1))
    if left.shape[-2] <= left.shape[-1] + 1:
        product = left @ right.mT
        norm = torch.linalg.matrix_norm(product)
        average = mask.unsqueeze(-1) * mask.unsqueeze(-2) / _matrix(number)
        etf = (torch.diag_embed(mask) - average) / _matrix((number - 1).sqrt())
        return Gram(trace, norm, torch.linalg.matrix_norm(product / _matrix(norm) - etf))
    first, second = _squares(left, right) if products is None else products()
    norm = (first * second).sum((-2, -1)).sqrt()
    inner = trace - (left.sum(-2) * right.sum(-2)).sum(-1) / number
    distance = (2 - 2 * inner / (norm * (number - 1).sqrt())).clamp(min=0).sqrt()
    return Gram(trace, norm, distance + 0 / (number - 1))  # NaN for one class, as above


def _matrix(values: Tensor) -> Tensor:
    return values.unsqueeze(-1).unsqueeze(-1)


def _squares(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    first = left.mT @ left
    return first, first if right is left else right.mT @ right


def mean_cosine(unit: Tensor, number: Tensor) -> Tensor:
    """Mean of the cosines over pairs of the ``number`` present classes, from sums alone.

    Args:
        unit: (..., K, D) unit rows, zero for absent classes.
        number: P, (...) float64.
    """
    sums = unit.sum(-2).square().sum(-1) - unit.square().sum((-2, -1))
    return sums / (number * (number - 1))


def cosine_variance(unit: Tensor, present: Tensor) -> Tensor:
    """Population variance of the cosines over pairs of present classes."""
    mask = present.to(unit.dtype)
    number = mask.sum(-1)
    mean = mean_cosine(unit, number)
    if unit.shape[-2] <= unit.shape[-1] + 1:
        pairs = mask.unsqueeze(-1) * mask.unsqueeze(-2)
        deviation = (unit @ unit.mT - _matrix(mean)).mul_(pairs)
        deviation.diagonal(dim1=-2, dim2=-1).fill_(0)
        squares = deviation.square_().sum((-2, -1))
    else:
        # from the D x D product: more than D + 1 cosines spread too far for this to cancel
        squares = (unit.mT @ unit).square_().sum((-2, -1)) - number
        squares = squares - number * (number - 1) * mean.square()
    return (squares / (number * (number - 1))).clamp(min=0)


def rows(weight: Tensor, centred: Tensor, present: Tensor, undefined: Tensor) -> Rows:
    """What NC3 needs of a classifier beside the centred means.

    Args:
        weight: (..., K, D) rows, zero for absent classes.
        centred: (..., K, D) class means minus their mean, likewise.
        present: (..., K) bool.
        undefined: (...), NaN where the results are to be NaN, else zero.
    """
    lengths = torch.linalg.vector_norm(weight, dim=-1)
    dots = (weight * centred).sum(-1)
    cosines = dots / (lengths * torch.linalg.vector_norm(centred, dim=-1))
    size, other = torch.linalg.matrix_norm(weight), torch.linalg.matrix_norm(centred)
    gap = torch.linalg.matrix_norm(weight / _matrix(size) - centred / _matrix(other))
    total = torch.linalg.vector_norm(weight.sum(-2), dim=-1)
    spreads = (spread(values, present) for values in (lengths, dots, cosines))
    return Rows(
        Sizes(size + undefined, total + undefined, gap + undefined),
        *(Spread(each.mean + undefined, each.variance + undefined) for each in spreads),
    )


def row_products(
    weight: Tensor,
    centred: Tensor,
    present: Tensor,
    undefined: Tensor,
    product_of_means: Callable[[], Tensor],
) -> RowProducts:
    """Gram matrices of a classifier's rows.

    The first arguments are those of `rows`; ``product_of_means`` gives centred^T centred,
    (..., D, D), and is called with more than D + 1 classes only.
    """
    own = functools.cache(lambda: weight.mT @ weight)
    mean = weight.sum(-2, keepdim=True) / _matrix(present.sum(-1))
    around = torch.where(present.unsqueeze(-1), weight - mean, 0.0)
    found = (
        gram(weight, centred, present, lambda: (own(), product_of_means())),
        gram(around, around, present),
        gram(weight, weight, present, lambda: (own(), own())),
    )
    return RowProducts(*(Gram(*(value + undefined for value in each)) for each in found))


class FewClasses:
    """The primitives of states on the CPU by the C++ extension; see `few_classes`.

    One pass over the states computes all that is planned; what is asked for beside that takes
    another pass.

    Args:
        moments: with at most one leading axis.
        planned: see `MetricInputs`.
    """

    def __init__(self, moments: Moments, planned: frozenset[str]) -> None:
        assert cpu.extension is not None
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
        self._states = cpu.extension.States(
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
            out = cpu._FLOAT64.new_empty((*self._batch, _SIZE + self._rank))
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
        out = cpu._FLOAT64.new_empty((*self._batch, _size(_CLASSIFIER)))
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
    if cpu.extension is None:
        return
    for groups, fields in (
        (_SUMMARY, cpu.extension.SUMMARY_FIELDS),
        (_CLASSIFIER, cpu.extension.CLASSIFIER_FIELDS),
    ):
        names = (f"{name}.{field}" for name, kind in groups.items() for field in kind._fields)
        if tuple(names) != fields:
            raise ImportError("ncfast._C is from another version of ncfast. Build it again.")


_check()


def few_classes(moments: Moments, planned: frozenset[str], backend: str) -> FewClasses | None:
    """The extension's primitives; None where `why_not` has a reason."""
    return FewClasses(moments, planned) if why_not(moments, backend) is None else None


def why_not(moments: Moments, backend: str = "auto") -> str | None:
    """Why `FewClasses` cannot take these moments; None if it can."""
    if backend not in ("auto", "cpu"):
        return f"the backend is {backend}"
    if cpu.extension is None:
        return f"the C++ extension is missing: {cpu.import_error}"
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
    size = 1
    for axis in range(-1, -axes - 1, -1):
        if tensor.stride(axis) != size and tensor.shape[axis] != 1:
            return False
        size *= tensor.shape[axis]
    return True
