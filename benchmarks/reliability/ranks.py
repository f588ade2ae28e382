"""Lets ranks of a gloo group fail in every way that is known, and checks what the others get.

Each case is a function of one rank. It returns the faults that this rank saw, as text: none if the
rank kept its records, and got the right numbers or an error that names the cause.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import socket
import time
import warnings
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

import ncfast
from ncfast.benchmarks.reliability.processes import Process
from ncfast.tracking import Tracker, read_records

K, D, STEPS = 5, 6, 150
_SECONDS = 4  # time-out of a group that waits for a lost rank


class Lost(Exception):
    """What a rank raises that fails for a reason of its own."""


def batch(rank: int, step: int = 0, dim: int = D) -> tuple[torch.Tensor, torch.Tensor]:
    """Sorted labels, so that ranks lack classes."""
    generator = torch.Generator().manual_seed(1000 * rank + step)
    feats = torch.randn(40, dim, generator=generator, dtype=torch.float64)
    return feats + 3, torch.randint(rank % K, K, (40,), generator=generator)


def _whole(world: int, idle: int = -1) -> dict[str, float]:
    parts = [batch(rank) for rank in range(world) if rank != idle]
    feats, labels = (torch.cat(both) for both in zip(*parts, strict=True))
    found = ncfast.collapse_metrics(feats, labels, metrics="lite", num_classes=K)
    return {name: float(value) for name, value in found.items()}


def _same(found: dict[str, torch.Tensor], expected: dict[str, float]) -> list[str]:
    wrong = [
        name
        for name, value in expected.items()
        if not torch.isclose(
            torch.as_tensor(float(found[name])), torch.as_tensor(value), rtol=1e-9, equal_nan=True
        )
    ]
    return [f"wrong numbers: {', '.join(wrong)}"] if wrong else []


def _raises(error: type[Exception], text: str, call: Callable[[], object]) -> list[str]:
    start = time.monotonic()
    try:
        call()
    except error as found:
        faults = [] if text in str(found) else [f"another message: {found}"]
        slow = time.monotonic() - start > _SECONDS + 30
        return [*faults, *(["it came too late"] if slow else [])]
    except Exception as found:
        return [f"another error: {type(found).__name__}: {found}"]
    return ["no error"]


# What one call of all ranks gives.


def idle(rank: int, world: int, path: Path) -> list[str]:
    """The last rank has no sample."""
    moments = ncfast.ClassMoments.empty(K, D)
    acc = ncfast.Accumulator(K, D, metrics="lite")
    if rank != world - 1:
        moments = ncfast.class_moments(*batch(rank), num_classes=K)
        acc.update(*batch(rank))
    expected = _whole(world, idle=world - 1)
    found = ncfast.collapse_metrics(moments.all_reduce(), metrics="lite")
    return _same(found, expected) + _same(acc.all_reduce().compute(), expected)


def late(rank: int, world: int, path: Path) -> list[str]:
    """Rank 1 comes a second late."""
    moments = ncfast.class_moments(*batch(rank), num_classes=K)
    time.sleep(rank == 1)
    return _same(ncfast.collapse_metrics(moments.all_reduce(), metrics="lite"), _whole(world))


def other_k(rank: int, world: int, path: Path) -> list[str]:
    """Rank 1 has another number of classes."""
    moments = ncfast.ClassMoments.empty(K + (rank == 1), D)
    acc = ncfast.Accumulator(K + (rank == 1), D)
    return [
        *_raises(ValueError, f"({K + 1}, {D}) on rank 1", moments.all_reduce),
        *_raises(ValueError, f"num_classes = {K + 1}", acc.all_reduce),
    ]


def other_d(rank: int, world: int, path: Path) -> list[str]:
    """Rank 1 has another number of columns."""
    dim = D + (rank == 1)
    acc = ncfast.Accumulator(K).update(*batch(rank, dim=dim))
    return [
        *_raises(ValueError, f"{D + 1}", ncfast.ClassMoments.empty(K, dim).all_reduce),
        *_raises(ValueError, f"D = {D + 1}", acc.all_reduce),
    ]


def other_metrics(rank: int, world: int, path: Path) -> list[str]:
    """Rank 1 asks for other metrics."""
    acc = ncfast.Accumulator(K, D, metrics=["nc1.cdnv" if rank == 1 else "nc2.condition"])
    return _raises(ValueError, "metrics = nc1.cdnv", acc.all_reduce)


def dies(rank: int, world: int, path: Path) -> list[str]:
    """Rank 1 is killed between two reductions."""
    group = dist.new_group(timeout=timedelta(seconds=_SECONDS))
    moments = ncfast.class_moments(*batch(rank), num_classes=K)
    moments.all_reduce(group)
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return _raises(RuntimeError, "a rank died", lambda: moments.all_reduce(group))


def hangs(rank: int, world: int, path: Path) -> list[str]:
    """Rank 1 does not come to the second reduction before the time-out."""
    group = dist.new_group(timeout=timedelta(seconds=_SECONDS))
    moments = ncfast.class_moments(*batch(rank), num_classes=K)
    moments.all_reduce(group)
    if rank == 1:
        time.sleep(2 * _SECONDS)
        return []
    return _raises(RuntimeError, "ranks could not combine", lambda: moments.all_reduce(group))


def raises(rank: int, world: int, path: Path) -> list[str]:
    """Rank 1 gets a label out of range, and then a good batch."""
    acc = ncfast.Accumulator(K, metrics="lite")
    feats, labels = batch(rank)
    if rank == 1:
        faults = _raises(ValueError, "`labels`", lambda: acc.update(feats, labels + K))
        if faults:
            return faults
    acc.update(feats, labels)
    return _same(acc.all_reduce().compute(), _whole(world))


# What a log keeps.


@contextlib.contextmanager
def _told(wanted: str, faults: list[str], *, error: Any) -> Iterator[None]:
    """Collect warnings and errors of the block; note whether one of them holds ``wanted``."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        said = []
        try:
            yield
        except error as found:
            said.append(str(found))
        except Exception as found:
            faults.append(f"another error: {type(found).__name__}: {found}")
    said += [str(warning.message) for warning in caught]
    if wanted not in "\n".join(said):
        faults.append(f"expected to be told {wanted!r} but got {said}")


def _loop(tracker: Tracker, rank: int, steps: int, dim: int = D, kill: int = -1) -> None:
    for step in range(steps):
        if step == kill:
            os.kill(os.getpid(), signal.SIGKILL)
        feats, labels = batch(rank, step, dim)
        tracker.step(feats=feats, labels=labels)


def _kept(path: Path, steps: int) -> list[str]:
    found = [record["step"] for record in read_records(path)]
    return [] if found == list(range(1, steps + 1)) else [f"{len(found)} of {steps} records"]


def _track(path: Path) -> Tracker:
    return Tracker(num_classes=K, sinks=[path], group="auto", metrics="lite")


def uneven_steps(rank: int, world: int, path: Path) -> list[str]:
    """Rank 1 makes one step fewer."""
    faults: list[str] = []
    steps = STEPS - (rank == 1)
    told = _told("Expected every rank to make the same calls", faults, error=RuntimeError)
    with told, _track(path) as tracker:
        _loop(tracker, rank, steps)
    return faults + _kept(path, steps)


def leaves_early(rank: int, world: int, path: Path) -> list[str]:
    """Rank 1 raises at step 50 and closes its log."""
    faults: list[str] = []
    steps = 50 if rank == 1 else 2 * STEPS
    wanted = "" if rank == 1 else "a rank died, left the loop early"
    with _told(wanted, faults, error=Lost if rank == 1 else RuntimeError), _track(path) as tracker:
        _loop(tracker, rank, steps)
        if rank == 1:
            raise Lost
    return faults + _kept(path, steps)


def dies_in_the_loop(rank: int, world: int, path: Path) -> list[str]:
    """Rank 1 is killed at step 50."""
    faults: list[str] = []
    with _told("a rank died", faults, error=RuntimeError), _track(path) as tracker:
        _loop(tracker, rank, 2 * STEPS, kill=50 if rank == 1 else -1)
    return faults + _kept(path, 2 * STEPS)


def group_destroyed(rank: int, world: int, path: Path) -> list[str]:
    """The process group is destroyed before the log is closed."""
    faults: list[str] = []
    told = _told("before dist.destroy_process_group", faults, error=RuntimeError)
    with told, _track(path) as tracker:
        _loop(tracker, rank, STEPS)
        dist.destroy_process_group()
    return faults + _kept(path, STEPS)


def other_width(rank: int, world: int, path: Path) -> list[str]:
    """The features of rank 1 are wider."""
    faults: list[str] = []
    with (
        _told(f"({K}, {D + 1})", faults, error=(ValueError, RuntimeError)),
        _track(path) as tracker,
    ):
        _loop(tracker, rank, STEPS, dim=D + (rank == 1))
    return faults + _kept(path, STEPS)


def nothing_wrong(rank: int, world: int, path: Path) -> list[str]:
    """All ranks make the same steps: the merged record is that of all rows."""
    faults: list[str] = []
    with _told("", faults, error=RuntimeError), _track(path) as tracker:
        _loop(tracker, rank, STEPS)
    record = {k.removeprefix("train/"): v for k, v in next(iter(read_records(path))).items()}
    return faults + _kept(path, STEPS) + _same(record, _whole(world))


CASES = {
    case.__name__: case
    for case in (
        *(nothing_wrong, idle, late, other_k, other_d, other_metrics, raises, dies, hangs),
        *(uneven_steps, leaves_early, dies_in_the_loop, group_destroyed, other_width),
    )
}
_KILLED = {"dies", "dies_in_the_loop"}  # cases in which rank 1 does not live to report


def part(worlds: tuple[int, ...], repeats: int, folder: Path) -> dict[str, Any]:
    """Run every case at every number of ranks.

    Returns:
        Counts of runs, of ranks with a fault, of ranks that aborted or hung; and the faults.
    """
    names = [str(case.__doc__).splitlines()[0].strip(".") for case in CASES.values()]
    found: dict[str, Any] = {"cases": len(CASES), "worlds": list(worlds), "runs": 0}
    found["names"] = [name[0].lower() + name[1:] for name in names]
    found |= {"faulty": 0, "aborted": 0, "hung": 0, "problems": []}
    for name, case in CASES.items():
        for world in worlds:
            for number in range(repeats):
                found["runs"] += 1
                where = folder / f"{name}-{world}-{number}"
                where.mkdir(parents=True)
                _one(found, name, case, world, where)
    return found


def _one(found: dict[str, Any], name: str, case: Any, world: int, folder: Path) -> None:
    port = _free_port()
    started = [
        Process(functools.partial(_rank, case, rank, world, port, folder / f"{rank}.jsonl"))
        for rank in range(world)
    ]
    for rank, process in enumerate(started):
        what = f"{name}, rank {rank} of {world}"
        try:
            ended = process.wait(180)
        except TimeoutError:
            found["hung"] += 1
            found["problems"].append(f"{what}: hung")
            continue
        if rank == 1 and name in _KILLED and ended.status == -9:
            continue
        if ended.status != 0:
            found["aborted"] += 1
            found["problems"].append(f"{what}: ended with {ended.status}: {ended.error[-400:]}")
        elif ended.value:
            found["faulty"] += 1
            found["problems"].append(f"{what}: {'; '.join(ended.value)}")


def _rank(case: Any, rank: int, world: int, port: int, path: Path) -> list[str]:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=world, timeout=timedelta(seconds=60))
    faults: list[str] = case(rank, world, path)
    with contextlib.suppress(Exception):  # others may be gone
        if dist.is_initialized():
            dist.destroy_process_group()
    return faults


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
