"""The CPU kernels as torch operators, for torch.compile, export and everything else that traces.

Plain eager calls go to the extension directly and never pay for the dispatcher. The operator
``torch.ops.ncfast.class_moments(feats, labels, num_classes)`` returns the entries of `RawMoments`
in order; ``torch.ops.ncfast.projected_ss(feats, labels, means, vectors)`` returns the sums.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ncfast.ops import cpu, reference
from ncfast.ops._types import RawMoments

_Five = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


_LIBRARY = torch.library.Library("ncfast", "FRAGMENT")  # the operators live as long as this does
_LIBRARY.define(
    "class_moments(Tensor feats, Tensor labels, SymInt num_classes)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor)"
)
_LIBRARY.define("projected_ss(Tensor feats, Tensor labels, Tensor means, Tensor vectors) -> Tensor")


def class_moments(feats: Tensor, labels: Tensor, num_classes: int) -> RawMoments:
    """`RawMoments` through the dispatcher: can be traced, faked and compiled."""
    return RawMoments(*torch.ops.ncfast.class_moments(feats, labels, num_classes))


def _class_moments(feats: Tensor, labels: Tensor, num_classes: int) -> _Five:
    backend = reference if cpu.extension is None else cpu
    return tuple(backend.class_moments(feats, labels, num_classes))


def _projected_ss(feats: Tensor, labels: Tensor, means: Tensor, vectors: Tensor) -> Tensor:
    backend = reference if cpu.extension is None else cpu
    return backend.projected_ss(feats, labels, means, vectors)


def fake_moments(feats: Tensor, labels: Tensor, num_classes: int) -> _Five:
    """The shapes and dtypes of `RawMoments`: what tracing sees of every such operator."""
    del labels
    double = torch.float64
    return (
        feats.new_empty(num_classes, dtype=torch.int64),
        feats.new_empty((num_classes, feats.shape[1]), dtype=double),
        feats.new_empty(num_classes, dtype=double),
        feats.new_empty((), dtype=double),
        feats.new_empty((), dtype=double),
    )


def fake_projected(feats: Tensor, labels: Tensor, means: Tensor, vectors: Tensor) -> Tensor:
    """The shape and dtype of `projected_ss`, for tracing."""
    del labels, means
    return feats.new_empty(vectors.shape[0], dtype=torch.float64)


_LIBRARY.impl("class_moments", _class_moments, "CPU")
_LIBRARY.impl("projected_ss", _projected_ss, "CPU")
torch.library.register_fake("ncfast::class_moments", fake_moments, lib=_LIBRARY)
torch.library.register_fake("ncfast::projected_ss", fake_projected, lib=_LIBRARY)
