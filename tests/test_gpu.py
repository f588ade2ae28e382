"""Tests on a GPU: the same bits on every run, and no host synchronisation."""

import numpy as np
import pytest
import torch
from oracle import two_pass
from samples import classes, collapsed, companions

import ncfast
from ncfast.metrics.catalogue import CATALOGUE, OF_MOMENTS

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
SYNC_FREE = [name for name, metric in OF_MOMENTS.items() if not metric.synchronizes]


@pytest.fixture
def no_synchronisation():
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode(before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("level", [1.0, 1e-3, 1e-7])
@pytest.mark.parametrize("backend", ["reference", "triton"])
def test_equals_the_oracle(backend, level, dtype):
    status = ncfast.backends()[backend]
    if not status.available:
        pytest.skip(status.reason)
    feats, labels = collapsed(level, dtype=dtype)
    found = ncfast.class_moments(feats.cuda(), labels.cuda(), num_classes=8, backend=backend)
    # the kernels sum a tile in float32, a class in float64
    rtol = 2e-6 if backend == "triton" and dtype != torch.float64 else 1e-9
    for name, expected in two_pass(feats, labels, 8).items():
        value = getattr(found, name).cpu().numpy()
        np.testing.assert_allclose(value, expected, rtol=rtol, atol=1e-15, err_msg=name)


def test_every_run_gives_the_same_bits():
    feats, labels = (t.cuda() for t in classes(20_000, 64, 7, dtype=torch.float32))
    first = ncfast.class_moments(feats, labels, num_classes=7).state_dict()
    for _ in range(20):
        again = ncfast.class_moments(feats, labels, num_classes=7).state_dict()
        assert all(torch.equal(again[name], value) for name, value in first.items())


def test_metrics_do_not_synchronise(no_synchronisation):
    feats = torch.randn(5000, 64, device="cuda")
    labels = torch.zeros(5000, dtype=torch.int64, device="cuda")
    values = ncfast.collapse_metrics(
        feats,
        labels,
        weight=torch.randn(10, 64, device="cuda"),
        bias=torch.randn(10, device="cuda"),
        ood_feats=torch.randn(300, 64, device="cuda"),
        metrics=[name for name, metric in CATALOGUE.items() if not metric.synchronizes],
    )
    ncfast.rnc1(feats, labels, num_classes=10)
    assert {value.device.type for value in values.values()} == {"cuda"}


def test_a_tracked_step_does_not_synchronise(no_synchronisation):
    feats = torch.randn(256, 64, device="cuda")
    labels = torch.zeros(256, dtype=torch.int64, device="cuda")
    tracker = ncfast.Tracker(num_classes=10, metrics=SYNC_FREE, sinks=[lambda record: None])
    for _ in range(5):
        tracker.step(feats=feats, labels=labels)


def test_records_arrive_complete_and_in_order():
    records = []
    feats, labels = (t.cuda() for t in classes(dtype=torch.float32))
    with ncfast.Tracker(num_classes=5, sinks=[records.append]) as tracker:
        for _ in range(50):
            tracker.step(feats=feats, labels=labels)
    assert [record["step"] for record in records] == list(range(1, 51))
    expected = ncfast.rnc1(feats, labels, num_classes=5).item()
    found = {record["train/rnc1.max"] for record in records}
    assert len(found) == 1, "every step has the same bits"
    # a call sums in another order than a block of a tracker
    assert found.pop() == pytest.approx(expected, rel=1e-9)


def test_labels_out_of_range_give_nan():
    feats, labels = (t.cuda() for t in classes(dtype=torch.float32))
    assert ncfast.rnc1(feats, labels, num_classes=4).isnan()
    with pytest.raises(ValueError, match=r"0\.\.3 but row"):
        ncfast.class_moments(feats, labels, num_classes=4, validate="full")


def test_different_devices():
    feats, labels = classes()
    with pytest.raises(ValueError, match=r"cuda:0 and cpu"):
        ncfast.rnc1(feats.cuda(), labels)


def test_every_metric_equals_the_cpu():
    feats, labels = classes(num_classes=5, dtype=torch.float32)
    weight, bias, ood = companions(5, feats.shape[1])
    here, there = (
        ncfast.collapse_metrics(
            feats.to(device),
            labels.to(device),
            weight=weight.to(device),
            bias=bias.to(device),
            ood_feats=ood.to(device),
        )
        for device in ("cpu", "cuda")
    )
    for name, value in here.items():
        assert there[name].item() == pytest.approx(value.item(), rel=1e-9, abs=1e-12), name
