"""What a reader of the records needs to know: versions, conventions, what was measured and how."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from typing import Any

import torch

from ncfast.metrics.catalogue import CATALOGUE, STANDALONE
from ncfast.tracking.stream import Stream

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
