"""The Triton backend as a torch operator, for torch.compile, export and everything that traces.

``torch.ops.ncfast.triton_moments(feats, labels, num_classes)`` returns the entries of `RawMoments`
in order. Plain calls never go through the dispatcher. On the CPU the operator is the reference,
which lets `torch.library.opcheck` run without a GPU.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ncfast.backends import reference, triton
from ncfast.backends._types import RawMoments
from ncfast.backends.ops import fake_moments

_Five = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]

_LIBRARY = torch.library.Library("ncfast", "FRAGMENT")  # the operator lives as long as this does
_LIBRARY.define(
    "triton_moments(Tensor feats, Tensor labels, SymInt num_classes)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor)"
)


def class_moments(feats: Tensor, labels: Tensor, num_classes: int) -> RawMoments:
    """`RawMoments` through the dispatcher: can be traced, faked and compiled."""
    return RawMoments(*torch.ops.ncfast.triton_moments(feats, labels, num_classes))


def _five(raw: RawMoments) -> _Five:
    return (*raw,)  # the schema wants a plain tuple


def _kernels(feats: Tensor, labels: Tensor, num_classes: int) -> _Five:
    return _five(triton.class_moments(feats, labels, num_classes))


def _reference(feats: Tensor, labels: Tensor, num_classes: int) -> _Five:
    return _five(reference.class_moments(feats, labels, num_classes))


_LIBRARY.impl("triton_moments", _kernels, "CUDA")
_LIBRARY.impl("triton_moments", _reference, "CPU")
torch.library.register_fake("ncfast::triton_moments", fake_moments, lib=_LIBRARY)
