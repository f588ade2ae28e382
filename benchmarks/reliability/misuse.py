"""Calls with wrong arguments: each must raise an error that names an argument, or be right."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

import ncfast

# what takes the place of an argument
_WRONG: tuple[Callable[[], Any], ...] = (
    lambda: None,
    lambda: "text",
    lambda: 3,
    lambda: -1,
    lambda: 2.5,
    lambda: float("nan"),
    lambda: True,
    lambda: [],
    lambda: [[1.0], [2.0, 3.0]],
    lambda: {},
    lambda: object(),
    lambda: torch.empty(0),
    lambda: torch.empty(0, 4),
    lambda: torch.empty(12, 0),
    lambda: torch.randn(12),
    lambda: torch.randn(11, 4),
    lambda: torch.randn(12, 5),
    lambda: torch.randn(12, 2, 4),
    lambda: torch.randn(12, 4, dtype=torch.complex64),
    lambda: torch.ones(12, 4, dtype=torch.int32),
    lambda: torch.ones(12, 4, dtype=torch.bool),
    lambda: torch.ones(12, 4).to_sparse(),
    lambda: torch.ones(12, 4, device="meta"),
    lambda: torch.full((12,), 99),
    lambda: torch.full((12,), -1),
    lambda: torch.full((12,), 0.5),
    lambda: torch.full((12,), 2**63 - 1),
    lambda: torch.tensor(3),
    lambda: torch.full((12, 4), torch.nan),
    lambda: torch.full((12, 4), torch.inf),
    lambda: np.array(["a"] * 12),
    lambda: np.array([None] * 12),
    lambda: np.ma.masked_all((12, 4)),
    lambda: np.ones((12, 4), np.longdouble),
    lambda: np.ones((12, 4), np.float16),
    lambda: 10**30,
)

_X, _Y, _W, _B = torch.randn(12, 4), torch.arange(12) % 3, torch.randn(3, 4), torch.randn(3)
# functions with right arguments, by name
CALLS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "class_moments": (ncfast.class_moments, {"feats": _X, "labels": _Y, "num_classes": 3}),
    "plan": (ncfast.plan, {"labels": _Y, "num_classes": 3}),
    "rnc1": (ncfast.rnc1, {"feats": _X, "labels": _Y, "num_classes": 3}),
    "nc1": (ncfast.nc1, {"feats": _X, "labels": _Y, "num_classes": 3}),
    "nc2": (ncfast.nc2, {"feats": _X, "labels": _Y, "num_classes": 3}),
    "nc3": (ncfast.nc3, {"feats": _X, "labels": _Y, "weight": _W, "num_classes": 3}),
    "nc4": (ncfast.nc4, {"feats": _X, "labels": _Y, "weight": _W, "bias": _B}),
    "nc5": (ncfast.nc5, {"feats": _X, "labels": _Y, "ood_feats": _X}),
    "cdnv": (ncfast.cdnv, {"feats": _X, "labels": _Y}),
    "spectra": (ncfast.spectra, {"feats": _X, "labels": _Y}),
    "collapse_metrics": (
        ncfast.collapse_metrics,
        {"feats_or_moments": _X, "labels": _Y, "weight": _W, "bias": _B, "ood_feats": _X},
    ),
    "class_margins": (
        ncfast.class_margins,
        {"feats": _X, "weight": _W, "bias": _B, "pairs": [(0, 1)]},
    ),
    "margin_histograms": (
        ncfast.margin_histograms,
        {"margins": _X[:, :1], "labels": _Y, "pairs": [(0, 1)], "bins": 4},
    ),
    "generalization_bound": (
        ncfast.generalization_bound,
        {"feats": _X, "labels": _Y, "weight": _W, "bias": _B},
    ),
    "superfluous_information_bound": (
        ncfast.superfluous_information_bound,
        {"feats": _X, "labels": _Y, "sigma": 0.1},
    ),
    "weight_norm": (ncfast.weight_norm, {"model_or_parameters": [_W, _B]}),
    "balancedness": (ncfast.balancedness, {"last": _W, "previous": _X[:4]}),
    "spectral_norm_product": (ncfast.spectral_norm_product, {"model_or_weights": [_W]}),
    "entropy": (ncfast.entropy, {"x": _X, "k": 2}),
    "mutual_information": (ncfast.mutual_information, {"x": _X, "y": _X.sin(), "k": 2}),
    "label_information": (ncfast.label_information, {"z": _X, "labels": _Y, "k": 2}),
    "discrete_mutual_information": (ncfast.discrete_mutual_information, {"x": _Y, "y": _Y}),
    "cka": (ncfast.cka, {"x": _X, "y": _X.sin()}),
    "nhsic": (ncfast.nhsic, {"x": _X, "y": _X.sin()}),
    "Accumulator": (ncfast.Accumulator, {"num_classes": 3, "dim": 4, "weight": _W, "bias": _B}),
    "Accumulator.update": (
        lambda **given: ncfast.Accumulator(3).update(**given),
        {"feats": _X, "labels": _Y, "mask": _Y < 2},
    ),
    "Tracker": (
        lambda **given: ncfast.Tracker(**given).close(),
        {"num_classes": 3, "every": 2, "metrics": "rnc1", "start_step": 0},
    ),
    "Tracker.step": (lambda **given: _step(given), {"feats": _X, "labels": _Y, "mask": _Y < 2}),
}
_CLEAN = (TypeError, ValueError, RuntimeError)


def _step(given: dict[str, Any]) -> None:
    with ncfast.Tracker(num_classes=3, metrics="rnc1") as tracker:
        tracker.step(**given)


def misuse(rng: np.random.Generator) -> Iterator[str]:
    """One function with one or two wrong arguments."""
    name = str(rng.choice(list(CALLS)))
    function, right = CALLS[name]
    given = dict(right)
    wrong = [str(key) for key in rng.choice(list(right), min(len(right), rng.integers(1, 3)))]
    values = [int(number) for number in rng.integers(0, len(_WRONG), len(wrong))]
    for argument, number in zip(wrong, values, strict=True):
        given[argument] = _WRONG[number]()
    what = ", ".join(f"{a}=#{n}" for a, n in zip(wrong, values, strict=True))
    try:
        function(**given)
    except NotImplementedError as error:  # of torch
        yield f"{name}({what}): {type(error).__name__}: {str(error)[:200]}"
    except _CLEAN as error:
        named = re.search(r"`\w+`|names of metrics", str(error))
        yield "" if named else f"{name}({what}): names nothing: {str(error)[:200]}"
    except Exception as error:
        yield f"{name}({what}): {type(error).__name__}: {str(error)[:200]}"
    else:
        yield ""
