"""Kills a training, a sweep and a tracked loop with SIGKILL, lets each go on, and compares."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from ncfast.benchmarks.reliability import runs
from ncfast.benchmarks.reliability.processes import Process, must, run


class Subject(NamedTuple):
    """What is killed.

    Attributes:
        call: runs in a folder, or goes on with what is there.
        outcome: digests of what a finished run left.
        check: problems of what a killed one left, before it goes on.
    """

    call: Callable[[Path], Any]
    outcome: Callable[[Path], dict[str, str]]
    check: Callable[[Path], list[str]]


def check_tracker(folder: Path) -> list[str]:
    """Problems of the logs of a killed tracker: flushed records that are gone, and gaps."""
    problems = []
    saved = runs.saved_steps(folder)
    for name in (runs.LOG, "log.csv"):
        path = folder / name
        steps = sorted(runs.records_of(path)) if path.exists() else []
        if steps[:saved] != list(range(1, saved + 1)):
            problems.append(f"{name}: records up to step {saved} were flushed, {len(steps)} left")
        if steps != list(range(1, len(steps) + 1)):
            problems.append(f"{name}: gaps in the steps")
    return problems


def nothing(folder: Path) -> list[str]:
    """No check of a killed run: going on with it is the check."""
    return []


SUBJECTS = {
    "train": Subject(runs.run_train, runs.outcome_of_runs, nothing),
    "sweep": Subject(runs.run_sweep, runs.outcome_of_runs, nothing),
    "tracker": Subject(runs.run_tracker, runs.outcome_of_tracker, check_tracker),
}


def kill(name: str, points: int, folder: Path) -> dict[str, Any]:
    """Kill a subject at moments spread evenly over its CPU time, and let it go on each time.

    Returns:
        Counts: kills, and what was lost.
    """
    subject = SUBJECTS[name]
    # what a first run imports takes longer than the run: the kills would all fall into it
    subject.call(folder / "warm")
    whole = folder / "whole"
    ended = run(functools.partial(subject.call, whole))
    if ended.status != 0:
        raise RuntimeError(f"{name} does not even run undisturbed:\n{ended.error}")
    expected = subject.outcome(whole)
    found: dict[str, Any] = {"kills": 0, "differ": 0, "not_resumed": 0, "problems": []}
    for point in range(points):
        killed = folder / f"killed-{point}"
        again = 0
        while True:
            moment = ended.cpu * (point + 0.5) / points * 0.98**again
            process = Process(functools.partial(subject.call, killed))
            process.kill_at(moment)
            if process.wait().status == -9:
                break
            shutil.rmtree(killed)  # it was faster than the first time
            again += 1
        found["kills"] += 1
        found["problems"] += [f"kill {point}: {text}" for text in _checked(subject, killed)]
        resumed = run(functools.partial(subject.call, killed))
        if resumed.status != 0:
            found["not_resumed"] += 1
            found["problems"].append(f"kill {point}: resuming failed: {resumed.error[-500:]}")
        elif (outcome := subject.outcome(killed)) != expected:
            found["differ"] += 1
            names = sorted(n for n in expected | outcome if expected.get(n) != outcome.get(n))
            found["problems"].append(f"kill {point}: differs: {', '.join(names)}")
        left = [path.name for path in killed.rglob(".*") if path.is_file()]
        if left:
            found["problems"].append(f"kill {point}: temporary files stay: {left}")
        shutil.rmtree(killed, ignore_errors=True)
    found["files"] = sorted(expected)
    return found


def _checked(subject: Subject, folder: Path) -> list[str]:
    if not folder.exists():
        return []
    found: list[str] = must(functools.partial(subject.check, folder))
    return found
