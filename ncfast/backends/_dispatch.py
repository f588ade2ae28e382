"""Choice of a backend, with the reason for every one that cannot run."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ncfast.backends import reference, triton
from ncfast.backends._types import MomentsFunction
from ncfast.backends.plan import LabelPlan

NAMES = ("auto", "reference", "triton")
_REMEDY = "Use backend='auto'."
_BUILD_INFO = Path(__file__).parent.parent / "_build_info.json"


@dataclass(frozen=True)
class BackendStatus:
    """Whether a backend can run here, and why (not)."""

    available: bool
    reason: str


def backends() -> dict[str, BackendStatus]:
    """What can compute class moments on this machine, and why the rest cannot.

    Returns:
        One `BackendStatus` for each of ``reference``, ``cpu`` and ``triton``.

    Example:
        >>> import ncfast
        >>> ncfast.backends()["reference"].available
        True
    """
    return {
        "reference": BackendStatus(True, f"plain torch {torch.__version__}, any device"),
        "cpu": BackendStatus(False, _why_no_cpp()),
        "triton": BackendStatus(triton.why_not() is None, triton.why_not() or triton.describe()),
    }


def _why_no_cpp() -> str:
    if _BUILD_INFO.exists():
        info = json.loads(_BUILD_INFO.read_text())
        if not info["built"]:
            return f"the C++ extension was not built: {info['reason']}"
    if importlib.util.find_spec("ncfast._C") is None:
        return "the C++ extension is not part of this installation"
    return "the C++ extension is built but holds no kernels yet"


def select(name: str, feats: Tensor, plan: LabelPlan | None = None) -> MomentsFunction:
    """The moments function of backend ``name`` for ``feats``, and for ``plan`` if it uses one.

    Raises:
        ValueError: the name is unknown, or that backend cannot run here; the reason is given.
    """
    if name == "reference":
        return reference.class_moments
    if name in ("auto", "triton") and triton.why_not(feats) is None:
        return triton.select(feats, plan)
    if name == "auto":
        return reference.class_moments
    if name == "triton":
        raise ValueError(f"Backend 'triton' cannot run here: {triton.why_not(feats)}. {_REMEDY}")
    status = backends().get(name)
    if status is None:
        raise ValueError(f"Expected argument `backend` to be one of {NAMES} but got {name!r}.")
    raise ValueError(f"Backend {name!r} cannot run here: {status.reason}. {_REMEDY}")
