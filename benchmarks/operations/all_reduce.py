"""Combines class moments over the ranks of one machine (gloo): one collective against two.

It runs only if named, on an idle machine: every rank needs a core.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

import ncfast
from ncfast import distributed
from ncfast.benchmarks.operations.class_moments import FIELDS
from ncfast.benchmarks.plain import moments as plain
from ncfast.benchmarks.plain.ranks import World
from ncfast.benchmarks.registry import Call, Case, Contestant, Inputs, Operation
from ncfast.benchmarks.samples import relative_error

Found = Callable[[], dict[str, Tensor]]
SHAPES = ((10, 512), (100, 512), (256, 512), (512, 512), (1000, 1024), (4000, 1024))
FULL: list[dict[str, Any]] = [
    {"ranks": ranks, "K": k, "D": d, "calls": 3} for ranks in (4, 8) for k, d in SHAPES
]
QUICK: list[dict[str, Any]] = [{"ranks": 2, "K": 10, "D": 64, "calls": 3}]


def cases(quick: bool) -> list[Case]:
    """Bytes are not counted here but in the projection."""
    return [
        Case(sizes, bytes=0, flops=0, promise=1e-12, quick=quick)
        for sizes in (QUICK if quick else FULL)
    ]


def samples(rank: int, k: int, d: int, seed: int) -> tuple[Tensor, Tensor]:
    """Features of one rank: two rows per class in float64, different on every rank."""
    draw = torch.Generator().manual_seed(1000 * seed + rank)
    feats = torch.randn(2 * k, d, generator=draw, dtype=torch.float64) + rank
    return feats, torch.arange(2 * k) % k


def make(case: Case, seed: int, device: torch.device) -> Inputs:
    """Processes that hold the moments of their samples."""
    ranks, k, d = (int(case.sizes[name]) for name in ("ranks", "K", "D"))
    settings = {"k": k, "d": d, "seed": seed, "ranks": ranks}
    return settings | {
        "calls": int(case.sizes["calls"]),
        "world": World(ranks, functions, settings),
    }


def functions(rank: int, settings: dict[str, Any]) -> dict[str, Found]:
    """The functions that a rank can call."""
    k, ranks = settings["k"], settings["ranks"]
    feats, labels = samples(rank, k, settings["d"], settings["seed"])
    own = [ncfast.class_moments(feats, labels, num_classes=k)]
    return {
        "auto": lambda: _fields(distributed.all_reduce_many(own)),
        "one": lambda: _fields(distributed._gather(own, ranks, None)),
        "two": lambda: _fields(distributed._exchange(own, ranks, None)),
    }


def _fields(merged: list[ncfast.ClassMoments]) -> dict[str, Tensor]:
    return {name: getattr(merged[0], name) for name in FIELDS}


def truth(inputs: Inputs) -> dict[str, Tensor]:
    """Two passes in float64 over the samples of all ranks."""
    k, d = inputs["k"], inputs["d"]
    parts = [samples(rank, k, d, inputs["seed"]) for rank in range(inputs["ranks"])]
    feats, labels = (torch.cat(column) for column in zip(*parts, strict=True))
    found = plain.two_pass(feats, labels, k, 4096, torch.float64)
    return {name: value.double() for name, value in zip(FIELDS, found, strict=True)}


def error(found: Found, exact: dict[str, Tensor]) -> float:
    """Relative error of the result of the first rank."""
    return relative_error(found(), exact)


def call(inputs: Inputs, name: str) -> Call:
    world = inputs["world"]

    def together() -> Found:
        world.run(name, inputs["calls"])
        return partial(world.result, name)

    return together


OPERATION = Operation(
    "all_reduce",
    cases,
    make,
    truth,
    error,
    [
        Contestant("ncfast", "ncfast", partial(call, name="auto")),
        Contestant("ncfast, one collective", "ncfast", partial(call, name="one")),
        Contestant("ncfast, two collectives", "ncfast", partial(call, name="two")),
    ],
    when_named=True,
)
