"""Computes the size of class moments on a cluster and the bytes that combining them moves.

    python -m ncfast.benchmarks.projection --out benchmarks/results/projection.json

Nothing here is measured. Bytes follow from the layout that `ncfast.distributed` packs. The tests
compare them with real packed states and with the arguments of its collectives. Seconds are the
bytes received by a rank over a stated bandwidth of its link, without latency, congestion, merging
and overlap.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path

from ncfast.benchmarks import results_file
from ncfast.distributed import EXCHANGE_BYTES

DOUBLE = 8
# Bandwidth of one direction of a link, bytes/s: nominal figures, not measurements.
LINKS = {"100 Gb/s network": 12.5e9, "400 Gb/s network": 50e9, "900 GB/s NVLink": 450e9}
STATES = ((10, 512), (1000, 2048), (50_257, 768), (128_000, 4096))
RANKS = (8, 64, 1024)


def state_bytes(num_classes: int, dim: int) -> int:
    """Bytes of one packed state: counts, means and sums of squares of all classes, two norms."""
    return DOUBLE * (2 + num_classes * (dim + 2))


def gather_bytes(num_classes: int, dim: int, ranks: int) -> int:
    """Bytes that a rank receives if all states go to all ranks."""
    return (ranks - 1) * state_bytes(num_classes, dim)


def exchange_bytes(num_classes: int, dim: int, ranks: int) -> int:
    """Bytes that a rank receives in two collectives: its share of all states, then all shares."""
    share = -(-num_classes // ranks)
    first = DOUBLE * (2 + share * (dim + 2))
    second = DOUBLE * share * (dim + 2)
    return (ranks - 1) * (first + second)


def tree_steps(ranks: int) -> int:
    """Number of steps of a binary tree, or of pairs at doubling distance, over all ranks."""
    return math.ceil(math.log2(ranks))


def all_reduce_bytes(num_classes: int, dim: int, ranks: int) -> tuple[str, int]:
    """The form that `ncfast.distributed.all_reduce_many` uses, and the bytes a rank receives."""
    packed = DOUBLE * num_classes * (dim + 2)
    if ranks > 2 and packed >= EXCHANGE_BYTES:
        return "two collectives", exchange_bytes(num_classes, dim, ranks)
    return "one collective", gather_bytes(num_classes, dim, ranks)


def project(num_classes: int, dim: int, ranks: int) -> dict[str, object]:
    """One line of the projection: bytes, and seconds for each link of `LINKS`."""
    way, received = all_reduce_bytes(num_classes, dim, ranks)
    state = state_bytes(num_classes, dim)
    steps = tree_steps(ranks)
    return {
        "classes": num_classes,
        "dim": dim,
        "ranks": ranks,
        "state_bytes": state,
        "way": way,
        "received_bytes": received,
        "gather_bytes": gather_bytes(num_classes, dim, ranks),
        "tree_steps": steps,
        "tree_step_bytes": state,
        "seconds": {name: received / speed for name, speed in LINKS.items()},
        "tree_seconds": {name: steps * state / speed for name, speed in LINKS.items()},
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Write the projection as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path)
    given = parser.parse_args(argv)
    found = {
        "schema": 1,
        "links_bytes_per_s": LINKS,
        "projection": [project(k, d, ranks) for k, d in STATES for ranks in RANKS],
    }
    if given.out:
        results_file.write(given.out, found)
    else:
        print(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
