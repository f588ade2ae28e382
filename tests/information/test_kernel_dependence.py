"""Tests kernel measures against their definitions and invariances."""

from functools import partial
from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from truths import collapsed, normal

import ncfast
from ncfast.information.kernel_dependence import centred, gaussian_kernel, squared_distances


def plain_nhsic(x, y, ridge=1e-5):
    """nHSIC by its definition, with loops over pairs and explicit inverses."""
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
    for ridge in (1e-5, 1e-2):
        found = float(ncfast.nhsic(x, y, normalize=False, ridge=ridge))
        assert found == pytest.approx(float(plain_nhsic(x, y, ridge)), rel=1e-6)


def test_the_term_subtracted_is_the_mean_over_permutations():
    x, y = normal(5, 2), normal(5, 2, seed=1)

    def beyond(a, b):
        chance = [
            float(ncfast.nhsic(a, b[list(order)], normalize=False))
            for order in permutations(range(5))
        ]
        return float(ncfast.nhsic(a, b, normalize=False)) - sum(chance) / len(chance)

    expected = beyond(x, y) / (beyond(x, x) * beyond(y, y)) ** 0.5
    assert float(ncfast.nhsic(x, y)) == pytest.approx(expected)


@pytest.mark.parametrize(("rows", "bound"), [(32, 0.12), (128, 0.03)])
@pytest.mark.parametrize("columns", [2, 64, 2048])
def test_independent_is_near_zero_and_identical_is_one(rows, columns, bound):
    for seed in range(4):
        x, y = normal(rows, columns, seed=2 * seed), normal(rows, columns, seed=2 * seed + 1)
        assert abs(float(ncfast.nhsic(x, y))) < bound
        assert float(ncfast.nhsic(x, 0.7 * x + 0.51**0.5 * y)) > bound
        assert float(ncfast.nhsic(x, x)) == pytest.approx(1.0)


def test_debiased_alignment_of_wide_independent_batches():
    found = [
        float(ncfast.cka(normal(64, 2000, seed=seed), normal(64, 2000, seed=seed + 500)))
        for seed in range(20)
    ]
    assert abs(sum(found)) / 20 < 0.02
    assert max(map(abs, found)) < 0.08
    assert min(found) < 0, "nothing is clipped"


def song_hsic(kernel, other):
    """Song et al. 2012, equation 5, as printed."""
    n = len(kernel)
    k, m = kernel - kernel.diagonal().diag(), other - other.diagonal().diag()
    total = (k @ m).trace() + k.sum() * m.sum() / ((n - 1) * (n - 2))
    return (total - 2 / (n - 2) * (k @ m).sum()) / (n * (n - 3))


@pytest.mark.parametrize("columns", [2, 30])
@pytest.mark.parametrize("kernel", ["linear", "rbf"])
def test_debiased_alignment_is_the_published_formula(columns, kernel):
    x, y = normal(12, columns), normal(12, 3, seed=1)
    y = y + x[:, :1]
    make = (
        (lambda rows: rows @ rows.T)
        if kernel == "linear"
        else (lambda r: gaussian_kernel(r, "median"))
    )
    one, two = make(x), make(y)
    expected = song_hsic(one, two) / (song_hsic(one, one) * song_hsic(two, two)).sqrt()
    assert float(ncfast.cka(x, y, kernel=kernel)) == pytest.approx(float(expected))


@pytest.mark.parametrize("kernel", ["linear", "rbf"])
@pytest.mark.parametrize("debiased", [True, False])
def test_labels_are_classes_whatever_their_names(kernel, debiased):
    feats, labels = collapsed(60, 3, 2, 1e-1)
    names = torch.tensor([7, -2, 100])[labels]
    words = np.array(["cat", "dog", "cow"])[labels.numpy()]
    found = float(ncfast.cka(feats, labels, kernel=kernel, debiased=debiased))
    for same in (names, words, words.tolist(), names.numpy().astype(">i2"), torch.eye(3)[labels]):
        if kernel == "rbf" and isinstance(same, torch.Tensor) and same.ndim == 2:
            continue  # the Gaussian kernel of one-hot rows differs from the class kernel
        assert float(ncfast.cka(feats, same, kernel=kernel, debiased=debiased)) == pytest.approx(
            found
        )
    assert float(ncfast.nhsic(feats, labels)) == float(ncfast.nhsic(feats, names.tolist()))
    assert float(ncfast.cka(labels, names, kernel=kernel, debiased=debiased)) == pytest.approx(1.0)


@pytest.mark.parametrize("power", [-300, -150, 150, 300])
def test_any_unit(power):
    x, y = normal(40, 3), normal(40, 60, seed=1) + 3
    y[:, :3] += x
    measures = [
        ncfast.nhsic,
        partial(ncfast.nhsic, width="norm"),
        partial(ncfast.nhsic, normalize=False, ridge=1e-3),
        ncfast.cka,
        partial(ncfast.cka, debiased=False),
        partial(ncfast.cka, kernel="rbf"),
    ]
    for measure in measures:
        found = float(measure(x * 10.0**power, y * 10.0**-power))
        assert found == pytest.approx(float(measure(x, y)), rel=1e-6)


def test_what_cannot_be_told_is_not_a_number():
    x, different = normal(20, 3), torch.arange(20)
    assert torch.isnan(ncfast.nhsic(x, different))
    assert torch.isnan(ncfast.cka(x, different))
    assert torch.isnan(ncfast.nhsic(x[:2], x[:2]))
    assert torch.isnan(ncfast.cka(x[:3], x[:3]))
    for debiased in (True, False):
        assert torch.isnan(ncfast.cka(x, torch.full((20, 2), 0.1), debiased=debiased))


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
    raw = {"normalize": False, "ridge": 1e-3}
    found = float(ncfast.nhsic(feats, labels, **raw))
    assert found == pytest.approx(2.0, abs=0.05), "K - 1 directions of the classes"
    shuffled = labels[torch.randperm(60, generator=torch.Generator().manual_seed(0))]
    assert float(ncfast.nhsic(feats, shuffled, **raw)) < 0.3
    assert float(ncfast.nhsic(feats, labels.numpy(), **raw)) == found


def test_alignment_of_wide_and_narrow_features_is_the_same_formula():
    x, y = normal(20, 5), normal(20, 4, seed=1)
    one, two = (centred(rows @ rows.T) for rows in (x, y))
    expected = float((one * two).sum() / (one.norm() * two.norm()))
    assert float(ncfast.cka(x, y, debiased=False)) == pytest.approx(expected)
    wide = torch.cat((x, torch.zeros(20, 30, dtype=x.dtype)), 1)
    assert float(ncfast.cka(wide, y, debiased=False)) == pytest.approx(expected)
    assert float(ncfast.cka(x, x.flip(1) * 1e-3 + 7)) == pytest.approx(1.0)
    assert 0 < float(ncfast.cka(x, y, kernel="rbf", debiased=False)) < 1


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
