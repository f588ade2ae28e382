"""`evaluate_files`: the collapse metrics of features in files that may be larger than memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ncfast._optional import Show, shown
from ncfast._validate import FEATURE_DTYPES, check_num_classes
from ncfast.evaluation.collect import accumulators_of, collected
from ncfast.evaluation.files import (
    BIAS,
    WEIGHT,
    Paths,
    Rows,
    check_range,
    open_features,
    open_labels,
    open_rows,
)
from ncfast.evaluation.group import Group
from ncfast.evaluation.looks import Batch, Kept, Visit, first_look, second_look
from ncfast.evaluation.result import Evaluation
from ncfast.evaluation.stored import FileError
from ncfast.features.classifier import Classifier
from ncfast.ops._raw import as_int64
from ncfast.ops.decisions import Rule
from ncfast.ops.decisions import decisions as decide

_BLOCK = 32 << 20  # bytes of features that are read at a time


def evaluate_files(
    feats: Paths,
    labels: Paths,
    *,
    weight: Paths | None = None,
    bias: Paths | None = None,
    ood: Paths | None = None,
    num_classes: int | None = None,
    metrics: str | Sequence[str] = "all",
    ignore_index: int | None = -100,
    nonfinite: Literal["error", "skip"] = "error",
    device: torch.device | str | None = None,
    group: Any = None,
    memory_limit: int | str | None = "2GiB",
    progress: bool | Show | None = None,
) -> Evaluation:
    """The collapse metrics of features in .npy, .npz, .pt, .safetensors or .parquet files.

    The files are read in blocks of 32 MiB, twice where a metric needs that. A path may be a file, a
    folder, a glob or a list of these, whose rows follow each other; "FILE:NAME" is one array of a
    file that holds several.

    Args:
        feats: features (N, D), or (N, T, D) of tokens, in floats of 16 to 64 bits.
        labels: integer class indices (N,) or (N, T); may be the same file.
        weight: rows (K, D) of the classifier, for NC3, NC4, the bounds and the accuracy.
        bias: its bias (K,); without it the bias is zero.
        ood: features (M, D) from outside the distribution, for NC5.
        num_classes: K; None takes the rows of ``weight``, or the largest label plus one.
        metrics: as for `ncfast.evaluate`.
        ignore_index: rows with this label are left out; None leaves out none.
        nonfinite: "error" raises, once all are counted, where rows hold NaN or infinities; "skip"
            leaves them out and counts them.
        device: where the metrics are computed; None is the CPU.
        group: "auto" or a process group splits the rows over its ranks; None does not.
        memory_limit: for the D x D scatter matrix; see `ncfast.evaluate`.
        progress: True shows a bar of tqdm; or a function that wraps an iterable, as tqdm does.

    Raises:
        FileError: a file cannot be used; the message is one line that begins with its name.
        FileNotFoundError: a file is not there.
        ValueError: see `ncfast.evaluate`.
        ModuleNotFoundError: the package that reads a format is not installed.

    Example:
        >>> import tempfile, numpy as np
        >>> from ncfast.evaluation import evaluate_files
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.savez(f"{folder}/x.npz", feats=np.eye(6, 4), labels=np.arange(6) % 2)
        ...     found = evaluate_files(f"{folder}/x.npz", f"{folder}/x.npz")
        >>> found.samples, found.num_classes
        (6, 2)
    """
    if nonfinite not in ("error", "skip"):
        raise ValueError(
            f"Expected argument `nonfinite` to be 'error' or 'skip' but got {nonfinite!r}."
        )
    processes = Group(group)
    if num_classes is not None:
        num_classes = check_num_classes(num_classes)
    place = torch.device("cpu" if device is None else device)
    data = open_features(feats)
    targets = open_labels(labels, data)
    head = _classifier(weight, bias, data, place)
    if num_classes is None and head is not None:
        num_classes = len(head[0])
    accumulators, missing = accumulators_of(
        {"": head},
        check_range(targets, num_classes, ignore_index),
        metrics,
        ignore_index=ignore_index,
        memory_limit=memory_limit,
        device=place,
    )
    options: dict[str, Any] = {"group": processes, "device": place, "show": shown(progress)}
    options["skip"] = nonfinite == "skip"
    inside = Reading(feats=data, labels=targets, head=head, ignore_index=ignore_index, **options)
    readings = [inside]
    if ood is not None:
        beyond = _as_wide(open_features(ood), data)
        readings.append(Reading(feats=beyond, labels=None, **options))
    passes = [Kept(reading.run) for reading in readings]
    first_look(accumulators, passes)
    second_look(accumulators, passes, processes)
    skipped = inside.skipped, sum(reading.skipped for reading in readings[1:])
    counts = torch.tensor([*inside.scores, *skipped], dtype=torch.float64)
    correct, counted, *bad = processes.summed(counts)
    return collected(
        accumulators,
        scores=(correct, counted),
        missing=missing,
        nonfinite=(int(bad[0]), int(bad[1])),
    )


@dataclass(eq=False, kw_only=True)
class Reading:
    """The rows of one rank, read in blocks.

    Attributes:
        feats: the features of all ranks.
        labels: their labels; None outside the distribution.
        group: the ranks, each of which reads a share of the rows.
        device: where the blocks go.
        show: wraps an iterable for a progress bar.
        skip: whether rows that are not finite are left out; otherwise they are an error.
        head: the classifier, for the accuracy.
        ignore_index: the label of rows that are left out.
        scores: correct and counted predictions of the last pass.
        skipped: the rows of the last pass that are not finite and would have counted.
    """

    feats: Rows
    labels: Rows | None
    group: Group
    device: torch.device
    show: Show
    skip: bool
    head: Classifier | None = None
    ignore_index: int | None = None
    scores: tuple[int, int] = (0, 0)
    skipped: int = 0

    def run(self, visit: Visit) -> None:
        """Visit every block.

        Raises:
            FileError: rows hold NaN or infinities; a file ends early.
        """
        start, stop = (len(self.feats) * (self.group.rank + i) // self.group.size for i in (0, 1))
        row = math.prod(self.feats.shape[1:]) * self.feats.dtype.itemsize
        size = max(_BLOCK // row, 1)
        feats = self.feats.blocks(start, stop, size)
        labels = None if self.labels is None else self.labels.blocks(start, stop, size)
        self.scores, self.skipped = (0, 0), 0
        for _ in self.show(range(start, stop, size)):
            block = next(feats).to(self.device).flatten(0, -2)
            visit(self._batch(block, None if labels is None else next(labels)))
        if self.skipped and not self.skip:
            raise FileError(
                f"{self.feats.name}: {self.skipped} of rows {start} to {stop - 1} hold NaN or "
                "infinities. Leave them out with nonfinite='skip' (--nonfinite skip), or find out "
                "where the model diverged."
            )

    def _batch(self, feats: Tensor, labels: Tensor | None) -> Batch:
        finite = feats.isfinite().all(1)
        if labels is None:
            self.skipped += int((~finite).sum())
            return Batch({"": feats[finite]}, None)
        labels = as_int64(labels).to(self.device).flatten()
        counted = labels == labels if self.ignore_index is None else labels != self.ignore_index
        self.skipped += int((counted & ~finite).sum())
        self._score(feats, labels, counted & finite)
        return Batch({"": feats}, labels, finite)

    def _score(self, feats: Tensor, labels: Tensor, counted: Tensor) -> None:
        if self.head is None:
            return
        weight, bias = self.head
        offset = weight.new_zeros(len(weight)) if bias is None else bias
        chosen = decide("auto", feats, [Rule(weight.new_zeros(weight.shape[1]), weight, offset)])[0]
        correct = int((counted & (chosen == labels)).sum())
        self.scores = (self.scores[0] + correct, self.scores[1] + int(counted.sum()))


def _classifier(
    weight: Paths | None, bias: Paths | None, feats: Rows, device: torch.device
) -> Classifier | None:
    """Weight (K, D) and bias (K,) in float64."""
    if weight is None:
        if bias is not None:
            raise ValueError("Expected argument `weight` beside `bias` but got None.")
        return None
    rows = open_rows(weight, WEIGHT)
    if len(rows.shape) != 2 or rows.shape[1] != feats.shape[-1]:
        turned = " It looks transposed." if rows.shape[:1] == feats.shape[-1:] else ""
        raise FileError(
            f"{rows.name}: expected a classifier of shape (K, D) with D = {feats.shape[-1]} but "
            f"got {rows.shape}.{turned}"
        )
    offsets = None if bias is None else open_rows(bias, BIAS)
    if offsets is not None and offsets.shape != rows.shape[:1]:
        raise FileError(
            f"{offsets.name}: expected a bias of shape {rows.shape[:1]} but got {offsets.shape}."
        )
    return Classifier(
        _parameter(rows, device), None if offsets is None else _parameter(offsets, device)
    )


def _parameter(rows: Rows, device: torch.device) -> Tensor:
    if rows.dtype not in FEATURE_DTYPES:
        raise FileError(
            f"{rows.name}: expected a classifier in float16, bfloat16, float32 or float64 but got "
            f"{rows.dtype}."
        )
    return rows.whole().to(device, torch.float64)


def _as_wide(ood: Rows, feats: Rows) -> Rows:
    if ood.shape[-1] != feats.shape[-1]:
        raise FileError(
            f"{ood.name}: expected features with D = {feats.shape[-1]} columns, as in "
            f"{feats.name}, but got {ood.shape}."
        )
    return ood
