"""Choice of the engine by size, dimension and device, with the reason."""

from __future__ import annotations

from types import ModuleType
from typing import cast

import torch

from ncfast.backends import BackendStatus
from ncfast.information.neighbors import reference
from ncfast.information.neighbors._check import one_of
from ncfast.information.neighbors._types import Engine

_ENGINES: dict[str, ModuleType] = {"reference": reference}
NAMES = ("auto", *_ENGINES)


def neighbor_backends() -> dict[str, BackendStatus]:
    """Which engines can search for neighbours on this machine, and why the rest cannot.

    Example:
        >>> from ncfast.information.neighbors import neighbor_backends
        >>> neighbor_backends()["reference"].available
        True
    """
    return {"reference": BackendStatus(True, "float64 brute force in torch, any device")}


def neighbor_backend(
    n: int, d: int, device: torch.device | str = "cpu", *, task: str = "knn"
) -> tuple[str, str]:
    """The engine that ``backend="auto"`` takes, and why.

    Args:
        n: number of rows (of the largest class, where the search is within classes).
        d: number of columns, of all blocks together.
        device: where the rows are.
        task: "knn", "joint" or "count".

    Returns:
        Its name and the reason.

    Example:
        >>> from ncfast.information.neighbors import neighbor_backend
        >>> name, reason = neighbor_backend(1000, 5)
    """
    del n, d, device, task
    return "reference", "the only engine there is"


def engine(name: str, n: int, d: int, device: torch.device, task: str) -> tuple[str, Engine]:
    """The engine called ``name``, or the one that suits."""
    one_of(name, "backend", NAMES)
    if name == "auto":
        name, _ = neighbor_backend(n, d, device, task=task)
    return name, cast(Engine, _ENGINES[name])
