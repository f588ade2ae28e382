"""Tests that neighbours and range counts have the bits of a float64 brute force."""

import brute_neighbors as brute
import pytest
import torch
import twins
from samples import collapsed

from ncfast.information.neighbors import triton_sweep
from ncfast.kernels import neighbors as search
from ncfast.kernels.configuration import NeighborsConfig
from ncfast.ops import _second_net

X = torch.randn(45, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
ROUNDED = (2 * X).round()  # many ties and duplicates
SMALL = torch.where(torch.arange(45) < 3, 9, 2)  # a class of three rows


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("euclidean", [True, False])
@pytest.mark.parametrize("k", [1, 11])
def test_kernels_equal_their_twins(k, euclidean, dtype):
    """Two layers, two blocks of columns, three classes, one of them smaller than k."""
    generator = torch.Generator().manual_seed(k)
    points = torch.randn(2, 5, 50, generator=generator, dtype=dtype)
    points[:, :, 10] = points[:, :, 3]
    edges = torch.tensor([0, 20, 47, 50])
    begins, ends = (edges[i : i + 3].repeat_interleave(edges.diff()).int() for i in (0, 1))
    limits = 3 * torch.rand(2, 3, 50, generator=generator, dtype=dtype)
    starts, config = [0, 2, 5], NeighborsConfig(16, 32, 4)
    found = search.nearest_rows(points, starts, (begins, ends), k, euclidean, config)
    counts = search.count_rows(points, starts, (begins, ends), limits, euclidean, config)
    for layer in range(2):
        expected = twins.nearest(points[layer], starts, begins, ends, k, euclidean)
        for values, wanted in zip(found, expected, strict=True):
            assert torch.equal(values[layer].to(wanted.dtype), wanted)
        wanted = twins.count_nearer(points[layer], starts, begins, ends, limits[layer], euclidean)
        assert torch.equal(counts[layer].long(), wanted)


@pytest.mark.parametrize("labels", [None, SMALL])
@pytest.mark.parametrize("metric", ["l2", "linf"])
@pytest.mark.parametrize("x", [ROUNDED, X.half().T.contiguous().T])
def test_knn(x, metric, labels):
    distances, indices, _ = triton_sweep.knn(x, 4, metric, labels)
    expected = brute.knn(x, 4, metric, labels)
    assert distances.tolist() == expected[0].tolist()
    assert indices.tolist() == expected[1].tolist()


@pytest.mark.parametrize("level", [1e-1, 1e-4, 1e-7])
def test_collapsed_classes(level):
    """Collapsed rows, on which products of rows fail, also with re-ranking."""
    x, labels = collapsed(level, count=40, dim=10, num_classes=2)
    for within in (None, labels):
        distances, indices, _ = triton_sweep.knn(x, 3, "l2", within)
        expected = brute.knn(x, 3, "l2", within)
        assert distances.tolist() == expected[0].tolist()
        assert indices.tolist() == expected[1].tolist()


@pytest.mark.parametrize("labels", [None, SMALL])
@pytest.mark.parametrize("rectangle", [False, True])
@pytest.mark.parametrize(("metric", "x"), [("l2", X), ("l2", ROUNDED), ("linf", ROUNDED)])
def test_joint(x, metric, rectangle, labels):
    blocks = [x[:, :1], x[:, 1:]]
    radii, counts, extents, ties = triton_sweep.joint(blocks, 3, metric, rectangle, labels)
    expected = brute.joint(blocks, 3, metric, rectangle, labels)
    assert radii.tolist() == expected[0].tolist()
    assert [each.tolist() for each in counts] == [each.tolist() for each in expected[1]]
    assert [each.tolist() for each in extents] == [each.tolist() for each in expected[2]]
    assert ties.tolist() == expected[3].tolist()


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("metric", ["l2", "linf"])
@pytest.mark.parametrize("x", [1e-3 * X, ROUNDED])
def test_count_at_the_distances_themselves(x, metric, strict):
    radii = torch.from_numpy(brute.knn(x, 5, metric)[0][:, -1])
    radii[:4] = torch.tensor([0.0, -1.0, torch.inf, 1e-300])
    counts = triton_sweep.count(x, radii, metric, strict, None)
    assert counts.tolist() == brute.count(x, radii.numpy(), metric, strict).tolist()


def test_many_neighbours_are_left_to_the_reference():
    distances, _, _ = triton_sweep.knn(X, 33, "l2", None)
    assert distances.tolist() == brute.knn(X, 33, "l2")[0].tolist()


SEARCHES = {
    "knn": lambda x: triton_sweep.knn(x, 4, "l2", SMALL)[:2],
    "joint": lambda x: triton_sweep.joint([x[:, :1], x[:, 1:]], 3, "linf", False, SMALL),
    "count": lambda x: triton_sweep.count(x, x[:, 0].abs(), "l2", True, SMALL),
}


@pytest.mark.parametrize("name", SEARCHES)
def test_the_first_rows_are_compared_at_the_first_use(name, monkeypatch):
    """By right kernels nothing is said, by wrong ones once."""
    for where, attribute, value in (
        (_second_net, "applies", lambda feats: True),
        (_second_net, "_compared", set()),
        (_second_net, "_answers", []),
        (triton_sweep, "_FEW", 12),
    ):
        monkeypatch.setattr(where, attribute, value)
    for _ in range(2):
        SEARCHES[name](X)
    monkeypatch.setattr(_second_net, "_compared", set())
    nearest, count = search.nearest_rows, search.count_rows
    monkeypatch.setattr(
        search,
        "nearest_rows",
        lambda *given: (found := nearest(*given), (found[0] * 2, *found[1:]))[1],
    )
    monkeypatch.setattr(search, "count_rows", lambda *given: count(*given) + 1)
    SEARCHES[name](X)
    with pytest.warns(RuntimeWarning, match="WRONG RESULTS: the Triton kernels for neighbours"):
        SEARCHES[name](X)
