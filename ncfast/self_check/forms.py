"""The kernels of every operation that the self-check runs, beside their reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ncfast.ops import moments as class_moments
from ncfast.ops._comparison import Comparison, Gap, worst
from ncfast.ops._registry import Operation
from ncfast.ops.decisions import STACKED_DECISIONS
from ncfast.ops.gradient import GRADIENT
from ncfast.ops.moments import ONE_LAUNCH, SORTED_ROWS, RawMoments
from ncfast.ops.projection import PROJECTION
from ncfast.ops.scatter import SCATTER
from ncfast.ops.update import UPDATE, WITH_SCATTER
from ncfast.self_check.samples import Sample, placed

Arguments = tuple[tuple[Any, ...], dict[str, Any]]  # positional and named
Shapes = tuple[tuple[int, int, int], ...]
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


class Wrong(Exception):
    """Kernels gave a wrong result; the message says which and for what."""


@dataclass(frozen=True)
class Form:
    """One path of an operation.

    Attributes:
        operation: see `ncfast.ops._verdicts.verdict`.
        path: see there.
        kernels: run the path, whatever they raise.
        reference: computes the same in torch.
        comparison: of the two.
        arguments: makes the arguments after the features from a sample, on the CPU, positional and
            named.
        shapes: (N, D, K) at which the accuracy is checked.
        invalid: which results a label out of range makes NaN.
        dtypes: of the features that the kernels take.
        far: whether features of more than 2^31 entries are tried.
    """

    operation: str
    path: str
    kernels: Callable[..., Any]
    reference: Callable[..., Any]
    comparison: Comparison
    arguments: Callable[[Sample], Arguments]
    shapes: Shapes
    invalid: tuple[int, ...]
    dtypes: tuple[torch.dtype, ...] = DTYPES
    far: bool = False

    def on(
        self, sample: Sample, device: torch.device, labels: Tensor | None = None
    ) -> tuple[list[Any], dict[str, Any]]:
        """All arguments on ``device``, with other labels if some are given."""
        given, named = self.arguments(sample)
        if labels is not None:
            given = (labels, *given[1:])
        moved = [_on(each, device) for each in given]
        return [placed(sample, device), *moved], {k: _on(v, device) for k, v in named.items()}

    def call(self, sample: Sample, device: torch.device) -> Callable[[], tuple[Tensor, ...]]:
        """A call of the kernels on ``device``; its arguments are made once."""
        given, named = self.on(sample, device)
        return lambda: self.comparison.run(self.kernels, *given, **named)

    def found(
        self, sample: Sample, device: torch.device, labels: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """The results of the kernels on ``device``, with other labels if some are given."""
        given, named = self.on(sample, device, labels)
        return self.comparison.run(self.kernels, *given, **named)

    def compare(self, found: tuple[Tensor, ...], sample: Sample) -> None:
        """Compare results with those of the reference, which runs on the CPU.

        Raises:
            Wrong: an error is larger than allowed.
        """
        for gap in self.gaps(found, sample):
            if not (ratio := float(worst(gap))) <= 1:
                raise Wrong(f"{gap.name}: {ratio:.2g} times the allowed error ({sample.name})")

    def gaps(self, found: tuple[Tensor, ...], sample: Sample) -> list[Gap]:
        """Results of the kernels beside those of the reference, which runs on the CPU."""
        given, named = self.arguments(sample)
        expected = self.comparison.run(self.reference, sample.feats, *given, **named)
        here = tuple(result.cpu() for result in found)
        return self.comparison.gaps(here, expected, sample.feats, *given, **named)


def _on(argument: Any, device: torch.device) -> Any:
    if isinstance(argument, Tensor):
        return argument.to(device)
    if isinstance(argument, RawMoments):
        return RawMoments(*(part.to(device) for part in argument))
    return argument


def _labels_and_classes(sample: Sample) -> Arguments:
    return (sample.labels, sample.num_classes), {}


def _means(sample: Sample) -> Tensor:
    return class_moments.reference(sample.feats, sample.labels, sample.num_classes).means


def _labels_and_means(sample: Sample) -> Arguments:
    return (sample.labels, _means(sample)), {}


def _gradients(sample: Sample) -> Arguments:
    """Gradients with respect to each moment."""
    generator = torch.Generator().manual_seed(3)
    raw = class_moments.reference(sample.feats, sample.labels, sample.num_classes)
    shapes = ((sample.num_classes, sample.feats.shape[1]), (sample.num_classes,), (), ())
    each = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    return (sample.labels, raw.counts, raw.means, *each), {}


def _directions(sample: Sample) -> Arguments:
    generator = torch.Generator().manual_seed(5)
    number, dim = min(9, sample.num_classes), sample.feats.shape[1]
    vectors = torch.randn(number, dim, generator=generator, dtype=torch.float64)
    return (sample.labels, _means(sample), vectors), {}


def _rules(sample: Sample) -> Arguments:
    """The nearest mean, and a classifier with pairs of rows whose scores are nearly equal."""
    means = _means(sample)
    centre = means.mean(0)
    rows = means - centre
    offset = -0.5 * rows.square().sum(1)
    near, gaps = rows.clone(), (1e-4, 1e-6, 1e-9)
    for at in range(1, len(rows), 2):
        near[at] = near[at - 1] * (1 + gaps[at // 2 % 3])
    none = torch.zeros_like(offset)
    none[-1] = -torch.inf if len(rows) > 1 else 0.0
    return (
        torch.stack((centre, centre)),
        torch.stack((rows, near)),
        torch.stack((offset, none)),
    ), {}


def _state(sample: Sample) -> RawMoments:
    """The state of no row."""
    classes, dim = sample.num_classes, sample.feats.shape[1]
    counts = torch.zeros(classes, dtype=torch.int64)
    means = torch.zeros((classes, dim), dtype=torch.float64)
    return RawMoments(counts, means, means[:, 0].clone(), means[0, 0].clone(), means[0, 0].clone())


def _batch(sample: Sample) -> Arguments:
    """Two rows in seven are left out."""
    row = torch.arange(len(sample.labels))
    labels = sample.labels.where(row % 7 != 3, -100)
    ignored = torch.zeros((), dtype=torch.int64)
    options = {"mask": row % 7 != 5, "ignore_index": -100, "ignored": ignored}
    return (labels, _state(sample)), options


def _batch_with_scatter(sample: Sample) -> Arguments:
    given, options = _batch(sample)
    dim = sample.feats.shape[1]
    return given, {**options, "scatter": torch.zeros(dim, dim, dtype=torch.float64)}


_ONE_LAUNCH = ((1000, 200, 10), (600, 33, 1), (1, 7, 1))
_SORTED_ROWS = ((6000, 200, 3), (9000, 64, 10), (600, 4100, 7), (3000, 24, 1500), (1, 7, 1))
_GRADIENT = ((1000, 200, 10), (300, 3000, 7), (600, 33, 1))
_UPDATE = ((512, 200, 10), (3000, 64, 300), (300, 2100, 7), (1, 7, 1))
# few rows, because the errors of many average out
_PRODUCTS = ((40, 200, 3), (1000, 200, 10), (300, 1500, 7), (300, 24, 3))
_DECISIONS = ((1000, 200, 10), (300, 3000, 70), (300, 24, 3))


def forms() -> list[Form]:
    """Every path of every operation that has kernels for CUDA devices."""
    return [
        _of_moments(ONE_LAUNCH, class_moments.compute, _ONE_LAUNCH),
        replace(_of_moments(SORTED_ROWS, class_moments.by_sorted_rows, _SORTED_ROWS), far=True),
        _of(GRADIENT, "", _gradients, _GRADIENT, ()),
        _of(UPDATE, "", _batch, _UPDATE, (3, 4)),
        # the reference computes a scatter matrix of float64
        replace(
            _of(UPDATE, WITH_SCATTER, _batch_with_scatter, _PRODUCTS, (3, 4)), dtypes=DTYPES[:-1]
        ),
        _of(PROJECTION, "", _directions, _PRODUCTS, (0,)),
        _of(SCATTER, "", _labels_and_means, _PRODUCTS, (0,)),
        _of(STACKED_DECISIONS, "", _rules, _DECISIONS, ()),
    ]


def _of_moments(path: str, kernels: Callable[..., Any], shapes: Shapes) -> Form:
    compare, reference = class_moments.COMPARISON, class_moments.reference
    arguments, invalid = _labels_and_classes, (1, 2, 3, 4)
    return Form(class_moments.NAME, path, kernels, reference, compare, arguments, shapes, invalid)


def _of(
    operation: Operation[Any, Any],
    path: str,
    arguments: Callable[[Sample], Arguments],
    shapes: Shapes,
    invalid: tuple[int, ...],
) -> Form:
    kernels, compare = operation.triton, operation.comparison
    assert kernels is not None, operation.name
    assert compare is not None, operation.name
    dtypes = DTYPES if operation.float64 else DTYPES[:-1]
    return Form(
        operation.name,
        path,
        kernels,
        operation.reference,
        compare,
        arguments,
        shapes,
        invalid,
        dtypes,
    )
