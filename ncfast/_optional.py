"""Imports optional packages, with an error that says how to install them."""

from __future__ import annotations

import importlib
from typing import Any


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
        raise ModuleNotFoundError(
            f"{purpose} needs the package {error.name!r}, which is not installed. "
            "Install it, or all of them: pip install 'ncfast[integrations]'",
            name=error.name,
        ) from error
