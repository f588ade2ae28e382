"""Tells which metrics a step can have: from its moments, its classifier or its batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ncfast.features.classifier import Classifier
from ncfast.metrics.catalogue import CATALOGUE, by_name
from ncfast.metrics.needs import Selection

_FEATURES = frozenset({"scatter", "revisit"})  # needs of metrics that read the features again


class Measured(NamedTuple):
    """The ids that the batches of one layer have, in the order of the records."""

    ids: tuple[str, ...]
    of_states: tuple[str, ...]  # from the moments and the classifier, a block of steps at once
    of_batch: tuple[str, ...]  # from the features, at the step

    @property
    def reads_classifier(self) -> bool:
        """Whether the classifier of each step must be kept until its block is evaluated."""
        return any("classifier" in CATALOGUE[id_].needs for id_ in self.of_states)


@dataclass(frozen=True)
class StepMetrics:
    """The metrics asked for, and those among them that steps can have.

    Attributes:
        selection: the metrics asked for.
        why_not_features: why a step cannot have metrics that read the features again; "" if it can.
    """

    selection: Selection
    why_not_features: str = ""

    @classmethod
    def of(
        cls,
        metrics: str | Sequence[str],
        ids: Sequence[str],
        num_classes: int,
        *,
        kind: str,
        merges: bool,
    ) -> StepMetrics:
        """The metrics of a tracker.

        Args:
            metrics: the names that the user passed.
            ids: their ids, see `keys.choose_metrics`.
            num_classes: K.
            kind: "batch", "window" or "ema".
            merges: whether the moments of several ranks are merged.
        """
        chosen = tuple(id_ for id_ in ids if id_ in CATALOGUE)
        why = "is measured by snapshots alone where several ranks merge their batches"
        if kind != "batch":
            why = f"is measured by snapshots alone with stream={kind!r}, which averages moments"
        averaged = kind != "batch" or merges
        return cls(Selection(chosen, by_name(metrics), num_classes, None), why if averaged else "")

    def measured(self, dim: int, classifier: Classifier | None) -> Measured:
        """The ids of batches with D columns, and with this classifier."""
        given = {"revisit", *(("classifier",) if classifier is not None else ())}
        if classifier is not None and classifier.bias is not None:
            given.add("bias")
        missing = self.selection.missing(dim, frozenset(given)).keys() | self.never.keys()
        ids = tuple(id_ for id_ in self.selection.ids if id_ not in missing)
        of_batch = tuple(id_ for id_ in ids if CATALOGUE[id_].needs & _FEATURES)
        return Measured(ids, tuple(id_ for id_ in ids if id_ not in of_batch), of_batch)

    @property
    def never(self) -> dict[str, str]:
        """The ids that no step can have, and why."""
        found: dict[str, str] = {}
        for id_ in self.selection.ids:
            needs = CATALOGUE[id_].needs
            if "ood" in needs:
                found[id_] = "needs features from outside the distribution: snapshot(..., ood=...)"
            elif self.why_not_features and needs & _FEATURES:
                found[id_] = self.why_not_features
        return found

    @property
    def named_never(self) -> dict[str, str]:
        """Those of `never` that were asked for by name."""
        never = self.never
        return {id_: never[id_] for id_ in self.selection.named if id_ in never}

    def check_all_possible(self) -> None:
        """Raise ValueError if an id that no step can have was asked for by name."""
        for id_, why in self.named_never.items():
            raise ValueError(
                f"Expected metrics that steps can have, because the Tracker has no model to take a "
                f"snapshot of, but got {id_!r}, which {why}."
            )

    @property
    def of_moments_alone(self) -> bool:
        """Whether no metric reads more than the moments of its batch."""
        return self.selection.needs <= {"moments"}

    @property
    def wants_classifier(self) -> bool:
        """Whether some metric reads a classifier."""
        return "classifier" in self.selection.needs

    @property
    def named_of_classifier(self) -> tuple[str, ...]:
        """The ids asked for by name that need a classifier."""
        named = self.selection.named
        return tuple(id_ for id_ in named if "classifier" in CATALOGUE[id_].needs)
