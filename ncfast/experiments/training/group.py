"""Runs a group of replicas: trains them, measures and logs them, and saves checkpoints."""

from __future__ import annotations

import contextlib
import functools
import signal
import threading
import warnings
from collections.abc import Sequence
from types import FrameType

import torch
from typing_extensions import Self

from ncfast._warnings import user_level
from ncfast.experiments import run_dir
from ncfast.experiments.config import TrainConfig
from ncfast.experiments.data import ImageSet
from ncfast.experiments.stored import RunDirectoryError
from ncfast.experiments.training import checkpoint
from ncfast.experiments.training.measure import measure_split, measure_weights, to_numbers
from ncfast.experiments.training.probe import Planes, ProbeLog
from ncfast.experiments.training.program import ReplicaProgram
from ncfast.experiments.training.progress import Progress
from ncfast.experiments.training.readout import readouts_of
from ncfast.tracking.sinks import JsonlSink

FIT = 0.99  # accuracy on the training split at which a penalty "from fit" starts


class InterruptFlag:
    """A context in which the first SIGINT or SIGTERM sets ``raised``.

    A second signal raises KeyboardInterrupt. Python allows signal handlers only in the main thread;
    in other threads the flag is never set.
    """

    def __init__(self) -> None:
        self.raised = False
        self._previous: dict[int, object] = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.raised:
            raise KeyboardInterrupt
        self.raised = True

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]


class Group:
    """Replicas that share a program and are at the same step.

    Args:
        configs: settings of the replicas. Either all have a checkpoint of the same step and are
            resumed, or none has a checkpoint, and their directories must be prepared.
        train: training split, on the device.
        test: test split, on the device.
        device: where to train.

    Attributes:
        step: number of updates made so far; -1 until the initial weights are measured.
    """

    def __init__(
        self, configs: Sequence[TrainConfig], train: ImageSet, test: ImageSet, device: torch.device
    ) -> None:
        first = configs[0]
        self._configs, self._steps = list(configs), first.steps
        self._marks = first.schedules()
        self._program = ReplicaProgram(configs, train, device)
        self._splits = {"train": train, "test": test}
        self._data = {name: split.checksum() for name, split in self._splits.items()}
        self._starts_at_fit = first.penalty != "none" and first.penalty_from == "fit"
        self.step = checkpoint.saved_step(first.out)
        self._new = self.step < 0
        self._records = [0] * len(self._configs)  # in the log of each replica
        if not self._new:
            self._restore()
        elif first.start_from is not None:
            self._branch()
        planes = Planes(test, first.sigma, first.information)
        self._probes = [ProbeLog(config.out, first.sigma, planes) for config in configs]
        self._logs = [JsonlSink(config.out / run_dir.METRICS_FILE) for config in configs]
        for log in self._logs:
            log.start(run_dir.header(train.num_classes))

    def _restore(self) -> None:
        for replica, config in enumerate(self._configs):
            load = functools.partial(self._program.load, replica)
            checkpoint.restore(config.out, load, self._data)
        for replica, config in enumerate(self._configs):
            self._records[replica] = self._continue_log(config)
            ProbeLog.truncate(config.out, self.step)
            run_dir.write_config(config)

    def _continue_log(self, config: TrainConfig) -> int:
        """The number of records up to this step; warns if it was another one when it was saved.

        When the power fails, the log may lose records that the checkpoint has seen.
        """
        path = config.out / run_dir.METRICS_FILE
        expected = checkpoint.saved_records(config.out)
        found = run_dir.truncate_log(path, self.step)
        if expected not in (None, found):
            warnings.warn(
                f"Expected {path} to hold {expected} records up to step {self.step}, as when the "
                f"checkpoint was written, but it holds {found}. The run goes on; records that are "
                "missing can only be made by training again from the start.",
                RuntimeWarning,
                stacklevel=user_level(),
            )
        return found

    def _branch(self) -> None:
        """Start from checkpoints of other runs."""
        for replica, config in enumerate(self._configs):
            step, state = checkpoint.branch(config, self._data)
            own = self._program.state(replica).items()
            fresh = {k: v.clone() for k, v in own if k.startswith("penalty/")}
            try:
                self._program.load(replica, {**state, **fresh})
            except ValueError as error:
                raise RunDirectoryError(
                    f"The checkpoint of {config.start_from} does not fit this run: {error}."
                ) from error
            if self.step not in (-1, step):
                raise RunDirectoryError(
                    f"Expected the runs that replicas start from to be at one step but "
                    f"{config.start_from} is at {step} and another one at {self.step}."
                )
            self.step = step

    def execute(self, interrupt: InterruptFlag) -> bool:
        """Train to the last step or until interrupted. Save the state in both cases.

        Returns:
            True if the last step was reached.
        """
        with contextlib.ExitStack() as stack:
            progress = stack.enter_context(Progress(max(self.step, 0), self._steps))
            for log in self._logs:
                stack.callback(log.close)
            if self._new:
                self.step = max(self.step, 0)
                self._measure(progress)
                self._save()
            while self.step < self._steps and not interrupt.raised:
                self._program.step(self.step)
                self.step += 1
                self._measure(progress)
                progress.advance()
                if self.step % self._configs[0].checkpoint_every == 0:
                    self._save()
            self._save()
        return self.step >= self._steps

    def _measure(self, progress: Progress) -> None:
        step, last = self.step, self.step == self._steps
        probe = last or self._marks.probe(step)
        with_test = probe or self._marks.test(step)
        if not (with_test or self._marks.train(step)):
            return
        records = [measure_weights(self._program, r) for r in range(len(self._configs))]
        readouts = readouts_of(self._program, self._splits["train"]) if probe else None
        for name in ("train", "test") if with_test else ("train",):
            found = measure_split(self._program, self._splits[name], name, readouts)
            records = [{**one, **more} for one, more in zip(records, found, strict=True)]
        numbers = to_numbers(records)
        for replica, record in enumerate(numbers):
            if probe:
                look = self._probes[replica]
                record |= look.take(self._program, replica, self._splits, step)
            if self._starts_at_fit and record["train/accuracy"] >= FIT:
                self._program.begin_penalty(replica)
            self._logs[replica].write({"step": step, **record})
            self._records[replica] += 1
        progress.record({"step": step, **_mean(numbers)})

    def _save(self) -> None:
        for replica, config in enumerate(self._configs):
            state = self._program.state(replica)
            more = {checkpoint.DATA: self._data, checkpoint.RECORDS: self._records[replica]}
            checkpoint.save(config.out, self.step, state, run_dir.fixed_settings(config) | more)


def _mean(records: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: sum(r[name] for r in records) / len(records) for name in records[0]}
