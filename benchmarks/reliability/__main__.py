"""`python -m ncfast.benchmarks.reliability`: runs the stages and writes their results as JSON."""

from __future__ import annotations

import argparse
import functools
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ncfast.benchmarks import environment, results_file
from ncfast.benchmarks.reliability import disk, files, fuzz, kills, ranks, soak
from ncfast.benchmarks.reliability.processes import Process


class Size(NamedTuple):
    """How much of everything.

    Attributes:
        kills: for each of training, sweep and tracker.
        calls: for each family.
        full: sizes at which the disk is full, for training and tracker each.
        worlds: numbers of ranks.
        repeats: of each case of ranks.
        mutations: for each file format.
        steps: of the long run.
    """

    kills: int
    calls: int
    full: int
    worlds: tuple[int, ...]
    repeats: int
    mutations: int
    steps: int


FULL = Size(50, 10_000, 20, (2, 4), 3, 1000, 1_000_000)
QUICK = Size(3, 300, 2, (2,), 1, 20, 20_000)
STAGES = ("kills", "calls", "disk", "ranks", "files", "soak")


def jobs(size: Size, stages: tuple[str, ...], folder: Path) -> dict[tuple[str, str], Any]:
    """The parts of the stages, which can run beside each other: functions by stage and name."""
    found: dict[tuple[str, str], Callable[[], Any]] = {}
    for name in kills.SUBJECTS if "kills" in stages else ():
        found["kills", name] = functools.partial(kills.kill, name, size.kills, folder / name)
    for name in fuzz.FAMILIES if "calls" in stages else ():
        found["calls", name] = functools.partial(fuzz.fuzz, name, size.calls)
    if "disk" in stages:
        found["disk", "full"] = functools.partial(disk.fill, size.full, folder / "disk")
    if "ranks" in stages:
        found["ranks", "gloo"] = functools.partial(
            ranks.part, size.worlds, size.repeats, folder / "ranks"
        )
    for name in files.formats() if "files" in stages else ():
        found["files", name] = functools.partial(files.damage, name, size.mutations)
    if "soak" in stages:
        found["soak", "tracker"] = functools.partial(soak.soak, size.steps, folder / "soak")
    return found


def run(todo: Mapping[tuple[str, str], Callable[[], Any]], workers: int) -> dict[str, Any]:
    """Run the parts, ``workers`` at a time, each in a process of its own.

    Returns:
        By stage and name what the part returned, with its seconds; {"failed": why} where it failed.
    """
    waiting, running, found = list(todo.items()), {}, {stage: {} for stage, _ in todo}
    while waiting or running:
        while waiting and len(running) < workers:
            key, call = waiting.pop(0)
            running[key] = Process(call), time.monotonic()
        for key, (process, start) in list(running.items()):
            if process.over():
                ended = process.wait()
                del running[key]
                stage, name = key
                value = ended.value
                if ended.status != 0:
                    value = {"failed": f"status {ended.status}: {ended.error[-2000:]}"}
                value["seconds"] = {"wall": time.monotonic() - start, "cpu": ended.cpu}
                found[stage][name] = value
                print(f"{stage}: {name}: {time.monotonic() - start:.0f} s", flush=True)
        time.sleep(0.02)
    return found


def problems(results: Mapping[str, Any]) -> list[str]:
    """Everything that went wrong, one line each."""
    lines = []
    for stage, parts in results.items():
        for name, part in parts.items():
            texts = [*part.get("problems", ()), *([part["failed"]] if "failed" in part else [])]
            texts += [f"{key} {part[key]}" for key in ("missing", "differ") if part.get(key)]
            lines += [f"{stage}: {name}: {text}" for text in texts]
    return lines


def main() -> int:
    """Run from the command line; the status is 1 if anything was lost or wrong."""
    parser = argparse.ArgumentParser(prog="python -m ncfast.benchmarks.reliability")
    parser.add_argument("--quick", action="store_true", help="the form of CI, about two minutes")
    parser.add_argument("--out", type=Path, help="a JSON file, to which the stages are added")
    parser.add_argument("--workers", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("stages", nargs="*", help=f"of {', '.join(STAGES)}; none is all")
    given = parser.parse_args()
    if unknown := sorted({*given.stages} - {*STAGES}):
        parser.error(f"unknown stages: {', '.join(unknown)}")
    torch.set_num_threads(1)
    size = QUICK if given.quick else FULL
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="reliability-") as folder:
        for name in (*kills.SUBJECTS, "disk", "ranks", "soak"):
            (Path(folder) / name).mkdir()
        results = run(jobs(size, tuple(given.stages) or STAGES, Path(folder)), given.workers)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = {"wall": time.monotonic() - start, "cpu": used.ru_utime + used.ru_stime}
    wrong = problems(results)
    for line in wrong:
        print(line, file=sys.stderr)
    print(f"{seconds['wall']:.0f} s, {seconds['cpu']:.0f} s of CPU, {len(wrong)} problems")
    if given.out is not None:
        _add(given.out, {"results": results, "seconds": seconds, "size": size._asdict()})
    return bool(wrong)


def _add(path: Path, new: dict[str, Any]) -> None:
    """Write results, and keep those of other stages that the file holds."""
    kept = json.loads(path.read_text()) if path.exists() else {"results": {}, "seconds": {}}
    kept["results"] |= new["results"]
    stages = ", ".join(new["results"])
    kept["seconds"] = {**kept["seconds"], stages: new["seconds"]}
    about = {"environment": environment.describe(torch.device("cpu"), 1), "size": new["size"]}
    results_file.write(path, kept | about)


if __name__ == "__main__":
    sys.exit(main())
