"""What a metric returns is a number for a log: it holds no graph, and its docstring says so."""

import gc
import inspect
import weakref

import pytest
import torch
from torch import Tensor

import ncfast

LABELS = torch.arange(60) % 3
CALLS = {
    "rnc1": lambda z, w, b: ncfast.rnc1(z, LABELS),
    "nc1": lambda z, w, b: ncfast.nc1(z, LABELS),
    "nc2": lambda z, w, b: ncfast.nc2(z, LABELS),
    "nc3": lambda z, w, b: ncfast.nc3(z, LABELS, weight=w),
    "nc4": lambda z, w, b: ncfast.nc4(z, LABELS, weight=w, bias=b),
    "nc5": lambda z, w, b: ncfast.nc5(z, LABELS, ood_feats=z[:9] + 1),
    "cdnv": lambda z, w, b: ncfast.cdnv(z, LABELS),
    "class_moments": lambda z, w, b: vars(ncfast.class_moments(z, LABELS)),
    "collapse_metrics": lambda z, w, b: ncfast.collapse_metrics(z, LABELS, weight=w, bias=b),
    "class_margins": lambda z, w, b: ncfast.class_margins(z, w, pairs=[(0, 1)]),
    "generalization_bound": lambda z, w, b: ncfast.generalization_bound(z, LABELS, w, b),
    "superfluous_information_bound": lambda z, w, b: ncfast.superfluous_information_bound(
        z, LABELS, sigma=0.1
    ),
    "realised_gap": lambda z, w, b: ncfast.realised_gap(
        ncfast.class_moments(z, LABELS), ncfast.class_moments(z + 1, LABELS)
    ),
    "spectra": lambda z, w, b: ncfast.spectra(z, LABELS)._asdict(),
    "cka": lambda z, w, b: ncfast.cka(z, z.sin()),
    "nhsic": lambda z, w, b: ncfast.nhsic(z, z.sin()),
    "weight_norm": lambda z, w, b: ncfast.weight_norm([w, b]),
    "balancedness": lambda z, w, b: ncfast.balancedness(w, w.T.contiguous()),
    "spectral_norm_product": lambda z, w, b: ncfast.spectral_norm_product([w]),
}


def tensors(found):
    values = found.values() if isinstance(found, dict) else [found]
    return [value for value in values if isinstance(value, Tensor)]


@pytest.mark.parametrize("name", CALLS)
def test_results_are_detached_and_keep_no_features_alive(name):
    z = torch.randn(60, 8).requires_grad_()
    w, b = torch.randn(3, 8).requires_grad_(), torch.randn(3).requires_grad_()
    feats = z * 2  # has a graph
    alive = weakref.ref(feats)
    found = tensors(CALLS[name](feats, w * 1, b * 1))
    assert found
    assert not any(value.requires_grad or value.grad_fn is not None for value in found)
    del feats
    gc.collect()
    assert alive() is None
    assert "detached" in inspect.getdoc(getattr(ncfast, name)).lower()
