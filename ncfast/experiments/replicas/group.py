"""A group of replicas that trains, measures, logs and saves as it goes."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from ncfast.experiments import checkpoint, run_dir
from ncfast.experiments.config import TrainConfig
from ncfast.experiments.data import ImageSet
from ncfast.experiments.interrupt import InterruptFlag
from ncfast.experiments.progress import Progress
from ncfast.experiments.replicas.information import Planes
from ncfast.experiments.replicas.measure import measure_split, measure_weights, to_numbers
from ncfast.experiments.replicas.probe import ProbeLog
from ncfast.experiments.replicas.program import ReplicaProgram
from ncfast.experiments.run_dir import RunDirectoryError
from ncfast.tracking import schedule
from ncfast.tracking.sinks import JsonlSink


def saved_step(config: TrainConfig) -> int:
    """The step of a replica's checkpoint; -1 when it has not begun.

    Raises:
        RunDirectoryError: the checkpoint is damaged.
    """
    path = config.out / run_dir.CHECKPOINT
    if not path.exists():
        return -1
    try:
        with safe_open(path, "pt") as file:
            return int(file.get_tensor("step"))
    except Exception as error:
        raise RunDirectoryError(
            f"{path} is damaged ({type(error).__name__}: {error}). Delete the folder "
            f"{config.out} to train that replica again."
        ) from error


class Group:
    """Replicas of one program at one step.

    Args:
        configs: settings of the replicas; their directories are prepared. All have saved the same
            step, or none has begun.
        train: training split, on the device.
        test: test split, on the device.
        device: where to train.
        probes: when to look closer at the features.
        sigmas: noise of the information estimates.
        samples: unseen samples that the information estimates look at.
    """

    def __init__(
        self,
        configs: Sequence[TrainConfig],
        train: ImageSet,
        test: ImageSet,
        device: torch.device,
        *,
        probes: str,
        sigmas: Sequence[float],
        samples: int,
    ) -> None:
        first = configs[0]
        self._configs, self._steps = list(configs), first.steps
        self._train_marks = schedule.parse(first.schedule, first.steps)
        self._test_marks = schedule.parse(first.test_schedule or first.schedule, first.steps)
        self._probe_marks = schedule.parse(probes, first.steps)
        self._program = ReplicaProgram(configs, train, device)
        self._splits = {"train": train, "test": test}
        self.step = saved_step(first)
        for config in configs:
            run_dir.prepare(replace(config, resume=self.step >= 0))
        if self.step >= 0:
            self._restore()
        planes = Planes(test, sigmas, samples)
        self._probes = [ProbeLog(config.out, sigmas, planes) for config in configs]
        self._logs = [JsonlSink(config.out / run_dir.METRICS_FILE) for config in configs]

    def _restore(self) -> None:
        for replica, config in enumerate(self._configs):
            path = config.out / run_dir.CHECKPOINT
            try:
                self._program.load(replica, load_file(path))
            except Exception as error:
                raise RunDirectoryError(
                    f"{path} cannot be resumed from ({type(error).__name__}: {error}). Delete the "
                    f"folder {config.out} to train that replica again."
                ) from error
            run_dir.truncate_log(config.out, self.step)
            ProbeLog.truncate(config.out, self.step)

    def execute(self, interrupt: InterruptFlag) -> bool:
        """Train to the last step or until interrupted; True when it was the last step.

        The state is saved either way.
        """
        with contextlib.ExitStack() as stack:
            progress = stack.enter_context(Progress(max(self.step, 0), self._steps))
            for log in self._logs:
                stack.callback(log.close)
            if self.step < 0:
                self.step = 0
                self._measure(progress)
                self._save()
            while self.step < self._steps and not interrupt.raised:
                self._program.step()
                self.step += 1
                self._measure(progress)
                progress.advance()
                if self.step % self._configs[0].checkpoint_every == 0:
                    self._save()
            self._save()
        return self.step >= self._steps

    def _measure(self, progress: Progress) -> None:
        step, last = self.step, self.step == self._steps
        probe = last or self._probe_marks(step)
        with_test = probe or self._test_marks(step)
        if not (with_test or self._train_marks(step)):
            return
        records = [measure_weights(self._program, r) for r in range(len(self._configs))]
        for name in ("train", "test") if with_test else ("train",):
            found = measure_split(self._program, self._splits[name], name)
            records = [{**one, **more} for one, more in zip(records, found, strict=True)]
        numbers = to_numbers(records)
        for replica, record in enumerate(numbers):
            if probe:
                look = self._probes[replica]
                record |= look.take(self._program, replica, self._splits, step)
            self._logs[replica].write({"step": step, **record})
        progress.record({"step": step, **_mean(numbers)})

    def _save(self) -> None:
        for replica, config in enumerate(self._configs):
            state = self._program.state(replica)
            checkpoint.save_tensors(config.out / run_dir.CHECKPOINT, self.step, state)


def _mean(records: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: sum(r[name] for r in records) / len(records) for name in records[0]}
