"""Implements `ncfast sweep`: trains all replicas of an experiment in groups that fit in memory."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ncfast.experiments import run_dir, sweep_file, trainer
from ncfast.experiments.config import TrainConfig
from ncfast.experiments.sweep_config import SweepConfig
from ncfast.experiments.trainer import load_splits, pick_device
from ncfast.experiments.training.checkpoint import branch, saved_step, start_of
from ncfast.experiments.training.group import Group, InterruptFlag
from ncfast.experiments.training.memory import group_size, split_evenly


@dataclass(frozen=True)
class SweepOutcome:
    """How a call of `sweep` ended.

    Attributes:
        directories: the directories of the replicas, in order.
        finished: False if the sweep was interrupted; it can be resumed.
        alone: whether this process trained all replicas; False if it trained one rank's share.
    """

    directories: tuple[Path, ...]
    finished: bool
    alone: bool


@dataclass(frozen=True)
class Rank:
    """This process's place among the processes that torchrun started.

    Attributes:
        index: RANK; 0 without torchrun.
        count: WORLD_SIZE; 1 without torchrun.
        local: LOCAL_RANK, the number of this process on its machine.
    """

    index: int = 0
    count: int = 1
    local: int = 0

    @classmethod
    def of_environment(cls) -> Rank:
        """The rank given by the environment variables that torchrun sets.

        Raises:
            ValueError: they give no rank.
        """
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
        given = [os.environ.get(n, d) for n, d in zip(names, ("0", "1", "0"), strict=True)]
        if all(map(str.isdecimal, given)) and int(given[0]) < int(given[1]):
            return cls(*map(int, given))
        shown = ", ".join(f"{name}={value!r}" for name, value in zip(names, given, strict=True))
        raise ValueError(
            f"Expected a RANK below WORLD_SIZE in the environment but got {shown}. Start the ranks "
            "with torchrun, or unset these variables."
        )

    def device(self, name: str) -> torch.device:
        """The device called ``name``; "auto" assigns the GPUs to the local ranks in turn."""
        device = pick_device(name)
        if name == "auto" and device.type == "cuda":
            return torch.device("cuda", self.local % torch.cuda.device_count())
        return device


def sweep(config: SweepConfig) -> SweepOutcome:
    """Run or resume a sweep in ``config.out``, with one run directory per replica.

    Under torchrun every rank trains its own groups. The ranks wait until rank 0 has created the
    directory; after that no rank waits for another.

    Raises:
        RunDirectoryError: the directory holds another sweep, or cannot be resumed.
        DataFileError, ValueError: the data or a setting cannot be used.
        OSError: the disk is full. Everything written before is intact and can be resumed.
    """
    rank = Rank.of_environment()
    device = rank.device(config.device)
    replicas = config.replicas()
    config.schedules()  # an invalid schedule must not leave a directory behind
    if config.resume:
        check_resumable(config)
    elif config.start_from is not None:
        for replica in replicas.values():
            branch(replica)  # it must be usable before a directory is made
    if rank.index == 0:
        sweep_file.prepare(config, list(replicas))
    else:
        sweep_file.wait_for(config, list(replicas))
    groups = _groups(list(replicas.values()), config, rank, device)
    finished = True
    with InterruptFlag() as interrupt:
        for number, group in enumerate(groups, start=1):
            if interrupt.raised:
                finished = False
                break
            names = ", ".join(one.out.name for one in group)
            print(f"group {number}/{len(groups)}: {names}", file=sys.stderr, flush=True)
            finished &= _run(group, device, interrupt, resume=config.resume)
    return SweepOutcome(
        tuple(one.out for one in replicas.values()), finished, alone=rank.count == 1
    )


def check_resumable(config: SweepConfig) -> None:
    """Check that the sweep in ``config.out`` can be resumed; nothing is changed.

    Raises:
        RunDirectoryError: there is no sweep, or its settings differ; or a replica that has a
            checkpoint cannot be resumed, see `trainer.check_resumable`.
    """
    replicas = config.replicas()
    sweep_file.check_same_sweep(config, list(replicas))
    for replica in replicas.values():
        if saved_step(replica.out) >= 0:
            trainer.check_resumable(replica)


def _run(
    configs: Sequence[TrainConfig], device: torch.device, interrupt: InterruptFlag, *, resume: bool
) -> bool:
    with contextlib.ExitStack() as stack:
        for config in configs:
            stack.enter_context(run_dir.claimed(config.out))
        for config in configs:
            if not (resume and saved_step(config.out) >= 0):
                if resume:
                    _forget_unsaved(config)
                run_dir.prepare(config)
        group = Group(configs, *load_splits(configs[0], device), device)
        return group.execute(interrupt)


def _groups(
    configs: Sequence[TrainConfig], sweep_config: SweepConfig, rank: Rank, device: torch.device
) -> list[list[TrainConfig]]:
    """This rank's groups; the replicas of a group share a program and a step and fit in memory."""
    groups = []
    for share in _shares(configs, rank.count)[rank.index :: rank.count]:
        at_step: dict[int, list[TrainConfig]] = {}
        for config in share:
            at_step.setdefault(start_of(config), []).append(config)
        for members in at_step.values():
            first, most = members[0], sweep_config.group_size
            most = most or group_size(first, load_splits(first, device)[0], device)
            groups += split_evenly(members, most)
    return groups


def _shares(configs: Sequence[TrainConfig], ranks: int) -> list[list[TrainConfig]]:
    """The replicas of each program, split so that every rank gets some.

    The split follows from the settings alone. The steps of the checkpoints and the free memory,
    which other ranks change meanwhile, would give each rank another split.
    """
    kinds: dict[tuple[object, ...], list[TrainConfig]] = {}
    for config in configs:
        kinds.setdefault(config.program, []).append(config)
    at_least = -(-ranks // len(kinds))
    return [share for kind in kinds.values() for share in split_evenly(kind, len(kind), at_least)]


def _forget_unsaved(config: TrainConfig) -> None:
    """Delete the files of a replica that has no checkpoint, so that it starts again."""
    for name in (run_dir.CONFIG, run_dir.METRICS_FILE, run_dir.PROBES_FILE):
        (config.out / name).unlink(missing_ok=True)
