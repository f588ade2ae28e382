"""Checks the neighbour searches that run on a CUDA device, bit for bit.

The subject of a verdict is an engine: the operation is "neighbours", the path its name.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ncfast.information.neighbors import dispatch, faiss_flat, reference, triton_sweep
from ncfast.ops._verdicts import Subject
from ncfast.ops.blocks import multiprocessors
from ncfast.self_check.forms import Wrong

NAME = "neighbours"
_ENGINES: dict[str, Any] = {"triton": triton_sweep, "faiss": faiss_flat}
_ROWS, _FEW_ROWS = 3000, 24
_MOST_ROWS = 1000  # of all clouds but the first


class Missing(Exception):
    """Kernels cannot run here at all; the message says why."""


def subjects() -> list[Subject]:
    """The engines; each searches in float64, whatever the dtype of the rows."""
    return [Subject(NAME, engine, "float64") for engine in _ENGINES]


def check(engine: str, dtype: torch.dtype, device: torch.device) -> str:
    """Check an engine; on a CPU with few rows, for Triton's interpreter.

    Returns:
        Nothing: everything is checked.

    Raises:
        Missing: the engine cannot run here.
        Wrong: a result is wrong, or the engine has fallen back to the reference.
    """
    rows = _FEW_ROWS
    if device.type == "cuda":
        rows = max(_ROWS, 33 * multiprocessors(device))  # so many that the kernels take wide tiles
        try:
            dispatch.engine(engine, _ROWS, 20, device, "knn", "l2")
        except ValueError as error:
            raise Missing(str(error)) from None
    for name, given in _searches(engine, dtype, rows):
        _compare(_ENGINES[engine], name, given, device)
    return ""


def _searches(engine: str, dtype: torch.dtype, rows: int) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """The name of a function of an engine, and its arguments on the CPU."""
    for x, labels in _clouds(dtype, rows):
        for k in (5, 32) if rows > _FEW_ROWS else (5,):
            yield "knn", (x, k, "l2", labels)
        if engine == "triton":
            yield "knn", (x, 5, "linf", labels)
            blocks = [x[:, :2], x[:, 2:]]
            for metric in ("l2", "linf"):
                yield "joint", (blocks, 3, metric, False, labels)
            yield "joint", (blocks, 3, "linf", True, labels)
            radii = reference.knn(x, 3, "l2", None)[0][:, 2].contiguous()
            for strict in (True, False):
                yield "count", (x, radii, "l2", strict, labels)


def _clouds(dtype: torch.dtype, rows: int) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Rows apart, rows with ties and duplicates, and collapsed classes."""
    generator = torch.Generator().manual_seed(0)
    apart = torch.randn(rows, 20, generator=generator, dtype=torch.float64)
    labels = torch.randint(3, (rows,), generator=generator)
    labels[:3] = 7  # a class of fewer rows than neighbours
    ties = (2 * apart[:, :3]).round()
    narrow = 100 * torch.randn(8, 20, generator=generator, dtype=torch.float64)[labels]
    yield apart.to(dtype), None
    few, labels = slice(0, _MOST_ROWS), labels[:_MOST_ROWS]
    yield apart[few].to(dtype), labels
    for x in (ties[few], (narrow + 1e-6 * apart)[few]):
        yield x.to(dtype), None
        yield x.to(dtype), labels


def _compare(engine: Any, name: str, given: tuple[Any, ...], device: torch.device) -> None:
    expected = _flat(getattr(reference, name)(*given))
    with warnings.catch_warnings():
        # another search takes the place of one that failed or contradicts itself
        warnings.simplefilter("error", RuntimeWarning)
        try:
            found = _flat(getattr(engine, name)(*(_on(each, device) for each in given)))
        except RuntimeWarning as warning:
            raise Wrong(str(warning)) from None
    # the last number of `knn` is the share of rows that needed no second search
    for result, truth in zip(found, expected, strict=True):
        if isinstance(truth, Tensor) and not torch.equal(result.cpu(), truth):
            number = int((result.cpu() != truth).sum())
            raise Wrong(f"{name}: {number} entries differ from the reference")


def _flat(results: Any) -> list[Any]:
    if isinstance(results, (tuple, list)):
        return [part for each in results for part in _flat(each)]
    return [results]


def _on(argument: Any, device: torch.device) -> Any:
    if isinstance(argument, Tensor):
        return argument.to(device)
    return [each.to(device) for each in argument] if isinstance(argument, list) else argument
