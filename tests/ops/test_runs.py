"""Sums of rows by class, and what the references launch and hold on a device."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ncfast import ClassMoments
from ncfast.ops import blocks, moments
from ncfast.ops.decisions import STACKED_DECISIONS
from ncfast.ops.margins import add_projected_squares
from ncfast.ops.moments import in_order, sorted_by_class
from ncfast.ops.projection import PROJECTION
from ncfast.ops.runs import Pieces, sort_by_class, sum_runs, sums_by_class
from ncfast.ops.scatter import SCATTER
from ncfast.ops.update import UPDATE

# classes of every size: absent, alone, more than a piece, nearly everything
LABELS = {
    "one class": lambda n: torch.zeros(n),
    "even": lambda n: torch.arange(n) % 7,
    "absent": lambda n: torch.arange(n) % 3 * 5 + 2,
    "alone": lambda n: torch.arange(n),
    "skewed": lambda n: torch.where(torch.arange(n) % 50 == 0, torch.arange(n) % 11, 11),
}


def labelled(kind: str, count: int) -> tuple[Tensor, int]:
    """Labels out of order, and a number of classes above the largest."""
    labels = LABELS[kind](count).long()
    order = torch.randperm(count, generator=torch.Generator().manual_seed(count))
    return labels[order], int(labels.max()) + 3


def expected_sums(values: Tensor, labels: Tensor, classes: int) -> Tensor:
    return torch.stack([values[labels == c].sum(0) for c in range(classes)])


@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("count", [1, 63, 64, 65, 700, 9000])
def test_sums_by_class(kind: str, count: int) -> None:
    if kind == "alone" and count > 700:
        pytest.skip("the expected sums take too long")
    labels, classes = labelled(kind, count)
    values = torch.randn(count, 3).double()
    found = sums_by_class(values, labels, classes)
    torch.testing.assert_close(found, expected_sums(values, labels, classes))
    assert torch.equal(found, sums_by_class(values, labels, classes))


@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("rows", [1, 64, 100, 128, 1000])
def test_sums_of_blocks(kind: str, rows: int) -> None:
    """Blocks of whole pieces; the last is shorter."""
    labels, classes = labelled(kind, 500)
    values, seen = torch.randn(500, 4).double(), []

    def values_of(order: Tensor, label: Tensor) -> Tensor:
        assert torch.equal(labels[order], label)
        seen.append(order)
        return values[order]

    found = Pieces(sort_by_class(labels, classes), rows, 4).sums(values_of)
    torch.testing.assert_close(found, expected_sums(values, labels, classes))
    assert all(len(order) <= max(64, rows) for order in seen)
    assert torch.cat(seen).sort()[0].equal(torch.arange(500))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_bad_value_stays_in_its_class(bad: float) -> None:
    labels, classes = labelled("even", 700)
    values = torch.randn(700, 3).double()
    values[350, 1] = bad
    found = sums_by_class(values, labels, classes).isfinite()
    assert found[:, [0, 2]].all()
    assert found[:, 1].tolist() == [c != labels[350] for c in range(classes)]


def test_the_sum_of_a_run_does_not_depend_on_the_others() -> None:
    values = torch.randn(3000, 2).double()
    alone = sum_runs(values[1000:], None, torch.tensor([0]))
    assert torch.allclose(sum_runs(values, None, torch.tensor([0, 1000]))[1], alone[0])


class Seen(TorchDispatchMode):
    """What is launched, and the largest float64 tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.launches, self.largest = 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        name = func.name().split("::")[1].split(".")[0]
        assert name not in ("index_put", "index_put_", "_index_put_impl_", "_local_scalar_dense")
        made = func(*args, **(kwargs or {}))
        parts = made if isinstance(made, tuple | list) else [made]
        tensors = [part for part in parts if isinstance(part, Tensor)]
        if not func.is_view and not name.startswith(("empty", "new_empty")):
            self.launches += 1
        doubles = [part.numel() for part in tensors if part.dtype == torch.float64]
        self.largest = max([self.largest, *doubles])
        return made


def calls(feats: Tensor, labels: Tensor, classes: int):
    """Every reference that reads features block by block."""
    means = torch.randn(classes, feats.shape[1]).double()
    rules = means[:1], means[None], torch.zeros(1, classes).double()
    state = ClassMoments.empty(classes, feats.shape[1])
    total = torch.zeros(classes, classes).double()
    return {
        "moments": lambda: sorted_by_class(feats, labels, classes),
        "update": lambda: UPDATE.reference(feats, labels, state),
        "projection": lambda: PROJECTION.reference(feats, labels, means, means),
        "scatter": lambda: SCATTER.reference(feats, labels, means),
        "decisions": lambda: STACKED_DECISIONS.reference(feats, *rules),
        "margins": lambda: add_projected_squares(
            total, means, means, feats, labels, range(classes)
        ),
    }


@pytest.mark.parametrize("name", calls(torch.zeros(1, 1), torch.zeros(1).long(), 1))
def test_a_block_takes_15_launches_and_is_all_that_is_held_in_float64(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The blocks of a device, scaled down by 2^10: 128 rows of 128 columns."""
    for size in ("_FIRST_CPU", "_BLOCK_CPU"):
        device = getattr(blocks, size.replace("CPU", "GPU"))
        assert device == 1 << 24
        monkeypatch.setattr(blocks, size, device >> 10)
    monkeypatch.setattr(moments, "reference", sorted_by_class)
    launches = []
    for number in (10, 20):
        feats, labels = torch.randn(128 * number, 128), torch.arange(128 * number) % 10
        with Seen() as seen:
            calls(feats, labels, 10)[name]()
        launches.append(seen.launches)
        # a sum for each piece of 64 rows grows with N, at a 32nd of the bytes of float32 features
        assert seen.largest <= max(128 * 128, (2 * number + 40) * 128, 128 * number)
    assert launches[1] - launches[0] <= 15 * 10, name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("kind", LABELS)
def test_both_references_give_the_same_moments(kind: str, dtype: torch.dtype) -> None:
    labels, classes = labelled(kind, 3000)
    labels[7] = classes - 1
    feats = (torch.randn(3000, 100) * 1e-4 + labels.unsqueeze(1)).to(dtype)
    for one, two in zip(
        in_order(feats, labels, classes), sorted_by_class(feats, labels, classes), strict=True
    ):
        torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-20)
    labels[9] = -1
    for run in (in_order, sorted_by_class):
        assert all(part.isnan().all() for part in run(feats, labels, classes)[1:])
