"""Falls back to the reference where Triton kernels fail, and remembers which kernels failed.

Kernels fail if they do not run, or if their results differ from those of the reference. A failure
concerns one variant of the kernels: a path, a device, a dtype, a layout of the features. The other
variants go on. Errors that say nothing about a kernel are passed on unchanged.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from ncfast._warnings import user_level
from ncfast.ops import _second_net

T = TypeVar("T")
# torch below 2.8 raises RuntimeError instead
_DEVICE_ERROR: type[Exception] = getattr(torch, "AcceleratorError", torch.OutOfMemoryError)


class Variant(NamedTuple):
    """Kernels that are compiled together: they run or fail together."""

    operation: str
    path: str  # of the operation; empty if it has one alone
    device: torch.device
    dtype: torch.dtype
    width: int  # power of two that is at least D; tiles depend on it
    alignment: int  # in bytes: what divides the address and the stride of the rows, at most 16
    dense: bool  # whether columns are adjacent

    def __str__(self) -> str:
        """The words of a warning."""
        path = f"{self.path}, " if self.path else ""
        dtype = str(self.dtype).removeprefix("torch.")
        layout = f"{self.alignment}-byte rows" + ("" if self.dense else ", strided columns")
        return f"{self.operation} ({path}{dtype}, D up to {self.width}, {layout}, {self.device})"


failures: dict[Variant, str] = {}  # why kernels failed in this process


def with_fallback(
    operation: str,
    feats: Tensor,
    kernels: Callable[[], T],
    reference: Callable[[], T],
    path: str = "",
    error: Callable[[], Tensor] | None = None,
) -> T:
    """The result of the kernels, or of the reference once this variant of the kernels failed.

    If kernels do not compile or launch, the reference replaces them for the rest of the process,
    with one warning. So it does if ``error`` is too large; its value arrives at a later call.

    Args:
        operation: the words for it in the warning.
        feats: (N, D), what the kernels read.
        kernels: runs them; it may raise anything.
        reference: computes the same in torch.
        path: names the path, if the operation has several.
        error: the largest error on the first rows, see `_second_net.start`; called once a variant.

    Raises:
        Exception: memory is exhausted, the call is captured in a CUDA graph, or the device itself
            failed. The reference could not run either, so the error of the kernels is passed on.
    """
    _second_net.read_answers()
    if not failures or variant_of(operation, feats, path) not in failures:
        try:
            if error is not None and _second_net.applies(feats):
                _compare_once(operation, feats, path, error)
            return kernels()
        except (torch.OutOfMemoryError, _DEVICE_ERROR):
            raise
        except Exception as error:  # whatever a compiler, a launcher or a driver raises
            if feats.is_cuda and (_capturing() or _device_failed(feats.device)):
                raise
            _give_up(variant_of(operation, feats, path), error)
    return reference()


def _compare_once(operation: str, feats: Tensor, path: str, error: Callable[[], Tensor]) -> None:
    # what a variant depends on: making it takes longer
    kind = (operation, path, feats.device, feats.dtype, feats.shape[1], feats.stride())
    if _second_net.is_new((*kind, feats.data_ptr() & 15)):
        variant = variant_of(operation, feats, path)
        _second_net.start(error, lambda ratio: _reject(variant, ratio))


def variant_of(operation: str, feats: Tensor, path: str = "") -> Variant:
    """The variant of the kernels that ``feats`` (N, D) needs."""
    size, (rows, cols) = feats.element_size(), feats.stride()
    place = int(feats.storage_offset()) * size | rows * size | 16
    width = 1 << max(feats.shape[1] - 1, 0).bit_length()
    return Variant(operation, path, feats.device, feats.dtype, width, place & -place, cols == 1)


def _capturing() -> bool:
    # what is not allowed during a capture says nothing about the kernels
    return torch.cuda.is_current_stream_capturing()


def _device_failed(device: torch.device) -> bool:
    """Whether the context of the device is lost, for example after an illegal address."""
    try:
        torch.cuda.current_stream(device).query()  # does not wait
    except Exception:
        return True
    return False


def _give_up(variant: Variant, error: Exception) -> None:
    failures[variant] = f"{type(error).__name__}: {error}".strip()
    warnings.warn(
        f"ncfast falls back to the reference backend for {variant}: its Triton kernels do not run "
        f"({failures[variant]}). Results stay correct and come slower.",
        RuntimeWarning,
        stacklevel=user_level(),
    )


def _reject(variant: Variant, ratio: float) -> None:
    failures[variant] = f"the error was {ratio:.2g} times what is allowed"
    warnings.warn(
        f"WRONG RESULTS: the Triton kernels for {variant} differ from the reference on the first "
        f"rows: {failures[variant]}. Discard what this process computed with them. From now on the "
        "reference computes it. Please report this with the output of `ncfast info`.",
        RuntimeWarning,
        stacklevel=user_level(),
    )
