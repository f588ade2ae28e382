"""Former home of names that models saved by version 0.1 look up when they are loaded."""

import contextlib
from collections.abc import Callable

from ncfast.features.extractor import FeatureExtractor

__all__ = ["FeatureExtractor"]


def _idle_hook() -> Callable[..., None]:
    """A hook that does nothing, for models that version 0.1 saved while they were tracked."""
    return contextlib.nullcontext().__exit__
