"""What the metrics of a stream need: what it keeps, whether it looks twice, what is missing."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ncfast.metrics.catalogue import CATALOGUE, by_name, resolve
from ncfast.metrics.metric import Metric

# the shared results in `Metric.uses` that a second look at the rows sums up
LOOKS = frozenset({"decisions", "spread", "scores"})
# each need beyond the moments: what to say where it is missing, in the order of checking
_REASONS = {
    "classifier": "needs a classifier: pass `weight`, or call `set_classifier`",
    "bias": "needs the bias of the classifier: pass `bias`, or call `set_classifier`",
    "ood": "needs features from outside the distribution: call `update_ood`, or pass `ood_feats`",
    "revisit": "needs a second look at the rows: call `revisit` after the last `update`",
    "scores": "needs a second look at the rows from outside: call `revisit_ood`",
}
_LIMIT = 2 << 30  # bytes of a matrix that nobody asked for by name
SECOND_LOOK = frozenset({"revisit", "scores"})


@dataclass(frozen=True)
class Selection:
    """The metrics asked for, in a stream of K classes.

    Methods take D, None while it is not known, and which of the keys of `_REASONS` are there.

    Attributes:
        ids: of the metrics.
        named: those asked for by their id, which must not be missing.
        num_classes: K.
        memory_limit: bytes that one matrix may take; None for 2 GiB, but no limit for ``named``.
    """

    ids: tuple[str, ...]
    named: tuple[str, ...]
    num_classes: int
    memory_limit: int | None

    @property
    def needs(self) -> frozenset[str]:
        """The union of `Metric.needs`."""
        return frozenset[str]().union(*(CATALOGUE[id_].needs for id_ in self.ids))

    def missing(self, dim: int | None, there: frozenset[str]) -> dict[str, str]:
        """The ids that cannot be computed, and why."""
        reasons = {
            id_: _why_not(CATALOGUE[id_], there) or self._why_too_large(id_, dim)
            for id_ in self.ids
        }
        return {id_: reason for id_, reason in reasons.items() if reason is not None}

    def check_named(self, missing: Mapping[str, str]) -> None:
        """Raise ValueError if an id asked for by name is missing for want of an input."""
        for id_ in self.named:
            if id_ in missing and "memory_limit" not in missing[id_]:
                raise ValueError(
                    f"Expected all inputs of the metric {id_!r}, asked for by name, but it "
                    f"{missing[id_]}."
                )

    def without(self, need: str) -> Selection:
        """The metrics that do not need it, such as "revisit"."""
        ids = tuple(id_ for id_ in self.ids if need not in CATALOGUE[id_].needs)
        return replace(self, ids=ids, named=tuple(id_ for id_ in self.named if id_ in ids))

    def keeps_scatter(self, dim: int) -> bool:
        """Whether a stream keeps the (D, D) scatter matrix."""
        scatter = [id_ for id_ in self.ids if "scatter" in CATALOGUE[id_].needs]
        return any(self._why_too_large(id_, dim) is None for id_ in scatter)

    def looks(self, dim: int | None, there: frozenset[str]) -> frozenset[str]:
        """Which of `LOOKS` a second look takes, for the metrics that miss nothing else."""
        missing = self.missing(dim, there | SECOND_LOOK)
        usable = (CATALOGUE[id_] for id_ in self.ids if id_ not in missing)
        return frozenset[str]().union(*(m.uses for m in usable if "revisit" in m.needs)) & LOOKS

    def left_out(self, dim: int, there: frozenset[str]) -> str:
        """The ids that the memory limit alone leaves out, and the reason of one; or nothing."""
        missing = self.missing(dim, there | SECOND_LOOK)
        large = [id_ for id_, reason in missing.items() if "memory_limit" in reason]
        return f"{', '.join(large)}: {large[0]} {missing[large[0]]}" if large else ""

    def _why_too_large(self, id_: str, dim: int | None) -> str | None:
        size, limit = matrix_bytes(CATALOGUE[id_], self.num_classes, dim or 0), self.memory_limit
        if limit is None:
            limit = size if id_ in self.named else _LIMIT
        if size <= limit:
            return None
        return f"needs a matrix of {size:,} bytes, above memory_limit = {limit:,}"


def select(
    metrics: str | Sequence[str], num_classes: int, memory_limit: int | None = None
) -> Selection:
    """The `Selection` of names as `resolve` takes them, out of the whole catalogue.

    Raises:
        ValueError: an unknown name.
    """
    ids = resolve(metrics, CATALOGUE)
    return Selection(ids, by_name(metrics), num_classes, memory_limit)


def matrix_bytes(metric: Metric, num_classes: int, dim: int) -> int:
    """Bytes of the largest matrix that a stream keeps for a metric, beside the moments."""
    scatter = dim**2 if "scatter" in metric.needs else 0
    squares = num_classes * (num_classes + 1) if "spread" in metric.uses else 0
    return 8 * max(scatter, squares)


def _why_not(metric: Metric, there: frozenset[str]) -> str | None:
    needed = metric.needs | (metric.uses & LOOKS)
    found = (reason for need, reason in _REASONS.items() if need in needed and need not in there)
    return next(found, None)


_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(I?)B?", re.IGNORECASE)


def as_bytes(size: int | str | None) -> int | None:
    """A number of bytes, of an int or of text such as "512 MB" or "2GiB"; None stays None.

    Raises:
        ValueError: text that is no size, or a negative number.
    """
    if size is None:
        return None
    found = _SIZE.fullmatch(str(size).strip())
    if found is None:
        raise ValueError(
            "Expected argument `memory_limit` to be a number of bytes or text such as '2GiB' but "
            f"got {size!r}."
        )
    number, prefix, binary = found.groups()
    return int(float(number) * (1024 if binary else 1000) ** " KMGT".index(prefix.upper() or " "))
