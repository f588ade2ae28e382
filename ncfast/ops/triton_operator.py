"""The Triton backend as torch operators, for torch.compile, export and everything that traces.

``torch.ops.ncfast.triton_moments(feats, labels, num_classes)`` returns the entries of `RawMoments`
in order; ``triton_projected_ss``, ``triton_scatter`` and ``triton_decisions`` are the second reads
of `ncfast.ops.triton`. Plain calls never go through the dispatcher. On the CPU the operators
are the reference, which lets `torch.library.opcheck` run without a GPU.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ncfast.ops import reference, triton
from ncfast.ops._types import RawMoments
from ncfast.ops.ops import fake_moments, fake_projected

_Five = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]

_LIBRARY = torch.library.Library("ncfast", "FRAGMENT")  # the operators live as long as this does
_LIBRARY.define(
    "triton_moments(Tensor feats, Tensor labels, SymInt num_classes)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor)"
)
_LIBRARY.define(
    "triton_projected_ss(Tensor feats, Tensor labels, Tensor means, Tensor vectors) -> Tensor"
)
_LIBRARY.define("triton_scatter(Tensor feats, Tensor labels, Tensor means) -> Tensor")
_LIBRARY.define(
    "triton_decisions(Tensor feats, Tensor centres, Tensor weights, Tensor offsets) -> Tensor"
)


def class_moments(feats: Tensor, labels: Tensor, num_classes: int) -> RawMoments:
    """`RawMoments` through the dispatcher: can be traced, faked and compiled."""
    return RawMoments(*torch.ops.ncfast.triton_moments(feats, labels, num_classes))


def projected_ss(feats: Tensor, labels: Tensor, means: Tensor, vectors: Tensor) -> Tensor:
    """`ncfast.ops.triton.projected_ss` through the dispatcher."""
    return torch.ops.ncfast.triton_projected_ss(feats, labels, means, vectors)


def scatter(feats: Tensor, labels: Tensor, means: Tensor) -> Tensor:
    """`ncfast.ops.triton.scatter` through the dispatcher."""
    return torch.ops.ncfast.triton_scatter(feats, labels, means)


def decisions(feats: Tensor, centres: Tensor, weights: Tensor, offsets: Tensor) -> Tensor:
    """`ncfast.ops.triton.decisions` through the dispatcher."""
    return torch.ops.ncfast.triton_decisions(feats, centres, weights, offsets)


def _five(raw: RawMoments) -> _Five:
    return (*raw,)  # the schema wants a plain tuple


def _kernels(feats: Tensor, labels: Tensor, num_classes: int) -> _Five:
    return _five(triton.class_moments(feats, labels, num_classes))


def _reference(feats: Tensor, labels: Tensor, num_classes: int) -> _Five:
    return _five(reference.class_moments(feats, labels, num_classes))


def _fake_scatter(feats: Tensor, labels: Tensor, means: Tensor) -> Tensor:
    del labels, means
    return feats.new_empty((feats.shape[1], feats.shape[1]), dtype=torch.float64)


def _fake_decisions(feats: Tensor, centres: Tensor, weights: Tensor, offsets: Tensor) -> Tensor:
    del centres, offsets
    return feats.new_empty((weights.shape[0], feats.shape[0]), dtype=torch.int64)


_LIBRARY.impl("triton_moments", _kernels, "CUDA")
_LIBRARY.impl("triton_moments", _reference, "CPU")
torch.library.register_fake("ncfast::triton_moments", fake_moments, lib=_LIBRARY)
for _name, _fast, _plain, _shape in (
    ("projected_ss", triton.projected_ss_now, reference.projected_ss, fake_projected),
    ("scatter", triton.scatter_now, reference.scatter, _fake_scatter),
    ("decisions", triton.decisions_now, triton.plain_decisions, _fake_decisions),
):
    _LIBRARY.impl(f"triton_{_name}", _fast, "CUDA")
    _LIBRARY.impl(f"triton_{_name}", _plain, "CPU")
    torch.library.register_fake(f"ncfast::triton_{_name}", _shape, lib=_LIBRARY)
