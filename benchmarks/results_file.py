"""Reads and writes the JSON file of a run, which has this layout.

::

    {"schema": 1,
     "environment": {...},                    from `environment.describe`
     "ceilings": {...},                       from `ceilings.measure`, of the latest run
     "commands": {NAME: the command that measured it},
     "operations": {
       NAME: [{"case": {"N": ..., ..., "caches": "cold" or "warm"},
               "bytes": moved at least, "flops": of the plain algorithm,
             "day": of the measurement, in UTC, "load": {"before": ..., "after": ...} running
                    processes over a minute; both absent in older files
             "truth": the numbers in float64 that "values" are compared with; only of operations
                      that keep values
               "results": [{
                 "contestant": ..., "kind": ..., "backend": "" unless ncfast's,
                 "error": relative, against float64, null where it is no number,
                 "budget": the largest right one, "ok": whether it is,
                 "values": the numbers of the first call, null where it is none; only of
                           operations that keep values
                 "peak_bytes": host memory that the first call added at its peak; null if the
                               system does not report it, absent in older files
                 "rounds": number of timings,
                 "median_s": of one call, "quartiles_s": [first, third],
                 "ratio_to_ncfast": {"median": ..., "quartiles": [...]} of the ratios within a
                                    round, above one where ncfast is faster; null unless ok,
                 "share_of_ceiling": least time by the roofline over the median; null where warm
               }, {
                 "contestant", "kind", "backend", "budget", "reason": why it did not run
               }]}]}}

All times are seconds, all sizes bytes.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ncfast.benchmarks import environment

SCHEMA = 1
Report = dict[str, Any]
OURS = Path(__file__).parent / "results"  # the results that the pages of docs show


def folder() -> Path:
    """The folder of results: $NCFAST_RESULTS, or `OURS`, from which studies also write docs."""
    return Path(os.environ.get("NCFAST_RESULTS", OURS))


def new(about: dict[str, Any], ceilings: dict[str, Any]) -> Report:
    """A report without operations."""
    return {
        "schema": SCHEMA,
        "environment": about,
        "ceilings": ceilings,
        "commands": {},
        "operations": {},
    }


def load(path: Path) -> Report:
    """Read a report.

    Raises:
        ValueError: the file is no report, or has another version of the schema.
    """
    try:
        report = json.loads(path.read_text())
        version = report["schema"]
    except (json.JSONDecodeError, KeyError, TypeError):
        raise ValueError(f"Expected {path} to be a file of `ncfast bench` but it is not.") from None
    if version != SCHEMA:
        raise ValueError(
            f"Expected {path} to have schema {SCHEMA} but got {version!r}. Run the benchmark again "
            "with this version of ncfast."
        )
    return report


def merge_into(path: Path, report: Report, *, single_cases: bool = False) -> list[str]:
    """Write ``report``, keeping the other operations of a file of the same environment.

    Args:
        path: the file, which need not exist.
        report: the new results.
        single_cases: keep the other cases of the same operations, too.

    Returns:
        The names of the operations that were dropped because the environment differs.
    """
    dropped: list[str] = []
    if path.exists():
        kept = load(path)
        if environment.same(kept["environment"], report["environment"]):
            report = report | {
                "commands": kept.get("commands", {}) | report["commands"],
                "operations": _merged(kept, report, single_cases),
            }
        else:
            dropped = sorted(set(kept["operations"]) - set(report["operations"]))
    write(path, report)
    return dropped


def write(path: Path, content: Any) -> None:
    """Write a result file completely or not at all.

    Raises:
        ValueError: a number is not finite, which JSON does not have.
    """
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    temporary.replace(path)


def rounded(found: Any) -> Any:
    """Numbers of six digits; one that is not finite becomes null, as JSON has no name for it."""
    if isinstance(found, dict):
        return {name: rounded(one) for name, one in found.items()}
    if isinstance(found, list):
        return [rounded(one) for one in found]
    if isinstance(found, float):
        return float(f"{found:.6g}") if math.isfinite(found) else None
    return found


def _merged(kept: Report, report: Report, single_cases: bool) -> dict[str, Any]:
    operations = kept["operations"] | report["operations"]
    if single_cases:
        for name, entries in report["operations"].items():
            cases = {key(entry): entry for entry in kept["operations"].get(name, ())}
            operations[name] = list((cases | {key(entry): entry for entry in entries}).values())
    return dict(sorted(operations.items()))


def key(entry: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
    """The key of a case within its operation."""
    return tuple(sorted(entry["case"].items()))


def ran(entry: dict[str, Any]) -> Sequence[dict[str, Any]]:
    """The results with a time."""
    return [result for result in entry["results"] if "median_s" in result]
