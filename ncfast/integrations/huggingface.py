"""A callback for the Trainer of Hugging Face transformers."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from ncfast._optional import need
from ncfast.integrations.callback import Measuring, harmless
from ncfast.integrations.split import Split
from ncfast.tracking.layers import model_device
from ncfast.tracking.snapshot import evaluation_mode

need("transformers", "ncfast.integrations.huggingface")
from transformers import (  # noqa: E402
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)


class CollapseCallback(Measuring, TrainerCallback):
    """Measures the last batch of each step, and the evaluation data after each evaluation.

    Batches are measured under ``train/``, from the features that hooks catch in the forward pass
    and the labels that the model is called with. After an evaluation the model runs over the
    evaluation data a second time, frozen, under ``eval/``; each set of a dict of evaluation sets
    has its own keys, such as ``eval_NAME/``. Steps are ``state.global_step``. Several processes
    measure together (``group="auto"``), and only the first has sinks; samples that accelerate
    repeats to fill the last batches count once in an evaluation.

    No measurement ends a training: what cannot be measured is said once, as a warning. A second
    training makes a tracker of its own, whose steps are those of the Trainer.

    Args:
        num_classes: K.
        label_key: the entry of a batch that holds the class indices (N,).
        snapshots: whether to measure the evaluation data, and which: True, False, or the number of
            evaluations of a set from one snapshot to the next, the first one included.
        sinks: as for `ncfast.Tracker`. Each training opens paths and names anew, and appends; a
            sink that you made stays open for the next training until `close`.
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
        super().__init__(sinks, {"num_classes": num_classes, **tracker_options})
        self._label_key = label_key
        self._snapshots = int(snapshots)
        self._evaluations: Counter[str] = Counter()
        self._labels: Tensor | None = None
        self._handle: Any = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Make the tracker."""
        self._finish()
        self._evaluations.clear()
        model: nn.Module = kwargs["model"]
        self._start(model, state.global_step, state.is_world_process_zero)
        self._handle = model.register_forward_pre_hook(self._keep_labels, with_kwargs=True)

    def _keep_labels(self, model: nn.Module, args: Any, kwargs: Mapping[str, Any]) -> None:
        labels = kwargs.get(self._label_key)
        if model.training:
            self._labels = labels.detach() if isinstance(labels, Tensor) else None

    @harmless
    def on_substep_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Forget a part of an accumulated gradient."""
        self._forget()

    @harmless
    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measure the batch."""
        tracker = self.tracker
        if tracker is None or not self._running:
            return
        while tracker.current_step < state.global_step - 1:
            tracker.advance(keep_features=True)
        labels, self._labels = self._labels, None
        if labels is None:
            self._say("labels", _NO_LABELS.format(key=self._label_key))
            tracker.advance()
        else:
            tracker.step(labels=labels)

    @harmless
    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measure the evaluation data."""
        if not self._running or self.tracker is None or not self._snapshots:
            return
        scores: Mapping[str, Any] = kwargs.get("metrics") or {}
        name = _name(scores)
        self._evaluations[name] += 1
        if (self._evaluations[name] - 1) % self._snapshots:
            return
        split = Split(self.tracker, kwargs["eval_dataloader"])
        try:
            self._evaluate(kwargs["model"], kwargs["eval_dataloader"], split)
        except Exception:
            split.spoil()
            raise
        finally:  # the other ranks wait
            split.end(name)
        loss = scores.get(f"{name}_loss")
        if loss is not None:
            self.tracker.log({f"{name}/loss": loss})

    def _evaluate(
        self, model: nn.Module, loader: Iterable[Mapping[str, Any]], split: Split
    ) -> None:
        device, wanted = model_device(model), _names(model)
        with evaluation_mode(model):
            for batch in loader:
                inputs = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items()}
                split.begin()
                output = model(**{k: v for k, v in inputs.items() if wanted is None or k in wanted})
                labels = inputs.get(self._label_key)
                if labels is None:
                    self._say("eval labels", _NO_EVAL_LABELS.format(key=self._label_key))
                split.add(labels, getattr(output, "logits", output))

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Write what is left."""
        self._finish()

    @harmless
    def _finish(self) -> None:
        if self._handle is not None:
            self._handle.remove()
            self._handle = None
        self._stop()


_NO_EVAL_LABELS = (
    "Evaluations are not measured: their batches have no {key!r}. Pass label_key=, the name of the "
    "labels in a batch."
)
_NO_LABELS = (
    "Training batches are not measured: the model was called without {key!r}. Pass label_key=, the "
    "name of the labels in a batch. Label smoothing and compute_loss_func take the labels away "
    "before the model sees them; evaluations are measured all the same."
)


def _name(scores: Mapping[str, Any]) -> str:
    """What the keys of an evaluation begin with: "eval", or "eval_NAME" of a set in a dict."""
    # every evaluation has a run time; a score of the user's own may end in the same way
    found = [key.removesuffix("_runtime") for key in scores if key.endswith("_runtime")]
    return min(found, key=len, default="eval")


def _names(model: nn.Module) -> set[str] | None:
    """The arguments of the model's forward; None where it takes any."""
    parameters = inspect.signature(model.forward).parameters.values()
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):
        return None
    return {parameter.name for parameter in parameters}
