"""Reasons why a contestant cannot run: missing packages or devices, or too large inputs."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable

import ncfast
from ncfast.benchmarks.registry import Call, Case, Contestant, Inputs

Available = Callable[[Case], str | None]


def backend(name: str) -> Available:
    """For an ncfast backend: the reason that `ncfast.backends` gives."""

    def reason(case: Case) -> str | None:
        status = ncfast.backends()[name]
        return None if status.available else status.reason

    return reason


def backends(prepare: Callable[[str], Callable[[Inputs], Call]]) -> list[Contestant]:
    """A contestant for each backend of ncfast, the fastest first."""
    return [
        Contestant(f"ncfast {name}", "ncfast", prepare(name), backend(name), name)
        for name in ("triton", "cpu", "reference")
    ]


def package(name: str) -> Available:
    """For a library that may not be installed."""

    def reason(case: Case) -> str | None:
        return None if importlib.util.find_spec(name) else f"{name} is not installed"

    return reason


def for_numpy(name: str) -> Available:
    """For a library that takes NumPy arrays on a CPU."""

    def reason(case: Case) -> str | None:
        if case.sizes.get("dtype") == "bfloat16":
            return "NumPy has no bfloat16"
        return package(name)(case)

    return reason


def compiler(case: Case) -> str | None:
    """For torch.compile on a CPU, which needs a C++ compiler."""
    if case.quick:
        return "skipped in a quick run: compiling takes longer than all other contestants"
    command = os.environ.get("CXX", "g++")
    return None if shutil.which(command) else f"torch.compile finds no C++ compiler ({command})"


def within(limit: int, what: Callable[[Case], int], name: str) -> Available:
    """For a contestant that runs only if ``what(case)`` is at most ``limit``."""

    def reason(case: Case) -> str | None:
        size = what(case)
        return None if size <= limit else f"{name} would be {size:,}, over {limit:,}"

    return reason
