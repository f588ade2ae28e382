"""Takes what a user passes as numbers: a tensor as it is, everything else by way of NumPy."""

from __future__ import annotations

import operator
from typing import Any, SupportsIndex

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.masked import is_masked_tensor
from torch.nn import Parameter

Array = Tensor | ArrayLike


def as_tensor(name: str, value: Array) -> Tensor:
    """A tensor of the same shape and dtype: a tensor is returned, an array shares its memory.

    Read-only arrays, such as memory maps, are shared too: ncfast never writes to an argument. An
    array is copied where torch cannot share it: negative strides, foreign byte order, or numbers
    that are not aligned in memory. Lists and whatever else NumPy reads become arrays first.

    Args:
        name: of the argument, for errors.
        value: a tensor, a NumPy array, or what NumPy reads as one.

    Raises:
        TypeError: it is not an array of numbers, or a sparse tensor.
        ValueError: a masked array with masked entries.
    """
    if isinstance(value, Tensor):
        check_dense(name, value)
        return value
    array = as_array(name, value)
    if array.dtype.kind not in "biufc":
        found = type(value).__name__ + (f" of dtype {array.dtype}" if array.ndim else "")
        remedy = f"Convert it with torch.as_tensor({name})."
        if array.dtype.kind in "US":
            remedy = f"Number the strings: numpy.unique({name}, return_inverse=True)[1]."
        raise TypeError(
            f"Expected argument `{name}` to be a torch.Tensor or an array of numbers but got "
            f"{found}. {remedy}"
        )
    try:
        return torch.from_numpy(_shareable(array))
    except TypeError:  # a dtype that torch lacks, such as longdouble
        raise TypeError(
            f"Expected argument `{name}` to have a dtype that torch has but got {array.dtype}. "
            f"Convert it with {name}.astype('float64')."
        ) from None


def check_dense(name: str, value: Tensor) -> None:
    """Raise TypeError unless a tensor is dense: not sparse, nested or masked."""
    kind = type(value)
    plain = kind is Tensor or kind is Parameter or not is_masked_tensor(value)
    if value.layout is torch.strided and plain and not value.is_nested:
        return
    if not plain:
        found, remedy = "a MaskedTensor", "Drop the rows that are masked in any argument"
    elif value.is_nested:
        found, remedy = "a nested tensor", f"Join its rows: torch.cat({name}.unbind())"
    else:
        found, remedy = f"layout {value.layout}", f"Pass {name}.to_dense()"
    raise TypeError(f"Expected argument `{name}` to be a dense tensor but got {found}. {remedy}.")


def as_array(name: str, value: Array) -> NDArray[Any]:
    """What NumPy makes of an argument.

    Raises:
        TypeError: None, or something that NumPy cannot read.
        ValueError: a masked array with masked entries.
    """
    if value is None:
        raise TypeError(f"Expected argument `{name}` to be an array but got None.")
    if np.ma.is_masked(value):
        raise ValueError(
            f"Expected argument `{name}` without masked entries but got a masked array. Drop the "
            "rows that are masked in any argument, and pass the rest as plain arrays."
        )
    try:
        return np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:
        raise TypeError(
            f"Expected argument `{name}` to be an array of numbers but got "
            f"{type(value).__name__} that NumPy cannot read ({error})."
        ) from None


class _Writable:
    """Presents the memory of a read-only array to NumPy as writable, and keeps the array alive.

    torch warns about every read-only array, because it has no read-only tensors.
    """

    def __init__(self, array: NDArray[Any]) -> None:
        self._array = array
        address = array.__array_interface__["data"][0]
        self.__array_interface__ = array.__array_interface__ | {"data": (address, False)}


def _shareable(array: NDArray[Any]) -> NDArray[Any]:
    """The array if torch can share its memory, or a copy."""
    steps = all(stride >= 0 and stride % array.itemsize == 0 for stride in array.strides)
    if not (steps and array.dtype.isnative and array.flags.aligned):
        return np.array(array, dtype=array.dtype.newbyteorder("="), order="C")
    return array if array.flags.writeable else np.asarray(_Writable(array))


def as_integer(name: str, value: SupportsIndex) -> int:
    """A number of things: a Python or a NumPy integer.

    Raises:
        TypeError: it is neither; booleans are refused.
    """
    try:
        if not isinstance(value, bool | np.bool_):
            return operator.index(value)
    except TypeError:
        pass
    raise TypeError(f"Expected argument `{name}` to be an int but got {type(value).__name__}.")
