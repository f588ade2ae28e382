"""Adapts the docstrings to Griffe, which renders `Examples:` as code and `Example:` as prose."""

from __future__ import annotations

import re
from typing import Any

import griffe


class Examples(griffe.Extension):
    """Renames the section of examples."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Renames it in the docstring of each object that Griffe reads."""
        if obj.docstring:
            obj.docstring.value = re.sub(
                r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE
            )
