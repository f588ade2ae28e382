"""Runs a network over batches of any form: features by layer, labels, mask and accuracy."""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ncfast._optional import Show
from ncfast._validate import LABEL_DTYPES, with_float64
from ncfast._warnings import user_level
from ncfast.evaluation.classifier import Readers
from ncfast.evaluation.looks import Batch, Run, Visit
from ncfast.evaluation.samplers import OwnRows
from ncfast.features.batches import LABEL_KEYS, MASK, as_labels, inputs_and_labels, inputs_of
from ncfast.features.capture import FeatureCapture
from ncfast.features.model import evaluation_mode, outputs_of
from ncfast.ops._raw import as_int64

Unpack = Callable[[Any], Sequence[Any]]
IDS = "input_ids"


@dataclass(eq=False)
class Forward:
    """A network whose features are captured, and how its batches are read.

    Attributes:
        network: run in eval mode.
        capture: the hooks on its layers.
        readers: find the classifier that reads a layer.
        num_classes: K.
        device: where inputs go.
        ignore_index: see `evaluate`, as for ``shift`` and ``unpack``.
        show: wraps a loader for a progress bar.
        scores: correct and counted predictions of the last pass over labels, (2,) float64.
        warned: the texts of the warnings so far; none is given twice.
        checked: whether the first batch was checked for labels that are its input ids.
    """

    network: nn.Module
    capture: FeatureCapture
    readers: Readers
    num_classes: int
    device: torch.device
    ignore_index: int | None
    shift: int
    unpack: Unpack | None
    show: Show
    scores: Tensor = field(default_factory=lambda: torch.zeros(2, dtype=torch.float64))
    warned: set[str] = field(default_factory=set)
    checked: bool = False

    def over(self, loader: Iterable[Any]) -> Run:
        """The pass over batches with labels; it can be run several times."""
        return functools.partial(self._run, loader, self._inside)

    def outside(self, loader: Iterable[Any]) -> Run:
        """The pass over batches from outside the distribution, whose labels are not read."""
        return functools.partial(self._run, loader, self._outside)

    def _run(
        self, loader: Iterable[Any], read: Callable[[Any, OwnRows], Batch], visit: Visit
    ) -> None:
        if read == self._inside:
            self.scores = torch.zeros_like(self.scores)
        with evaluation_mode(self.network), _generators_restored(loader):
            own = OwnRows(loader)
            for batch in self.show(loader):
                visit(read(batch, own))

    def _inside(self, batch: Any, own: OwnRows) -> Batch:
        inputs, labels, mask = self._unpacked(batch)
        labels = as_labels(labels, self.device)
        _check_indices(labels)
        mask = None if mask is None else torch.as_tensor(mask, device=self.device).bool()
        self._warn_of_unshifted(inputs, labels)
        outputs = outputs_of(self.network, inputs, self.device)
        if self.shift:
            labels, mask = next_tokens(labels, mask, self.shift)
        taken = self._taken()
        self.readers.compare(taken)
        feats = {name: self._fitting(name, found, labels) for name, found in taken.items()}
        logits = self._fitting_logits(outputs, labels)
        rows = own.of(len(labels))
        labels, mask = labels[:rows], None if mask is None else mask[:rows]
        if logits is not None:
            self._score(logits[:rows], labels, mask)
        return Batch({name: found[:rows] for name, found in feats.items()}, labels, mask)

    def _outside(self, batch: Any, own: OwnRows) -> Batch:
        inputs, mask = self._outside_inputs(batch)
        outputs_of(self.network, inputs, self.device)
        feats = self._taken()
        rows = own.of(max(map(len, feats.values())))
        mask = None if mask is None else torch.as_tensor(mask).bool()[:rows]
        real = {name: real_tokens(f[:rows], mask, self.shift) for name, f in feats.items()}
        return Batch(real, None)

    def _outside_inputs(self, batch: Any) -> tuple[Any, Any]:
        """Inputs and the mask of tokens, of a batch with or without labels."""
        if self.unpack is not None:
            inputs, _, mask = self._unpacked(batch)
            return inputs, mask
        return inputs_of(batch), batch.get(MASK) if isinstance(batch, Mapping) else None

    def _unpacked(self, batch: Any) -> tuple[Any, Any, Any]:
        """Inputs, labels and the mask of token labels."""
        if self.unpack is not None:
            found = tuple(self.unpack(batch))
            if len(found) not in (2, 3):
                raise TypeError(
                    "Expected `unpack` to return (inputs, labels) or (inputs, labels, mask) but "
                    f"got {len(found)} entries."
                )
            return found[0], found[1], found[2] if len(found) == 3 else None
        inputs, labels = self._inputs_and_labels(batch)
        mask = batch.get(MASK) if isinstance(batch, Mapping) else None
        of_labels = mask is not None and np.shape(mask) == np.shape(labels)
        return inputs, labels, mask if of_labels else None

    def _inputs_and_labels(self, batch: Any) -> tuple[Any, Any]:
        """Inputs and labels; the labels of a language model default to its input ids."""
        if self.shift and isinstance(batch, Mapping) and not {*LABEL_KEYS} & {*batch}:
            return batch, batch[IDS]
        if self.shift and isinstance(batch, Tensor):
            return batch, batch
        if self.shift and isinstance(batch, (tuple, list)) and len(batch) == 1:
            return batch[0], batch[0]
        return inputs_and_labels(batch)

    def _taken(self) -> dict[str, Tensor]:
        for name, calls in self.capture.repeated().items():
            self._warn(
                f"Layer {name!r} ran {calls} times for one batch: its last call is measured."
            )
        found, wrong = self.capture.take()
        for name, error in wrong.items():
            raise ValueError(f"Layer {name!r} cannot be measured: {error}") from error
        if self.capture.unknown_padding:
            self._warn(
                "Without an attention_mask pool='last' and 'gap' count padding as tokens. Pass "
                "batches that are dicts with an attention_mask."
            )
        return found

    def _fitting(self, name: str, feats: Tensor, labels: Tensor) -> Tensor:
        """Features whose leading axes are those of the labels."""
        if self.shift and feats.ndim == 3:
            feats = feats[:, : -self.shift]
        if labels.shape == (*feats.shape[:-1], 1):
            raise ValueError(
                f"Expected labels of shape {tuple(feats.shape[:-1])} but got "
                f"{tuple(labels.shape)}. Pass unpack=lambda batch: (batch[0], "
                "batch[1].squeeze(-1))."
            )
        if feats.shape[:-1] != labels.shape:
            raise ValueError(
                f"Expected features of layer {name!r} of shape (N, D) for labels (N,), or "
                f"(B, T, D) for (B, T), but got {tuple(feats.shape)} for labels "
                f"{tuple(labels.shape)}. Pass pool=, such as 'gap', 'last', 'cls' or 'flatten'; or "
                "unpack=, where the labels have another form."
            )
        return feats

    def _fitting_logits(self, outputs: Any, labels: Tensor) -> Tensor | None:
        """Logits (N, K) or (B, T, K) of the labels; None where the network returns none."""
        logits = _logits(outputs)
        if logits is not None and self.shift and logits.ndim == 3:
            logits = logits[:, : -self.shift]
        fits = logits is not None and logits.shape == (*labels.shape, self.num_classes)
        return logits if fits else None

    def _score(self, logits: Tensor, labels: Tensor, mask: Tensor | None) -> None:
        labels = as_int64(labels).to(logits.device)  # a network may lie on several devices
        everything = torch.ones_like(labels, dtype=torch.bool)
        counted = everything if mask is None else mask.to(logits.device)
        if self.ignore_index is not None:
            counted = counted & (labels != self.ignore_index)
        correct = counted & (logits.argmax(-1) == labels)
        found = torch.stack([correct.sum(), counted.sum()])
        found = found.to(with_float64(found.device)).to(torch.float64)
        self.scores = self.scores.to(found.device) + found

    def _warn_of_unshifted(self, inputs: Any, labels: Tensor) -> None:
        """Warn where the labels of the first batch are its input ids."""
        if self.shift or self.checked:
            return
        self.checked = True
        if not _are_ids(inputs):
            return
        ids = inputs[IDS] if isinstance(inputs, Mapping) else inputs
        if ids.shape != labels.shape:
            return
        ids, labels = as_int64(ids), as_int64(labels)
        left_out = torch.zeros_like(labels, dtype=torch.bool)
        if self.ignore_index is not None:
            left_out = labels == self.ignore_index
        if bool(((ids.to(labels.device) == labels) | left_out).all() & ~left_out.all()):
            self._warn(
                "The labels are the input ids: each token is measured against itself. Pass shift=1 "
                "for a model that predicts the next token."
            )

    def _warn(self, message: str) -> None:
        if message not in self.warned:
            self.warned.add(message)
            warnings.warn(message, UserWarning, stacklevel=user_level())


def _check_indices(labels: Tensor) -> None:
    if labels.dtype not in LABEL_DTYPES:
        raise TypeError(
            f"Expected the labels of a batch to be integers but got {labels.dtype} of shape "
            f"{tuple(labels.shape)}. Yield class indices, or pass unpack=: for one-hot rows "
            "lambda batch: (batch[0], batch[1].argmax(1))."
        )


def _are_ids(inputs: Any) -> bool:
    """Whether the input of a network is a batch of token ids (B, T)."""
    ids = inputs.get(IDS) if isinstance(inputs, Mapping) else inputs
    return isinstance(ids, Tensor) and ids.ndim == 2 and not ids.is_floating_point()


def _logits(outputs: Any) -> Tensor | None:
    """The output of a network that may be logits (..., K); None if there is none."""
    if isinstance(outputs, Mapping):
        outputs = outputs.get("logits")
    if isinstance(outputs, (tuple, list)) and outputs:
        outputs = outputs[0]
    return outputs if isinstance(outputs, Tensor) and outputs.ndim > 1 else None


@contextlib.contextmanager
def _generators_restored(loader: Any) -> Iterator[None]:
    """Restore the generators of a DataLoader and its sampler at the end of the block."""
    owners = (loader, getattr(loader, "sampler", None))
    found = [getattr(owner, "generator", None) for owner in owners]
    states = [(g, g.get_state()) for g in found if isinstance(g, torch.Generator)]
    try:
        yield
    finally:
        for generator, state in states:
            generator.set_state(state)


def next_tokens(labels: Tensor, mask: Tensor | None, shift: int) -> tuple[Tensor, Tensor | None]:
    """Labels and mask of the features [:, :-shift], each paired with the label ``shift`` later.

    A pair counts where the mask holds for both of its tokens.

    Raises:
        ValueError: the labels are not (B, T) with T > shift.
    """
    if labels.ndim != 2 or labels.shape[1] <= shift:
        raise ValueError(
            f"Expected labels of shape (B, T) with T > {shift} for shift={shift} but got "
            f"{tuple(labels.shape)}. Pass shift=0 for one label per sequence."
        )
    if mask is not None:
        mask = mask[:, :-shift] & mask[:, shift:]
    return labels[:, shift:], mask


def real_tokens(feats: Tensor, mask: Tensor | None, shift: int) -> Tensor:
    """The features (M, D) of the tokens that count, from (B, T, D); (N, D) is returned unchanged.

    Args:
        feats: features.
        mask: (B, T) bool; a mask of another shape is ignored.
        shift: see `next_tokens`.
    """
    if feats.ndim < 3:
        return feats
    fits = mask is not None and mask.shape == feats.shape[:2]
    kept = mask if fits and mask is not None else feats.new_ones(feats.shape[:2]).bool()
    if shift:
        feats, kept = feats[:, :-shift], kept[:, :-shift] & kept[:, shift:]
    return feats[kept.to(feats.device)].flatten(0, -2)
