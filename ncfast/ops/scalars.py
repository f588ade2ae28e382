"""`Scalar`: a float64 in host memory that a metric treats as a 0-d tensor, at a tenth of the cost.

Metrics are arithmetic on shared primitives. The extension writes the primitives of one state into
host memory, and an operation on a 0-d tensor takes a microsecond. A `Scalar` follows the same
arithmetic, IEEE 754 in float64: a division by zero is infinite or NaN, and the root of a negative
number is NaN. So the same function of the catalogue gives the same bits either way.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor


class Scalar(float):
    """A float with the arithmetic and the methods of a () float64 tensor without a graph.

    An operation with a tensor gives a tensor.
    """

    __slots__ = ()
    requires_grad = False

    def __add__(self, other: float) -> Scalar:
        """The sum."""
        found = _add(self, other)
        return found if found is NotImplemented else Scalar(found)

    __radd__ = __add__

    def __sub__(self, other: float) -> Scalar:
        """The difference."""
        found = _subtract(self, other)
        return found if found is NotImplemented else Scalar(found)

    def __rsub__(self, other: float) -> Scalar:
        """The difference from a number."""
        found = _subtract_from(self, other)
        return found if found is NotImplemented else Scalar(found)

    def __mul__(self, other: float) -> Scalar:
        """The product."""
        found = _multiply(self, other)
        return found if found is NotImplemented else Scalar(found)

    __rmul__ = __mul__

    def __truediv__(self, other: float) -> Scalar:
        """The quotient; infinite or NaN where the divisor is zero."""
        try:
            found = _divide(self, other)
        except ZeroDivisionError:
            return _by_zero(self, other)
        return found if found is NotImplemented else Scalar(found)

    def __rtruediv__(self, other: float) -> Scalar:
        """The quotient of a number and this."""
        try:
            found = _divide_into(self, other)
        except ZeroDivisionError:
            return _by_zero(other, self)
        return found if found is NotImplemented else Scalar(found)

    def __neg__(self) -> Scalar:
        """The negative."""
        return Scalar(_negate(self))

    def square(self) -> Scalar:
        """The product with itself."""
        return Scalar(_multiply(self, self))

    def sqrt(self) -> Scalar:
        """The square root; NaN of a negative number."""
        return Scalar(math.sqrt(self) if not self < 0 else math.nan)


_add, _subtract, _subtract_from = float.__add__, float.__sub__, float.__rsub__
_multiply, _divide, _divide_into = float.__mul__, float.__truediv__, float.__rtruediv__
_negate = float.__neg__


def _by_zero(number: float, zero: float) -> Scalar:
    if number == 0 or math.isnan(number):
        return Scalar(math.nan)
    return Scalar(math.copysign(math.inf, number) * math.copysign(1.0, zero))


def as_tensor(value: Tensor | Scalar) -> Tensor:
    """The value as a tensor: () float64 on the CPU for a `Scalar`, else the tensor itself."""
    return torch.from_numpy(np.array(value)) if isinstance(value, Scalar) else value


def as_tensors(values: Sequence[Tensor | Scalar]) -> Sequence[Tensor]:
    """The values as tensors. Those of the scalars are elements of one array: one allocation."""
    numbers = [value for value in values if isinstance(value, Scalar)]
    if not numbers:
        return cast("Sequence[Tensor]", values)
    if len(numbers) < 2:
        return [as_tensor(value) for value in values]
    made = torch.from_numpy(np.array(numbers, np.float64)).unbind()
    if len(made) == len(values):
        return made
    rest = iter(made)
    return [next(rest) if isinstance(value, Scalar) else value for value in values]
