"""Kernel measures against their definitions and invariances."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from truths import collapsed, normal

import ncfast
from ncfast.information.nhsic import centred, gaussian_kernel, squared_distances


def plain_nhsic(x, y, ridge=1e-5):
    """The definition, with loops over pairs and explicit inverses."""
    number = len(x)
    projector = torch.eye(number, dtype=torch.float64) - 1 / number
    product = torch.eye(number, dtype=torch.float64)
    for rows in (x, y):
        gaps = torch.stack([torch.stack([(a - b).square().sum() for b in rows]) for a in rows])
        scale = gaps[torch.triu(torch.ones_like(gaps), 1).bool()].median()
        kernel = projector @ torch.exp(-gaps / (2 * scale)) @ projector
        loaded = kernel + number * ridge * torch.eye(number, dtype=torch.float64)
        product = product @ kernel @ torch.linalg.inv(loaded)
    return product.trace()


def test_definition():
    x, y = normal(40, 3), normal(40, 2, seed=1)
    assert float(ncfast.nhsic(x, y)) == pytest.approx(float(plain_nhsic(x, y)), rel=1e-6)


@settings(max_examples=15, deadline=None)
@given(st.floats(-8, 8), st.floats(-100, 100), st.integers(0, 100))
def test_neither_scale_nor_offset_nor_rotation_matters(power, offset, seed):
    x, y = normal(30, 3, seed=seed), normal(30, 2, seed=seed + 1)
    turned = x @ torch.linalg.qr(normal(3, 3, seed=2))[0]
    moved = 10**power * (turned + offset)
    for measure in (ncfast.nhsic, ncfast.cka, lambda a, b: ncfast.cka(a, b, kernel="rbf")):
        assert float(measure(moved, y)) == pytest.approx(float(measure(x, y)), rel=1e-4)


def test_norm_width_is_free_of_scale():
    x, y = normal(30, 3), normal(30, 2, seed=1)
    base = float(ncfast.nhsic(x, y, width="norm"))
    assert float(ncfast.nhsic(1e6 * x, 1e-6 * y, width="norm")) == pytest.approx(base, rel=1e-6)


def test_labels_are_a_kernel_of_their_own():
    feats, labels = collapsed(60, 3, 2, 1e-3)
    found = float(ncfast.nhsic(feats, labels, ridge=1e-3))
    assert found == pytest.approx(2.0, abs=0.05), "K - 1 directions of the classes"
    shuffled = labels[torch.randperm(60, generator=torch.Generator().manual_seed(0))]
    assert float(ncfast.nhsic(feats, shuffled, ridge=1e-3)) < 0.3
    assert float(ncfast.nhsic(feats, labels.numpy(), ridge=1e-3)) == found


def test_alignment_of_wide_and_narrow_features_is_the_same_formula():
    x, y = normal(20, 5), normal(20, 4, seed=1)
    one, two = (centred(rows @ rows.T) for rows in (x, y))
    expected = float((one * two).sum() / (one.norm() * two.norm()))
    assert float(ncfast.cka(x, y)) == pytest.approx(expected)
    wide = torch.cat((x, torch.zeros(20, 30, dtype=x.dtype)), 1)
    assert float(ncfast.cka(wide, y)) == pytest.approx(expected)
    assert float(ncfast.cka(x, x.flip(1) * 1e-3 + 7)) == pytest.approx(1.0)
    assert 0 < float(ncfast.cka(x, y, kernel="rbf")) < 1


def test_constant_features():
    x = normal(20, 3)
    flat = torch.ones(20, 2)
    assert float(ncfast.nhsic(x, flat)) == pytest.approx(0.0, abs=1e-9)
    assert torch.isnan(ncfast.cka(x, flat))


def test_distances_and_kernel():
    x = normal(10, 3) + 1e4
    exact = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist").square()
    assert torch.allclose(squared_distances(x), exact, atol=1e-9)
    assert torch.allclose(gaussian_kernel(x, "median").diagonal(), torch.ones(10).double())


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((normal(5, 2), normal(4, 2)), {}, "same length but got 5 and 4"),
        ((normal(1, 2), normal(1, 2)), {}, "at least two rows but got 1"),
        ((normal(5, 2), normal(5, 2)), {"width": "one"}, "`width` to be one of 'median', 'norm'"),
        ((normal(5, 2), normal(5, 2)), {"ridge": 0.0}, "`ridge` to be positive"),
    ],
)
def test_wrong_arguments(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        ncfast.nhsic(*arguments, **options)
