"""The second look: sums over rows that pass by again, once the moments of all rows are known.

Some metrics compare every row with the final class means (NC4), with the classifier around these
means (the projected bound), or with the principal axes (NECO). A stream has no features left by
then. It passes the rows again, in any batches and any order, and keeps sums.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ncfast import _validate
from ncfast._kept import kept_property
from ncfast._saved import check_not_negative
from ncfast._surroundings import updatable
from ncfast.metrics.decision import correct_by_class
from ncfast.metrics.inputs import MetricInputs, RowSums
from ncfast.metrics.needs import LOOKS
from ncfast.metrics.ood import neco_scores
from ncfast.moments import ClassMoments
from ncfast.ops.blocks import add_by_class
from ncfast.ops.kept_rows import checked_keys, nan_if
from ncfast.ops.margins import add_projected_squares, add_squares_of_few
from ncfast.ops.update import UPDATE

NO_SCORE = -1.0  # in place of a score, which lies in 0..1
_CLASSIFIER = frozenset({"classifier", "bias"})
_ENTRIES = frozenset({"wanted", "packed", "scores", "outside_scores", "shared"})  # of a saved state
_SAME_CLASSES = 1e-3  # the same by class, whose errors cancel less
_SAME = 1e-5  # relative difference that rounding in a model makes between two sums of norms


class Sums(NamedTuple):
    """The sums of a second look, float64. Entry K of a class axis counts the rows left out."""

    counts: Tensor  # (K + 1,) rows
    agreements: Tensor  # (K + 1,), see `decision.Correct`
    hits: Tensor  # (K + 1,)
    squares: Tensor  # (K + 1, K), see `add_projected_squares`; (0, K) unless "spread" is wanted
    column_sums: Tensor  # (K + 1,) sum of the first half of the columns, over rows and columns
    norm_sum: Tensor  # (1,) sum of the norms of the rows
    outside: Tensor  # (1,) rows from outside the distribution
    outside_norm_sum: Tensor  # (1,)


class SecondLook:
    """Sums over the rows of a second pass, around the moments of the first.

    A row that is left out counts as one of class K, behind the classes: no batch is gathered, and
    nothing waits for an accelerator.

    Args:
        inputs: the final moments; the classifier, if any; in ``sums`` the scatter, for "scores".
        wanted: which of `needs.LOOKS` to sum up.

    Attributes:
        packed: one float64 vector of all `Sums`, which ranks add up.
        scores: NECO scores of the rows, in batches; outside_scores: of those from outside.
        shared: whether these are the sums of all ranks.
    """

    @updatable
    def __init__(self, inputs: MetricInputs, wanted: frozenset[str]) -> None:
        self.inputs, self.wanted = inputs, wanted
        self.packed = inputs.moments.means.new_zeros(sum(self._sizes))
        self.scores: list[Tensor] = []
        self.outside_scores: list[Tensor] = []
        self.shared = False

    @property
    def _sizes(self) -> list[int]:
        number = self.inputs.moments.num_classes
        table = (number + 1) * number if "spread" in self.wanted else 0
        return [number + 1, number + 1, number + 1, table, number + 1, 1, 1, 1]

    @property
    def _half(self) -> int:
        """Columns of `Sums.column_sums`: those of normalised features sum to zero all together."""
        return (self.inputs.moments.dim + 1) // 2

    @property
    def sums(self) -> Sums:
        """Views of `packed`."""
        sums = Sums(*self.packed.split(self._sizes))
        return sums._replace(squares=sums.squares.view(-1, self.inputs.moments.num_classes))

    def add(
        self, feats: Tensor, labels: Tensor, mask: Tensor | None, ignore_index: int | None
    ) -> None:
        """Add rows (N, D) with labels (N,), see `ncfast.Accumulator.revisit`.

        Raises:
            ValueError: on the CPU, a label out of range that is not left out.
        """
        number = self.inputs.moments.num_classes
        labels, _, invalid = checked_keys(labels, number, mask, ignore_index)
        left_out = labels == number
        if not _validate.is_on_host(labels) or bool(left_out.any()):
            feats = torch.where(left_out.unsqueeze(1), 0, feats)
        sums = self.sums
        sums.norm_sum.add_(self._norm_sum(feats) + nan_if(invalid))
        ones = sums.counts.new_ones(len(labels))
        sums.counts.scatter_add_(0, labels, ones)
        columns = feats[:, : self._half].sum(1, dtype=torch.float64)
        add_by_class(sums.column_sums, labels, columns)
        if "decisions" in self.wanted:
            correct = correct_by_class(self.inputs, feats, labels, number + 1)
            sums.agreements.add_(correct.agreements)
            sums.hits.add_(correct.hits)
        if "spread" in self.wanted:
            self._add_squares(sums.squares, feats, labels)
        if "scores" in self.wanted:
            scores = neco_scores(self.inputs, feats)
            self.scores.append(torch.where(left_out, NO_SCORE, scores))

    def _add_squares(self, squares: Tensor, feats: Tensor, labels: Tensor) -> None:
        means, rows = self.inputs.moments.means, self.inputs.classifier_centred
        native = self.inputs.backend in ("auto", "cpu")
        if native and add_squares_of_few(squares, means, rows, feats, labels):
            return
        means, rows = self._with_the_left_out
        add_projected_squares(squares, means, rows, feats, labels, range(len(means) - 1))

    @kept_property
    def _with_the_left_out(self) -> tuple[Tensor, Tensor]:
        """Means and classifier rows with a row of zeros for the class of the rows left out."""
        nothing = self.inputs.moments.means.new_zeros((1, self.inputs.moments.dim))
        whole = (self.inputs.moments.means, self.inputs.classifier_centred)
        means, rows = (torch.cat([part, nothing]) for part in whole)
        return means, rows

    def add_outside(self, feats: Tensor) -> None:
        """Add rows (M, D) from outside the distribution."""
        sums = self.sums
        sums.outside.add_(len(feats))
        sums.outside_norm_sum.add_(self._norm_sum(feats))
        if "scores" in self.wanted:
            self.outside_scores.append(neco_scores(self.inputs, feats))

    def _norm_sum(self, feats: Tensor) -> Tensor:
        """Sum of the norms of the rows, as the first pass has it, ()."""
        one = ClassMoments.empty(1, feats.shape[1], feats.device)
        labels = torch.zeros(len(feats), dtype=torch.int64, device=feats.device)
        UPDATE.select(self.inputs.backend, feats)(feats, labels, one)
        return one.norm_sum

    @property
    def lengths(self) -> tuple[int, int]:
        """Numbers of `scores` and `outside_scores`."""
        return sum(map(len, self.scores)), sum(map(len, self.outside_scores))

    def check(self, outside: ClassMoments | None) -> None:
        """Compare counts and sums of norms with those of the first pass; reads them.

        Args:
            outside: the moments of the rows from outside the distribution; None looks at none.

        Raises:
            ValueError: they differ; the message says how far.
        """
        first, sums = self.inputs.moments, self.sums
        _compare("revisit", "update", first, sums.counts[:-1], sums.norm_sum)
        self._check_classes()
        if outside is not None:
            _compare("revisit_ood", "update_ood", outside, sums.outside, sums.outside_norm_sum)

    def _check_classes(self) -> None:
        """Raise ValueError for rows in other classes: counts and norms do not tell them."""
        first = self.inputs.moments
        expected = first.counts * first.means[:, : self._half].sum(1)
        gap = float((self.sums.column_sums[:-1] - expected).abs().sum())
        gap /= max(math.sqrt(self._half) * float(first.norm_sum), torch.finfo(torch.float64).tiny)
        if gap > _SAME_CLASSES:
            raise ValueError(
                "Expected revisit to pass the rows of update again but got other features for the "
                f"same labels: column sums by class are {gap:.2g} away. Read features and labels "
                "from one loader, without random augmentation or dropout."
            )

    def row_sums(self) -> RowSums:
        """The sums as metrics read them, beside those that ``inputs`` holds already."""
        sums = self.sums
        kept = self.inputs.sums if self.inputs.sums is not None else RowSums()
        if "decisions" in self.wanted:
            kept = kept._replace(agreements=sums.agreements[:-1], hits=sums.hits[:-1])
        if "spread" in self.wanted:
            kept = kept._replace(squares=sums.squares[:-1])
        if self.scores and self.outside_scores:
            # waits for a device, as the metrics of scores do
            rows, outside = map(torch.cat, (self.scores, self.outside_scores))
            scores = rows[rows != NO_SCORE], outside[outside != NO_SCORE]
            kept = kept._replace(scores=scores)
        return kept

    def serves(self, wanted: frozenset[str], inputs: MetricInputs) -> bool:
        """Whether it has the sums wanted, and a classifier and bias where ``inputs`` have them."""
        return wanted <= self.wanted and inputs.given & _CLASSIFIER <= self.inputs.given

    def state_dict(self) -> dict[str, Tensor]:
        """The sums, the scores and the classifier, as a flat dict."""
        none = self.packed.new_zeros(0)
        state = {
            "wanted": torch.tensor([name in self.wanted for name in sorted(LOOKS)]),
            "packed": self.packed.clone(),
            "scores": torch.cat([none, *self.scores]),
            "outside_scores": torch.cat([none, *self.outside_scores]),
            "shared": torch.tensor(self.shared),
            "weight": self.inputs.weight,
            "bias": self.inputs.bias,
        }
        return {name: tensor for name, tensor in state.items() if tensor is not None}

    @classmethod
    @updatable
    def of(cls, inputs: MetricInputs, state: Mapping[str, Tensor]) -> SecondLook:
        """The second look of a `state_dict`, around the moments of ``inputs``, on their device.

        Raises:
            ValueError: an entry is missing or no tensor, the sums are those of other metrics or
                classes, or a number of rows is negative.
        """
        there = {name for name, part in state.items() if isinstance(part, Tensor)}
        if missing := _ENTRIES - there:
            raise ValueError(
                f"Expected the second look in argument `state` to have {sorted(missing)} but got "
                f"{sorted(there)}. Save the whole state_dict."
            )
        if state["wanted"].shape != (len(LOOKS),):
            raise ValueError(
                f"Expected entry 'look.wanted' of `state` to have shape {(len(LOOKS),)} but got "
                f"{tuple(state['wanted'].shape)}. Save the whole state_dict."
            )
        wanted = zip(sorted(LOOKS), state["wanted"].tolist(), strict=True)
        moved = {name: state[name].to(inputs.moments.means, copy=True) for name in state}
        inputs = replace(inputs, weight=moved.get("weight"), bias=moved.get("bias"), _results={})
        look = cls(inputs, frozenset(name for name, is_wanted in wanted if is_wanted))
        if moved["packed"].shape != look.packed.shape:
            raise ValueError(
                f"Expected the sums of the second look in argument `state` to have shape "
                f"{tuple(look.packed.shape)} but got {tuple(moved['packed'].shape)}."
            )
        look.packed, look.shared = moved["packed"], bool(state["shared"])
        for name in ("counts", "agreements", "hits", "outside"):
            check_not_negative(f"look.packed ({name})", getattr(look.sums, name))
        look.scores, look.outside_scores = (
            [moved[name]] if len(moved[name]) else [] for name in ("scores", "outside_scores")
        )
        return look

    def __getstate__(self) -> dict[str, Any]:
        kept = ("wanted", "packed", "scores", "outside_scores", "shared")
        # without what was derived: the extension's handles have no copy
        inputs = replace(self.inputs, _results={})
        return {"inputs": inputs} | {name: getattr(self, name) for name in kept}


def _compare(again: str, before: str, first: ClassMoments, counts: Tensor, norms: Tensor) -> None:
    whole = f"Expected {again} to pass the rows of {before} again but got "
    remedy = (
        "Pass the same rows twice: no random augmentation, no dropout, and no shuffling together "
        "with drop_last."
    )
    differ = int((counts != first.counts).sum())
    if differ:
        raise ValueError(
            f"{whole}{int(counts.sum())} rows instead of {int(first.total)}; the counts of "
            f"{differ} classes differ. {remedy}"
        )
    sums = float(first.norm_sum), float(norms)
    gap = abs(sums[1] - sums[0]) / max(abs(sums[0]), torch.finfo(torch.float64).tiny)
    if not (gap <= _SAME or sums[0] == sums[1] or math.isnan(sums[0])):
        raise ValueError(
            f"{whole}rows whose norms sum to {sums[1]:.6g} instead of {sums[0]:.6g}, "
            f"{gap:.2g} away. {remedy}"
        )
