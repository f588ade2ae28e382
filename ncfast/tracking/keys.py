"""Chooses the metrics of a tracker, names the keys of its records, and writes their header."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from ncfast.features.classifier import Classifier
from ncfast.metrics import catalogue
from ncfast.metrics.catalogue import CATALOGUE, by_name, definition_of, resolve
from ncfast.metrics.needs import Selection
from ncfast.tracking.averaging import Averaging
from ncfast.tracking.messages import SHARED_SPLIT, WarnOnce

# keys that a record has beside those of the metrics
WEIGHT_NORM = "weight.norm"
COST = "tracker/seconds"
LOCAL = "tracker/local"
RUN = "tracker/run"
IGNORED = "ignored"  # follows the split: rows that a mask or `ignore_index` left out

CONVENTIONS = {
    "step": "updates made so far; 0 is the initialisation",
    **catalogue.CONVENTIONS,
    LOCAL: "1: measured by this rank alone, not merged with the others",
    RUN: "number of the tracker that wrote the record, from 1 for the first that opened the file",
    COST: "time spent in the tracker so far, on the thread that trains, in seconds",
}
_STEP = {
    "batch": "SPLIT/ID from step(): the batch of that step alone, with the network as it trains",
    "window": "window/SPLIT/ID: pooled over the last {length} batches, each around its own means",
    "ema": "ema/SPLIT/ID: exponential average over batches with decay {decay}, bias-corrected",
}
_SNAPSHOT = (
    "SPLIT/ID from snapshot(): the whole split, frozen network in eval mode; snapshot/SPLIT/ID "
    "where step() measures a split of that name, and batch/SPLIT/ID the other way round"
)
_FEATURES = frozenset({"scatter", "revisit"})  # needs of metrics that read the features again


def choose_metrics(metrics: str | Sequence[str], has_model: bool) -> tuple[str, ...]:
    """The ids that a name, a tier, a family or a list of these selects.

    The norm of the weights reads all parameters and belongs to no tier. "default" and "all" include
    it if there is a model, and its own name selects it.

    Raises:
        ValueError: a name is unknown.

    Example:
        >>> choose_metrics("rnc1", has_model=True)
        ('rnc1.max', 'rnc1.mean')
    """
    of_model = (WEIGHT_NORM,) if has_model else ()
    chosen = resolve(metrics, (*CATALOGUE, *of_model))
    names = [metrics] if isinstance(metrics, str) else list(metrics)
    wants_norm = not {WEIGHT_NORM, "weight", "default", "all"}.isdisjoint(names)
    chosen = tuple(id_ for id_ in chosen if id_ != WEIGHT_NORM or wants_norm)
    return tuple(dict.fromkeys((*chosen, *(of_model if wants_norm else ()))))


def without_norm(metrics: str | Sequence[str]) -> list[str]:
    """The names without the norm of the weights, which is no metric of features."""
    names = [metrics] if isinstance(metrics, str) else metrics
    return [name for name in names if name not in (WEIGHT_NORM, "weight")]


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
    """The chosen metrics, and which of them a step can have.

    Attributes:
        selection: the chosen metrics.
        why_not_features: why no step can have metrics that read the features again; "" if it can.
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
            ids: their ids, see `choose_metrics`.
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
        """The ids of batches with D columns and this classifier."""
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
        """The ids in `never` that were asked for by name."""
        never = self.never
        return {id_: never[id_] for id_ in self.selection.named if id_ in never}

    def check_all_possible(self) -> None:
        """Raise ValueError if an id that no step can have was asked for by name."""
        for id_, why in self.named_never.items():
            raise ValueError(
                f"Expected metrics that steps can have, because the Tracker has no model or no "
                f"layers to take a snapshot of, but got {id_!r}, which {why}."
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


class KeyPrefixes:
    """Chooses the first part of each key, so that two kinds of measurement never share a key.

    Args:
        several: whether several layers are tracked; their names are then part of the keys.
        warn: gives the warning about a split that is measured in two ways.
    """

    def __init__(self, several: bool, warn: WarnOnce) -> None:
        self._several, self._warn = several, warn
        self._found: dict[tuple[str, str, str], str] = {}
        self._owners: dict[str, str] = {}

    def prefix(self, kind: str, split: str, layer: str, step: int) -> str:
        """The prefix of a split: its name for the kind that measures it first, else "kind/name".

        Args:
            kind: "batch", "window", "ema" or "snapshot".
            split: the user's name of the split.
            layer: the layer's name; empty for features that were passed in.
            step: the current step, for the warning.
        """
        key = kind, split, layer
        if key not in self._found:
            plain = f"{split}/{layer}" if self._several and layer else split
            self._found[key] = plain if self._owns(kind, split, step) else f"{kind}/{plain}"
        return self._found[key]

    def known(self, kind: str, layers: Sequence[str]) -> set[str]:
        """All prefixes so far, and those of a step of "train" and of a snapshot of "test".

        Args:
            kind: the kind of a step.
            layers: the names of the tracked layers.
        """
        found = set(self._found.values())
        lead = "" if kind == "batch" else f"{kind}/"
        for layer in (*(layers if self._several else ()), ""):
            found |= {f"{split}/{layer}".rstrip("/") for split in (f"{lead}train", "test")}
        return found

    def _owns(self, kind: str, split: str, step: int) -> bool:
        if kind not in ("batch", "snapshot"):  # an average always has its kind in front
            return False
        owner = self._owners.setdefault(split, kind)
        if owner != kind:
            message = SHARED_SPLIT.format(split=split, owner=owner, kind=kind)
            self._warn(step, f"split {split}", message)
        return owner == kind


def build_header(
    *, metrics: Sequence[str], averaging: Averaging, num_classes: int, layers: Sequence[str]
) -> dict[str, Any]:
    """The header for the sinks, of JSON types alone: versions, conventions and definitions."""
    import ncfast

    return {
        "versions": {
            "ncfast": ncfast.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "num_classes": num_classes,
        "layers": list(layers),
        "measured": {
            "step": _STEP[averaging.kind].format(length=averaging.length, decay=averaging.decay),
            "snapshot": _SNAPSHOT,
        },
        "conventions": CONVENTIONS,
        "metrics": {id_: definition_of(id_) for id_ in metrics},
    }
