"""Times contestants in paired, interleaved rounds of random order, with inputs that rotate.

Every contestant is timed once per round, so that other load on the machine affects all of them. The
result is the ratio within a round. Each call takes the next copy of the inputs. If all copies
together are twice as large as the last cache, a copy is no longer in the cache when its turn comes.
A contestant too slow for its share of the time takes part in fewer rounds.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import cycle

import torch

from ncfast.benchmarks.registry import Call

# torch's OpenMP threads spin for a while after their work, on the cores of the next contestant.
SETTLE_SECONDS = 0.005
SHORTEST = 2e-3  # least duration of a timing in seconds
MOST_REPEATS, MOST_ROUNDS = 200, 31
Rounds = dict[int, float]


def measure(
    calls: Mapping[str, Sequence[Call]],
    first_calls: Mapping[str, float],
    device: torch.device,
    seconds: float,
) -> dict[str, Rounds]:
    """Seconds of one call, by contestant and round.

    Args:
        calls: for each contestant one call per copy of the inputs. The first contestant takes part
            in every round.
        first_calls: seconds of the first calls. Short ones are followed by a second warm-up call.
        device: device of the calls. On CUDA the time is that of the device, with a flushed L2.
        seconds: time for all rounds, apart from a first one with all contestants.
    """
    clock = _clock(device)
    turns = {name: cycle(copies) for name, copies in calls.items()}
    share = seconds / len(calls)
    # The lesser of two, because one disturbed call would cost a contestant its rounds.
    once = {
        name: min(first, clock(_next(turns[name]), 1)) if first < share else first
        for name, first in ((name, first_calls[name]) for name in calls)
    }
    repeats = {n: max(1, min(MOST_REPEATS, int(SHORTEST / max(t, 1e-9)))) for n, t in once.items()}
    wanted = shares({n: once[n] * repeats[n] + SETTLE_SECONDS for n in calls}, seconds)
    ours, *others = calls
    wanted[ours] = max(wanted.values())
    times: dict[str, Rounds] = {name: {} for name in calls}
    latest = float("inf")
    with _no_collection():
        for number in range(wanted[ours]):
            if number == 1:  # the first round, with all contestants, does not count
                latest = time.perf_counter() + 2 * seconds  # if the estimates were far too low
            if time.perf_counter() > latest:
                break
            joining = [ours, *(name for name in others if wanted[name] > number)]
            for name in shuffled(joining, number):
                time.sleep(SETTLE_SECONDS)
                times[name][number] = clock(_next(turns[name]), repeats[name])
    return times


def shares(costs: Mapping[str, float], seconds: float) -> dict[str, int]:
    """Rounds of each contestant. All get equal shares of the time, and slow ones the time left."""
    rounds, left = {}, seconds
    for done, (name, cost) in enumerate(sorted(costs.items(), key=lambda item: item[1])):
        share = left / (len(costs) - done)
        rounds[name] = max(1, min(MOST_ROUNDS, int(share / cost)))
        left = max(0.0, left - rounds[name] * cost)
    return rounds


def _next(turn: Iterator[Call]) -> Call:
    return lambda: next(turn)()


def shuffled(names: list[str], seed: int) -> list[str]:
    """The order of a round, a random one.

    In a rotation each contestant would always follow the same one. A contestant that follows a
    library with spinning threads is slowed down by them.
    """
    return random.Random(seed).sample(names, len(names))


@contextmanager
def _no_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _clock(device: torch.device) -> Callable[[Call, int], float]:
    return _wall if device.type == "cpu" else _DeviceClock(device)


def _wall(call: Call, repeats: int) -> float:
    if repeats > 1:  # warm-up: after the pause the first short calls are slower
        for _ in range(min(3, repeats)):
            call()
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


class _DeviceClock:
    """Time between two events on the device, each call with a cold L2."""

    FLUSH_BYTES = 256 << 20  # several times the largest L2

    def __init__(self, device: torch.device) -> None:
        self.flush = torch.empty(self.FLUSH_BYTES, dtype=torch.int8, device=device)

    def __call__(self, call: Call, repeats: int) -> float:
        total = 0.0
        for _ in range(repeats):
            self.flush.zero_()
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            call()
            end.record()
            torch.cuda.synchronize()
            total += begin.elapsed_time(end) / 1e3
        return total / repeats
