"""Trains one network and tracks its collapse; the same run bit for bit with and without a break."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from ncfast.experiments import checkpoint, run_dir
from ncfast.experiments.config import TrainConfig
from ncfast.experiments.data import ImageSet, load
from ncfast.experiments.interrupt import InterruptFlag
from ncfast.experiments.losses import LOSSES
from ncfast.experiments.models import MLP, scale_parameters
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


def build_model(config: TrainConfig, data: ImageSet) -> nn.Module:
    """The freshly initialised network; depends on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = MLP(
            data.input_size,
            config.widths,
            data.num_classes,
            activation=config.activation,
            last_activation=config.last_activation,
        )
    scale_parameters(model, config.init_scale)
    return model


class Trainer:
    """Network, optimiser and data of a run; `step` makes one update.

    Args:
        config: the settings.
        train: training split, on the device.
        device: where to train.
    """

    def __init__(self, config: TrainConfig, train: ImageSet, device: torch.device) -> None:
        self.model = build_model(config, train).to(device)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True
        )
        self.order = BatchOrder(len(train), config.batch_size, config.seed)
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


def train(config: TrainConfig) -> Outcome:
    """Run or resume an experiment in ``config.out``.

    Metrics are computed on frozen copies of nothing: the model itself, in eval mode, on whole
    splits, outside every random stream of the training.

    Raises:
        RunDirectoryError: the directory holds another run, or cannot be resumed.
        DataFileError, ValueError: the data or a setting cannot be used.
        OSError: the disk is full; what was written before is whole and can be resumed from.
    """
    device = pick_device(config.device)
    marks = schedule.parse(config.schedule, config.steps)
    test_marks = schedule.parse(config.test_schedule or config.schedule, config.steps)
    train_set, test_set = (
        split.to(device)
        for split in load(
            config.dataset,
            data_dir=config.data_dir,
            train_size=config.effective_train_size,
            download=config.download,
        )
    )
    run_dir.prepare(config)
    trainer = Trainer(config, train_set, device)
    path = config.out / run_dir.CHECKPOINT
    start = 0
    if config.resume:
        start = checkpoint.load(path, trainer.model, trainer.optimizer, trainer.order)
        run_dir.truncate_log(config.out, start)

    progress = Progress(start, config.steps)
    tracker = Tracker(
        trainer.model,
        num_classes=train_set.num_classes,
        every=marks,
        sinks=[config.out / run_dir.METRICS_FILE, progress.record],
        start_step=start,
    )
    splits = {
        "train": train_set.batches(_EVALUATION_ROWS),
        "test": test_set.batches(_EVALUATION_ROWS),
    }

    def measure() -> None:
        step = tracker.current_step
        last = step == config.steps
        if last or marks(step) or test_marks(step):
            tracker.snapshot(splits["train"], split="train", loss=trainer.loss)
        if last or test_marks(step):
            tracker.snapshot(splits["test"], split="test", loss=trainer.loss)

    def save() -> None:
        tracker.flush()  # the log must reach at least as far as the checkpoint
        checkpoint.save(path, tracker.current_step, trainer.model, trainer.optimizer, trainer.order)

    with tracker, progress, InterruptFlag() as interrupt:
        if not config.resume:
            measure()
            save()  # from here on every interruption can be resumed
        while tracker.current_step < config.steps and not interrupt.raised:
            trainer.step()
            tracker.advance()
            measure()
            progress.advance()
            if tracker.current_step % config.checkpoint_every == 0:
                save()
        save()
    return Outcome(tracker.current_step, tracker.current_step >= config.steps)
