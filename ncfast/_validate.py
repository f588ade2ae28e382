"""Checks arguments of public functions.

Only functions whose docstring says so read the values of a tensor; on an accelerator this
synchronises.
"""

from __future__ import annotations

from typing import SupportsFloat, SupportsIndex

import numpy as np
import torch
from torch import Tensor

from ncfast._arrays import Array, as_integer, as_tensor, check_dense

FEATURE_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
LABEL_DTYPES = (
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.uint16,
    torch.uint32,
    torch.uint64,
)
MOST_CLASSES = (1 << 31) - 1  # more would be hashes or row numbers, and exceed any memory
_ARRAYS = (Tensor, np.ndarray)
_CPU = torch.device("cpu")


def check_pair(feats: Array, labels: Array) -> tuple[Tensor, Tensor]:
    """A feature matrix and its labels as tensors, once types, shapes and devices are checked.

    Raises:
        TypeError: an argument is not an array of numbers or has an unsupported dtype.
        ValueError: the shapes or devices do not fit.
    """
    feats, labels = check_features(feats), check_labels(labels)
    if feats.shape[0] != labels.shape[0]:
        raise ValueError(
            "Expected arguments `feats` and `labels` to have the same length but got "
            f"{feats.shape[0]} rows and {labels.shape[0]} labels. Pass one label per row."
        )
    if feats.device != labels.device:
        raise ValueError(
            "Expected arguments `feats` and `labels` on the same device but got "
            f"{feats.device} and {labels.device}. Move one of them: labels.to(feats.device)."
        )
    if feats.shape[0] == 0:
        raise ValueError(
            "Expected argument `feats` to hold at least one row but got shape "
            f"{tuple(feats.shape)}. Without samples use ClassMoments.empty(K, D)."
        )
    return feats, labels


def is_pair_without_rows(feats: Array, labels: Array) -> bool:
    """Whether both are tensors or NumPy arrays of no sample."""
    if not (isinstance(feats, _ARRAYS) and isinstance(labels, _ARRAYS)):
        return False
    return feats.ndim == 2 and feats.shape[0] == 0 and labels.shape == (0,)


def check_features(feats: Array, name: str = "feats") -> Tensor:
    """A feature matrix as a tensor (N, D), once its dtype, shape and device are checked.

    Raises:
        TypeError: it is not an array of numbers or has an unsupported dtype.
        ValueError: another shape, no column, or a device without float64.
    """
    if not isinstance(feats, Tensor):
        feats = as_tensor(name, feats)
    check_dense(name, feats)
    if feats.ndim != 2:
        raise ValueError(
            f"Expected argument `{name}` to have shape (N, D) but got shape "
            f"{tuple(feats.shape)}. {_reshape_remedy(feats.ndim)}"
        )
    if feats.shape[1] == 0:
        raise ValueError(
            f"Expected argument `{name}` to have at least one column but got {tuple(feats.shape)}."
        )
    if feats.dtype not in FEATURE_DTYPES:
        raise TypeError(
            f"Expected argument `{name}` to be float16, bfloat16, float32 or float64 but got "
            f"{feats.dtype}. Convert it with feats.float()."
        )
    # comparing devices takes a fifth of the time of a call
    if feats.device != _CPU:
        check_device(name, feats.device, f"Move the arguments to the CPU: {name}.cpu().")
    return feats


def check_device(name: str, device: torch.device | str | None, remedy: str) -> None:
    """Refuse a device without float64 arithmetic, such as Apple's MPS.

    Args:
        name: of the argument.
        device: where it is, or is to be; None is the default device.
        remedy: what the user can do, a sentence.

    Raises:
        ValueError: the device has no float64.
    """
    found = torch.get_default_device() if device is None else torch.device(device)
    if not has_float64(found):
        raise ValueError(
            f"Expected argument `{name}` on a device with float64 arithmetic but got {found.type}. "
            f"{remedy}"
        )


def has_float64(device: torch.device) -> bool:
    """Whether a device has float64 arithmetic."""
    return device.type != "mps"


def with_float64(device: torch.device) -> torch.device:
    """The device, or the CPU if the device has no float64."""
    return device if has_float64(device) else _CPU


def _reshape_remedy(ndim: int) -> str:
    if ndim == 1:
        return "For one feature use feats.unsqueeze(1); for one sample feats.unsqueeze(0)."
    if ndim == 3:
        return "Flatten a sequence with feats.flatten(1), or pool it with feats.mean(1)."
    if ndim == 4:
        return "Flatten a feature map with feats.flatten(1), or pool it with feats.mean((2, 3))."
    return "Flatten it with feats.flatten(1)."


def check_labels(labels: Array) -> Tensor:
    """Labels as a tensor (N,), once their dtype and shape are checked.

    Raises:
        TypeError: they are not an array of numbers or have no integer dtype.
        ValueError: another shape.
    """
    if not isinstance(labels, Tensor):
        labels = as_tensor("labels", labels)
    check_dense("labels", labels)
    if labels.dtype not in LABEL_DTYPES:
        raise TypeError(
            f"Expected argument `labels` to have an integer dtype but got {labels.dtype}. "
            "Pass class indices: labels.long(), or one_hot.argmax(1)."
        )
    if labels.ndim != 1:
        raise ValueError(
            f"Expected argument `labels` to have shape (N,) but got {tuple(labels.shape)}. "
            "For one-hot rows use labels.argmax(1); for a column use labels.flatten()."
        )
    return labels


def check_num_classes(num_classes: SupportsIndex) -> int:
    """An explicit number of classes as an int.

    Raises:
        TypeError: it is not an integer.
        ValueError: it is not in 1..2^31 - 1.
    """
    number = num_classes if type(num_classes) is int else as_integer("num_classes", num_classes)
    if number < 1:
        raise ValueError(f"Expected argument `num_classes` to be at least 1 but got {number}.")
    if number > MOST_CLASSES:
        raise ValueError(
            f"Expected argument `num_classes` to be at most 2^31 - 1 but got {number}. Number the "
            "classes from 0: torch.unique(labels, return_inverse=True)[1]."
        )
    return number


def check_ignore_index(ignore_index: SupportsIndex | None) -> int | None:
    """The label of rows that are left out as an int that a label can be; None leaves out none.

    Raises:
        TypeError: it is not an integer.
        ValueError: no int64 holds it.
    """
    if ignore_index is None:
        return None
    label, limits = as_integer("ignore_index", ignore_index), torch.iinfo(torch.int64)
    if not limits.min <= label <= limits.max:
        raise ValueError(f"Expected argument `ignore_index` to fit into int64 but got {label}.")
    return label


def check_number(name: str, value: SupportsFloat) -> float:
    """A real number of Python or NumPy, or a tensor of one element, as a float.

    Raises:
        TypeError: it is neither.
        ValueError: no float holds it.
    """
    try:
        if not isinstance(value, str | bytes | bool) and np.size(value) == 1:  # type: ignore[arg-type]
            return float(value)
    except OverflowError:
        raise ValueError(f"Expected argument `{name}` to fit into a float but got more.") from None
    except (TypeError, ValueError, RuntimeError):
        pass
    raise TypeError(
        f"Expected argument `{name}` to be a real number but got {type(value).__name__}."
    )


def infer_num_classes(labels: Tensor) -> int:
    """Largest label plus one. It reads the labels; on an accelerator this synchronises.

    Raises:
        ValueError: a label is negative, or 2^31 - 1 or more.
    """
    # int64 first: torch has no reductions for the wider unsigned types
    low, high = torch.stack(torch.aminmax(labels.to(torch.int64))).tolist()
    if low < 0:
        _raise_label(labels, high + 1)
    if high >= MOST_CLASSES:
        raise ValueError(
            "Expected argument `labels` to hold class indices below 2^31 - 1 but got a label of "
            f"{high}. Number the classes from 0: torch.unique(labels, return_inverse=True)[1]."
        )
    return int(high) + 1


def is_on_host(tensor: Tensor) -> bool:
    """Whether the values can be read without a device synchronisation or a graph break."""
    plain = type(tensor) is Tensor  # not a fake or traced tensor
    return plain and tensor.is_cpu and not torch.compiler.is_compiling() and not vmapped()


def vmapped() -> bool:
    """Whether `torch.func.vmap` runs, which lets no value be read."""
    functorch = torch._C._functorch
    if torch.compiler.is_compiling() or functorch.peek_interpreter_stack() is None:
        return False
    levels = functorch.get_interpreter_stack()
    return any(level.key() == functorch.TransformType.Vmap for level in levels)


def check_label_values(labels: Tensor, num_classes: int) -> None:
    """Check that 0 <= label < num_classes. It reads the labels.

    Raises:
        ValueError: a label is out of range; the message names the first such row.
    """
    low, high = torch.stack(torch.aminmax(labels.to(torch.int64))).tolist()
    if low < 0 or high >= num_classes:
        _raise_label(labels, num_classes)


def _raise_label(labels: Tensor, num_classes: int) -> None:
    wide = labels.to(torch.int64)
    row = int(((wide < 0) | (wide >= num_classes)).nonzero()[0])
    raise ValueError(
        f"Expected argument `labels` to lie in 0..{num_classes - 1} but row {row} holds "
        f"{labels[row].item()}. Drop or relabel such rows, or pass the right `num_classes`."
    )


def check_finite(feats: Tensor) -> None:
    """Check that every feature is finite. It reads all features, in blocks of rows.

    Raises:
        ValueError: a feature is NaN or infinite; the message names its row and column.
    """
    rows = max(1, (1 << 22) // feats.shape[1])
    for start in range(0, feats.shape[0], rows):
        bad = ~torch.isfinite(feats[start : start + rows])
        if bool(bad.any()):
            row, column = bad.nonzero()[0].tolist()
            value = float(feats[start + row, column])
            raise ValueError(
                f"Expected argument `feats` to be finite but row {start + row} holds {value} "
                f"in column {column}. Drop such rows, or find out where the model diverged."
            )
