"""Decides which backend runs an operation, says why one cannot, and declares torch operators.

Every operation has a reference in torch, which runs on any device and can be traced. It may have a
C++ call, for plain tensors on a CPU, and Triton kernels, for tensors on a CUDA device. The kernels
run when asked for, and by default once a self-check on the device has passed (`_auto.py`).
`Operation.select` takes the form that can run.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, ParamSpec, TypeVar

import torch
from torch import Tensor

from ncfast.ops import _auto, _build, _fallback, _raw, _second_net, _verdict_table
from ncfast.ops._comparison import Comparison

NAMES = ("auto", "reference", "cpu", "triton")
_INSTALLED = importlib.util.find_spec("triton") is not None  # imports nothing


def _version() -> tuple[int, ...]:
    """Major and minor version of Triton; (0,) if no package of a known name says it."""
    for name in ("triton", "pytorch-triton", "pytorch-triton-rocm", "triton-windows"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return tuple(int(part) for part in importlib.metadata.version(name).split(".")[:2])
    return (0,)


_TRITON = _version() if _INSTALLED else (0,)  # not looked up later: that could not be traced
# the oldest Triton that compiles the kernels, and those of an operation that need a newer one
_OLDEST = (3, 2)
_SINCE = {"decisions": (3, 5)}  # products of float64
P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class BackendStatus:
    """Whether a backend can run here, and why (not).

    Attributes:
        available: whether it can run.
        reason: why, or why not.
        verdicts: of the self-check, a line for each CUDA device, operation and path.
    """

    available: bool
    reason: str
    verdicts: tuple[str, ...] = ()


def backends() -> dict[str, BackendStatus]:
    """The backends that can compute class moments on this machine, and why the others cannot.

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
    if _raw.extension is None:
        return BackendStatus(False, _build.why_missing(_raw.import_error))
    name = _raw.extension.instruction_set()
    usable = ", ".join(_raw.extension.instruction_sets())
    return BackendStatus(
        True, f"C++ extension with {name} kernels (this CPU runs {usable}), tensors on the CPU"
    )


def _triton_status() -> BackendStatus:
    why_not = why_not_triton()
    if why_not is not None:
        return BackendStatus(False, why_not)
    notes = [note for note in map(why_not_compiled, _SINCE) if note is not None]
    notes += [f"{variant} failed: {why}" for variant, why in _fallback.failures.items()]
    notes.append(_verdict_table.summary())
    reason = f"Triton {_dotted(_TRITON)}, tensors on a CUDA device; " + "; ".join(notes)
    return BackendStatus(True, reason, _verdict_table.lines())


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(str(part) for part in version)


def why_not_cpu(feats: Tensor) -> str | None:
    """The reason why the C++ backend cannot run on ``feats``; None if it, or its operator, can."""
    if _raw.extension is None:
        return _build.why_missing(_raw.import_error)
    return _raw.why_not_cpu(feats)


def why_not_triton(feats: Tensor | None = None) -> str | None:
    """The reason why the kernels cannot run here, or on ``feats``; None if they can.

    Imports nothing.
    """
    if feats is not None and not feats.is_cuda:
        return f"the features are on {feats.device}"
    if not _INSTALLED:
        return "triton is not installed"
    if _TRITON < _OLDEST:
        return f"Triton {_dotted(_TRITON)} is older than {_dotted(_OLDEST)}"
    if feats is None and not torch.cuda.is_available():
        return "torch finds no CUDA device"
    return None


@dataclass(frozen=True)
class Operation(Generic[P, T]):
    """The forms of one operation. The device of the first argument decides which of them can run.

    Attributes:
        name: of the operation, for warnings.
        reference: the form in torch.
        cpu: the call of the C++ extension; used where `_raw.readable` is true.
        triton: the call of Triton's kernels; it may raise anything.
        operator: the torch operator that replaces ``triton`` while something is traced.
        float64: whether ``triton`` takes float64.
        comparison: of ``triton`` with ``reference``; without one no self-check vouches for it.
        path: names the path of the kernels for given arguments; empty if there is one alone.
    """

    name: str
    reference: Callable[P, T]
    cpu: Callable[P, T] | None = None
    triton: Callable[P, T] | None = None
    operator: Callable[P, T] | None = None
    float64: bool = False
    comparison: Comparison | None = None
    path: Callable[P, str] | None = None

    def select(self, backend: str, feats: Tensor) -> Callable[P, T]:
        """The form that runs for tensors like ``feats`` (N, D) under backend ``backend``.

        It is the reference if the backend has no form of the operation, or cannot run here.
        """
        if self.triton is not None and why_not_triton(feats) is None:
            if backend == "triton":
                return self.on_device
            if backend == "auto" and self._offered(feats):
                return self.if_proven
        usable = self.cpu is not None and backend != "reference" and _raw.readable(feats)
        return self.cpu if self.cpu is not None and usable else self.reference

    def _offered(self, feats: Tensor) -> bool:
        takes = self.comparison is not None and (self.float64 or feats.dtype != torch.float64)
        return takes and _auto.offered(self.name, feats.dtype, feats.device, feats.numel())

    def if_proven(self, *given: P.args, **named: P.kwargs) -> T:
        """Run the kernels where a self-check found them correct, else the reference."""
        feats = _first(given)
        path = "" if self.path is None else self.path(*given, **named)
        if _auto.usable(self.name, path, feats, (*given, *named.values())):
            return self.on_device(*given, **named)
        return self.reference(*given, **named)

    def on_device(self, *given: P.args, **named: P.kwargs) -> T:
        """Run the kernels: as a torch operator while something is traced, else directly."""
        if self.operator is not None and _raw.traced(_first(given)):
            return self.operator(*given, **named)
        return self.eagerly(*given, **named)

    def eagerly(self, *given: P.args, **named: P.kwargs) -> T:
        """Run the kernels while nothing is traced, or the reference once they have failed.

        Kernels that this version of Triton does not compile are not tried.
        """
        kernels, feats = self.triton, _first(given)
        exact = feats.dtype == torch.float64
        takes = (self.float64 or not exact) and why_not_compiled(self.name) is None
        if kernels is None or not takes:
            return self.reference(*given, **named)
        return _fallback.with_fallback(
            self.name,
            feats,
            lambda: kernels(*given, **named),
            lambda: self.reference(*given, **named),
            "" if self.path is None else self.path(*given, **named),
            self._error(*given, **named),
        )

    def _error(self, *given: P.args, **named: P.kwargs) -> Callable[[], Tensor] | None:
        """Compares the kernels with the reference on the first rows."""
        compare, kernels = self.comparison, self.triton
        if compare is None or kernels is None:
            return None
        return lambda: _second_net.error_on_first_rows(
            compare, kernels, self.reference, *given, **named
        )


def why_not_compiled(operation: str) -> str | None:
    """The reason why this version of Triton cannot compile an operation; None if it can."""
    if operation not in _SINCE or _SINCE[operation] <= _TRITON:
        return None
    return f"{operation} need Triton {_dotted(_SINCE[operation])}"


def _first(given: tuple[Any, ...]) -> Tensor:
    feats: Tensor = given[0]
    return feats


_LIBRARY = torch.library.Library("ncfast", "FRAGMENT")  # the operators live as long as this object


def operator(
    schema: str,
    fake: Callable[..., Any],
    *,
    cpu: Callable[..., Any],
    cuda: Callable[..., Any] | None = None,
) -> Callable[..., Any]:
    """Declare ``torch.ops.ncfast.NAME``, which can be traced, faked, compiled and exported.

    Calls on plain tensors do not use the operator.

    Args:
        schema: "NAME(Tensor feats, ...) -> Tensor", of tensors and numbers.
        fake: makes outputs of the right shape and dtype from inputs without values.
        cpu: computes them from tensors on a CPU.
        cuda: computes them from tensors on a CUDA device.

    Returns:
        The operator, a function of the schema's arguments.
    """
    name = schema.split("(")[0]
    _LIBRARY.define(schema)
    _LIBRARY.impl(name, cpu, "CPU")
    if cuda is not None:
        _LIBRARY.impl(name, cuda, "CUDA")
    torch.library.register_fake(f"ncfast::{name}", fake, lib=_LIBRARY)
    found: Callable[..., Any] = getattr(torch.ops.ncfast, name)
    torch.library.register_vmap(f"ncfast::{name}", one_by_one(found), lib=_LIBRARY)
    return found


def one_by_one(function: Callable[..., Any]) -> Callable[..., Any]:
    """The rule of `torch.func.vmap` for a function: it runs once for each entry of the batch."""

    def rule(info: Any, in_dims: tuple[int | None, ...], *given: Any) -> tuple[Any, Any]:
        def entry(index: int) -> Any:
            pairs = zip(given, in_dims, strict=True)
            return function(*(x if dim is None else x.select(dim, index) for x, dim in pairs))

        if info.batch_size == 0:
            raise ValueError("Expected a batch with an entry under vmap but got an empty one.")
        found = [entry(index) for index in range(info.batch_size)]
        if isinstance(found[0], Tensor):
            return torch.stack(found), 0
        return tuple(map(torch.stack, zip(*found, strict=True))), (0,) * len(found[0])

    return rule
