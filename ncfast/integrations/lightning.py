"""A Lightning callback that tracks collapse."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ncfast._optional import need
from ncfast.features.batches import as_labels, inputs_and_labels
from ncfast.integrations.callback import Logits, Measuring, harmless, mask_of, next_tokens
from ncfast.integrations.split import Split

need("lightning", "ncfast.integrations.lightning")
from lightning.pytorch import Callback, LightningModule, Trainer  # noqa: E402
from lightning.pytorch.trainer.states import TrainerFn  # noqa: E402

_STATES = "ncfast.integrations.lightning"  # the entry of a checkpoint with the running averages
Unpack = Callable[[Any], Sequence[Any]]


class CollapseCallback(Measuring, Callback):
    """Measures the batch after each optimiser step, and the validation data in each validation.

    Batches are measured under ``train/``, from the features that hooks catch in the training step;
    ``train/loss`` is the loss as the training step returned it. Validation data are measured under
    ``val/`` while Lightning runs the validation steps; with several loaders under ``val_0/``,
    ``val_1/``, ..., or ``val_NAME/`` where they are a dict. ``val/accuracy`` is written if the
    module, or one submodule of it, returns logits (N, K) or (B, T, K) once in a validation step.
    Rows with the label -100 (``ignore_index``) are left out, and counted under ``ignored``.

    Steps are Lightning's ``global_step``; micro-batches of an accumulated gradient that no
    optimiser step follows are not measured. Several processes measure together (``group="auto"``),
    and only the first has sinks; samples that a DistributedSampler repeats count once in a
    validation.

    No measurement ends a training: each problem gives one warning. A second fit makes a new
    tracker: steps continue with a Trainer that goes on, and begin at 1 with a new one. With
    ``stream="ema:..."`` or ``"window:..."`` the running averages are part of Lightning's
    checkpoints, and a fit with ``ckpt_path`` continues them. If several of these callbacks are in
    a Trainer, a resumed Trainer needs them in the same order.

    Args:
        num_classes: K.
        unpack: a function from a batch to (inputs, labels) or (inputs, labels, mask); the default
            takes the first two items of a sequence, or from a dict its "labels" (or "label",
            "targets", "target", "y") and the rest. Labels are (N,), or (B, T) of tokens with
            features (B, T, D). The mask has their shape; rows where it is zero are left out.
            Without this function the mask of tokens is the "attention_mask" of the batch.
        shift: 1 for a language model that predicts the next token: the features of a token are
            paired with the label after it.
        snapshots: whether to measure the validation data, and which: True, False, or the number of
            validations from one snapshot to the next, the first one of a fit included.
        sinks: as for `ncfast.Tracker`. Each fit opens paths and names anew, and appends; a sink
            that you made stays open for the next fit until `close`.
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
        unpack: Unpack | None = None,
        shift: int = 0,
        snapshots: bool | int = True,
        sinks: Sequence[Any] = (),
        **tracker_options: Any,
    ) -> None:
        super().__init__(sinks, {"num_classes": num_classes, **tracker_options})
        self._unpack, self._shift = unpack or _unpacked, shift
        self._snapshots, self._validations = int(snapshots), 0
        self._splits: dict[int, Split] = {}
        self._logits: Logits | None = None
        self._loaded: dict[str, Tensor] | None = None  # the state of a tracker to continue

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the tracker; here the step of a loaded checkpoint is known."""
        self._validations = 0
        self._start(pl_module, trainer.global_step, trainer.is_global_zero)
        self._continue(trainer.global_step)

    @harmless
    def _continue(self, step: int) -> None:
        """Continue with the running averages of the checkpoint that was loaded."""
        state, self._loaded = self._loaded, None
        if state is not None and self.tracker is not None:
            self.tracker.load_state_dict({**state, "step": torch.tensor(step)})

    # Lightning refuses two callbacks of a class that have a state_dict and the same key, so the
    # averages are an entry of the checkpoint itself.

    @harmless
    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the running averages to a checkpoint."""
        averages = self._options.get("stream", "batch") != "batch"
        if averages and self.tracker is not None:
            states = checkpoint.setdefault(_STATES, {})
            states[self._place(trainer)] = self.tracker.state_dict()

    @harmless
    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep the running averages of a checkpoint for the fit that begins."""
        if trainer.state.fn == TrainerFn.FITTING:
            self._loaded = checkpoint.get(_STATES, {}).get(self._place(trainer))

    def _place(self, trainer: Trainer) -> int:
        """The position among the callbacks of this class in a trainer."""
        found: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        return [each for each in found if isinstance(each, CollapseCallback)].index(self)

    @harmless
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
        if tracker is None or not self._running:
            return
        if trainer.global_step == tracker.current_step:  # a micro-batch without an optimiser step
            self._forget()
            return
        # several optimisers count as several steps
        while tracker.current_step < trainer.global_step - 1:
            tracker.advance(keep_features=True)
        labels, mask = self._targets(batch, pl_module.device)
        if labels is None:
            tracker.advance()
        else:
            tracker.step(labels=labels, mask=mask)
        # Lightning has divided the loss that the training step returned
        parts = trainer.accumulate_grad_batches if pl_module.automatic_optimization else 1
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if tracker.due and isinstance(loss, Tensor) and loss.numel() == 1:
            tracker.log({"train/loss": loss.detach().reshape(()) * parts})

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Decide whether this validation is measured."""
        self._stop_validating()
        if not self._running or trainer.sanity_checking or not self._snapshots:
            return
        self._validations += 1
        if (self._validations - 1) % self._snapshots == 0:
            self._logits = Logits(pl_module, self._options["num_classes"])

    @harmless
    def on_validation_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Forget what ran before the batch."""
        if self._logits is None or self.tracker is None:
            return
        if dataloader_idx not in self._splits:
            loaders = list(_loaders(trainer.val_dataloaders).values())
            loader = loaders[dataloader_idx] if dataloader_idx < len(loaders) else None
            self._splits[dataloader_idx] = Split(self.tracker, loader)
        self._splits[dataloader_idx].begin()
        self._logits.take()

    @harmless
    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Measure the batch."""
        split = self._splits.get(dataloader_idx)
        if split is not None and self._logits is not None:
            labels, mask = self._targets(batch, pl_module.device)
            split.add(labels, self._logits.take(), mask)

    @harmless
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add what was measured to the current step's record."""
        names = list(_loaders(trainer.val_dataloaders))
        splits = self._stop_validating()
        for index, split in sorted(splits.items()):
            split.end(names[index] if index < len(names) else f"val_{index}")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write what is left."""
        self._finish()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Write what is left; the other processes may be elsewhere."""
        self._stop_validating()
        self._abandon(exception)
        self._finish()

    @harmless
    def _abandon(self, exception: BaseException) -> None:
        if self.tracker is not None:
            self.tracker.__exit__(type(exception), exception, exception.__traceback__)

    @harmless
    def _finish(self) -> None:
        self._stop()

    def _stop_validating(self) -> dict[int, Split]:
        splits, self._splits = self._splits, {}
        if self._logits is not None:
            self._logits.remove()
            self._logits = None
        return splits

    def _targets(self, batch: Any, device: torch.device) -> tuple[Tensor | None, Tensor | None]:
        """Labels and mask of the features of a batch."""
        try:
            _, labels, *rest = self._unpack(batch)
            labels = as_labels(labels, device)
            mask = None if not rest or rest[0] is None else as_labels(rest[0], device)
            if self._shift and labels.ndim == 2:
                return next_tokens(labels, mask, self._shift)
            return labels, mask
        except Exception as error:
            self._say(
                "labels",
                f"A batch is not measured, training goes on: {type(error).__name__}: {error} For "
                "batches of another kind pass unpack=, a function from a batch to inputs and "
                "labels.",
            )
            return None, None


def _unpacked(batch: Any) -> tuple[Any, Any, Tensor | None]:
    """Inputs, labels and the mask of tokens."""
    inputs, labels = inputs_and_labels(batch)
    return inputs, labels, mask_of(batch, labels)


def _loaders(found: Any) -> dict[str, Any]:
    """The validation loaders by the first part of their keys."""
    found = getattr(found, "iterables", found)  # a CombinedLoader holds the loaders
    if isinstance(found, Mapping):
        return {f"val_{name}": loader for name, loader in found.items()}
    if isinstance(found, (list, tuple)) and len(found) > 1:
        return {f"val_{index}": loader for index, loader in enumerate(found)}
    return {"val": found[0] if isinstance(found, (list, tuple)) and found else found}
