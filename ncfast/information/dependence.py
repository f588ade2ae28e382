"""The steps that mutual and conditional mutual information share, from blocks to an estimate."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from ncfast.information import caveats, signals
from ncfast.information.duplicates import PairDuplicates, multiplicity, resolve_blocks
from ncfast.information.errors import jackknife_stderr
from ncfast.information.estimate import Estimate
from ncfast.information.estimators import Method
from ncfast.information.preprocess import Preprocess, common_unit, transform
from ncfast.information.samples import check_k
from ncfast.information.signals import At
from ncfast.information.ties import Found, Sample, by_point, copied, counted_sample, mostly_counted

AnyMethod = Literal["auto"] | Method
Search = Callable[[list[Tensor], int], tuple[Tensor, str]]  # (blocks, k) -> terms, engine
Compare = Callable[[Sequence[Tensor], At | None, int, str], dict[str, float]]


def prepare(
    given: Mapping[str, Tensor],
    k: int,
    method: AnyMethod,
    preprocess: Preprocess,
    duplicates: PairDuplicates,
    generator: torch.Generator | None,
) -> tuple[Sample, int, list[str]]:
    """The sample that the terms are computed from, the checked k, and doubts about the columns.

    Args:
        given: (N, d) blocks x, y and perhaps z, by the name of their argument.
        k: number of neighbours.
        method: "auto" counts or separates equal values; other methods take the blocks as they are.
        preprocess: transformation of the columns.
        duplicates: policy for rows that are equal in all blocks.
        generator: source of noise; None takes a private one with a fixed seed.
    """
    count = len(next(iter(given.values())))
    k = check_k(k, count)
    name_doubts = caveats.constants if method in ("auto", "mixed") else caveats.atoms
    doubts = [text for name, rows in given.items() for text in name_doubts(name, rows)]
    raw, repeats = resolve_blocks(list(given.values()), duplicates, generator)
    doubts += caveats.duplicates(repeats, count)
    k = check_k(k, len(raw[0]))
    blocks = [transform(rows, preprocess) for rows in raw]
    if preprocess is None:
        blocks = common_unit(blocks)
    if method == "auto":
        return counted_sample(raw, blocks, preprocess, generator), k, doubts
    return Sample(tuple(blocks), preprocess), k, doubts


def terms_at(
    sample: Sample,
    rows: Tensor | None,
    k: int,
    method: AnyMethod,
    search: Search,
    copies: int | None = None,
) -> Found:
    """Terms of the estimate on some rows, whose columns are transformed again.

    Args:
        sample: the prepared sample.
        rows: row numbers; None means all rows.
        k: number of neighbours.
        method: "auto" counts rows that occur more than `copies` times.
        search: computes the terms of the other rows.
        copies: k if None.
    """

    def near() -> tuple[Tensor, str]:
        return search(sample.at(rows), k)

    if method == "auto":
        return by_point(sample.cells, rows, copies or k, near)
    return Found(*near(), method)


def measure(
    sample: Sample,
    k: int,
    method: AnyMethod,
    search: Search,
    compare: Compare | None,
    *,
    stderr: bool,
    backend: str,
    doubts: Sequence[str] = (),
    found: Found | None = None,
) -> Estimate:
    """The estimate of a prepared sample. It raises no warnings.

    Args:
        sample: the prepared sample.
        k: number of neighbours.
        method: the estimator.
        search: computes the terms of blocks.
        compare: computes the numbers that the estimate is compared with; None skips this.
        stderr: whether to compute the standard error.
        backend: engine of the neighbour search in `compare`.
        doubts: earlier doubts, which come first.
        found: the terms of all rows, if they are known already.
    """
    count = len(sample.blocks[0])
    # Counted rows do not depend on k, so at 4 k too few copies would look like a trend.
    copies = k if mostly_counted(sample.cells, k) else None

    def at(rows: Tensor, neighbours: int = k) -> float:
        return float(terms_at(sample, rows, neighbours, method, search, copies).terms.mean())

    if found is None:
        found = terms_at(sample, None, k, method, search)
    value = float(found.terms.mean())
    error = jackknife_stderr(at, count, k) if stderr else math.nan
    details = {"gaussian": math.nan}
    if compare is not None:
        details = compare(sample.blocks, at if stderr else None, k, backend)
    texts = [*doubts, *tie_doubts(sample, found.method, value, k)]
    texts += signals.doubts(value, error, count, k, details)
    texts += caveats.not_finite(value)
    texts += caveats.no_stderr(error, count, k) if stderr else []
    dims = tuple(block.shape[1] for block in sample.blocks)
    return Estimate(
        value, error, count, k, found.method, dims, found.backend, tuple(texts), details
    )


def tie_doubts(sample: Sample, method: str, value: float, k: int) -> list[str]:
    """Warnings about equal rows, and about values near the largest possible one."""
    count = len(sample.blocks[0])
    if method in ("ksg", "ksg2") and sample.cells is None:
        equal = multiplicity(torch.cat(sample.blocks, 1))
        texts = caveats.coincident(int((equal > k).sum()), count, k)
        return texts or caveats.ceiling(value, count, k)
    doubts = [] if method == "counts" else caveats.ceiling(value, count, k)
    if doubts or sample.cells is None:
        return doubts
    return caveats.copies(copied(sample.cells, k), count)
