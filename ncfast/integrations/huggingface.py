"""A callback for the Trainer of Hugging Face transformers."""

from __future__ import annotations

import functools
import inspect
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from ncfast._optional import need
from ncfast.features.batches import MASK
from ncfast.features.model import evaluation_mode, model_device
from ncfast.integrations.callback import Measuring, harmless, mask_of, next_tokens
from ncfast.integrations.split import Split

need("transformers", "ncfast.integrations.huggingface")
from transformers import (  # noqa: E402
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

Targets = tuple[Tensor, "Tensor | None"]


class CollapseCallback(Measuring, TrainerCallback):
    """Measures the last batch of each step, and the evaluation data after each evaluation.

    Batches are measured under ``train/``, from the features that hooks catch in the forward pass
    and the labels that the model is called with. After an evaluation the model runs over the
    evaluation data a second time, frozen, under ``eval/``; each set of a dict of evaluation sets
    has its own keys, such as ``eval_NAME/``. Steps are ``state.global_step``. Several processes
    measure together (``group="auto"``), and only the first has sinks; samples that accelerate
    repeats to fill the last batches count once in an evaluation.

    Models with a label for each token are measured by token: features (B, T, D), labels (B, T).
    Tokens with the label -100 (``ignore_index``) or an ``attention_mask`` of zero are left out, and
    counted under ``ignored``. A causal language model of transformers compares a token with the
    label after it; the features are paired with that label, and K is its vocabulary.

    No measurement ends a training: each problem gives one warning. A second
    training makes a tracker of its own, whose steps are those of the Trainer.

    Args:
        num_classes: K.
        label_key: the key of the class indices in a batch, (N,) or (B, T).
        shift: the number of tokens from a token to its label (B, T); None is 1 for the causal
            language models of transformers, which shift labels in their loss, and 0 for others.
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
        shift: int | None = None,
        snapshots: bool | int = True,
        sinks: Sequence[Any] = (),
        **tracker_options: Any,
    ) -> None:
        super().__init__(sinks, {"num_classes": num_classes, **tracker_options})
        self._label_key = label_key
        self._snapshots = int(snapshots)
        self._evaluations: Counter[str] = Counter()
        self._shift = shift
        self._inputs: dict[str, Tensor] = {}
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
        if model.training:
            names = (self._label_key, MASK)
            found = {name: kwargs.get(name) for name in names}
            self._inputs = {k: v.detach() for k, v in found.items() if isinstance(v, Tensor)}

    def _targets_of(self, model: nn.Module, inputs: Mapping[str, Any]) -> Targets | None:
        """Labels and mask of the features of a batch."""
        labels = inputs.get(self._label_key)
        if not isinstance(labels, Tensor):
            return None
        labels, mask = labels.detach(), mask_of(inputs, labels)
        shift = int(shifts_labels(model)) if self._shift is None else self._shift
        return next_tokens(labels, mask, shift) if shift and labels.ndim == 2 else (labels, mask)

    @harmless
    def on_substep_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Forget a micro-batch that no optimiser step follows."""
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
        targets, self._inputs = self._targets_of(kwargs["model"], self._inputs), {}
        if targets is None:
            self._say("labels", _NO_LABELS.format(key=self._label_key))
            tracker.advance()
        else:
            tracker.step(labels=targets[0], mask=targets[1])

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
                targets = self._targets_of(model, inputs)
                if targets is None:
                    self._say("eval labels", _NO_EVAL_LABELS.format(key=self._label_key))
                labels, mask = targets or (None, None)
                split.add(labels, getattr(output, "logits", output), mask)

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


@functools.lru_cache
def _causal() -> frozenset[str]:
    from transformers.models.auto import modeling_auto

    return frozenset(modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())


def shifts_labels(model: nn.Module) -> bool:
    """Whether the loss of a model compares a token with the label after it.

    These are the causal language models of transformers whose forward pass calls the common loss
    function or shifts labels itself: some decoders, such as BartForCausalLM, take shifted labels.
    """
    inner: Any = getattr(model, "get_base_model", lambda: model)  # a model of PEFT wraps another
    model = inner()
    name = type(model).__name__
    if name not in _causal() and not name.endswith("ForCausalLM"):
        return False
    try:
        source = inspect.getsource(inspect.unwrap(type(model).forward))
    except (OSError, TypeError):  # the source is not available
        return True
    return any(name in source for name in ("loss_function", "shift_labels", "shift_logits"))


_NO_EVAL_LABELS = (
    "Evaluations are not measured: their batches have no {key!r}. Pass label_key=, the name of the "
    "labels in a batch."
)
_NO_LABELS = (
    "Training batches are not measured: the model was called without {key!r}. Pass label_key=, the "
    "name of the labels in a batch. Label smoothing and compute_loss_func remove the labels "
    "before the model sees them; evaluations are still measured."
)


def _name(scores: Mapping[str, Any]) -> str:
    """The first part of an evaluation's keys: "eval", or "eval_NAME" for a set in a dict."""
    # every evaluation has a run time; a score of the user's own may end in the same way
    found = [key.removesuffix("_runtime") for key in scores if key.endswith("_runtime")]
    return min(found, key=len, default="eval")


def _names(model: nn.Module) -> set[str] | None:
    """The arguments of the model's forward; None where it takes any."""
    parameters = inspect.signature(model.forward).parameters.values()
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):
        return None
    return {parameter.name for parameter in parameters}
