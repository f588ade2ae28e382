"""Tests second reads and neighbours on a GPU: results, bits, graphs, no synchronisation."""

import brute_neighbors as brute
import pytest
import torch
import twins
from oracle import two_pass
from samples import classes, collapsed

import ncfast
from ncfast.information.neighbors import triton_sweep
from ncfast.ops import _fallback
from ncfast.ops import moments as passes
from ncfast.ops.decisions import STACKED_DECISIONS
from ncfast.ops.projection import PROJECTION
from ncfast.ops.scatter import SCATTER

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not ncfast.backends()["triton"].available, reason=ncfast.backends()["triton"].reason
    ),
]
HALVES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.fixture(autouse=True)
def no_fallback(monkeypatch):
    """A kernel that fails must fail the test."""
    monkeypatch.setattr(_fallback, "failures", {})
    yield
    assert not _fallback.failures


def on_gpu(*tensors):
    return tuple(each.cuda() for each in tensors)


def nearest_mean(feats, means):
    """The rule of the nearest class mean, on the device of ``feats``."""
    centre = means.mean(0)
    weight = means - centre
    return feats, centre[None], weight[None], -weight.square().sum(1)[None] / 2


def calls():
    """Every function with arguments on the GPU."""
    feats, labels = on_gpu(*classes(20_000, 200, 10, dtype=torch.float32))
    means = passes.reference(feats, labels, 10).means
    vectors = torch.linalg.qr(torch.randn(200, 9, device="cuda").double()).Q.T.contiguous()
    return {
        "projected_ss": lambda: PROJECTION.on_device(feats, labels, means, vectors),
        "scatter": lambda: SCATTER.on_device(feats, labels, means),
        "decisions": lambda: STACKED_DECISIONS.on_device(*nearest_mean(feats, means)),
        "knn": lambda: triton_sweep.knn(feats[:3000], 5, "l2", labels[:3000])[0],
        "joint": lambda: triton_sweep.joint(
            [feats[:3000, :2], feats[:3000, 2:4]], 5, "l2", False, None
        )[0],
    }


NAMES = ("projected_ss", "scatter", "decisions", "knn", "joint")


@pytest.mark.parametrize("name", NAMES)
def test_twenty_runs_give_the_same_bits_without_a_synchronisation(name):
    call = calls()[name]
    first = call()
    torch.cuda.set_sync_debug_mode("error")
    try:
        runs = [call() for _ in range(20)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(torch.equal(first, run) for run in runs)


@pytest.mark.parametrize("name", NAMES)
def test_graph_capture_and_replay(name):
    call = calls()[name]
    expected = call()  # compiles before the capture
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = call()
    found.zero_()
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(found, expected)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("level", [1e-1, 1e-4, 1e-7])
@pytest.mark.parametrize("number", [9, 100])
def test_projection(number, level, dtype):
    feats, labels = collapsed(level, count=20_000, dim=200, num_classes=10, dtype=dtype)
    means = torch.from_numpy(two_pass(feats, labels, 10)["means"])
    vectors = torch.linalg.qr(torch.randn(200, number).double()).Q.T
    expected = twins.project(feats, labels, means, vectors)
    found = PROJECTION.on_device(*on_gpu(feats, labels, means, vectors))
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-4, atol=0)
    assert abs(found.sum().item() - expected.sum()) <= 1e-5 * expected.sum()


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("level", [1e-1, 1e-4, 1e-7])
@pytest.mark.parametrize("dim", [33, 200])
def test_scatter(dim, level, dtype):
    feats, labels = collapsed(level, count=20_000, dim=dim, num_classes=10, dtype=dtype)
    means = torch.from_numpy(two_pass(feats, labels, 10)["means"])
    expected = twins.scatter(feats, labels, means)
    found = SCATTER.on_device(*on_gpu(feats, labels, means)).cpu()
    assert (found - expected).norm() <= 1e-5 * expected.norm()
    assert torch.equal(found, found.T)


@pytest.mark.parametrize("dtype", [*HALVES, torch.float64])
@pytest.mark.parametrize("level", [1e-1, 1e-7])
@pytest.mark.parametrize("size", [(20_000, 200, 10), (5000, 1000, 130)])
def test_decisions(size, level, dtype):
    count, dim, k = size
    feats, labels = collapsed(level, count=count, dim=dim, num_classes=k, dtype=dtype)
    means = torch.from_numpy(two_pass(feats, labels, k)["means"])
    rule = nearest_mean(feats, means)
    expected = twins.decide(rule[0], *(each[0] for each in rule[1:]))
    assert torch.equal(STACKED_DECISIONS.on_device(*on_gpu(*rule))[0].cpu(), expected)


@pytest.mark.parametrize("gap", [1e-4, 1e-6, 1e-9])
@pytest.mark.parametrize("dim", [24, 3000])
def test_means_nearly_equal(dim, gap):
    """Every wrong decision of tensor cores must be within the bound on their rounding."""
    base = torch.randn(20, dim).double()
    means = torch.cat((base, base + gap * torch.randn(20, dim)))
    feats = (base[torch.arange(8000) % 20] + torch.randn(8000, dim) / 9).float()
    rule = (feats, torch.zeros(1, dim).double(), means[None], -means.square().sum(1)[None] / 2)
    expected = twins.decide(rule[0], *(each[0] for each in rule[1:]))
    assert torch.equal(STACKED_DECISIONS.on_device(*on_gpu(*rule))[0].cpu(), expected)


@pytest.mark.parametrize("name", NAMES[:3])
def test_operators(name):

    feats, labels = on_gpu(*classes(300, 8, 3, dtype=torch.float32))
    means = passes.reference(feats, labels, 3).means
    arguments = {
        "projected_ss": (feats, labels, means, means[:2]),
        "scatter": (feats, labels, means),
        "decisions": nearest_mean(feats, means),
    }[name]
    torch.library.opcheck(getattr(torch.ops.ncfast, f"triton_{name}").default, arguments)


@pytest.mark.parametrize("metric", ["l2", "linf"])
@pytest.mark.parametrize("level", [1e-1, 1e-4, 1e-7])
def test_neighbours(level, metric):
    x, labels = collapsed(level, count=700, dim=10, num_classes=3)
    for within in (None, labels):
        distances, indices, _ = triton_sweep.knn(
            x.cuda(), 5, metric, None if within is None else within.cuda()
        )
        expected = brute.knn(x, 5, metric, within)
        assert distances.tolist() == expected[0].tolist()
        assert indices.tolist() == expected[1].tolist()


@pytest.mark.parametrize("rectangle", [False, True])
def test_joint_radii(rectangle):
    x = (2 * torch.randn(500, 4)).round().double()
    blocks = [x[:, :2], x[:, 2:]]
    radii, counts, extents, ties = triton_sweep.joint(on_gpu(*blocks), 4, "l2", rectangle, None)
    expected = brute.joint(blocks, 4, "l2", rectangle)
    assert radii.tolist() == expected[0].tolist()
    assert [each.tolist() for each in counts] == [each.tolist() for each in expected[1]]
    assert [each.tolist() for each in extents] == [each.tolist() for each in expected[2]]
    assert ties.tolist() == expected[3].tolist()


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_another_device_than_the_current_one():
    feats, labels = (t.cuda(1) for t in classes(5000, 64, 7, dtype=torch.float32))
    means = passes.reference(feats, labels, 7).means
    expected = SCATTER.reference(feats, labels, means)
    found = SCATTER.on_device(feats, labels, means)
    assert (found - expected).norm() <= 1e-5 * expected.norm()
