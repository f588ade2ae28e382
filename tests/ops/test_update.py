"""The update of class moments in place, by the reference and by the extension."""

from __future__ import annotations

import pytest
import torch
from cluster_data import FEATURE_DTYPES, collapsed, features, two_pass
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import BACKENDS, budget
from torch import Tensor
from torch._subclasses import FakeTensorMode

import ncfast
from ncfast import ClassMoments
from ncfast.ops import _raw
from ncfast.ops.update import UPDATE

needs_extension = pytest.mark.skipif(_raw.extension is None, reason=f"{_raw.import_error}")
FIELDS = ("counts", "means", "within_ss", "norm_sum", "norm_max")


def joined(feats: Tensor, labels: Tensor, classes: int, *, rows: int = 1 << 30, **options: Tensor):
    """Moments of all rows, updated by ``rows`` of them at a time; 'backend' is an option."""
    backend = options.pop("backend", "auto")
    moments = ClassMoments.empty(classes, feats.shape[1])
    mask = options.pop("mask", torch.ones(len(feats), dtype=torch.bool))
    batches = zip(feats.split(rows), labels.split(rows), mask.split(rows), strict=True)
    for x, y, keep in batches:
        UPDATE.select(backend, x)(x, y, moments, mask=keep, **options)
    return moments


def check(moments: ClassMoments, feats: Tensor, labels: Tensor, rtol: float) -> None:
    """Compare with two passes in float64."""
    means, within = two_pass(feats, labels, moments.num_classes)
    norms = torch.linalg.vector_norm(feats.double(), dim=1)
    scale = feats.double().abs().max().item()
    expected = torch.bincount(labels.long(), minlength=moments.num_classes)
    assert torch.equal(moments.counts, expected)
    torch.testing.assert_close(moments.means, means, rtol=rtol, atol=rtol * scale)
    torch.testing.assert_close(moments.within_ss, within, rtol=rtol, atol=0)
    torch.testing.assert_close(moments.norm_sum, norms.sum(), rtol=rtol, atol=0)
    torch.testing.assert_close(moments.norm_max, norms.max(), rtol=rtol, atol=0)


def same_bits(one: ClassMoments, other: ClassMoments) -> bool:
    """Whether all fields agree to the last bit; NaN agrees with NaN."""
    pairs = [(getattr(one, name), getattr(other, name)) for name in FIELDS]
    return all(torch.equal(a.nan_to_num(-7.0), b.nan_to_num(-7.0)) for a, b in pairs)


def truth_of_scatter(feats: Tensor, labels: Tensor, classes: int) -> Tensor:
    means, _ = two_pass(feats, labels, classes)
    residual = feats.double() - means[labels.long()]
    return residual.T @ residual


@pytest.mark.parametrize("dim", [1, 3, 7, 16, 17, 64, 200, 513])
@pytest.mark.parametrize("dtype", FEATURE_DTYPES)
@needs_extension
def test_odd_widths(instruction_set: str, dtype: torch.dtype, dim: int) -> None:
    feats, labels = features(300, dim, 7)
    feats = feats.to(dtype)
    check(joined(feats, labels, 7, rows=130), feats, labels, 1e-12)


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 6, 7, 8, 9])
@needs_extension
def test_one_class_of_every_remainder(instruction_set: str, rows: int) -> None:
    feats, labels = features(27, 33, 1)
    check(joined(feats.float(), labels, 1, rows=rows), feats.float(), labels, 1e-12)


@pytest.mark.parametrize(
    ("rows", "dim", "classes"),
    [
        (300, 16384, 3),  # classes that are cut into parts
        (20000, 64, 10),
        (500, 40, 50000),  # more classes than rows and columns
        (9000, 2, 2),
        (20, 8, 64),
    ],
)
@pytest.mark.parametrize("backend", BACKENDS)
def test_shapes(backend: str, rows: int, dim: int, classes: int) -> None:
    feats, labels = features(rows, dim, classes)
    feats = feats.float()
    found = joined(feats, labels, classes, rows=rows // 2 + 1, backend=backend)
    check(found, feats, labels, 1e-11)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "dtype", [torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.uint16]
)
def test_label_dtypes(backend: str, dtype: torch.dtype) -> None:
    feats, labels = features(300, 20, 100)
    check(joined(feats, labels.to(dtype), 100, rows=70, backend=backend), feats, labels, 1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_strides(backend: str) -> None:
    wide, labels = features(400, 90, 5)
    mask = torch.arange(800) % 3 > 0
    cases = {
        "every other row": (wide[::2], labels[::2], mask[:200]),
        "some columns": (wide[:, 7:58], labels, mask[:400]),
        "columns apart": (wide[:, ::3], labels, mask[:400]),
        "mask apart": (wide, labels, mask[::2]),
        "one label": (wide, labels[:1].expand(400), mask[:1].expand(400)),
    }
    for name, (feats, label, keep) in cases.items():
        found = joined(feats, label, 5, mask=keep, backend=backend)
        given = (part.contiguous() for part in (feats, label, keep))
        feats, label, keep = given
        expected = joined(feats, label, 5, mask=keep, backend="reference")
        for field in FIELDS:
            torch.testing.assert_close(
                getattr(found, field), getattr(expected, field), msg=f"{name}: {field}"
            )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("outliers", [False, True])
@pytest.mark.parametrize("std", [1.0, 1e-3, 1e-5, 1e-7])
def test_collapse_and_an_outlier_as_first_row(backend: str, std: float, outliers: bool) -> None:
    feats, labels = collapsed(std, outliers)
    check(joined(feats.float(), labels, 7, rows=400, backend=backend), feats.float(), labels, 1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e20, 1e25])
def test_scales(backend: str, scale: float) -> None:
    feats, labels = features(200, 30, 4)
    feats = (feats * scale).float()
    check(joined(feats, labels, 4, rows=60, backend=backend), feats, labels, 1e-11)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", FEATURE_DTYPES)
def test_identical_rows_are_exactly_zero(backend: str, dtype: torch.dtype) -> None:
    centres, labels = features(5, 70, 5)[0].to(dtype), torch.arange(900) % 5
    scatter = torch.zeros(70, 70, dtype=torch.float64)
    found = joined(centres[labels], labels, 5, rows=77, backend=backend, scatter=scatter)
    assert (found.within_ss == 0).all()
    assert torch.equal(found.means, centres.double())
    assert (scatter == 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_absent_classes_are_not_touched(backend: str) -> None:
    """Expected: rows of other classes keep whatever they hold."""
    moments = ClassMoments.empty(6, 9)
    marks = torch.arange(6 * 9, dtype=torch.float64).reshape(6, 9)
    moments.means.copy_(marks)
    moments.counts.fill_(5)
    moments.within_ss.copy_(marks[:, 0])
    feats, labels = features(50, 9, 2)
    UPDATE.select(backend, feats)(feats, labels * 3, moments)
    others = torch.tensor([1, 2, 4, 5])
    assert torch.equal(moments.means[others], marks[others])
    assert torch.equal(moments.within_ss[others], marks[others, 0])
    assert (moments.counts[others] == 5).all()
    assert (moments.counts[[0, 3]] > 5).all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rows", [3, 64, 1000])
def test_a_mask_is_as_good_as_dropping_the_rows(backend: str, rows: int) -> None:
    """Expected: the same bits, whatever the rows left out hold, and their number."""
    feats, labels = features(1000, 33, 8)
    feats = feats.float()
    mask = torch.rand(1000, generator=torch.Generator().manual_seed(0)) < 0.6
    ignored = torch.zeros((), dtype=torch.int64)
    spoilt, wrong = feats.clone(), labels.clone()
    spoilt[~mask] = torch.nan
    wrong[~mask] = torch.tensor([-100, 8])[torch.arange(int((~mask).sum())) % 2]
    keep = mask | (wrong == -100)
    options = {"mask": keep, "ignore_index": -100, "ignored": ignored}
    found = joined(spoilt, wrong, 8, rows=rows, backend=backend, **options)
    expected = ClassMoments.empty(8, 33)
    for x, y, m in zip(feats.split(rows), labels.split(rows), mask.split(rows), strict=True):
        if m.any():
            UPDATE.select(backend, x)(x[m], y[m], expected)
    assert int(ignored) == int((~mask).sum())
    if backend == "cpu":
        assert same_bits(found, expected)
    for name in FIELDS:
        torch.testing.assert_close(
            getattr(found, name), getattr(expected, name), rtol=1e-13, atol=1e-13
        )


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_that_counts_changes_nothing(backend: str) -> None:
    feats, labels = features(40, 6, 3)
    moments = joined(feats, labels, 3, backend=backend)
    before = {name: value.clone() for name, value in moments.state_dict().items()}
    ignored = torch.zeros((), dtype=torch.int64)
    update = UPDATE.select(backend, feats)
    nan, none = feats * torch.nan, torch.zeros(40, dtype=torch.bool)
    update(nan, labels - 100, moments, mask=none, ignored=ignored)
    update(nan, torch.full((40,), -1), moments, ignore_index=-1, ignored=ignored)
    moments.update_(feats[:0], labels[:0], backend=backend)
    UPDATE.select(backend, feats[:0])(feats[:0], labels[:0], moments, ignored=ignored)
    assert int(ignored) == 80
    assert all(torch.equal(getattr(moments, name), value) for name, value in before.items())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("row", [0, 3, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_nan_spoils_its_class_and_the_norms(backend: str, dtype: torch.dtype, row: int) -> None:
    feats, labels = torch.randn(9, 20).to(dtype), torch.tensor([1, 2, 1, 1, 2, 2, 1, 1, 1])
    feats[row, 5] = torch.nan
    found = joined(feats, labels, 4, rows=4, backend=backend)
    spoilt = int(labels[row])
    assert found.means[spoilt, 5].isnan()
    assert found.means[3 - spoilt].isfinite().all()
    assert found.within_ss.isnan().tolist() == [c == spoilt for c in range(4)]
    assert found.norm_sum.isnan()
    assert found.norm_max.isnan()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("bad", "dtype"), [(-1, torch.int64), (4, torch.uint8), (2**40, torch.int64), (-3, torch.int8)]
)
def test_a_bad_label_is_named_and_changes_nothing(
    backend: str, bad: int, dtype: torch.dtype
) -> None:
    feats, labels = features(50, 6, 4)
    moments = joined(feats, labels, 4, backend=backend)
    before = moments.state_dict()
    ignored, scatter = torch.zeros((), dtype=torch.int64), torch.ones(6, 6, dtype=torch.float64)
    labels = labels.to(dtype)
    labels[17], labels[30] = bad, bad
    mask = torch.ones(50, dtype=torch.bool)
    mask[2] = False
    update = UPDATE.select(backend, feats)
    with pytest.raises(ValueError, match=rf"`labels` to lie in 0..3 but row 17 holds {bad}\."):
        update(feats, labels, moments, mask=mask, ignored=ignored, scatter=scatter)
    assert all(torch.equal(getattr(moments, name), value) for name, value in before.items())
    assert int(ignored) == 0
    assert (scatter == 1).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_unsigned_label_is_no_negative_one(backend: str) -> None:
    """2^64 - 100 has the bits of -100."""
    feats, labels = features(50, 6, 4)
    wide = labels.numpy().astype("uint64")
    wide[17] = 2**64 - 100
    moments = ncfast.ClassMoments.empty(4, 6)
    with pytest.raises(ValueError, match=f"row 17 holds {2**64 - 100}"):
        moments.update_(feats, torch.from_numpy(wide), ignore_index=-100, backend=backend)
    assert int(moments.total) == 0


@needs_extension
@pytest.mark.parametrize("threads", [2, 5])
@pytest.mark.parametrize(
    ("rows", "dim", "classes"), [(3000, 200, 10), (2000, 512, 1500), (900, 1024, 1), (40, 9, 3)]
)
def test_bits_do_not_depend_on_threads(rows: int, dim: int, classes: int, threads: int) -> None:
    feats, labels = features(rows, dim, classes)
    feats = feats.float()
    labels[: rows // 2] = 0  # a class that is cut
    expected_scatter, scatter = (torch.zeros(dim, dim, dtype=torch.float64) for _ in range(2))
    expected = joined(feats, labels, classes)
    products = joined(feats, labels, classes, scatter=expected_scatter)
    torch.set_num_threads(threads)
    try:
        assert same_bits(joined(feats, labels, classes), expected)
        assert same_bits(joined(feats, labels, classes, scatter=scatter), products)
    finally:
        torch.set_num_threads(1)
    assert torch.equal(scatter, expected_scatter)


@pytest.mark.parametrize("backend", BACKENDS)
@given(seed=st.integers(0, 10**6), rows=st.integers(1, 60), level=st.sampled_from([1.0, 1e-4]))
@settings(max_examples=25, deadline=None)
def test_any_split_in_any_order(backend: str, seed: int, rows: int, level: float) -> None:
    draw = torch.Generator().manual_seed(seed)
    count, dim, classes = (int(torch.randint(1, most, (), generator=draw)) for most in (120, 30, 9))
    labels = torch.randint(classes, (count,), generator=draw)
    centres = torch.randn(classes, dim, generator=draw)
    feats = centres[labels] + level * torch.randn(count, dim, generator=draw)
    order = torch.randperm(count, generator=draw)
    scatter = torch.zeros(dim, dim, dtype=torch.float64)
    found = joined(
        feats[order], labels[order], classes, rows=rows, backend=backend, scatter=scatter
    )
    means, within = two_pass(feats, labels, classes)
    torch.testing.assert_close(found.means, means, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found.within_ss, within, rtol=1e-9, atol=1e-12)
    expected = truth_of_scatter(feats, labels, classes)
    torch.testing.assert_close(scatter, expected, rtol=1e-9, atol=1e-9 * level**2)


@pytest.mark.parametrize("backend", BACKENDS)
def test_updates_equal_merges(backend: str) -> None:
    feats, labels = features(500, 24, 9)
    feats = feats.float()
    moments = ClassMoments.empty(9, 24)
    merged = ClassMoments.empty(9, 24)
    for x, y in zip(feats.split(61), labels.split(61), strict=True):
        moments.update_(x, y, backend=backend)
        merged = merged.merge(ncfast.class_moments(x, y, num_classes=9, backend="reference"))
    for name in FIELDS:
        torch.testing.assert_close(
            getattr(moments, name),
            getattr(merged, name),
            rtol=budget("reference", feats.dtype),
            atol=1e-12,
        )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", FEATURE_DTYPES)
@pytest.mark.parametrize(("dim", "classes"), [(1, 3), (37, 5), (70, 300), (200, 1)])
def test_scatter(backend: str, dtype: torch.dtype, dim: int, classes: int) -> None:
    feats, labels = features(1100, dim, classes)
    feats = feats.to(dtype)
    scatter = torch.zeros(dim, dim, dtype=torch.float64)
    mask = torch.arange(1100) % 7 > 0
    found = joined(feats, labels, classes, rows=400, mask=mask, backend=backend, scatter=scatter)
    check(found, feats[mask], labels[mask], 1e-11)
    expected = truth_of_scatter(feats[mask], labels[mask], classes)
    scale = expected.diagonal().sqrt()
    assert ((scatter - expected).abs() <= 1e-11 * scale * scale[:, None] + 1e-12).all()
    assert torch.equal(scatter, scatter.T)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("std", [1e-3, 1e-5, 1e-7])
def test_scatter_under_collapse(backend: str, std: float) -> None:
    feats, labels = collapsed(std, outliers=True)
    feats = feats.float()
    scatter = torch.zeros(96, 96, dtype=torch.float64)
    joined(feats, labels, 7, rows=500, backend=backend, scatter=scatter)
    expected = truth_of_scatter(feats, labels, 7)
    scale = expected.diagonal().sqrt()
    assert ((scatter - expected).abs() <= 1e-9 * scale * scale[:, None]).all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("spoilt", ["feats", "labels", "means"])
def test_memory_that_holds_the_other_sign(backend: str, spoilt: str) -> None:
    """Expected: the numbers that a negative view shows, read and written."""
    feats, labels = features(60, 7, 3)
    expected = joined(feats, labels, 3, backend=backend)
    found = ClassMoments.empty(3, 7)
    if spoilt == "means":
        found.means = torch._neg_view(-found.means)
    x, y = (
        torch._neg_view(-value) if name == spoilt else value
        for name, value in (("feats", feats), ("labels", labels))
    )
    found.update_(x, y, backend=backend)
    for name in FIELDS:
        torch.testing.assert_close(getattr(found, name), getattr(expected, name))


def test_a_state_with_gaps_between_its_rows() -> None:
    feats, labels = features(60, 7, 3)
    expected = joined(feats, labels, 3)
    found = ClassMoments(
        *(
            value.repeat_interleave(2, 0)[::2] if value.ndim else value
            for value in ClassMoments.empty(3, 7).state_dict().values()
        )
    )
    found.update_(feats, labels)
    torch.testing.assert_close(found.means, expected.means)
    assert torch.equal(found.counts, expected.counts)


def test_a_state_of_another_dtype_is_an_error() -> None:
    """Expected: never float64 numbers in the memory of float32."""
    feats, labels = features(60, 7, 3)
    moments = ClassMoments.empty(3, 7)
    moments.means = moments.means.float()
    with pytest.raises(RuntimeError, match="type"):
        moments.update_(feats, labels)


def test_many_states_at_once_are_an_error() -> None:
    one = ClassMoments.empty(3, 7).state_dict()
    many = ClassMoments(*(torch.stack([value, value]) for value in one.values()))
    with pytest.raises(ValueError, match=r"counts \(K,\), but got counts \(2, 3\)"):
        many.update_(*features(60, 7, 3))


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_synchronisation_where_nothing_has_values(backend: str) -> None:
    """Expected: fake tensors go through; reading a value of one would raise."""
    with FakeTensorMode():
        feats, labels = torch.randn(20, 6), torch.zeros(20, dtype=torch.int64)
        mask, ignored = torch.ones(20, dtype=torch.bool), torch.zeros((), dtype=torch.int64)
        moments = ClassMoments.empty(4, 6)
        scatter = torch.zeros(6, 6, dtype=torch.float64)
        update = UPDATE.select(backend, feats)
        update(feats, labels, moments, mask=mask, ignore_index=-1, ignored=ignored, scatter=scatter)
        assert moments.means.shape == (4, 6)
