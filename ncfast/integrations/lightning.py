"""A Lightning callback that tracks collapse."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from torch import Tensor

from ncfast._optional import need
from ncfast.integrations.batches import inputs_and_labels
from ncfast.tracking.tracker import Tracker

need("lightning", "ncfast.integrations.lightning")
from lightning.pytorch import Callback, LightningModule, Trainer  # noqa: E402

Unpack = Callable[[Any], tuple[Any, Tensor]]


class CollapseCallback(Callback):
    """Measures the batch after each optimiser step, and the validation data after each validation.

    Batches are measured under ``train/``, from the features that hooks catch in the training step.
    After a validation epoch the model, through ``module(inputs)``, runs over the validation data a
    second time, frozen, under ``val/`` (``val_0/``, ``val_1/``, ... with several loaders). Steps
    are Lightning's ``global_step``; micro-batches of an accumulated gradient that no optimiser step
    follows are not measured. Several processes measure together (``group="auto"``), and only the
    first has sinks.

    Args:
        num_classes: K.
        unpack: inputs and labels from a batch; the default takes the first two items of a sequence,
            or from a dict its "labels" (or "label", "targets", "target", "y") and its first entry.
        snapshots: whether to measure the validation data, and which: True, False, or the number of
            validations from one snapshot to the next.
        sinks: as for `ncfast.Tracker`.
        **tracker_options: further arguments of `ncfast.Tracker`, such as ``layers``, ``every`` and
            ``metrics``.

    Attributes:
        tracker: the Tracker of the current fit; None before.

    Example:
        >>> from ncfast.integrations.lightning import CollapseCallback
        >>> callback = CollapseCallback(num_classes=10, every=50, sinks=["runs/a/metrics.jsonl"])
        >>> # lightning.Trainer(callbacks=[callback]).fit(module, train_loader, val_loader)
    """

    def __init__(
        self,
        *,
        num_classes: int,
        unpack: Unpack = inputs_and_labels,
        snapshots: bool | int = True,
        sinks: Sequence[Any] = (),
        **tracker_options: Any,
    ) -> None:
        super().__init__()
        self.tracker: Tracker | None = None
        self._options = {"num_classes": num_classes, "group": "auto", **tracker_options}
        self._unpack = unpack
        self._snapshots, self._validations = int(snapshots), 0
        self._sinks = sinks

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the tracker: a checkpoint's step is known by now."""
        self.tracker = Tracker(
            pl_module,
            sinks=self._sinks if trainer.is_global_zero else (),
            start_step=trainer.global_step,
            **self._options,
        )

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Tensor | Mapping[str, Any] | None,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Measure the batch if an optimiser has stepped."""
        tracker = self.tracker
        if tracker is None or trainer.global_step == tracker.current_step:
            return
        # several optimisers count as several steps
        while tracker.current_step < trainer.global_step - 1:
            tracker.advance(keep_features=True)
        tracker.step(labels=self._unpack(batch)[1])
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if tracker.due and isinstance(loss, Tensor):
            tracker.log({"train/loss": loss.detach()})

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure the validation data."""
        if self.tracker is None or trainer.sanity_checking or not self._snapshots:
            return
        self._validations += 1
        if (self._validations - 1) % self._snapshots:
            return
        loaders = _loaders(trainer.val_dataloaders)
        for index, loader in enumerate(loaders):
            split = f"val_{index}" if len(loaders) > 1 else "val"
            limit = trainer.num_val_batches[index]
            batches = islice(loader, None if limit == float("inf") else int(limit))
            self.tracker.snapshot(self._on_device(trainer, batches, index), split=split)

    def _on_device(
        self, trainer: Trainer, batches: Iterable[Any], index: int
    ) -> Iterator[tuple[Any, Tensor]]:
        for batch in batches:
            yield self._unpack(trainer.strategy.batch_to_device(batch, dataloader_idx=index))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write what is left."""
        self._close()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Write what is left."""
        self._close()

    def _close(self) -> None:
        if self.tracker is not None:
            self.tracker.close()


def _loaders(found: Any) -> list[Any]:
    if isinstance(found, Mapping):
        return list(found.values())
    return list(found) if isinstance(found, (list, tuple)) else [found]
