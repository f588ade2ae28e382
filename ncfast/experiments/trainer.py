"""Trains one network and tracks its collapse; the same run bit for bit with and without a break."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ncfast.experiments import checkpoint, run_dir
from ncfast.experiments.config import TrainConfig
from ncfast.experiments.data import ImageSet, load
from ncfast.experiments.interrupt import InterruptFlag
from ncfast.experiments.losses import LOSSES
from ncfast.experiments.models import build_model
from ncfast.experiments.optimisers import make_optimizer
from ncfast.experiments.order import BatchOrder
from ncfast.experiments.progress import Progress
from ncfast.tracking import schedule
from ncfast.tracking.tracker import Tracker

_EVALUATION_ROWS = 2500


@dataclass(frozen=True)
class Outcome:
    """How a call of `train` ended.

    Attributes:
        step: updates made so far.
        finished: False when it was interrupted; the run can be resumed.
    """

    step: int
    finished: bool


def pick_device(name: str) -> torch.device:
    """The device of that name; "auto" is a GPU when there is one.

    Raises:
        ValueError: the device does not exist here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"Expected `device` to exist here but got {name!r}: {str(error).splitlines()[0]}"
        ) from error
    return device


class Trainer:
    """Network, optimiser and data of a run; `step` makes one update.

    Args:
        config: the settings.
        train: training split, on the device.
        device: where to train.
    """

    def __init__(self, config: TrainConfig, train: ImageSet, device: torch.device) -> None:
        self.model = build_model(config, train).to(device)
        self.optimizer = make_optimizer(config, self.model.parameters())
        self.order = BatchOrder(len(train), config.effective_batch_size(len(train)), config.seed)
        self.loss = LOSSES[config.loss]
        self._train = train
        self._device = device

    def step(self) -> None:
        """One update on the next batch."""
        index = self.order.next().to(self._device, non_blocking=True)
        inputs, labels = self._train.batch(index)
        self.optimizer.zero_grad()
        self.loss(self.model(inputs), labels).backward()
        self.optimizer.step()


class Run:
    """A training run that measures, logs and saves as it goes.

    Args:
        config: the settings; its directory is prepared.
        train: training split, on the device.
        test: test split, on the device.
        device: where to train.
    """

    def __init__(
        self, config: TrainConfig, train: ImageSet, test: ImageSet, device: torch.device
    ) -> None:
        self._config = config
        self._train_marks, self._test_marks = _schedules(config)
        self._trainer = Trainer(config, train, device)
        self._checkpoint = config.out / run_dir.CHECKPOINT
        start = self._restore() if config.resume else 0
        self._progress = Progress(start, config.steps)
        self._tracker = Tracker(
            self._trainer.model,
            num_classes=train.num_classes,
            sinks=[config.out / run_dir.METRICS_FILE, self._progress.record],
            start_step=start,
            on_sink_error="raise",  # a run whose log has ended is not worth its time
            log_cost=False,  # the log depends on the seed alone
        )
        self._splits = {"train": train, "test": test}

    def _restore(self) -> int:
        trainer = self._trainer
        step = checkpoint.load(self._checkpoint, trainer.model, trainer.optimizer, trainer.order)
        run_dir.truncate_log(self._config.out, step)
        return step

    def execute(self) -> Outcome:
        """Train to the last step or until interrupted; the state is saved either way."""
        tracker, steps = self._tracker, self._config.steps
        with tracker, self._progress, InterruptFlag() as interrupt:
            if not self._config.resume:
                self._measure()
                self._save()  # from here on every interruption can be resumed
            while tracker.current_step < steps and not interrupt.raised:
                self._trainer.step()
                tracker.advance()
                self._measure()
                self._progress.advance()
                if tracker.current_step % self._config.checkpoint_every == 0:
                    self._save()
            self._save()
        return Outcome(tracker.current_step, tracker.current_step >= steps)

    def _measure(self) -> None:
        step = self._tracker.current_step
        with_test = self._test_marks(step) or step == self._config.steps
        if with_test or self._train_marks(step):
            self._snapshot("train")
        if with_test:
            self._snapshot("test")

    def _snapshot(self, split: str) -> None:
        batches = self._splits[split].batches(_EVALUATION_ROWS)
        loss = self._trainer.loss
        self._tracker.snapshot(batches, split=split, loss=loss, loss_reduction="sum")

    def _save(self) -> None:
        self._tracker.flush()  # the log must reach at least as far as the checkpoint
        trainer, step = self._trainer, self._tracker.current_step
        checkpoint.save(self._checkpoint, step, trainer.model, trainer.optimizer, trainer.order)


def _schedules(config: TrainConfig) -> tuple[schedule.Schedule, schedule.Schedule]:
    train = schedule.parse(config.schedule, config.steps)
    return train, schedule.parse(config.test_schedule or config.schedule, config.steps)


def train(config: TrainConfig) -> Outcome:
    """Run or resume an experiment in ``config.out``.

    Metrics are measured on whole splits in eval mode, outside every random stream of the training:
    the weights do not depend on what is tracked, or when.

    Raises:
        RunDirectoryError: the directory holds another run, or cannot be resumed.
        DataFileError, ValueError: the data or a setting cannot be used.
        OSError: the disk is full; what was written before is whole and can be resumed from.
    """
    device = pick_device(config.device)
    _schedules(config)  # a bad one must not leave a directory behind
    train_set, test_set = load(
        config.dataset,
        data_dir=config.data_dir,
        train_size=config.effective_train_size,
        download=config.download,
    )
    run_dir.prepare(config)
    return Run(config, train_set.to(device), test_set.to(device), device).execute()
