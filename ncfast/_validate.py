"""Checks arguments of public functions.

Only functions whose docstring says so read the values of a tensor; on an accelerator this
synchronises.
"""

from __future__ import annotations

import numbers

import torch
from torch import Tensor

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


def check_pair(feats: Tensor, labels: Tensor) -> None:
    """Check types, shapes and devices of a feature matrix and its labels.

    Raises:
        TypeError: an argument is not a tensor or has an unsupported dtype.
        ValueError: the shapes or devices do not fit.
    """
    _check_features(feats)
    check_labels(labels)
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


def is_pair_without_rows(feats: Tensor, labels: Tensor) -> bool:
    """Whether both are tensors of no sample."""
    pair = isinstance(feats, Tensor) and isinstance(labels, Tensor)
    return pair and feats.ndim == 2 and feats.shape[0] == 0 and labels.shape == (0,)


def _check_features(feats: Tensor) -> None:
    if not isinstance(feats, Tensor):
        raise TypeError(
            f"Expected argument `feats` to be a torch.Tensor but got {type(feats).__name__}. "
            "Convert it with torch.as_tensor(feats)."
        )
    if feats.ndim != 2:
        raise ValueError(
            "Expected argument `feats` to have shape (N, D) but got shape "
            f"{tuple(feats.shape)}. {_reshape_remedy(feats.ndim)}"
        )
    if feats.shape[1] == 0:
        raise ValueError(
            f"Expected argument `feats` to have at least one column but got {tuple(feats.shape)}."
        )
    if feats.dtype not in FEATURE_DTYPES:
        raise TypeError(
            "Expected argument `feats` to be float16, bfloat16, float32 or float64 but got "
            f"{feats.dtype}. Convert it with feats.float()."
        )
    if feats.device.type == "mps":
        raise ValueError(
            "Expected argument `feats` on a device with float64 arithmetic but got mps. "
            "Move both arguments to the CPU: feats.cpu(), labels.cpu()."
        )


def _reshape_remedy(ndim: int) -> str:
    if ndim == 1:
        return "For one feature use feats.unsqueeze(1); for one sample feats.unsqueeze(0)."
    if ndim == 3:
        return "Flatten a sequence with feats.flatten(1), or pool it with feats.mean(1)."
    if ndim == 4:
        return "Flatten a feature map with feats.flatten(1), or pool it with feats.mean((2, 3))."
    return "Flatten it with feats.flatten(1)."


def check_labels(labels: Tensor) -> None:
    if not isinstance(labels, Tensor):
        raise TypeError(
            f"Expected argument `labels` to be a torch.Tensor but got {type(labels).__name__}. "
            "Convert it with torch.as_tensor(labels)."
        )
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


def check_num_classes(num_classes: int) -> None:
    """Check an explicit number of classes.

    Raises:
        TypeError: it is not an int.
        ValueError: it is not positive.
    """
    if isinstance(num_classes, bool) or not isinstance(num_classes, numbers.Integral):
        raise TypeError(
            f"Expected argument `num_classes` to be an int but got {type(num_classes).__name__}."
        )
    if num_classes < 1:
        raise ValueError(f"Expected argument `num_classes` to be at least 1 but got {num_classes}.")


def infer_num_classes(labels: Tensor) -> int:
    """Largest label plus one. It reads the labels; on an accelerator this synchronises.

    Raises:
        ValueError: a label is negative.
    """
    # int64 first: torch has no reductions for the wider unsigned types
    low, high = torch.stack(torch.aminmax(labels.to(torch.int64))).tolist()
    if low < 0:
        _raise_label(labels, high + 1)
    return int(high) + 1


def labels_are_on_host(labels: Tensor) -> bool:
    """Whether the labels can be read without a device synchronisation or a graph break."""
    plain = type(labels) is Tensor  # not a fake or traced tensor
    return plain and labels.device.type == "cpu" and not torch.compiler.is_compiling()


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
        f"{int(wide[row])}. Drop or relabel such rows, or pass the right `num_classes`."
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
