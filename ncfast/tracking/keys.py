"""Which metrics a tracker evaluates, under which keys, and the header that explains them."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ncfast.metrics.registry import CATALOGUE, METRICS, OF_MOMENTS, STANDALONE, resolve
from ncfast.tracking.averaging import Stream

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


Warn = Callable[[str, str], None]


class Names:
    """Prefixes of keys; nothing that is measured in two ways has one name.

    Args:
        several: whether several layers are tracked, whose names then stand in the keys.
    """

    def __init__(self, several: bool) -> None:
        self._several = several
        self._found: dict[tuple[str, str, str], str] = {}
        self._owners: dict[str, str] = {}

    def prefix(self, kind: str, split: str, layer: str, warn: Warn) -> str:
        """First part of the keys: the first to measure a split has its plain name.

        Args:
            kind: "batch", "window", "ema" or "snapshot".
            split: as the user calls it.
            layer: its name; empty for features that were passed in.
            warn: told of a split that is measured both ways: what it is about, and a message.
        """
        key = kind, split, layer
        if key not in self._found:
            plain = f"{split}/{layer}" if self._several and layer else split
            self._found[key] = plain if self._owns(kind, split, warn) else f"{kind}/{plain}"
        return self._found[key]

    def known(self, kind: str, layers: Sequence[str]) -> set[str]:
        """All prefixes so far, and those that a step of "train" or a snapshot of "test" will have.

        Args:
            kind: what a step measures.
            layers: those that are tracked.
        """
        found = set(self._found.values())
        lead = "" if kind == "batch" else f"{kind}/"
        for layer in (*(layers if self._several else ()), ""):
            found |= {f"{split}/{layer}".rstrip("/") for split in (f"{lead}train", "test")}
        return found

    def _owns(self, kind: str, split: str, warn: Warn) -> bool:
        if kind not in ("batch", "snapshot"):  # an average always says so
            return False
        owner = self._owners.setdefault(split, kind)
        if owner != kind:
            warn(f"split {split}", _SHARED.format(split=split, owner=owner, kind=kind))
        return owner == kind


_SHARED = (
    "The keys {split}/... hold what {owner} measures, so those of the {kind} begin with "
    "{kind}/{split}/. Give one of them another split=."
)


CONVENTIONS = {
    "step": "updates made so far; 0 is the initialisation",
    "means": "every class counts the same: centred on the mean of class means, Sigma_B unweighted",
    "Sigma_W": "population normalisation 1/N over all samples",
    "standard deviations": "population",
    "information": "nats",
    "nan": "undefined: fewer than two classes in the batch, or features that are not finite",
    "tracker/local": "1: measured by this rank alone, not merged with the others",
    "tracker/seconds": "time spent in the tracker so far, on the thread that trains, in seconds",
}
_STREAMS = {
    "batch": "SPLIT/ID from step(): the batch of that step alone, with the network as it trains",
    "window": "window/SPLIT/ID: pooled over the last {length} batches, each around its own means",
    "ema": "ema/SPLIT/ID: exponential average over batches with decay {decay}, bias-corrected",
}
_SNAPSHOT = (
    "SPLIT/ID from snapshot(): the whole split, frozen network in eval mode; snapshot/SPLIT/ID "
    "where step() measures a split of that name, and batch/SPLIT/ID the other way round"
)


def build_header(
    *, metrics: Sequence[str], stream: Stream, num_classes: int, layers: Sequence[str]
) -> dict[str, Any]:
    """The header that a sink may store before the first record; JSON types alone."""
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
            "step": _STREAMS[stream.kind].format(length=stream.length, decay=stream.decay),
            "snapshot": _SNAPSHOT,
        },
        "conventions": CONVENTIONS,
        "metrics": {id_: _definition(id_) for id_ in metrics},
    }


def _definition(id_: str) -> dict[str, str]:
    entry = CATALOGUE[id_] if id_ in CATALOGUE else STANDALONE[id_]
    return {
        "formula": entry.formula,
        "source": entry.source,
        "range": entry.range,
        "direction": entry.direction,
    }
