"""Choice of a backend, with the reason for every one that cannot run."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch._subclasses import FakeTensor
from torch.nn import Parameter

from ncfast.ops import cpu, ops, reference, triton
from ncfast.ops._types import MomentsFunction
from ncfast.ops.plan import LabelPlan

NAMES = ("auto", "reference", "cpu", "triton")
_PLAIN_TYPES = (Tensor, Parameter, FakeTensor)  # an operator takes the last one
_MOST_ROWS = 1 << 31  # row numbers of a plan are 32 bits wide
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
        "cpu": _cpu_status(),
        "triton": _triton_status(),
    }


def _cpu_status() -> BackendStatus:
    if cpu.extension is None:
        return BackendStatus(False, _why_no_extension())
    name = cpu.extension.instruction_set()
    usable = ", ".join(cpu.extension.instruction_sets())
    return BackendStatus(
        True, f"C++ extension with {name} kernels (this CPU runs {usable}), tensors on the CPU"
    )


def _triton_status() -> BackendStatus:
    why_not = triton.why_not()
    if why_not is not None:
        return BackendStatus(False, why_not)
    # checked in the interpreter and by the compiler alone so far: not what "auto" may rest on
    return BackendStatus(True, f"{triton.describe()}; only when asked for: not run on a GPU yet")


def _why_no_extension() -> str:
    if _BUILD_INFO.exists():
        info = json.loads(_BUILD_INFO.read_text())
        if not info["built"]:
            return f"the C++ extension was not built: {info['reason']}"
        return f"the C++ extension was built but does not load: {cpu.import_error}"
    return f"the C++ extension is not part of this installation: {cpu.import_error}"


def select(name: str, feats: Tensor, plan: LabelPlan | None = None) -> MomentsFunction:
    """The moments function of backend ``name`` for ``feats``, and for ``plan`` if it uses one.

    "auto" takes the extension for tensors on the CPU: no size was found where the reference, the
    only other engine in float64, is faster. While something traces, it is called as an operator.

    Raises:
        ValueError: the name is unknown, or that backend cannot run here; the reason is given.
    """
    if name not in NAMES:
        raise ValueError(f"Expected argument `backend` to be one of {NAMES} but got {name!r}.")
    if name == "reference":
        return reference.class_moments
    why_not = triton.why_not(feats) if name == "triton" else _why_not_cpu(feats)
    if why_not is not None:
        if name == "auto":
            return reference.class_moments
        raise ValueError(f"Backend {name!r} cannot run here: {why_not}. Use backend='auto'.")
    if name == "triton":
        return triton.select(feats, plan)
    return cpu.class_moments if _is_real(feats) else ops.class_moments


def _why_not_cpu(feats: Tensor) -> str | None:
    if cpu.extension is None:
        return _why_no_extension()
    if feats.device.type != "cpu":
        return f"the features are on {feats.device}"
    if type(feats) not in _PLAIN_TYPES:
        return f"the features are a {type(feats).__name__}, whose memory is not theirs to read"
    return None


def readable(feats: Tensor) -> bool:
    """Whether the extension can take the memory of ``feats`` (N, D) as it lies."""
    adjacent = feats.stride(1) == 1 or feats.shape[1] == 1
    usable = _why_not_cpu(feats) is None and adjacent and len(feats) < _MOST_ROWS
    return usable and _is_real(feats) and not feats.is_neg()


def _is_real(feats: Tensor) -> bool:
    """Whether there is memory behind ``feats``, and nothing would miss that it is read."""
    if torch.compiler.is_compiling() or type(feats) is FakeTensor:
        return False
    return not (
        torch._C._len_torch_dispatch_stack() or torch._C._functorch.peek_interpreter_stack()
    )
