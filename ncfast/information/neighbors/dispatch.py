"""Chooses the engine of a search by size, dimension and device, and gives the reason."""

from __future__ import annotations

import math
from typing import Any, cast

import torch

from ncfast.information.neighbors import faiss_flat, gemm, reference, scipy_tree, triton_sweep
from ncfast.information.neighbors._check import one_of
from ncfast.information.neighbors._types import Engine
from ncfast.information.neighbors.native import Native
from ncfast.ops import BackendStatus, _auto, _build, _raw, _verdicts, backends
from ncfast.ops._registry import why_not_triton

_ENGINES: dict[str, Any] = {
    "reference": reference,
    "direct": Native(tree=False),
    "tree": Native(tree=True),
    "scipy": scipy_tree,
    "faiss": faiss_flat,
    "gemm": gemm,
    "triton": triton_sweep,
}
NAMES = ("auto", *_ENGINES)
# where an engine runs; the others run on any device
_DEVICES = {
    "direct": ("cpu",),
    "tree": ("cpu",),
    "scipy": ("cpu",),
    "faiss": ("cpu", "cuda"),
    "triton": ("cuda",),
}
# (rows, dimension): below this number of rows a tree is faster up to this dimension
_DEEPEST = ((10_000, 5), (30_000, 6), (50_000, 7), (100_000, 8), (math.inf, 9))
_EUCLIDEAN = ("faiss", "gemm")
CHECKED = "neighbours"  # the operation of the self-check; its paths are engines
_WIDE = 16  # columns from which products and a certificate replace direct differences on CUDA
# compute capability: the engine that was measured to be the fastest there from _WIDE columns on
_FASTEST: dict[tuple[int, int], str] = {}
_PLAIN = {
    "reference": "float64 brute force in torch, any device",
    "scipy": "SciPy's cKDTree, on the CPU",
    "faiss": "brute force in FAISS with certificate, k-NN by Euclidean distance, on the CPU",
    "gemm": "matrix products with certificate, k-NN by Euclidean distance, any device",
}


def neighbor_backends() -> dict[str, BackendStatus]:
    """Which engines can search for neighbours on this machine, and why the rest cannot.

    Returns:
        A `BackendStatus` each for ``reference``, ``direct``, ``tree``, ``scipy``, ``faiss``,
        ``gemm`` and ``triton``.

    Example:
        >>> from ncfast.information.neighbors import neighbor_backends
        >>> neighbor_backends()["reference"].available
        True
    """
    return {name: _status(name) for name in _ENGINES}


def _status(name: str) -> BackendStatus:
    if name in ("direct", "tree"):
        how = "direct differences" if name == "direct" else "k-d tree in float64"
        extension = backends()["cpu"]
        return BackendStatus(extension.available, f"{how}: {extension.reason}")
    if name == "triton":
        why_not = why_not_triton()
        return BackendStatus(why_not is None, why_not or backends()["triton"].reason)
    if name == "faiss":
        return _faiss_status()
    return BackendStatus(True, _PLAIN[name])


def _faiss_status() -> BackendStatus:
    on_gpu = faiss_flat.why_not_on_gpu() if torch.cuda.is_available() else None
    if not faiss_flat.INSTALLED:
        return BackendStatus(False, on_gpu or "not installed: pip install ncfast[cpu-knn]")
    if not torch.cuda.is_available():
        return BackendStatus(True, _PLAIN["faiss"])
    return BackendStatus(True, f"{_PLAIN['faiss']}; on CUDA: {on_gpu or 'as well'}")


def neighbor_backend(
    n: int,
    d: int,
    device: torch.device | str = "cpu",
    *,
    task: str = "knn",
    metric: str = "l2",
    k: int = 1,
) -> tuple[str, str]:
    """The engine that ``backend="auto"`` selects, and the reason.

    The limits come from measurements, see ``docs/neighbors.md``. On CUDA "triton" and "faiss" are
    selected once they have passed the self-check (``ncfast info --check-gpu``).

    Args:
        n: number of rows; for searches within classes, the number in a typical class.
        d: number of columns of all blocks together.
        device: device of the rows.
        task: "knn", "joint" or "count".
        metric: "l2", "l2max" or "linf".
        k: number of neighbours. FAISS on a GPU finds at most 2,039.

    Returns:
        The name of the engine and the reason.

    Raises:
        ValueError: ``task`` is unknown.

    Example:
        >>> from ncfast.information.neighbors import neighbor_backend
        >>> name, reason = neighbor_backend(20_000, 2)
    """
    one_of(task, "task", ("knn", "joint", "count"))
    if torch.device(device).type != "cpu":
        return _on_accelerator(d, torch.device(device), task, metric, k)
    if _raw.extension is not None:
        return _with_extension(n, d)
    return _without_extension(d, task, metric)


def _with_extension(n: int, d: int) -> tuple[str, str]:
    if d <= deepest_tree(n):
        return "tree", f"a tree is fastest for N = {n} up to d = {deepest_tree(n)}"
    return "direct", f"direct differences are fastest for N = {n} beyond d = {deepest_tree(n)}"


def deepest_tree(n: int) -> int:
    """The largest dimension at which a tree beats direct differences."""
    return next(d for rows, d in _DEEPEST if n < rows)


def _without_extension(d: int, task: str, metric: str) -> tuple[str, str]:
    if d <= 8 or (task == "count" and d <= 12):
        return "scipy", "SciPy's tree: low dimension, and no C++ extension"
    if task == "knn" and metric == "l2":
        if faiss_flat.INSTALLED:
            return "faiss", "high dimension, and no C++ extension"
        return "gemm", "high dimension, no C++ extension and no FAISS"
    return "reference", "high dimension, and no C++ extension"


def _on_accelerator(
    d: int, device: torch.device, task: str, metric: str, k: int
) -> tuple[str, str]:
    if task == "knn" and metric == "l2" and d >= _WIDE:
        return _for_many_columns(device, k)
    if _auto.proven(CHECKED, "triton", torch.float64, device):
        return "triton", "direct differences in float64, which passed the self-check on this device"
    return "reference", "float64 brute force on an accelerator"


def _for_many_columns(device: torch.device, k: int) -> tuple[str, str]:
    measured = _fastest(device)
    if measured is not None and _good(measured, device, k):
        return measured, "measured to be the fastest on devices of this compute capability"
    if _good("faiss", device, k):
        return "faiss", "FAISS with certificate, which passed the self-check on this device"
    return "gemm", "matrix products with certificate on an accelerator"


def _fastest(device: torch.device) -> str | None:
    if not _FASTEST or device.type != "cuda":
        return None
    return _FASTEST.get(torch.cuda.get_device_capability(device))


def _good(name: str, device: torch.device, k: int) -> bool:
    if name == "faiss":  # NCFAST_TRITON says nothing about it
        verdict = _verdicts.verdict(CHECKED, name, torch.float64, device)
        return verdict.usable and k <= faiss_flat.MOST
    return name == "gemm" or _auto.proven(CHECKED, name, torch.float64, device)


def engine(
    name: str, n: int, d: int, device: torch.device, task: str, metric: str, k: int = 1
) -> tuple[str, Engine]:
    """The engine ``name``, or with "auto" the one that `neighbor_backend` selects.

    Raises:
        ValueError: the name is unknown, or the engine cannot run this search; the message says why.
    """
    one_of(name, "backend", NAMES)
    if name == "auto":
        if device.type == "cuda":  # starts the self-check where there is no verdict
            _auto.offered(CHECKED, torch.float64, device, n * d)
        if _raw.extension is None and device.type == "cpu" and n >= _build.NOTABLE_ROWS:
            _build.warn_once(_raw.import_error)
        name, _ = neighbor_backend(n, d, device, task=task, metric=metric, k=k)
    why_not = _why_not(name, device, task, metric, k)
    if why_not is not None:
        raise ValueError(f"Backend {name!r} cannot run here: {why_not}. Use backend='auto'.")
    return name, cast(Engine, _ENGINES[name])


def _why_not(name: str, device: torch.device, task: str, metric: str, k: int) -> str | None:
    if device.type not in _DEVICES.get(name, (device.type,)):
        return f"the rows are on {device}"
    if name in _EUCLIDEAN and (task != "knn" or metric != "l2"):
        return "it supports only k nearest neighbours by Euclidean distance"
    if name in ("direct", "tree") and _raw.extension is not None:
        return None  # composing the status would take longer than a small search
    if name == "faiss" and device.type == "cuda":
        return faiss_flat.why_not_on_gpu(k)
    status = _status(name)
    return None if status.available else status.reason
