"""Tests class moments by the kernels against the float64 oracle."""

import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from oracle import two_pass
from samples import classes, collapsed, nearly_constant, one_outlier

from ncfast.kernels.configuration import segments_config
from ncfast.ops import _fallback
from ncfast.ops import moments as passes
from ncfast.ops.grouping import build
from ncfast.ops.projection import PROJECTION

# of the first row of a class and of the others
MAGNITUDES = [(0, 1e-25), (0, 1e18), (1e-25, 1), (1e-19, 1), (1e-19, 1e18)]
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
EXECUTED = "NCFAST_PTX" in os.environ  # compiled code, see conftest.py
BESIDE_OUTLIER = 3e-7  # the promise is 1e-6


def planned(feats, labels, num_classes):
    return passes.planned(feats, build(labels, num_classes))


def longest(feats, labels, num_classes):
    """The main path as large inputs take it: segments of 256 rows."""
    config = segments_config(10_000_000, *feats.shape[1:], num_classes, feats.dtype.itemsize, 132)
    assert config.segment_rows == 256
    return passes._planned(feats, build(labels, num_classes), config)


@pytest.fixture(params=["planned", "tiny"])
def moments(request):
    """Both paths, which all sizes here allow."""
    return planned if request.param == "planned" else passes.compute


PATHS = pytest.mark.parametrize("run", [planned, passes.compute, longest])


def check(moments, feats, labels, num_classes, rtol=None):
    """Compare kernels with the oracle by class, and check the promised bound on the total."""
    double = feats.dtype == torch.float64
    rtol = rtol or (1e-12 if double else 2e-6)
    found = moments(feats, labels, num_classes)
    expected = two_pass(feats, labels, num_classes)
    assert found.counts.tolist() == expected["counts"].tolist()
    for name in ("within_ss", "norm_sum", "norm_max"):
        value = getattr(found, name)
        assert value.dtype == torch.float64
        np.testing.assert_allclose(value.numpy(), expected[name], rtol=rtol, err_msg=name)
    total = expected["within_ss"].sum()
    assert abs(found.within_ss.sum().item() - total) <= (1e-12 if double else 1e-6) * total
    # The error of a mean may be that of rounding the spread of the class, not the mean itself.
    spread = np.sqrt(expected["within_ss"] / expected["counts"].clip(1))[:, None]
    away = np.abs(found.means.numpy() - expected["means"])
    assert (away <= (1e-14 if double else 1e-6) * spread + 1e-15 * np.abs(expected["means"])).all()
    return found


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shape",
    [(1, 1, 1), (7, 3, 2), (50, 17, 5), (30, 4, 40), (300, 200, 3), (700, 33, 10), (400, 8, 2)],
)
def test_equals_the_oracle(moments, shape, dtype):
    count, dim, num_classes = shape
    generator = torch.Generator().manual_seed(count)
    feats = torch.randn(count, dim, generator=generator).add(3).to(dtype)
    labels = torch.randint(num_classes, (count,), generator=generator)
    check(moments, feats, labels, num_classes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("level", [1e-1, 1e-3, 1e-5, 1e-7])
def test_every_collapse_level(moments, level, dtype):
    check(moments, *collapsed(level, count=400, dim=64, num_classes=3, dtype=dtype), 3)


@pytest.mark.parametrize("level", [1e-2, 1e-5, 1e-7])
def test_an_outlier_in_the_first_row(moments, level):
    feats, labels = collapsed(level, count=500, dim=40, num_classes=2)
    for c in range(2):
        other = int((labels != c).nonzero()[3])
        feats[int((labels == c).nonzero()[0])] = feats[other]
    check(moments, feats, labels, 2)


@PATHS
@pytest.mark.parametrize("row", [0, 7, 399])
@pytest.mark.parametrize("big", [1e6, 1e12])
@pytest.mark.parametrize("dim", [20, 40, 600])
def test_one_outlier_in_a_class(run, dim, big, row):
    """All other rows lie equally far from it: the rounding of equal deviations adds up."""
    if dim == 20 and not EXECUTED:
        pytest.skip("NumPy adds the 32 rows of such a tile one after another, a device in pairs")
    feats, labels = one_outlier(dim, big, row)
    found = check(run, feats, labels, 4)
    expected = two_pass(feats, labels, 4)["within_ss"]
    np.testing.assert_allclose(
        found.within_ss, expected, rtol=BESIDE_OUTLIER if dim == 600 else 1e-6
    )


@pytest.mark.parametrize("run", [planned, longest])
def test_an_outlier_before_many_rows(run):
    """Relative to it the other rows, and the means of their segments, would be rounded."""
    feats, labels = one_outlier(260, 1e6, 0, count=2000, num_classes=1, base=0.03)
    found = check(run, feats, labels, 1)
    expected = two_pass(feats, labels, 1)["within_ss"]
    np.testing.assert_allclose(found.within_ss, expected, rtol=BESIDE_OUTLIER)


@PATHS
@pytest.mark.parametrize("value", [0.123, 0.7])
@pytest.mark.parametrize("share", [0.5, 0.99, 0.999])
def test_columns_that_are_nearly_constant(run, share, value):
    feats, labels = nearly_constant(share, value)
    found = check(run, feats, labels, 4)
    expected = two_pass(feats, labels, 4)["within_ss"]
    np.testing.assert_allclose(found.within_ss, expected, rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-30, 1e-22, 1e22, 1e30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_squares_neither_vanish_nor_overflow(moments, scale, dtype):
    feats, labels = classes(200, 12, 3, dtype=torch.float64)
    check(moments, (feats * scale).to(dtype), labels, 3)


# the interpreter is numpy, which remarks on overflow and on inf - inf
@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize(("first", "others"), MAGNITUDES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_first_row_of_another_magnitude(moments, first, others, dtype):
    """A saturated activation is far below the others of its class, or zero."""
    check(moments, *first_rows(first, others, dtype), 2)


def test_a_segment_far_below_the_first_row_of_its_class():
    check(planned, *first_rows(1e9, 1e-30, torch.float32), 2)


def first_rows(first, others, dtype):
    """Two classes of magnitude ``others``; every entry of the first row of each is ``first``."""
    feats, labels = classes(200, 12, 2, dtype=torch.float64)
    feats *= others
    for c in range(2):
        feats[int((labels == c).nonzero()[0])] = first
    return feats.to(dtype), labels


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", [torch.nn.functional.silu, torch.sigmoid])
def test_a_saturated_first_row(moments, activation, dtype):
    """Activations of -50: 1e-20 and less in float32 and bfloat16, 0 in float16."""
    feats, labels = first_rows(-50.0, 1.0, torch.float64)
    check(moments, activation(feats).to(dtype), labels, 2)


@pytest.mark.parametrize("dtype", DTYPES)
def test_identical_rows_give_exactly_zero(moments, dtype):
    rows = torch.tensor([[0.1, -3.7, 1e-3], [1 / 3, 2e4, 7.0]]).repeat(1, 5).to(dtype)
    labels = torch.arange(301) % 2
    found = moments(rows[labels], labels, 2)
    assert found.within_ss.tolist() == [0.0, 0.0]
    assert torch.equal(found.means, rows.double())


def test_most_classes_absent_or_alone(moments):
    feats, labels = classes(150, 20, 20, dtype=torch.float32)
    labels = labels * 3
    labels[40:] = 7  # one class of several segments between the others
    found = check(moments, feats, labels, 60)
    assert found.means[found.counts == 0].eq(0).all()


@pytest.mark.parametrize("bad", [-1, 3, 256, 2**40])
def test_labels_out_of_range_poison_everything(moments, bad):
    feats, labels = classes(100, 6, 3, dtype=torch.float32)
    labels[17] = bad
    found = moments(feats, labels, 3)
    for name in ("means", "within_ss", "norm_sum", "norm_max"):
        assert getattr(found, name).isnan().all(), name


# The interpreter uses NumPy, which warns of inf - inf.
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("row", [0, 5, 299])
def test_a_bad_feature_stays_in_its_class(moments, value, row):
    feats, labels = classes(300, 10, 2, dtype=torch.float32)
    feats[row, 3] = value
    found = moments(feats, labels, 2)
    hit = labels[row].item()
    assert found.within_ss.isfinite().tolist() == [c != hit for c in range(2)]
    assert not found.norm_sum.isfinite()
    assert not found.norm_max.isfinite()
    assert found.means[1 - hit].isfinite().all()


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x[::3],
        lambda x: x[:, ::2],
        lambda x: x[5:, 3:],
        lambda x: x.T.contiguous().T,
        lambda x: x[:1].expand(50, -1),
    ],
    ids=["rows", "columns", "offset", "transposed", "expanded"],
)
def test_strided_input(moments, view):
    feats = view(classes(200, 24, 3, dtype=torch.float32)[0])
    check(moments, feats, torch.arange(len(feats)) % 3, 3)


def test_offsets_beyond_2_to_31(moments):
    """Rows behind element 2^31, in memory that is only reserved."""
    flat = torch.from_numpy(np.zeros(2**31 + 64, np.float16))
    feats = flat.as_strided((5, 40), (2**29, 1))
    feats[3], feats[4] = 2.0, 4.0
    found = moments(feats, torch.tensor([0, 0, 0, 1, 1]), 2)
    assert found.within_ss.tolist() == [0.0, 80.0]
    assert found.means[1].eq(3.0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_columns_over_several_programs(dtype):
    """Rows wider than a tile: 2048 float32, 1024 of the others."""
    feats, labels = collapsed(1e-2, count=60, dim=2050, num_classes=2, dtype=dtype)
    labels[50:] = torch.arange(2, 12)  # classes alone in their segment
    found = check(planned, feats, labels, 13)
    assert found.within_ss[2:].eq(0).all()
    assert planned(feats, labels + 1, 12).norm_max.isnan()


def test_every_run_gives_the_same_bits(moments):
    feats, labels = classes(400, 24, 3, dtype=torch.float32)
    first, again = moments(feats, labels, 3), moments(feats, labels, 3)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_no_memory_is_shared_between_launches(monkeypatch):
    """Memory kept from a warm-up inside the pool of a CUDA graph would be handed out again."""
    from ncfast.kernels import launch

    scratches = []
    monkeypatch.setattr(launch, "launch", lambda *given, **named: scratches.append(given[2][3]))
    feats, labels = classes(60, 9, 3, dtype=torch.float32)
    for _ in range(2):
        passes.compute(feats, labels, 3)
    first, second = scratches
    assert first.eq(0).all()
    assert second.eq(0).all()
    assert first.data_ptr() != second.data_ptr()


def test_a_plan_gives_the_same_bits():
    feats, labels = classes(200, 24, 3, dtype=torch.float32)
    plan = build(labels, 3)
    for _ in range(2):  # the second call finds its segment table
        again = passes.planned(feats, plan)
    direct = planned(feats, labels, 3)
    assert all(torch.equal(a, b) for a, b in zip(again, direct, strict=True))
    again.counts.zero_()
    assert plan.counts.sum() == 200


def test_inputs_are_left_alone(moments):
    feats, labels = classes(100, 9, 3, dtype=torch.bfloat16)
    before = feats.clone(), labels.clone()
    moments(feats, labels, 3)
    assert torch.equal(feats, before[0])
    assert torch.equal(labels, before[1])


def test_a_failure_falls_back_once_and_says_why(monkeypatch):
    from ncfast.kernels import launch

    def broken(*args):
        raise RuntimeError("no kernel image for this device")

    monkeypatch.setattr(launch, "tiny_moments", broken)
    monkeypatch.setattr(_fallback, "failures", {})
    feats, labels = classes(50, 4, 3)
    with pytest.warns(RuntimeWarning, match="no kernel image for this device"):
        found = passes.triton(feats, labels, 3)
    again = passes.triton(feats, labels, 3)  # warnings are errors: none comes
    expected = passes.reference(feats, labels, 3)
    for values in zip(found, again, expected, strict=True):
        assert torch.equal(values[0], values[2])
        assert torch.equal(values[1], values[2])
    assert "one launch, float64" in str(*_fallback.failures)


def test_a_failure_leaves_the_other_operations_alone(monkeypatch):
    feats, labels = classes(50, 4, 3, dtype=torch.float32)
    failed = {_fallback.variant_of("class moments", feats, "one launch"): "RuntimeError: broken"}
    monkeypatch.setattr(_fallback, "failures", failed)
    means = passes.reference(feats, labels, 3).means
    expected = PROJECTION.reference(feats, labels, means, means)
    kernels = replace(PROJECTION, reference=None)
    assert torch.allclose(kernels.on_device(feats, labels, means, means), expected, rtol=1e-5)
