"""Counts what calls on a device launch, by a driver that launches nothing."""

import importlib.util

import pytest
import torch
from torch import nn

if importlib.util.find_spec("triton") is None:
    pytest.skip("needs triton (Linux on x86-64 only)", allow_module_level=True)

from fake_driver import count, fake_driver

import ncfast
from ncfast import ClassMoments, _validate
from ncfast.kernels import launch
from ncfast.ops import _raw, grouping
from ncfast.ops import moments as passes
from ncfast.ops._registry import Operation
from ncfast.ops.update import UPDATE

pytestmark = pytest.mark.skipif(launch.interpreted(), reason="needs kernels that are compiled")


@pytest.fixture(autouse=True)
def counted(monkeypatch):
    """The mode that counts must not look like a tracer."""
    monkeypatch.setattr(_raw, "_recorded", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))


def features(rows=20_000, dim=64, num_classes=10):
    return torch.randn(rows, dim), torch.arange(rows) % num_classes


def test_a_small_input_takes_one_launch_and_one_for_its_memory():
    feats, labels = features(500)
    assert count(lambda: passes.compute(feats, labels, 10)) == (["zeros"], ["moments_of_classes"])


def test_the_plan_and_its_cut_take_five_launches():
    _, labels = features()

    def build_and_cut():
        grouping.build_on_device(labels, 10).segments(64)

    operations, kernels = count(build_and_cut)
    assert operations == ["zeros", "sort"]
    assert kernels == ["fold_labels", "find_classes", "cut_classes"]


@pytest.mark.parametrize("reused", [False, True])
def test_many_rows(reused):
    feats, labels = features()
    plan = grouping.build(labels, 10) if reused else None
    operations, kernels = count(lambda: passes.compute(feats, labels, 10, plan))
    assert len(operations) + len(kernels) == (4 if reused else 9)
    assert kernels[-3:] == ["moments_of_segments", "moments_of_segments", "merge_segments"]


def test_the_merge_is_split_over_columns():
    feats, labels = features(100_000, 512)
    with fake_driver() as launched:
        passes.compute(feats, labels, 10)
        grids = {each.kernel: each.grid for each in launched.launches}
    assert grids["merge_segments"] == (11, 4, 1), "ten classes and the norms; 128 columns a program"


def test_an_update_takes_seven_launches():
    feats, labels = features(8000)
    state, ignored = ClassMoments.empty(10, 64), torch.zeros((), dtype=torch.int64)
    options = {"mask": labels > 2, "ignore_index": -100, "ignored": ignored}
    operations, kernels = count(lambda: UPDATE.triton(feats, labels, state, **options))
    assert len(operations) + len(kernels) == 7


def test_an_update_with_the_scatter_matrix_takes_twelve_launches():
    feats, labels = features(8000)
    state, scatter = ClassMoments.empty(10, 64), torch.zeros(64, 64, dtype=torch.float64)
    operations, kernels = count(lambda: UPDATE.triton(feats, labels, state, scatter=scatter))
    assert len(operations) + len(kernels) == 12


@pytest.mark.parametrize("ignore_index", [None, -100])
@pytest.mark.parametrize("rows", [500, 8192])
def test_a_tracked_step(monkeypatch, rows, ignore_index):
    """On a device, by the kernels, with the norm of 50 tensors of weights."""
    monkeypatch.setattr(_raw, "extension", None)
    monkeypatch.setattr(_validate, "is_on_host", lambda labels: False)
    monkeypatch.setattr("ncfast.moments.select", lambda *given: passes.compute)
    monkeypatch.setattr(Operation, "select", lambda self, *given: self.triton)
    model = nn.Sequential(*(nn.Linear(3, 3) for _ in range(25)))
    feats, labels = features(rows, 512)
    options = {"layers": [], "ignore_index": ignore_index, "flush_seconds": 3600.0}
    tracker = ncfast.Tracker(model, num_classes=10, **options)
    operations, kernels = count(lambda: tracker.step(labels=labels, feats=feats))
    assert len(operations) + len(kernels) <= 15, (operations, kernels)
    tracker.close()


def test_a_launch_passes_what_triton_passes(monkeypatch):
    """The first launch of a kind goes through Triton, later ones do not."""
    feats, labels = features(500, 200)
    with fake_driver() as launched:
        monkeypatch.setattr(launch, "_compiled", {})
        passed = []
        for _ in range(2):
            passes.compute(feats, labels, 10)
            passed.append(launched.arguments)
    first, again = passed
    assert len(first) == len(again)
    for one, other in zip(first, again, strict=True):
        if isinstance(one, torch.Tensor):
            assert (one.shape, one.dtype) == (other.shape, other.dtype)
        else:
            assert one == other


@pytest.mark.parametrize(
    "change",
    [
        lambda x, y: (x[:, 1:], y),
        lambda x, y: (x.flatten()[1 : 1 + 499 * 200].view(499, 200), y[1:]),
        lambda x, y: (x[:, ::2], y),
        lambda x, y: (x.bfloat16(), y),
        lambda x, y: (x, y.int()),
        lambda x, y: (x, y[:0].new_empty(501)[1:].copy_(y)),
    ],
    ids=["columns", "address", "stride", "dtype", "labels", "address of labels"],
)
def test_another_kind_of_tensor_is_compiled_anew(monkeypatch, change):
    """Code for 16-byte rows must not run on others, nor 32-bit strides hold 64 bits."""
    feats, labels = features(500, 200)
    with fake_driver():
        monkeypatch.setattr(launch, "_compiled", {})
        passes.compute(feats, labels, 10)
        passes.compute(*features(500, 200), 10)
        assert len(launch._compiled) == 1
        passes.compute(*change(feats, labels), 10)
        assert len(launch._compiled) == 2


def test_a_stride_of_64_bits_is_compiled_anew(monkeypatch):
    _, labels = features(500)
    with fake_driver():
        monkeypatch.setattr(launch, "_compiled", {})
        for step in (16, 2**31):
            passes.compute(torch.empty(500).as_strided((500, 1), (1, step)), labels, 10)
        assert len(launch._compiled) == 2
