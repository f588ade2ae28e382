"""Imports optional packages, with an error that says how to install them."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from typing import Any

Show = Callable[[Iterable[Any]], Iterable[Any]]  # such as tqdm
# the modules of the extra "experiments"; the others are of "integrations"
_EXPERIMENTS = ("matplotlib", "safetensors", "tqdm")


def need(module: str, purpose: str) -> Any:
    """Import ``module``, or raise an error that says how to install it.

    Args:
        module: an importable name, such as "pyarrow.parquet".
        purpose: the feature that needs it; the message begins with it.

    Raises:
        ModuleNotFoundError: its package is not installed; the message names the extra.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        extra = "experiments" if module.split(".")[0] in _EXPERIMENTS else "integrations"
        raise ModuleNotFoundError(
            f"{purpose} needs the package {error.name!r}, which is not installed. "
            f"Install it, or all of its kind: pip install 'ncfast[{extra}]'",
            name=error.name,
        ) from error


def shown(progress: bool | Show | None) -> Show:
    """What wraps an iterable to show its progress: a function as given, or the bar of tqdm.

    The bar is a widget in a notebook that has ipywidgets.

    Args:
        progress: True for the bar, a function that takes an iterable and returns one, or False or
            None to show nothing.

    Raises:
        ModuleNotFoundError: the bar is asked for and tqdm is not installed.
    """
    if callable(progress):
        return progress
    if not progress:
        return iter
    bar: Show = need("tqdm.auto", "`progress=True`").tqdm
    return bar
