"""Class moments on a CPU by the C++ extension: one fused pass, see ``csrc/``.

The extension sees addresses only. Whoever calls it directly makes sure that they are real: plain
CPU tensors, outside of any tracing. `ncfast.ops.select` does; `ncfast.ops.ops` is the
way for everything else.
"""

from __future__ import annotations

import importlib
from types import ModuleType

import torch
from torch import Tensor

from ncfast.ops import reference
from ncfast.ops._types import RawMoments

_FEATURE_CODES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}
_LABEL_CODES = {torch.int8: 0, torch.int16: 1, torch.int32: 2, torch.int64: 3, torch.uint8: 4}
# new_empty takes 0.8 us where torch.empty with a dtype takes 2: five outputs a call
_INT64 = torch.empty(0, dtype=torch.int64, device="cpu")
_FLOAT64 = torch.empty(0, dtype=torch.float64, device="cpu")


def _load() -> tuple[ModuleType | None, str]:
    try:
        return importlib.import_module("ncfast._C"), ""
    except ImportError as error:
        return None, str(error)


extension, import_error = _load()


def class_moments(feats: Tensor, labels: Tensor, num_classes: int) -> RawMoments:
    """Accumulate the moments of ``feats`` (N, D) by ``labels`` (N,); see `RawMoments`.

    Rows may lie any stride apart. Columns that are not adjacent go to the reference, block by
    block: no full copy is made either way.
    """
    assert extension is not None, import_error
    if not _readable(feats, labels):
        return reference.class_moments(feats, labels, num_classes)
    num_rows, dim = feats.shape
    labels, label_code = _with_code(labels)
    counts = _INT64.new_empty(num_classes)
    means = _FLOAT64.new_empty((num_classes, dim))
    within = _FLOAT64.new_empty(num_classes)
    norm_sum = _FLOAT64.new_empty(())
    norm_max = _FLOAT64.new_empty(())
    extension.class_moments(
        feats.data_ptr(),
        _FEATURE_CODES[feats.dtype],
        num_rows,
        dim,
        feats.stride(0),
        labels.data_ptr(),
        label_code,
        labels.stride(0),
        num_classes,
        counts.data_ptr(),
        means.data_ptr(),
        within.data_ptr(),
        norm_sum.data_ptr(),
        norm_max.data_ptr(),
        torch.get_num_threads(),
    )
    return RawMoments(counts, means, within, norm_sum, norm_max)


def projected_ss(feats: Tensor, labels: Tensor, means: Tensor, vectors: Tensor) -> Tensor:
    """Sum over all rows of <x - mean of its class, v>^2 for each row v of ``vectors`` (V, D)."""
    assert extension is not None, import_error
    if not _readable(feats, labels):
        return reference.projected_ss(feats, labels, means, vectors)
    labels, label_code = _with_code(labels)
    means = means.contiguous()
    vectors = vectors.to(torch.float64).contiguous()
    sums = _FLOAT64.new_empty(len(vectors))
    extension.projected_ss(
        feats.data_ptr(),
        _FEATURE_CODES[feats.dtype],
        *feats.shape,
        feats.stride(0),
        labels.data_ptr(),
        label_code,
        labels.stride(0),
        len(means),
        means.data_ptr(),
        vectors.data_ptr(),
        len(vectors),
        sums.data_ptr(),
        torch.get_num_threads(),
    )
    return sums


def _readable(feats: Tensor, labels: Tensor) -> bool:
    # a wrapper around other tensors has no memory of its own: its address is 0
    adjacent = feats.stride(1) == 1 or feats.shape[1] == 1
    negated = feats.is_neg() or labels.is_neg()
    return adjacent and not negated and feats.data_ptr() != 0 and labels.data_ptr() != 0


def _with_code(labels: Tensor) -> tuple[Tensor, int]:
    code = _LABEL_CODES.get(labels.dtype)
    if code is None:  # the wider unsigned types; a value above 2^63 turns negative: out of range
        labels, code = labels.to(torch.int64), _LABEL_CODES[torch.int64]
    return labels, code
