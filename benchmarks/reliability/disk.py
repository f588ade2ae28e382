"""Lets the disk run full under a training and a tracked loop: by a limit of file sizes, and ENOSPC.

A write beyond the limit (RLIMIT_FSIZE) fails as on a full disk, after a part of it was written.
/dev/full refuses every write with ENOSPC.
"""

from __future__ import annotations

import functools
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ncfast.benchmarks.reliability import runs
from ncfast.benchmarks.reliability.processes import Ended, run


def fill(points: int, folder: Path) -> dict[str, Any]:
    """Run out of disk at ``points`` sizes, and go on with the training once there is room again.

    Returns:
        Counts: disks that were full, and what was lost.
    """
    found: dict[str, Any] = {"full": 0, "differ": 0, "ended": 0, "silent": 0, "problems": []}
    for name, check in (("train", _train), ("tracker", _tracker)):
        call = {"train": runs.run_train, "tracker": runs.run_tracker}[name]
        whole = folder / f"{name}-whole"
        ended = run(functools.partial(call, whole))
        if ended.status != 0:
            raise RuntimeError(f"{name} does not even run undisturbed:\n{ended.error}")
        largest = max(path.stat().st_size for path in whole.rglob("*") if path.is_file())
        for point in range(points):
            limit = int(largest * (point + 0.5) / points)
            part = folder / f"{name}-{point}"
            ended = run(functools.partial(_limited, call, part, limit))
            check(found, f"{name}, {limit} bytes", part, whole, ended)
            shutil.rmtree(part, ignore_errors=True)
    if Path("/dev/full").exists():
        ended = run(functools.partial(runs.run_tracker, folder / "dev", ("/dev/full",)))
        found["full"] += 1
        if ended.status != 0:
            found["ended"] += 1
            found["problems"].append(f"/dev/full ended the training: {ended.error[-300:]}")
        elif not any("/dev/full" in text for text in ended.value):
            found["silent"] += 1
    return found


def _limited(call: Callable[[Path], Any], folder: Path, limit: int) -> Any:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))  # Python ignores SIGXFSZ
    return call(folder)


def _train(found: dict[str, Any], what: str, folder: Path, whole: Path, ended: Ended) -> None:
    """It stops with an error that names the disk, and goes on to the same end."""
    found["full"] += 1
    if ended.status == 0:
        found["silent"] += 1
        found["problems"].append(f"{what}: no error")
        return
    if "OSError" not in ended.error.splitlines()[-1]:
        found["problems"].append(f"{what}: {ended.error.splitlines()[-1]}")
    again = run(functools.partial(runs.run_train, folder))
    if again.status != 0:
        found["differ"] += 1
        found["problems"].append(f"{what}: going on failed: {again.error[-500:]}")
    elif runs.outcome_of_runs(folder) != runs.outcome_of_runs(whole):
        found["differ"] += 1
        found["problems"].append(f"{what}: differs after going on")


def _tracker(found: dict[str, Any], what: str, folder: Path, whole: Path, ended: Ended) -> None:
    """Training goes on; each log keeps whole records from the first on; a warning names it.

    Checkpoints are the user's: where theirs do not fit, the loop ends by the user's error.
    """
    found["full"] += 1
    own = "torch.save" in ended.error or "_save" in ended.error
    if ended.status != 0 and not own:
        found["ended"] += 1
        found["problems"].append(f"{what}: ended: {ended.error[-500:]}")
    for path in sorted(folder.glob("log.*")):
        if path.suffix not in (".jsonl", ".csv"):
            continue
        records, expected = runs.records_of(path), runs.records_of(whole / path.name)
        if sorted(records) != list(range(1, len(records) + 1)):
            found["differ"] += 1
            found["problems"].append(f"{what}: {path.name} has gaps")
        if any(expected[step] != record for step, record in records.items()):
            found["differ"] += 1
            found["problems"].append(f"{what}: {path.name} has other records")
        short = len(records) < len(expected) and ended.status == 0
        if short and not any(path.name in text for text in ended.value):
            found["silent"] += 1
            found["problems"].append(f"{what}: {path.name} ends without a warning")
