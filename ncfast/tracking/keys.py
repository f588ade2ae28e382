"""Chooses the metrics of a tracker, names their keys, and builds the header that explains them."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from typing import Any

import torch

from ncfast.metrics import catalogue
from ncfast.metrics.catalogue import CATALOGUE, definition_of, resolve
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


def choose_metrics(metrics: str | Sequence[str], has_model: bool) -> tuple[str, ...]:
    """The ids that a name, a tier, a family or a list of these selects.

    The norm of the weights reads all parameters, so it belongs to no tier: "default" and "all" have
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
