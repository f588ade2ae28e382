"""The C++ backend against a float64 two-pass: shapes, dtypes, strides, labels."""

from __future__ import annotations

import pytest
import torch
from cluster_data import FEATURE_DTYPES, assert_matches, features

import ncfast
from ncfast.ops import _raw
from ncfast.ops import moments as passes

pytestmark = [
    pytest.mark.skipif(_raw.extension is None, reason=f"no extension: {_raw.import_error}"),
    pytest.mark.usefixtures("poison"),
]


@pytest.mark.parametrize("dim", [1, 3, 17, 64, 200, 513, 1000])
@pytest.mark.parametrize("dtype", FEATURE_DTYPES)
def test_odd_widths(instruction_set: str, dtype: torch.dtype, dim: int) -> None:
    feats, labels = features(500, dim, 7)
    feats = feats.to(dtype)
    assert_matches(passes.cpu(feats, labels, 7), feats, labels, 7)


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 7, 8, 9, 71, 72, 73, 75])
def test_one_class_of_every_remainder(instruction_set: str, rows: int) -> None:
    feats, labels = features(rows, 33, 1)
    feats = feats.float()
    assert_matches(passes.cpu(feats, labels, 1), feats, labels, 1)


@pytest.mark.parametrize(
    ("rows", "dim", "classes"),
    [
        (1500, 16384, 3),  # few units, wide rows: classes shared by many units
        (40000, 64, 10),
        (40000, 64, 1000),
        (3000, 40, 50000),  # more classes than rows
        (6000, 500, 9000),  # a state in huge pages
        (70000, 3, 2),
        (300000, 1, 300),  # more rows than one part of the sort
        (20, 8, 64),  # more classes than columns and rows
    ],
)
def test_shapes(rows: int, dim: int, classes: int) -> None:
    feats, labels = features(rows, dim, classes)
    feats = feats.float()
    assert_matches(passes.cpu(feats, labels, classes), feats, labels, classes)


@pytest.mark.parametrize(
    ("rows", "dim", "classes", "dtype"),
    [
        (150_000, 64, 270, torch.float64),  # lanes of two blocks each
        (90_000, 33, 3, torch.float32),
        (900, 4096, 9, torch.float32),
    ],
)
def test_lanes(rows: int, dim: int, classes: int, dtype: torch.dtype) -> None:
    feats, labels = features(rows, dim, classes)
    feats = feats.to(dtype)
    labels[labels == 1] = 0  # an absent class
    labels[rows // 2] = classes - 1
    assert_matches(passes.cpu(feats, labels, classes), feats, labels, classes)


@pytest.mark.parametrize(
    "dtype", [torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.uint16]
)
def test_label_dtypes(dtype: torch.dtype) -> None:
    feats, labels = features(300, 20, 100)
    assert_matches(passes.cpu(feats, labels.to(dtype), 100), feats, labels, 100)


def test_strides() -> None:
    wide, labels = features(400, 90, 5)
    wide = wide.float()
    cases = {
        "every other row": (wide[::2], labels[::2]),
        "some columns": (wide[:, 7:58], labels),
        "one row again and again": (wide[:1].expand(400, 90), labels),
        "offset": (wide[3:, 1:], labels[3:]),
        "columns apart": (wide[:, ::3], labels),
        "transposed": (wide.T.contiguous().T, labels),
    }
    for name, (feats, label) in cases.items():
        got = passes.cpu(feats, label, 5)
        expected = passes.cpu(feats.contiguous(), label.contiguous(), 5)
        for a, b in zip(got, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6, msg=f"{name}: {a} and {b}")


def test_absent_classes_are_zero() -> None:
    feats, labels = features(100, 9, 3)
    got = passes.cpu(feats, labels * 4 + 1, 12)
    absent = got.counts == 0
    assert absent.sum() == 9
    assert (got.means[absent] == 0).all()
    assert (got.within_ss[absent] == 0).all()


def test_imbalance() -> None:
    feats, _ = features(50000, 24, 4)
    labels = torch.zeros(50000, dtype=torch.int64)
    labels[[5, 40000]] = 1
    labels[-1] = 3
    feats = feats.float()
    assert_matches(passes.cpu(feats, labels, 4), feats, labels, 4)


@pytest.mark.parametrize("bad", [-1, 4, 2**40])
def test_label_out_of_range_makes_every_float_nan(bad: int) -> None:
    feats, labels = features(50, 6, 4)
    labels[17] = bad
    got = passes.cpu(feats, labels, 4)
    for name in ("means", "within_ss", "norm_sum", "norm_max"):
        assert getattr(got, name).isnan().all(), name
    assert torch.equal(got.counts, passes.reference(feats, labels, 4).counts)


def test_public_call_agrees_with_the_reference() -> None:
    feats, labels = features(1000, 30, 8)
    fast = ncfast.rnc1(feats, labels, num_classes=8)
    slow = ncfast.rnc1(feats, labels, num_classes=8, backend="reference")
    torch.testing.assert_close(fast, slow, rtol=1e-12, atol=0)
