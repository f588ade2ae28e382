"""A callback for the Trainer of Hugging Face transformers."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from ncfast._optional import need
from ncfast.tracking.tracker import Tracker

need("transformers", "ncfast.integrations.huggingface")
from transformers import (  # noqa: E402
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)


class CollapseCallback(TrainerCallback):
    """Measures the last batch of each step, and the evaluation data after each evaluation.

    Batches are measured under ``train/``, from the features that hooks catch in the forward pass
    and the labels that the model is called with. After an evaluation the model runs over the
    evaluation data a second time, frozen, under ``eval/``. Steps are ``state.global_step``.
    Several processes measure together (``group="auto"``), and only the first has sinks.

    Args:
        num_classes: K.
        label_key: the entry of a batch that holds the class indices (N,).
        snapshots: whether to measure the evaluation data, and which: True, False, or the number of
            evaluations from one snapshot to the next.
        sinks: as for `ncfast.Tracker`.
        **tracker_options: further arguments of `ncfast.Tracker`, such as ``layers``, ``every`` and
            ``metrics``. The default layer is the input of the last nn.Linear.

    Attributes:
        tracker: the Tracker of the current training; None before.

    Example:
        >>> from ncfast.integrations.huggingface import CollapseCallback
        >>> callback = CollapseCallback(num_classes=2, every=50, sinks=["runs/a/metrics.jsonl"])
        >>> # transformers.Trainer(model, args, ..., callbacks=[callback]).train()
    """

    def __init__(
        self,
        *,
        num_classes: int,
        label_key: str = "labels",
        snapshots: bool | int = True,
        sinks: Sequence[Any] = (),
        **tracker_options: Any,
    ) -> None:
        self.tracker: Tracker | None = None
        self._options = {"num_classes": num_classes, "group": "auto", **tracker_options}
        self._label_key = label_key
        self._snapshots, self._evaluations = int(snapshots), 0
        self._sinks = sinks
        self._labels: Tensor | None = None
        self._handle: Any = None
        self._said = False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Make the tracker."""
        self._finish()  # a training before may have ended in an exception
        model: nn.Module = kwargs["model"]
        self.tracker = Tracker(
            model,
            sinks=self._sinks if state.is_world_process_zero else (),
            start_step=state.global_step,
            **self._options,
        )
        self._handle = model.register_forward_pre_hook(self._keep_labels, with_kwargs=True)

    def _keep_labels(self, model: nn.Module, args: Any, kwargs: Mapping[str, Any]) -> None:
        labels = kwargs.get(self._label_key)
        if model.training:
            self._labels = None if labels is None else labels.detach()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measure the batch."""
        if self.tracker is None:
            return
        if self._labels is None:
            self._miss_labels()
            self.tracker.advance()
        else:
            self.tracker.step(labels=self._labels)
        self._labels = None

    def _miss_labels(self) -> None:
        if not self._said:
            self._said = True
            warnings.warn(
                f"Training batches are not measured: the model was called without "
                f"{self._label_key!r}. Pass label_key=, the name of the labels in a batch. Label "
                "smoothing and compute_loss_func take the labels away before the model sees them.",
                RuntimeWarning,
                stacklevel=3,
            )

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measure the evaluation data."""
        if self._handle is None or self.tracker is None or not self._snapshots:
            return
        self._evaluations += 1
        if (self._evaluations - 1) % self._snapshots:
            return
        with _called_with_batches(kwargs["model"]):
            self.tracker.snapshot(self._batches(kwargs["eval_dataloader"]), split="eval")
        loss = (kwargs.get("metrics") or {}).get("eval_loss")
        if loss is not None:
            self.tracker.log({"eval/loss": loss})

    def _batches(self, loader: Iterable[Mapping[str, Any]]) -> Iterator[tuple[Any, Tensor]]:
        for batch in loader:
            yield _Batch(batch), batch[self._label_key]

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Write what is left."""
        self._finish()

    def _finish(self) -> None:
        if self._handle is not None:
            self._handle.remove()
            self._handle = None
        if self.tracker is not None:
            self.tracker.close()


class _Batch(dict[str, Any]):
    """Keyword arguments of a model, moved as one."""

    def to(self, device: Any) -> _Batch:
        return _Batch({k: v.to(device) if isinstance(v, Tensor) else v for k, v in self.items()})


@contextlib.contextmanager
def _called_with_batches(model: nn.Module) -> Iterator[None]:
    """Inside, ``model(batch)`` means ``model(**batch).logits``."""

    def spread(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        return ((), dict(args[0])) if args and isinstance(args[0], _Batch) else None

    def logits(module: nn.Module, args: Any, output: Any) -> Any:
        return getattr(output, "logits", output)

    handles = [
        model.register_forward_pre_hook(spread, with_kwargs=True, prepend=True),
        model.register_forward_hook(logits),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
