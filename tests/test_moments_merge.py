"""Tests merging: its properties by hypothesis, and its accuracy."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import two_pass
from samples import BACKENDS, budget, classes, collapsed

import ncfast

LEVELS = [1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7]


def trace_error(moments, feats, labels):
    expected = two_pass(feats, labels, moments.num_classes)["within_ss"].sum()
    return abs(float(moments.within_ss.sum()) / expected - 1) if expected else 0.0


def assert_same(one, other, rtol=1e-10):
    assert torch.equal(one.counts, other.counts)
    for name in ("means", "within_ss", "norm_sum", "norm_max"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=rtol, atol=1e-12)


sizes = st.lists(st.integers(1, 40), min_size=2, max_size=6)


@settings(deadline=None, max_examples=60)
@given(sizes, st.integers(1, 9), st.integers(1, 12), st.integers(0, 10**6))
def test_merging_chunks_equals_one_pass(chunks, num_classes, dim, seed):
    generator = torch.Generator().manual_seed(seed)
    feats = torch.randn(sum(chunks), dim, generator=generator, dtype=torch.float64) + 5
    labels = torch.randint(num_classes, (sum(chunks),), generator=generator)
    parts = [
        ncfast.class_moments(x, y, num_classes=num_classes)
        for x, y in zip(feats.split(chunks), labels.split(chunks), strict=True)
    ]
    whole = ncfast.class_moments(feats, labels, num_classes=num_classes)
    forward = ncfast.ClassMoments.empty(num_classes, dim)
    for part in parts:
        forward = forward.merge(part)
    assert_same(forward, whole)
    backward = parts[-1]
    for part in reversed(parts[:-1]):
        backward = part.merge(backward)
    assert_same(backward, whole)


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 8), st.integers(2, 10), st.integers(0, 10**6))
def test_sample_order_does_not_matter(num_classes, dim, seed):
    feats, labels = classes(80, dim, num_classes, seed=seed)
    order = torch.randperm(80, generator=torch.Generator().manual_seed(seed))
    one = ncfast.class_moments(feats, labels, num_classes=num_classes)
    other = ncfast.class_moments(feats[order], labels[order], num_classes=num_classes)
    assert_same(one, other)


def test_empty_is_neutral_exactly():
    moments = ncfast.class_moments(*classes(), num_classes=5)
    empty = ncfast.ClassMoments.empty(5, 12)
    for merged in (moments.merge(empty), empty.merge(moments)):
        for name, value in moments.state_dict().items():
            assert torch.equal(getattr(merged, name), value), name


def test_merge_changes_neither_side():
    one = ncfast.class_moments(*classes(seed=1), num_classes=5)
    other = ncfast.class_moments(*classes(seed=2), num_classes=5)
    before = one.state_dict(), other.state_dict()
    one.merge(other)
    for moments, state in zip((one, other), before, strict=True):
        assert all(torch.equal(getattr(moments, name), value) for name, value in state.items())


def test_merge_refuses_other_shapes():
    one = ncfast.class_moments(*classes(), num_classes=5)
    with pytest.raises(ValueError, match=r"\(5, 12\) but got \(6, 12\)"):
        one.merge(ncfast.ClassMoments.empty(6, 12))
    with pytest.raises(ValueError, match="on cpu but got meta"):
        one.merge(ncfast.ClassMoments.empty(5, 12, "meta"))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("level", LEVELS)
def test_accuracy_at_every_collapse_level(level, dtype, backend):
    feats, labels = collapsed(level, dtype=dtype)
    moments = ncfast.class_moments(feats, labels, num_classes=7, backend=backend)
    assert trace_error(moments, feats, labels) < max(1e-9, budget(backend, feats.dtype))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("level", LEVELS)
def test_accuracy_with_an_outlier_as_first_row_of_each_class(level, backend):
    feats, labels = collapsed(level, count=6000)
    for c in range(7):
        first = int((labels == c).nonzero()[0])
        feats[first] = 10 * feats[int((labels == (c + 1) % 7).nonzero()[1])]
    moments = ncfast.class_moments(feats, labels, num_classes=7, backend=backend)
    assert trace_error(moments, feats, labels) < max(1e-9, budget(backend, feats.dtype))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("level", LEVELS)
def test_accuracy_after_merging_a_thousand_chunks(level, dtype, backend):
    feats, labels = collapsed(level, count=3000, dim=16, dtype=dtype)
    merged = ncfast.ClassMoments.empty(7, 16)
    for x, y in zip(feats.chunk(1000), labels.chunk(1000), strict=True):
        merged = merged.merge(ncfast.class_moments(x, y, num_classes=7, backend=backend))
    assert trace_error(merged, feats, labels) < 1e-6


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_identical_rows_give_exactly_zero(dtype, backend):
    rows = torch.randn(5, 33, generator=torch.Generator().manual_seed(0)).mul(100).to(dtype)
    labels = torch.arange(1000) % 5
    feats = rows[labels]
    moments = ncfast.class_moments(feats, labels, num_classes=5, backend=backend)
    assert moments.within_ss.eq(0).all()
    assert torch.equal(moments.means, rows.double())
    merged = ncfast.ClassMoments.empty(5, 33)
    for x, y in zip(feats.split(7), labels.split(7), strict=True):
        merged = merged.merge(ncfast.class_moments(x, y, num_classes=5, backend=backend))
    assert merged.within_ss.eq(0).all()
