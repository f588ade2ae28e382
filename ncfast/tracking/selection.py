"""Which metrics a tracker evaluates."""

from __future__ import annotations

from collections.abc import Sequence

from ncfast.metrics.catalogue import METRICS, OF_MOMENTS, resolve

WEIGHT_NORM = "weight.norm"


def choose(metrics: str | Sequence[str], has_model: bool) -> tuple[str, ...]:
    """Ids of the metrics that a name, tier, family or list of these stands for.

    The norm of the weights belongs to no tier, because it costs a pass over all parameters: it is
    in "all", where there is a model, and where it is named.

    Raises:
        ValueError: a name is unknown, or its metric needs more than the class moments.

    Example:
        >>> choose("rnc1", has_model=True)
        ('rnc1.max', 'rnc1.mean')
    """
    of_model = (WEIGHT_NORM,) if has_model else ()
    if metrics == "all":
        return (*METRICS, *of_model)
    names = [metrics] if isinstance(metrics, str) else list(metrics)
    wants_norm = any(name in (WEIGHT_NORM, "weight") for name in names)
    chosen = resolve(metrics, (*OF_MOMENTS, *of_model))
    return tuple(id_ for id_ in chosen if id_ != WEIGHT_NORM or wants_norm)
