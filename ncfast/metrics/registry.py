"""Metric ids, the definition behind each, and the choice among them."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import replace

from ncfast.metrics import (
    bounds,
    covariance,
    decision,
    duality,
    geometry,
    ood,
    pairwise,
    rank,
    standalone,
    variability,
)
from ncfast.metrics.metric import TIERS, Metric

_FAMILIES = (variability, covariance, geometry, pairwise, duality, decision, ood, rank, bounds)
_CORE = (
    "rnc1.max",
    "rnc1.mean",
    "nc1.quotient",
    "nc1.cdnv",
    "nc2.condition",
    "nc2.equinorm",
    "nc2.equiangular",
    "nc2.etf_error",
)


def _related(metrics: dict[str, Metric]) -> dict[str, Metric]:
    """The same metrics, grouped by family, each knowing the others of its family."""
    families = dict.fromkeys(id_.split(".")[0] for id_ in metrics)
    ids = [id_ for family in families for id_ in metrics if id_.split(".")[0] == family]
    return {
        id_: replace(
            metrics[id_],
            variants=tuple(o for o in ids if o != id_ and o.split(".")[0] == id_.split(".")[0]),
        )
        for id_ in ids
    }


# everything that `collapse_metrics` computes
CATALOGUE: dict[str, Metric] = _related(
    {id_: metric for family in _FAMILIES for id_, metric in family.METRICS.items()}
)
# what a tracker logs unless told otherwise: a small set that needs the moments alone
METRICS: dict[str, Metric] = {id_: CATALOGUE[id_] for id_ in _CORE}
# what a tracker can log: everything that needs the moments alone
OF_MOMENTS: dict[str, Metric] = {id_: m for id_, m in CATALOGUE.items() if m.needs == {"moments"}}
# named quantities with a call of their own, known to `describe`
STANDALONE = standalone.DESCRIPTIONS


def resolve(which: str | Sequence[str], known: Iterable[str] = tuple(METRICS)) -> tuple[str, ...]:
    """The ids of ``known`` that ``which`` names: "all", an id, a family, a tier, or several.

    A tier includes the cheaper ones: "standard" is everything in "lite" as well.

    Raises:
        ValueError: a name is neither an id nor a family nor a tier.
    """
    names = (which,) if isinstance(which, str) else tuple(which)
    return _resolve(tuple(n if isinstance(n, str) else repr(n) for n in names), tuple(known))


@functools.lru_cache(maxsize=64)
def _resolve(names: tuple[str, ...], known: tuple[str, ...]) -> tuple[str, ...]:
    chosen: list[str] = []
    for name in names:
        if name in TIERS:
            chosen += [id_ for id_ in known if _tier(id_) <= TIERS.index(name)]
            continue
        found = [id_ for id_ in known if name in ("all", id_, id_.split(".")[0])]
        if not found:
            raise ValueError(
                f"Expected the names of metrics but got {name!r}. Known ids: {', '.join(known)}; "
                f"or a family such as 'nc2', a tier of {TIERS}, or 'all'."
            )
        chosen += found
    return tuple(dict.fromkeys(chosen))


def _tier(id_: str) -> int:
    return TIERS.index(CATALOGUE[id_].tier) if id_ in CATALOGUE else 0
