"""Implements `ncfast train`, which is a sweep of one replica."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ncfast.experiments import run_dir
from ncfast.experiments.config import TrainConfig
from ncfast.experiments.data import ImageSet, load
from ncfast.experiments.training import checkpoint
from ncfast.experiments.training.group import Group, InterruptFlag


@dataclass(frozen=True)
class Outcome:
    """How a call of `train` ended.

    Attributes:
        step: number of updates made so far.
        finished: False if the run was interrupted; it can be resumed.
    """

    step: int
    finished: bool


def pick_device(name: str) -> torch.device:
    """The device called ``name``; "auto" is a GPU if there is one.

    Raises:
        ValueError: the device does not exist here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # the device meta holds no values
    except (RuntimeError, AssertionError) as error:
        text = " ".join(str(error).split())[:150]
        raise ValueError(f"Expected `device` to exist here but got {name!r}: {text}") from error
    return device


def load_splits(config: TrainConfig, device: torch.device) -> tuple[ImageSet, ImageSet]:
    """The training and the test split of a run, on the device.

    Raises:
        DataFileError, ValueError: the data cannot be used.
    """
    train, test = load(
        config.dataset,
        data_dir=config.data_dir,
        train_size=config.effective_train_size,
        download=config.download,
    )
    return train.to(device), test.to(device)


def check_resumable(config: TrainConfig) -> None:
    """Check that the run in ``config.out`` can be resumed; nothing is changed.

    Raises:
        RunDirectoryError: there is no run, its settings differ, a file of it is damaged, or it is
            past ``config.steps``.
    """
    run_dir.check_same_run(config)
    checkpoint.check_resumable(config.out, run_dir.fixed_settings(config), config.steps)


def train(config: TrainConfig) -> Outcome:
    """Run or resume an experiment in ``config.out``.

    Metrics are measured on whole splits in eval mode and use no random stream of the training. The
    weights therefore do not depend on the metrics or on the steps at which they are measured.

    Raises:
        RunDirectoryError: the directory holds another run, cannot be resumed, or another process
            trains in it.
        DataFileError, ValueError: the data or a setting cannot be used.
        OSError: the disk is full. Everything written before is intact and can be resumed.
    """
    device = pick_device(config.device)
    config.schedules()  # an invalid schedule must not leave a directory behind
    if config.resume:
        check_resumable(config)
    elif config.start_from is not None:
        checkpoint.branch(config)  # it must be usable before a directory is made
    splits = load_splits(config, device)
    with run_dir.claimed(config.out):
        if not config.resume:
            run_dir.prepare(config)
        group = Group([config], *splits, device)
        with InterruptFlag() as interrupt:
            finished = group.execute(interrupt)
    return Outcome(group.step, finished)
