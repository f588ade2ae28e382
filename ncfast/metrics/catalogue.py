"""The catalogue: metric ids, the definition behind each, the choice among them, and `describe`."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from ncfast.metrics import (
    bounds,
    covariance,
    decision,
    duality,
    geometry,
    imbalance,
    ood,
    pairwise,
    rank,
    self_supervised,
    variability,
)
from ncfast.metrics.metric import TIERS, Metric

_FAMILIES = (
    variability,
    covariance,
    geometry,
    pairwise,
    duality,
    decision,
    ood,
    rank,
    self_supervised,
    imbalance,
    bounds,
)
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
    """The same metrics in the order of their families, with `Metric.variants` filled in."""
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
# the default set of a tracker: a few metrics that need the moments alone
METRICS: dict[str, Metric] = {id_: CATALOGUE[id_] for id_ in _CORE}
# every metric that needs the moments alone: a tracker can log these
OF_MOMENTS: dict[str, Metric] = {id_: m for id_, m in CATALOGUE.items() if m.needs == {"moments"}}


def resolve(which: str | Sequence[str], known: Iterable[str] = tuple(METRICS)) -> tuple[str, ...]:
    """The ids of ``known`` that ``which`` names: "default", "all", ids, families or tiers.

    A tier includes the cheaper ones: "standard" is everything in "lite" as well.

    Raises:
        ValueError: a name is neither an id nor a family nor a tier.
        TypeError: ``which`` is no name and no sequence of names.
    """
    if not isinstance(which, Iterable):
        raise TypeError(
            f"Expected the names of metrics but got {type(which).__name__}. Pass ids, families or "
            "tiers, such as ['rnc1.max', 'nc2']."
        )
    names = (which,) if isinstance(which, str) else tuple(which)
    return _resolve(tuple(n if isinstance(n, str) else repr(n) for n in names), tuple(known))


def by_name(which: str | Sequence[str]) -> tuple[str, ...]:
    """The ids that ``which`` names one by one, whose inputs must be there."""
    return tuple(id_ for id_ in ([which] if isinstance(which, str) else which) if id_ in CATALOGUE)


@functools.lru_cache(maxsize=64)
def _resolve(names: tuple[str, ...], known: tuple[str, ...]) -> tuple[str, ...]:
    chosen: list[str] = []
    for name in names:
        if name in TIERS:
            chosen += [id_ for id_ in known if _tier(id_) <= TIERS.index(name)]
            continue
        if name == "default":
            chosen += [id_ for id_ in METRICS if id_ in known]
            continue
        found = [id_ for id_ in known if name in ("all", id_, id_.split(".")[0])]
        if not found:
            raise ValueError(
                f"Expected the names of metrics but got {name!r}. {_nearest(name, known)}"
                f"Known ids: {', '.join(known)}; "
                f"or a family such as 'nc2', a tier of {TIERS}, 'default' or 'all'."
            )
        chosen += found
    return tuple(dict.fromkeys(chosen))


def _nearest(name: str, known: Iterable[str]) -> str:
    """A question that names the id most like ``name``, for the start of a long list of ids."""
    found = difflib.get_close_matches(name, known, n=1)
    return f"Did you mean {found[0]!r}? " if found else ""


@functools.lru_cache(maxsize=64)
def usable(ids: tuple[str, ...], given: frozenset[str]) -> Mapping[str, Metric]:
    """The metrics whose needs are all given."""
    chosen = {id_: CATALOGUE[id_] for id_ in ids if CATALOGUE[id_].needs <= given}
    return MappingProxyType(chosen)  # read-only, because the result is cached


def _tier(id_: str) -> int:
    return TIERS.index(CATALOGUE[id_].tier) if id_ in CATALOGUE else 0


_THEORY = "Sakamoto & Sato 2025, arXiv 2509.20829"
_REGRESSION = "Andriopoulos et al. 2024, arXiv 2409.04180, Section 3.1"


@dataclass(frozen=True)
class Standalone:
    """Formula, source, range and direction of a quantity, and the function that computes it."""

    call: str
    formula: str
    source: str
    range: str
    direction: str


# quantities outside `collapse_metrics`, each with a call of its own; `describe` knows them
STANDALONE = {
    "weight.norm": Standalone(
        "ncfast.weight_norm",
        "sqrt(sum p^2) over all parameters",
        "global L2 norm; not the sum of the norms of tensors",
        "[0, inf)",
        "falls under weight decay",
    ),
    "weight.spectral_product": Standalone(
        "ncfast.spectral_norm_product",
        "product over layers of sigma_max(W_l)",
        "Bartlett, Foster & Telgarsky 2017",
        "[0, inf)",
        "smaller: smoother",
    ),
    "balancedness": Standalone(
        "ncfast.balancedness",
        "norm_F(A - B) / (norm_F(A) + norm_F(B)), A = W_L^T W_L, B = W_{L-1} W_{L-1}^T",
        f"{_THEORY}, Theorem 4.3; the gap norm_F(A - B) made relative",
        "[0, 1]",
        "0: balanced",
    ),
    "ssl.alignment": Standalone(
        "ncfast.alignment",
        "mean of norm(x - y)^2 over pairs of views, every row of norm 1",
        "Wang & Isola 2020, arXiv 2005.10242",
        "[0, 4]",
        "0: views coincide",
    ),
    "ssl.uniformity": Standalone(
        "ncfast.uniformity",
        "log mean over i < j of exp(-2 norm(x_i - x_j)^2), every row of norm 1",
        "Wang & Isola 2020, arXiv 2005.10242",
        "[-8, 0]",
        "0: one point; lower: more uniform",
    ),
    "nc1.per_class": Standalone(
        "ncfast.nc1",
        "V_c / Tr(Sigma_B) of each class, Sigma_B by class",
        "the terms of nc1.quotient, which is their mean weighted by n_c / N",
        "[0, inf)",
        "0: the class has collapsed",
    ),
    "nrc1.features": Standalone(
        "ncfast.regression_metrics",
        "mean of norm(u - P u)^2, u = h / norm(h), P onto the first n principal components of h",
        _REGRESSION,
        "[0, 1]",
        "0: features lie in as many directions as there are targets",
    ),
    "nrc2.weight": Standalone(
        "ncfast.regression_metrics",
        "mean of norm(u - P u)^2, u = h / norm(h), P onto the rows of the last layer's W",
        _REGRESSION,
        "[0, 1]",
        "0: features lie in the span of the last layer's rows",
    ),
    "nrc3.gram": Standalone(
        "ncfast.regression_metrics",
        "norm_F(A / norm_F(A) - B / norm_F(B))^2, A = W W^T, B = Sigma^(1/2) - gamma^(1/2) I, "
        "Sigma the covariance of the targets",
        _REGRESSION,
        "[0, 4]",
        "0: the last layer has the geometry of the targets",
    ),
    "nrc3.gamma": Standalone(
        "ncfast.regression_metrics",
        "the gamma between 0 and the smallest eigenvalue of Sigma that makes nrc3.gram smallest",
        _REGRESSION,
        "[0, smallest eigenvalue of Sigma]",
        "grows with weight decay; in theory the product of two regularisation constants",
    ),
    "bound.superfluous": Standalone(
        "ncfast.superfluous_information_bound",
        "1/2 sum_c p_c logdet(I + Cov_c / (B_g^2 sigma^2)) <= RNC1 / (2 sigma^2), in nats",
        f"{_THEORY}, Theorem 3.4",
        "[0, inf)",
        "0: nothing superfluous",
    ),
}


@dataclass(frozen=True)
class Description:
    """What `describe` returns.

    Attributes:
        id: the metric's id.
        formula: its definition, in the notation of docs/metrics.md.
        source: where it comes from.
        range: the values it takes.
        direction: what a value says, such as "0: collapsed".
        variants: the other ids of its family.
        tier: "lite", "standard" or "full"; "" for quantities outside `collapse_metrics`.
        needs: inputs beyond the class moments.
        synchronizes: whether it waits for the device on CUDA.
        call: the function that computes it.
    """

    id: str
    formula: str
    source: str
    range: str
    direction: str
    variants: tuple[str, ...] = ()
    tier: str = ""
    needs: tuple[str, ...] = ()
    synchronizes: bool = False
    call: str = ""

    @property
    def stalls(self) -> bool:
        """The former name of `synchronizes`."""
        return self.synchronizes


def describe(id_: str) -> Description:
    """Formula, source, range, direction and variants of a metric.

    Args:
        id_: an id such as "nc1.pinv".

    Raises:
        ValueError: the id is unknown; the message lists the known ones.

    Example:
        >>> import ncfast
        >>> ncfast.describe("nc1.quotient").direction
        '0: collapsed'
    """
    entry = CATALOGUE.get(id_) or STANDALONE.get(id_)
    if entry is None:
        known = (*CATALOGUE, *STANDALONE)
        raise ValueError(
            f"Expected the id of a metric but got {id_!r}. {_nearest(id_, known)}"
            f"Known ids: {', '.join(known)}."
        )
    defined = (id_, entry.formula, entry.source, entry.range, entry.direction)
    if isinstance(entry, Standalone):
        return Description(*defined, call=entry.call)
    of_call = (entry.synchronizes, "ncfast.collapse_metrics")
    return Description(*defined, entry.variants, entry.tier, entry.arguments, *of_call)


CONVENTIONS = {
    "means": "every class counts the same: centred on the mean of class means, Sigma_B unweighted",
    "Sigma_W": "population normalisation 1/N over all samples",
    "standard deviations": "population",
    "information": "nats",
    "nan": "undefined: fewer than two classes in the batch, or features that are not finite",
}


def definition_of(id_: str) -> dict[str, str]:
    """Formula, source, range and direction of a metric, as a header stores them."""
    entry = CATALOGUE[id_] if id_ in CATALOGUE else STANDALONE[id_]
    return {name: getattr(entry, name) for name in ("formula", "source", "range", "direction")}
