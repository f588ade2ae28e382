"""Decisions by the largest affine score: the nearest class mean and the classifier.

On a CPU with many classes the scores are computed in float32 first. A row whose two largest scores
differ by more than the rounding error of float32 is decided; the others are computed again in
float64. An accelerator takes float64 at once: asking which rows are undecided would wait for it.
With few classes the extension compares both decisions in one call, in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ncfast._surroundings import ieee_float32
from ncfast._validate import is_on_host
from ncfast.kernels.configuration import decide_config
from ncfast.ops import _comparison, _raw
from ncfast.ops._registry import Operation, operator
from ncfast.ops.blocks import rows_of
from ncfast.ops.summary import Moments

_CLASSES = 4096  # columns of a block of scores
_FEW = 512  # so few classes that float64 costs little


class Rule(NamedTuple):
    """argmax_c <x - centre, rows_c> + offset_c; ties go to the smaller index.

    centre (D,), rows (K, D) and offset (K,) are float64; the offset is minus infinity for classes
    that cannot be chosen.
    """

    centre: Tensor
    rows: Tensor
    offset: Tensor


def reference(feats: Tensor, rules: Sequence[Rule]) -> list[Tensor]:
    """The class of each row of ``feats`` (N, D) by each rule: (N,) int64 for each rule."""
    deciders = [_Decider(rule) for rule in rules]
    chosen: list[list[Tensor]] = [[] for _ in rules]
    width = min(_CLASSES, max((len(rule.rows) for rule in rules), default=1))
    for x in rows_of(feats, width):
        for decide, found in zip(deciders, chosen, strict=True):
            found.append(decide(x))
    return [torch.cat(found) for found in chosen]


class _Decider:
    def __init__(self, rule: Rule) -> None:
        self.centre, self.rows, self.offset = rule
        self.fast = is_on_host(self.rows) and len(self.rows) > _FEW
        if self.fast:
            self.rows32, self.offset32 = self.rows.float(), self.offset.float()
            self.largest = torch.linalg.vector_norm(self.rows, dim=1).amax()
            finite = torch.where(self.offset.isinf(), 0.0, self.offset)
            self.shift = finite.abs().amax()

    def __call__(self, x: Tensor) -> Tensor:
        x = x - self.centre
        if not self.fast:
            return _largest(x, self.rows, self.offset)[0]
        with ieee_float32(x.device):
            found = _largest(x.float(), self.rows32, self.offset32, runner_up=True)
        chosen, best, second = found
        # a sum of D products is off by at most D + 1 roundings of the product of the norms,
        # and the inputs were rounded before
        size = torch.linalg.vector_norm(x, dim=1) * self.largest
        error = torch.finfo(torch.float32).eps * ((x.shape[1] + 8) * size + 2 * self.shift)
        open_rows = ((best - second) > 2 * error).logical_not().nonzero().squeeze(1)
        if len(open_rows):
            again = _largest(x.index_select(0, open_rows), self.rows, self.offset)[0]
            chosen.index_copy_(0, open_rows, again)
        return chosen


def _largest(
    x: Tensor, rows: Tensor, offset: Tensor, *, runner_up: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Index of the largest score, that score and, if asked, the second, over blocks of classes."""
    best = x.new_full((x.shape[0],), -torch.inf)
    second = best
    index = torch.zeros(x.shape[0], dtype=torch.int64, device=x.device)
    for start in range(0, rows.shape[0], _CLASSES):
        width = min(_CLASSES, rows.shape[0] - start)
        scores = torch.addmm(offset.narrow(0, start, width), x, rows.narrow(0, start, width).T)
        value, where = scores.max(1)
        if runner_up:
            rest = scores.scatter_(1, where.unsqueeze(1), -torch.inf).amax(1)
            second = torch.maximum(torch.maximum(second, rest), torch.minimum(best, value))
        index = torch.where(value > best, where + start, index)
        best = torch.maximum(best, value)
    return index, best, second


def stacked_reference(feats: Tensor, centres: Tensor, weights: Tensor, offsets: Tensor) -> Tensor:
    """`reference` for R rules with the same number of classes: (R, N) int64.

    Args:
        feats: (N, D).
        centres: (R, D), float64.
        weights: (R, K, D), float64.
        offsets: (R, K), float64, minus infinity for classes that cannot be chosen.
    """
    rules = [Rule(*parts) for parts in zip(centres, weights, offsets, strict=True)]
    return torch.stack(reference(feats, rules))


def _triton(feats: Tensor, centres: Tensor, weights: Tensor, offsets: Tensor) -> Tensor:
    """Call kernels that read the features once; no N x K matrix.

    A row is decided in float32 if the two largest scores differ by more than the rounding error,
    else in float64; the device finds these rows. Ties go to the smaller index, and a row that holds
    NaN to index 0. Features in float64 are scored in float64.
    """
    from ncfast.kernels.decisions import decisions

    return decisions(feats, centres, weights, offsets, decide_config(weights.shape[1]))


def _eagerly(feats: Tensor, centres: Tensor, weights: Tensor, offsets: Tensor) -> Tensor:
    return STACKED_DECISIONS.eagerly(feats, centres, weights, offsets)


def _fake(feats: Tensor, centres: Tensor, weights: Tensor, offsets: Tensor) -> Tensor:
    del centres, offsets
    return feats.new_empty((weights.shape[0], feats.shape[0]), dtype=torch.int64)


STACKED_DECISIONS = Operation(
    "decisions",
    stacked_reference,
    triton=_triton,
    operator=operator(
        "triton_decisions(Tensor feats, Tensor centres, Tensor weights, Tensor offsets) -> Tensor",
        _fake,
        cpu=stacked_reference,
        cuda=_eagerly,
    ),
    float64=True,
    comparison=_comparison.DECISIONS,
)


def decisions(backend: str, feats: Tensor, rules: Sequence[Rule]) -> list[Tensor]:
    """The class of each row of ``feats`` (N, D) by each rule: (N,) int64 for each rule.

    Rules with the same number of classes share a launch of a kernel.
    """
    run = STACKED_DECISIONS.select(backend, feats)
    if run is stacked_reference:
        return reference(feats, rules)
    return stacked(run, feats, rules)


def stacked(run: Callable[..., Tensor], feats: Tensor, rules: Sequence[Rule]) -> list[Tensor]:
    """The classes that ``run``, which takes stacked rules, chooses by each rule."""
    if len({rule.rows.shape for rule in rules}) > 1:
        return [found for rule in rules for found in stacked(run, feats, [rule])]
    return list(run(feats, *(torch.stack(parts) for parts in zip(*rules, strict=True))))


def compared(
    feats: Tensor,
    labels: Tensor,
    moments: Moments,
    weight: Tensor | None,
    bias: Tensor | None,
    size: int,
) -> tuple[Tensor, Tensor]:
    """Decisions of the nearest present class mean, compared by the extension.

    Everything is in float64; ties go to the smaller class.

    Args:
        feats: (N, D), of which `comparable` says yes.
        labels: (N,) integers; rows with a label outside 0..K-1 count nowhere.
        moments: of K classes, float64.
        weight: (K, D) float64; None counts no agreements.
        bias: (K,) float64; zero when None.
        size: at least K.

    Returns:
        (2, size) float64: the rows of each class on which the classifier decides like the nearest
        mean, and those on which the nearest mean is that of the class itself; and (2,), both as
        shares of all rows in the moments.
    """
    labels, code = _raw.with_code(labels)
    out, shares = moments.means.new_zeros((2, size)), _raw.FLOAT64.new_empty(2)
    agreements = out.data_ptr()
    _raw.loaded().compare_decisions(
        *_raw.matrix(feats),
        labels.data_ptr(),
        code,
        labels.stride(0),
        moments.counts.shape[0],
        (means := moments.means.contiguous()).data_ptr(),
        (counts := moments.counts.contiguous()).data_ptr(),
        (within := moments.within_ss.contiguous()).data_ptr(),
        moments.norm_sum.data_ptr(),
        0 if weight is None else (weight := weight.contiguous()).data_ptr(),
        0 if bias is None else (bias := bias.contiguous()).data_ptr(),
        agreements,
        agreements + 8 * size,
        shares.data_ptr(),
        torch.get_num_threads(),
    )
    del means, counts, within  # held until here: the extension reads their memory
    return out, shares


def comparable(backend: str, feats: Tensor, labels: Tensor, moments: Moments) -> bool:
    """Whether `compared` can read these, and has few enough classes to search them all at once."""
    if backend not in ("auto", "cpu") or len(moments.counts) > _FEW:
        return False
    return _raw.readable(feats) and _raw.plain(labels, moments.means, moments.counts)


def own_distances(feats: Tensor, labels: Tensor, means: Tensor) -> Tensor:
    """Distance of every row from the mean of its class, (N,), by the extension.

    Args:
        feats: (N, D), of which `_raw.readable` says yes.
        labels: (N,) classes in 0..K-1.
        means: (K, D) float64.
    """
    means = means.contiguous()
    distances = means.new_empty(len(feats))
    _raw.loaded().own_distances(
        *_raw.matrix(feats),
        (labels := _raw.classes_copy(labels, len(means))).data_ptr(),
        means.data_ptr(),
        distances.data_ptr(),
        torch.get_num_threads(),
    )
    return distances
