"""Tests the Triton backend on a GPU: compiled, both paths, graphs, streams, torch.compile."""

from functools import partial

import numpy as np
import pytest
import torch
from oracle import two_pass
from samples import classes, collapsed, nearly_constant, one_outlier

import ncfast
from ncfast.ops import _fallback
from ncfast.ops.update import UPDATE

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not ncfast.backends()["triton"].available, reason=ncfast.backends()["triton"].reason
    ),
]
# by name: these tests need no verdict of a self-check
moments = partial(ncfast.class_moments, backend="triton")
rnc1 = partial(ncfast.rnc1, backend="triton")
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
# (N, D, K): the one-launch path, the planned path, several groups of columns, many classes
SIZES = [(1000, 200, 10), (20_000, 200, 10), (6000, 4100, 7), (9000, 64, 5000), (70_000, 33, 3)]


@pytest.fixture(autouse=True)
def no_fallback(monkeypatch):
    """A kernel that fails must fail the test."""
    monkeypatch.setattr(_fallback, "failures", {})
    yield
    assert not _fallback.failures


def check(found, feats, labels, num_classes):
    expected = two_pass(feats.cpu(), labels.cpu(), num_classes)
    rtol = 1e-11 if feats.dtype == torch.float64 else 2e-6
    assert found.counts.tolist() == expected["counts"].tolist()
    for name in ("within_ss", "norm_sum", "norm_max"):
        value = getattr(found, name).cpu().numpy()
        np.testing.assert_allclose(value, expected[name], rtol=rtol, atol=1e-300, err_msg=name)
    spread = np.sqrt(expected["within_ss"] / expected["counts"].clip(1))[:, None]
    away = np.abs(found.means.cpu().numpy() - expected["means"])
    assert (away <= rtol * spread + 1e-14 * np.abs(expected["means"])).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("level", [1e-1, 1e-7])
@pytest.mark.parametrize("size", SIZES)
def test_equals_the_oracle(size, level, dtype):
    count, dim, k = size
    feats, labels = (
        t.cuda() for t in collapsed(level, count=count, dim=dim, num_classes=k, dtype=dtype)
    )
    check(moments(feats, labels, num_classes=k), feats, labels, k)
    check(moments(feats, ncfast.plan(labels, k)), feats, labels, k)


@pytest.mark.parametrize("count", [400, 40_000])
@pytest.mark.parametrize("row", [0, 399])
@pytest.mark.parametrize("big", [1e3, 1e12])
def test_one_outlier_in_a_class(big, row, count):
    feats, labels = one_outlier(600, big, row, count=count)
    check(moments(feats.cuda(), labels.cuda(), num_classes=4), feats, labels, 4)


@pytest.mark.parametrize("count", [400, 40_000])
def test_columns_that_are_nearly_constant(count):
    feats, labels = nearly_constant(0.99, 0.123, count=count)
    check(moments(feats.cuda(), labels.cuda(), num_classes=4), feats, labels, 4)


@pytest.mark.parametrize("size", SIZES)
def test_twenty_runs_give_the_same_bits(size):
    count, dim, k = size
    feats, labels = (t.cuda() for t in classes(count, dim, k, dtype=torch.float32))
    first = moments(feats, labels, num_classes=k).state_dict()
    for _ in range(20):
        again = moments(feats, labels, num_classes=k).state_dict()
        assert all(torch.equal(again[name], value) for name, value in first.items())


@pytest.mark.parametrize("size", SIZES[:2])
def test_graph_capture_and_replay(size):
    count, dim, k = size
    feats, labels = (t.cuda() for t in classes(count, dim, k, dtype=torch.float32))
    moments(feats, labels, num_classes=k)  # compiles before the capture
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = moments(feats, labels, num_classes=k)
    for seed in (1, 2, 3):
        other, order = classes(count, dim, k, dtype=torch.float32, seed=seed)
        feats.copy_(other)
        labels.copy_(order)
        graph.replay()
        torch.cuda.synchronize()
        check(found, other, order, k)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [(512, 200, 10), (8192, 768, 50_257), (600, 4100, 7)])
def test_updates_equal_the_oracle(size, dtype):
    """Two batches with rows left out, in a fresh state and in one of the same bits."""
    count, dim, k = size
    feats, labels = collapsed(1e-2, count=count, dim=dim, num_classes=k, dtype=dtype)
    mask, labels[::7] = torch.arange(count) % 5 > 0, -100
    kept = mask & (labels >= 0)
    states = []
    for _ in range(2):
        state = ncfast.ClassMoments.empty(k, dim, "cuda")
        for part in (slice(0, count // 3), slice(count // 3, count)):
            batch = feats[part].cuda(), labels[part].cuda()
            options = {"ignore_index": -100, "backend": "triton"}
            state.update_(*batch, mask=mask[part].cuda(), **options)
        states.append(state)
    check(states[0], feats[kept], labels[kept], k)
    first, again = (state.state_dict() for state in states)
    assert all(torch.equal(again[name], value) for name, value in first.items())


def test_an_update_in_a_graph():
    """Replayed for batches with other classes, it does what the reference does; no sync."""
    feats, labels = (t.cuda() for t in classes(600, 64, 30, dtype=torch.float32))
    states = [ncfast.ClassMoments.empty(1000, 64, "cuda") for _ in range(2)]
    scatters = [torch.zeros(64, 64, dtype=torch.float64, device="cuda") for _ in range(2)]
    run = [UPDATE.select("triton", feats), UPDATE.reference]
    run[0](feats, labels, ncfast.ClassMoments.empty(1000, 64, "cuda"), scatter=scatters[0])
    scatters[0].zero_()
    graph = torch.cuda.CUDAGraph()
    torch.cuda.set_sync_debug_mode("error")
    try:
        with torch.cuda.graph(graph):
            run[0](feats, labels, states[0], scatter=scatters[0])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for seed in range(3):
        batch = (t.cuda() for t in classes(600, 64, 30, dtype=torch.float32, seed=seed))
        for given, new in zip((feats, labels), batch, strict=True):
            given.copy_(new)
        labels.mul_(1 + seed * 11)
        graph.replay()
        run[1](feats, labels, states[1], scatter=scatters[1])
    for name, value in states[1].state_dict().items():
        torch.testing.assert_close(getattr(states[0], name), value, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(*scatters, rtol=1e-6, atol=1e-6 * scatters[1].abs().max().item())


def test_a_plan_first_used_in_a_capture_is_not_spoilt():
    feats, labels = (t.cuda() for t in classes(20_000, 64, 7, dtype=torch.float32))
    expected = moments(feats, labels, num_classes=7)
    plan = ncfast.plan(labels, 7)
    with torch.cuda.graph(torch.cuda.CUDAGraph()):
        moments(feats, plan)
    assert torch.equal(moments(feats, plan).means, expected.means)


def test_no_host_synchronisation():
    feats, labels = (t.cuda() for t in classes(20_000, 64, 7, dtype=torch.float32))
    small = feats[:500], labels[:500]
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(2):
            moments(feats, labels, num_classes=7)
            moments(feats, ncfast.plan(labels, 7))
            moments(*small, num_classes=7)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_streams_side_by_side():
    """Small inputs share no memory between streams, not even the counter."""
    feats, labels = (t.cuda() for t in classes(1000, 200, 10, dtype=torch.float32))
    expected = moments(feats, labels, num_classes=10)
    torch.cuda.synchronize()
    found = []
    streams = [torch.cuda.Stream() for _ in range(8)]
    for _ in range(50):
        for stream in streams:
            with torch.cuda.stream(stream):
                found.append(moments(feats, labels, num_classes=10))
    torch.cuda.synchronize()
    for each in found:
        assert torch.equal(each.norm_sum, expected.norm_sum)
        assert torch.equal(each.means, expected.means)


def test_torch_compile_without_a_graph_break():
    feats, labels = (t.cuda() for t in classes(20_000, 64, 7, dtype=torch.float32))

    @torch.compile(fullgraph=True)
    def metric(x, y):
        return rnc1(x * 2, y, num_classes=7)

    torch.testing.assert_close(metric(feats, labels), rnc1(feats, labels, num_classes=7))


def test_opcheck():

    feats, labels = (t.cuda() for t in classes(300, 8, 3, dtype=torch.float32))
    torch.library.opcheck(torch.ops.ncfast.triton_moments.default, (feats, labels, 3))


def test_offsets_beyond_2_to_31():
    rows = 2**31 // 4096 + 3
    feats = torch.zeros(rows, 4096, dtype=torch.bfloat16, device="cuda")
    feats[-1], feats[-2] = 2.0, 4.0
    labels = torch.zeros(rows, dtype=torch.int64, device="cuda")
    labels[-2:] = 1
    found = moments(feats, labels, num_classes=2)
    assert found.within_ss.tolist() == [0.0, 2.0 * 4096]
    assert found.means[1].eq(3.0).all()


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_features_on_another_device_than_the_current_one():
    feats, labels = (t.cuda(1) for t in classes(20_000, 64, 7, dtype=torch.float32))
    check(moments(feats, labels, num_classes=7), feats, labels, 7)
