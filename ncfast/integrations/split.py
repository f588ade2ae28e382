"""A data split, measured while another framework runs the model over it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ncfast import _validate
from ncfast.evaluation.samplers import own_rows
from ncfast.moments import ClassMoments, class_moments
from ncfast.tracking.snapshot import Snapshot, undefined
from ncfast.tracking.tracker import Tracker


class Split(Snapshot):
    """The snapshot of a split whose batches come one by one; no batch raises.

    A layer whose features cannot be measured in some batch, or labels that are no class indices,
    make the metrics of the split NaN; a layer without features (N, D) is left out. Both are said
    once.

    Args:
        tracker: of the model.
        loader: where the batches come from: rows that a sampler has repeated, so that all ranks
            have as many, are not counted.
    """

    def __init__(self, tracker: Tracker, loader: Any = None) -> None:
        assert tracker._model is not None
        assert tracker._capture is not None
        super().__init__(tracker._model, tracker._capture, tracker.num_classes, None)
        self._tracker, self._loader = tracker, loader
        self._number = self._seen = self._scored = 0

    def begin(self) -> None:
        """Call before the model runs over a batch."""
        self._capture.enabled = True
        self._capture.take()

    def add(self, labels: Any, logits: Any = None) -> None:
        """Measure a batch that the model has run over.

        Args:
            labels: (N,) integer class indices; None where the caller has said why there are none.
            logits: (N, K), for the accuracy; anything else gives none.
        """
        start = time.perf_counter()
        found, wrong = self._capture.take()
        size = next(
            (len(x) for x in (labels, *found.values()) if isinstance(x, Tensor) and x.ndim), 0
        )
        rows = own_rows(self._loader, self._number, self._seen, size)
        self._number, self._seen, self._count = (
            self._number + 1,
            self._seen + size,
            self._count + rows,
        )
        for layer, feats in found.items():
            try:
                self._merge(layer, _moments(feats, labels, rows, self._num_classes))
            except Exception as error:  # noqa: PERF203  (of a batch, not of the training)
                wrong[layer] = error
                if feats.ndim == 2:  # other ranks have this layer too
                    self._merge(layer, _undefined(self._num_classes, feats))
        self._miss(wrong if labels is not None else dict.fromkeys(found))
        if self._are_scores(logits, labels):
            right = self._right(logits[:rows].detach(), labels[:rows])
            self._sums["accuracy"] = right + self._sums.get("accuracy", 0.0)
            self._scored += rows
        self._tracker._recorder.seconds += time.perf_counter() - start

    def end(self, name: str) -> None:
        """Add the split to the current step's record, as ``name/...``."""
        self._tracker._plan_next()
        if self._scored != self._count:  # not every batch had logits
            self._sums.pop("accuracy", None)
        if self.moments:
            # Lightning runs validations in inference mode, whose tensors cannot be changed later
            with torch.inference_mode(False):
                self._tracker._end_snapshot(name, self)

    def spoil(self) -> None:
        """Make everything NaN: a batch is missing."""
        self._miss(dict.fromkeys(self.moments))
        self._sums = {name: total * torch.nan for name, total in self._sums.items()}

    def _merge(self, layer: str, part: ClassMoments) -> None:
        self.moments[layer] = self.moments[layer].merge(part) if layer in self.moments else part

    def _miss(self, wrong: Mapping[str, Exception | None]) -> None:
        for layer, problem in wrong.items():
            if layer in self.moments:
                self._merge(layer, _undefined(self._num_classes, self.moments[layer].means))
            if problem is not None:
                message = f"Layer {layer!r} is not measured: {problem}"
                self._tracker._warn_once(f"split {layer}", message)

    def _are_scores(self, logits: Any, labels: Any) -> bool:
        if not (isinstance(logits, Tensor) and isinstance(labels, Tensor) and labels.ndim == 1):
            return False
        indices = not labels.is_floating_point()
        return indices and logits.shape == (len(labels), self._num_classes) and len(labels) > 0

    def _right(self, logits: Tensor, labels: Tensor) -> Tensor:
        labels = labels.to(logits.device)
        known = ((labels >= 0) & (labels < self._num_classes)).all()
        right = (logits.argmax(1) == labels).sum(dtype=torch.float64)
        return torch.where(known, right, torch.nan)


def _moments(feats: Tensor, labels: Any, rows: int, num_classes: int) -> ClassMoments:
    labels = labels.to(feats.device) if isinstance(labels, Tensor) else labels
    feats, labels = _validate.check_pair(feats, labels)
    if not rows:
        return ClassMoments.empty(num_classes, feats.shape[1], feats.device)
    return class_moments(feats[:rows], labels[:rows], num_classes=num_classes)


def _undefined(num_classes: int, feats: Tensor) -> ClassMoments:
    return undefined(ClassMoments.empty(num_classes, feats.shape[1], feats.device))


class Logits:
    """The logits (N, K) of a module's forward pass, caught by hooks.

    They are what the module itself returned, where it was called once; else what the one submodule
    directly below it that was called once and returned (N, K) has returned. None where there is no
    telling.
    """

    def __init__(self, module: nn.Module, num_classes: int) -> None:
        self._found: list[tuple[bool, Tensor]] = []
        self._num_classes, self._module = num_classes, module
        modules = [module, *module.children()]
        self._handles = [m.register_forward_hook(self._keep) for m in modules]

    def _keep(self, module: nn.Module, args: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim == 2 and output.shape[1] == self._num_classes:
            self._found.append((module is self._module, output))

    def take(self) -> Tensor | None:
        """The logits since the last call, which are forgotten."""
        found, self._found = self._found, []
        own = [output for of_module, output in found if of_module]
        # a container returns the very output of its last module
        chosen = {id(output): output for output in own or [output for _, output in found]}
        return next(iter(chosen.values())) if len(chosen) == 1 else None

    def remove(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()
