"""Principal axes of few class means, and sums over them, in C++ against LAPACK."""

import math

import pytest
import torch

import ncfast
from ncfast.metrics.inputs import MetricInputs
from ncfast.ops import _raw
from ncfast.ops.few_classes import few_classes
from ncfast.ops.spectra import nonzero_singular, principal_axes

pytestmark = pytest.mark.skipif(_raw.extension is None, reason=ncfast.backends()["cpu"].reason)
NOTHING = frozenset[str]()


def means_of(number, dim, kind):
    """Class means: generic, of nine orders of magnitude, or with equal rows."""
    draw = torch.Generator().manual_seed(number * dim)
    means = torch.randn(number, dim, generator=draw, dtype=torch.float64)
    if kind == "graded":
        means *= torch.logspace(0, -9, number, dtype=torch.float64).unsqueeze(1)
    if kind == "equal rows":
        means[number // 2 :] = means[0].clone()
    return means


@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize("kind", ["generic", "graded", "equal rows"])
@pytest.mark.parametrize(
    ("number", "dim"), [(1, 1), (2, 3), (3, 200), (10, 10), (17, 33), (32, 64)]
)
def test_axes_are_those_of_lapack(instruction_set, number, dim, kind):
    means = means_of(number, dim, kind)
    moments = ncfast.class_moments(means, torch.arange(number), num_classes=number)
    few = few_classes(moments, NOTHING, "auto")
    assert few is not None
    values, directions = few.axes()
    centred = MetricInputs(moments, backend="reference").centred
    expected = principal_axes(centred).values
    expected = nonzero_singular(expected, max(number, dim), moments.norm_mean)
    scale = float(expected[0]) or 1.0
    torch.testing.assert_close(values / scale, expected / scale, rtol=0, atol=1e-14 * number)
    identity = torch.eye(number, dtype=torch.float64)
    torch.testing.assert_close(directions @ directions.T, identity, rtol=0, atol=1e-14 * number)
    along = centred @ directions.T
    gram = along.T @ along / scale**2
    torch.testing.assert_close(
        gram, torch.diag((values / scale).square()), rtol=0, atol=1e-14 * number
    )


def test_axes_of_many_states_and_of_means_that_are_not_finite():
    states = [means_of(4, 9, "generic") * scale for scale in (1.0, 1e-140, 1e140)]
    states.append(torch.full((4, 9), torch.nan, dtype=torch.float64))
    made = [ncfast.class_moments(m, torch.arange(4), num_classes=4) for m in states]
    parts = zip(*(vars(m).values() for m in made), strict=True)
    stacked = ncfast.ClassMoments(*(torch.stack(part) for part in parts))
    few = few_classes(stacked, NOTHING, "auto")
    assert few is not None
    values, directions = few.axes()
    for i, moments in enumerate(made):
        one = few_classes(moments, NOTHING, "auto")
        assert one is not None
        assert one.axes().values.equal(values[i]) or i == 3
        assert one.axes().directions.equal(directions[i]) or i == 3
    assert values[3].isnan().all()
    assert directions[3].isnan().all()


@pytest.mark.parametrize(("number", "computed"), [(32, True), (33, False), (100, False)])
def test_many_classes_leave_planned_spectra_to_lapack(number, computed):
    means = means_of(number, 128, "generic")
    moments = ncfast.class_moments(means, torch.arange(number), num_classes=number)
    few = few_classes(moments, frozenset({"products", "spectrum", "centred_spectrum"}), "auto")
    assert few is not None
    numbers = [*few.group("condition"), *few.group("rank")]
    assert [math.isnan(float(value)) for value in numbers] == 4 * [not computed]
    ids = ["nc2.condition", "nc2.condition_centred", "rank.effective_means", "rank.stable_means"]
    given = {"metrics": ids, "num_classes": number}
    labels = torch.arange(number)
    found, expected = (
        ncfast.collapse_metrics(means, labels, **given, backend=backend)
        for backend in ("auto", "reference")
    )
    for id_, value in expected.items():
        torch.testing.assert_close(found[id_], value, rtol=1e-10, atol=0)


@pytest.mark.parametrize("spread", [1.0, 1e-3, 0.0])
@pytest.mark.parametrize("number", [1, 2, 10])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_sums_over_axes_equal_the_reference(number, spread, dtype):
    draw = torch.Generator().manual_seed(number)
    labels = torch.randint(number, (90,), generator=draw)
    feats = means_of(number, 60, "generic")[labels]
    feats = (feats + spread * torch.randn(90, 60, generator=draw, dtype=torch.float64)).to(dtype)
    given = {"metrics": ["nc1.pinv", "nc1.svd"], "num_classes": number + 1}
    found = ncfast.collapse_metrics(feats, labels, **given, backend="cpu")
    expected = ncfast.collapse_metrics(feats, labels, **given, backend="reference")
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-6, atol=1e-12, equal_nan=True)


def test_the_truncated_sum_is_infinite_where_means_coincide():
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(40) % 4
    noise = torch.randn(20, 30, generator=draw, dtype=torch.float64).repeat_interleave(2, 0)
    noise[1::2] *= -1  # two rows of a class cancel: its mean is exact
    labels = labels.sort().values
    centres = means_of(4, 30, "equal rows").round()
    feats = centres[labels] + noise
    found = ncfast.collapse_metrics(feats, labels, metrics=["nc1.pinv", "nc1.svd"], num_classes=4)
    assert found["nc1.pinv"].isfinite()
    assert found["nc1.svd"].isinf()
