"""What the extension must not do with memory, whatever the caller or another thread does."""

import subprocess
import sys
import threading
import time

import pytest
import torch
from torch import nn

import ncfast
from ncfast.information import neighbors
from ncfast.ops import _raw
from ncfast.ops.states import Layout, RowWriter
from ncfast.tracking import read_records

needs_extension = pytest.mark.skipif(_raw.extension is None, reason=f"{_raw.import_error}")
BACKENDS = ["reference", *(["cpu"] if _raw.extension is not None else [])]


def negated(tensor):
    """The same numbers, kept in memory with the other sign: `is_neg` is true."""
    view = torch._neg_view(-tensor)
    assert view.is_neg()
    assert torch.equal(view, tensor)
    return view


def same(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_negative_bit_of_every_argument_of_the_metrics(backend, dtype):
    """Expected: the numbers that the tensor shows, not those in its memory."""
    generator = torch.Generator().manual_seed(0)
    feats, ood = (torch.randn(n, 6, generator=generator, dtype=dtype) + 1 for n in (60, 20))
    labels = torch.arange(60) % 4
    weight, bias = (torch.randn(*s, generator=generator, dtype=dtype) for s in ((4, 6), (4,)))
    given = {"weight": weight, "bias": bias, "ood_feats": ood}
    expected = ncfast.collapse_metrics(feats, labels, **given, backend=backend)
    with_bit = {name: negated(value) for name, value in given.items()}
    found = ncfast.collapse_metrics(negated(feats), negated(labels), **with_bit, backend=backend)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-6, atol=1e-7, equal_nan=True)


def test_the_imaginary_part_of_a_conjugate():
    """The ordinary way to such a tensor: z.conj().imag."""
    z = torch.randn(6, 1, dtype=torch.cfloat)
    labels = torch.tensor([0, 1, 2] * 2)
    found = ncfast.class_moments(z.conj().imag, labels).means
    torch.testing.assert_close(found, -ncfast.class_moments(z.imag.clone(), labels).means)


@pytest.mark.parametrize("backend", ["auto", "reference", "scipy"])
def test_the_negative_bit_in_searches(backend):
    if backend == "scipy":
        pytest.importorskip("scipy")
    x = torch.randn(200, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    y, radii, labels = x[:, :1] * 2, torch.rand(200).double(), torch.arange(200) % 3
    minus = negated(labels)
    found = neighbors.knn(negated(x), 3, labels=minus, backend=backend)
    expected = neighbors.knn(x, 3, labels=labels, backend=backend)
    same(found.distances, expected.distances)
    same(found.indices, expected.indices)
    same(
        neighbors.joint_radii_and_counts([negated(x), negated(y)], 3, backend=backend).counts,
        neighbors.joint_radii_and_counts([x, y], 3, backend=backend).counts,
    )
    same(
        neighbors.range_count(negated(x), negated(radii), labels=minus, backend=backend),
        neighbors.range_count(x, radii, labels=labels, backend=backend),
    )
    one = neighbors.joint_radii_and_counts([negated(x)], 3, backend=backend)
    same(one.radii, neighbors.joint_radii_and_counts([x], 3, backend=backend).radii)


def test_the_negative_bit_in_a_tracked_step_and_in_norms(tmp_path):
    torch.manual_seed(0)  # rounding of ill-conditioned features would differ by more
    layer = nn.Linear(3, 2)
    size = float(ncfast.weight_norm(layer))
    layer.weight = nn.Parameter(negated(layer.weight.detach()))
    assert float(ncfast.weight_norm(layer)) == pytest.approx(size, rel=1e-6)
    feats, labels = torch.randn(12, 3) + 2, torch.arange(12) % 3
    for path, x, y in (("a", feats, labels), ("b", negated(feats), negated(labels))):
        with ncfast.Tracker(
            num_classes=3, metrics=["rnc1.max", "nc2.condition"], sinks=[tmp_path / path]
        ) as tracker:
            for _ in range(4):  # the first goes the full way, the others the fast one
                tracker.step(feats=x, labels=y)
    first, second = (list(read_records(tmp_path / path)) for path in "ab")
    assert len(first) == 4
    for found, expected in zip(second, first, strict=True):
        for record in (found, expected):
            record.pop("tracker/seconds", None)
        assert found == pytest.approx(expected, rel=1e-6)


@needs_extension
def test_rows_that_are_taken_while_a_large_batch_is_measured():
    """Expected: every row holds the batch of its step, or is not there."""
    layout = Layout(2, 512)
    states = torch.zeros(8, layout.size, dtype=torch.float64)
    steps: list[int] = []
    writer = RowWriter(states, layout).fast_writer(steps)
    if writer is None:
        pytest.skip("this PyTorch has no table for DLPack")
    memory, taken, going = states.numpy(), [], True

    def take():
        while going:
            number = len(steps)  # all of this is one turn of the interpreter
            taken.extend(zip(steps[:], memory[:number, 2].tolist(), strict=True))
            steps.clear()
            time.sleep(0.0001)

    labels = torch.arange(1024) % 2
    batches = torch.arange(60.0).repeat_interleave(512 * 1024).view(60, 1024, 512)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(10)
    other = threading.Thread(target=take)
    try:
        other.start()
        for step, batch in enumerate(batches):
            while not writer.push(step, batch, labels):
                time.sleep(0.0001)
    finally:
        going = False
        other.join()
        sys.setswitchinterval(interval)
    taken.extend(zip(steps, memory[: len(steps), 2].tolist(), strict=True))
    assert taken == [(step, float(step)) for step in range(60)]


def run(program):
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


CHANGING = """
import threading, torch, ncfast
feats = torch.ones(200_000, 4)
labels = torch.arange(200_000) % 1000
others = [labels.clone(), labels.flip(0) * 7 % 1000, torch.zeros_like(labels)]
going = True
def change():
    i = 0
    while going:
        labels.copy_(others[i := (i + 1) % 3])
thread = threading.Thread(target=change)
thread.start()
for _ in range(60):
    assert int(ncfast.class_moments(feats, labels, num_classes=1000).counts.sum()) == 200_000
going = False
thread.join()
print("whole")
"""


@needs_extension
def test_labels_that_change_during_a_call_cost_numbers_only():
    ran = run(CHANGING)
    assert ran.stdout == "whole\n", ran.stderr
