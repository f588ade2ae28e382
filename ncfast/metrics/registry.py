"""Metric ids and the pure function behind each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

from torch import Tensor

from ncfast.metrics import geometry, variability
from ncfast.moments import ClassMoments

METRICS: dict[str, Callable[[ClassMoments], Tensor]] = {
    "rnc1.max": partial(variability.rescaled_variability, scale="max"),
    "rnc1.mean": partial(variability.rescaled_variability, scale="mean"),
    "nc1.quotient": variability.variability_quotient,
    "nc1.cdnv": variability.class_distance_normalized_variance,
    "nc2.condition": geometry.condition_number,
    "nc2.equinorm": geometry.equinorm,
    "nc2.equiangular": geometry.equiangularity,
    "nc2.etf_error": geometry.etf_error,
}


def resolve(which: str | Sequence[str], known: Iterable[str] = tuple(METRICS)) -> tuple[str, ...]:
    """The ids of ``known`` that ``which`` names: "all", an id, a family like "nc2", or several.

    Raises:
        ValueError: a name is neither an id nor a family.
    """
    names = [which] if isinstance(which, str) else list(which)
    chosen: list[str] = []
    for name in names:
        found = [id_ for id_ in known if name in ("all", id_, id_.split(".")[0])]
        if not found:
            raise ValueError(
                f"Expected the names of metrics but got {name!r}. "
                f"Known ids: {', '.join(known)}; or a family such as 'nc2', or 'all'."
            )
        chosen += found
    return tuple(dict.fromkeys(chosen))
