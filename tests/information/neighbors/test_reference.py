"""Tests the float64 reference against a search in NumPy, row by row, and its errors."""

from __future__ import annotations

import brute_neighbors as brute
import pytest
import torch

from ncfast.information.neighbors import (
    joint_radii_and_counts,
    knn,
    neighbor_backend,
    neighbor_backends,
    range_count,
)

X = torch.randn(60, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
LABELS = torch.arange(60) % 7 % 4
ROUNDED = (2 * X).round()  # many ties and duplicates


@pytest.mark.parametrize("labels", [None, LABELS])
@pytest.mark.parametrize("metric", ["l2", "linf"])
@pytest.mark.parametrize("x", [X, ROUNDED, X.half(), X.T.contiguous().T])
def test_knn(x, metric, labels):
    found = knn(x, 4, metric=metric, labels=labels, backend="reference")
    distances, indices = brute.knn(x, 4, metric, labels)
    assert found.distances.tolist() == distances.tolist()
    assert found.indices.tolist() == indices.tolist()


@pytest.mark.parametrize("labels", [None, LABELS])
@pytest.mark.parametrize("rectangle", [False, True])
@pytest.mark.parametrize("metric", ["l2max", "linf"])
@pytest.mark.parametrize("x", [X, ROUNDED])
def test_joint(x, metric, rectangle, labels):
    blocks = [x[:, :1], x[:, 1:]]
    found = joint_radii_and_counts(
        blocks, 3, metric=metric, rectangle=rectangle, labels=labels, backend="reference"
    )
    radii, counts, extents, ties = brute.joint(
        blocks, 3, {"l2max": "l2"}.get(metric, metric), rectangle, labels
    )
    assert found.radii.tolist() == radii.tolist()
    assert found.ties.tolist() == ties.tolist()
    for got, expected in zip(found.counts + found.extents, counts + extents, strict=True):
        assert got.tolist() == expected.tolist()


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("metric", ["l2", "linf"])
def test_count_at_the_distances_themselves(metric, strict):
    radii = knn(ROUNDED, 5, metric=metric, backend="reference").distances[:, -1]
    got = range_count(ROUNDED, radii, metric=metric, strict=strict, backend="reference")
    assert got.tolist() == brute.count(ROUNDED, radii.numpy(), metric, strict).tolist()


def test_a_small_class_is_padded():
    labels = torch.tensor([0, 0, 1, 2, 2, 2])
    found = knn(X[:6], 2, labels=labels, backend="reference")
    assert found.indices[:3].tolist() == [[1, -1], [0, -1], [-1, -1]]
    assert found.distances[:3, 1].isinf().all()
    joint = joint_radii_and_counts([X[:6], X[:6]], 2, labels=labels, backend="reference")
    assert joint.radii[:3].isinf().all()
    assert joint.counts[0].tolist()[:3] == [1, 1, 0] == joint.ties.tolist()[:3]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: knn(X.numpy(), 3), TypeError, r"`x` to be a torch.Tensor.*as_tensor"),
        (lambda: knn(X.int(), 3), TypeError, r"torch.int32.*double"),
        (lambda: knn(X[0], 3), ValueError, r"\(N, d\).*\(3,\)"),
        (lambda: knn(X[:0], 3), ValueError, r"\(0, 3\)"),
        (lambda: knn(X / 0, 3), ValueError, r"finite.*row 0"),
        (lambda: knn(1e200 * X, 3), ValueError, r"1e\+150"),
        (lambda: knn(X, 60), ValueError, "k = 60 with N = 60"),
        (lambda: knn(X, 0), ValueError, "k = 0"),
        (lambda: knn(X, 2.0), TypeError, "int but got float"),
        (lambda: knn(X, 2, metric="cosine"), ValueError, "`metric`.*'cosine'"),
        (lambda: knn(X, 2, backend="quantum"), ValueError, "`backend`.*'quantum'"),
        (lambda: knn(X, 2, labels=LABELS[:5]), ValueError, "same length but got 60 and 5"),
        (lambda: knn(X, 2, labels=LABELS.float()), TypeError, "integers but got torch.float32"),
        (lambda: knn(X, 2, labels=LABELS.view(6, 10)), ValueError, "argmax"),
        (lambda: range_count(X, X[:5, 0]), ValueError, "same length but got 60 and 5"),
        (lambda: range_count(X, X[:, 0] * torch.nan), ValueError, "row 0 holds nan"),
        (lambda: range_count(X, LABELS), TypeError, "`radii`.*int64"),
        (lambda: joint_radii_and_counts(X, 3), ValueError, r"Pass \[x, y\]"),
        (lambda: joint_radii_and_counts([X, X[:9]], 3), ValueError, r"`blocks\[1\]`.*60 and 9"),
        (lambda: joint_radii_and_counts([X], 3, metric="l2"), ValueError, "`metric`.*'l2'"),
    ],
)
def test_message(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_search_on_a_gpu_alone_is_refused_elsewhere():
    with pytest.raises(ValueError, match="'triton' cannot run here: the rows are on cpu"):
        knn(X, 2, backend="triton")


def test_the_choice_is_visible():
    name, reason = neighbor_backend(1000, 5)
    assert neighbor_backends()[name].available
    assert reason
    assert knn(X, 2).backend in neighbor_backends()
