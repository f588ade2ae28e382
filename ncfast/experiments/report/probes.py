"""Reads the probes of a run, and checks the shapes of what the figures draw."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncfast.experiments.report.runs import Run
from ncfast.experiments.run_dir import PROBES_FILE
from ncfast.experiments.stored import bad_entry, read_log

_SPLITS = ("train", "test")


def read_probes(run: Run) -> list[Mapping[str, Any]]:
    """The probes of a run, in order of steps; empty if there are none.

    Raises:
        RunDirectoryError: the file of the probes is damaged.
    """
    path = run.path / PROBES_FILE
    probes: list[Mapping[str, Any]] = list(read_log(path)) if os.path.lexists(path) else []
    pairs = [probe["margins"].get("pairs") for probe in probes if _has(path, probe, "margins")]
    for probe in probes:
        if _has(path, probe, "margins"):
            _check_margins(path, probe, pairs[0])
        if _has(path, probe, "components"):
            _check_components(path, probe)
    return probes


def _has(path: Path, probe: Mapping[str, Any], name: str) -> bool:
    found = probe.get(name, {})
    if not isinstance(found, dict):
        raise _bad(path, probe, name, "an object", found)
    return bool(found)


def _check_margins(path: Path, probe: Mapping[str, Any], pairs: object) -> None:
    found = probe["margins"]
    classes = _numbers(found.get("pairs"))
    if classes is None or classes.shape[1:] != (2,) or not len(classes) or found["pairs"] != pairs:
        expected = "a list of pairs of classes, the same in each probe"
        raise _bad(path, probe, "margins.pairs", expected, found.get("pairs"))
    edge = _numbers([found.get("edge")])
    if edge is None or not 0 < edge[0] < 1e300:
        raise _bad(path, probe, "margins.edge", "a positive number", found.get("edge"))
    counts = found.get("counts")
    for split in _SPLITS:
        values = _numbers(counts.get(split)) if isinstance(counts, dict) else None
        if values is None or values.shape[:-1] != (len(classes), 2) or not values.shape[-1]:
            expected = f"numbers of shape ({len(classes)}, 2, bins)"
            raise _bad(path, probe, f"margins.counts.{split}", expected, counts)


def _check_components(path: Path, probe: Mapping[str, Any]) -> None:
    found = probe["components"]
    if _numbers(found.get("explained")) is None:
        raise _bad(path, probe, "components.explained", "a list of numbers", found.get("explained"))
    for split in _SPLITS:
        points, labels = _numbers(found.get(split)), _numbers(found.get(f"{split}_labels"))
        if points is None or points.shape[1:] != (2,):
            raise _bad(path, probe, f"components.{split}", "a list of points", found.get(split))
        if labels is None or labels.shape != points.shape[:1] or (labels != labels.round()).any():
            expected = f"{len(points)} classes"
            raise _bad(path, probe, f"components.{split}_labels", expected, labels)


def _numbers(value: object) -> NDArray[np.float64] | None:
    """Nested lists as an array of finite numbers; None if they are none."""
    try:
        found = np.array(value)
    except ValueError:  # lists of different lengths
        return None
    if found.dtype.kind not in "if" or not np.isfinite(found).all() or np.abs(found).max() > 1e300:
        return None
    return found.astype(np.float64)


def _bad(path: Path, probe: Mapping[str, Any], name: str, expected: str, got: object) -> Exception:
    return bad_entry(path, f"{name!r} at step {probe['step']}", expected, got)
