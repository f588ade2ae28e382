"""Label plans: the permutation, the segment table, and plans in place of labels."""

import pytest
import torch
from samples import classes
from torch._subclasses.fake_tensor import FakeTensorMode

import ncfast
from ncfast._validate import LABEL_DTYPES
from ncfast.ops import grouping
from ncfast.ops.grouping import SegmentTable, build


@pytest.mark.parametrize("dtype", LABEL_DTYPES)
@pytest.mark.parametrize("num_classes", [5, 256, 257, 32768, 40000])
def test_rows_sorted_by_label_and_then_by_row(dtype, num_classes):
    top = min(num_classes, torch.iinfo(dtype).max) - 1
    labels = torch.tensor([3, 0, top, 0, 3, 4, top, 0]).to(dtype)
    plan = ncfast.plan(labels, num_classes)
    order = sorted(range(8), key=lambda row: (int(labels[row]), row))
    assert plan.permutation.tolist() == order
    assert plan.permutation.dtype == torch.int32
    assert plan.counts[:5].tolist()[:2] == [3, 0]
    assert plan.offsets[3] == 3
    assert len(plan) == 8
    assert plan.poison == 0


def test_a_plan_takes_the_place_of_labels():
    feats, labels = classes(dtype=torch.float32)
    plan = ncfast.plan(labels)
    assert plan.num_classes == 5
    assert torch.equal(ncfast.rnc1(feats, plan), ncfast.rnc1(feats, labels))
    assert torch.equal(ncfast.nc2(feats, plan), ncfast.nc2(feats, labels))
    again = ncfast.class_moments(feats, plan, num_classes=5, validate="full")
    assert torch.equal(again.means, ncfast.class_moments(feats, labels).means)


def test_a_plan_is_a_snapshot():
    feats, labels = classes()
    before = ncfast.rnc1(feats, labels)
    plan = ncfast.plan(labels)
    labels.zero_()
    assert torch.equal(ncfast.rnc1(feats, plan), before)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x, y: ncfast.plan(y.float()), TypeError, "integer dtype but got torch.float32"),
        (lambda x, y: ncfast.plan(y[:0]), ValueError, r"1 to 2\^31 - 1 labels but got 0"),
        (lambda x, y: ncfast.plan(y, 3), ValueError, r"0\.\.2 but row"),
        (lambda x, y: ncfast.plan(y, 0), ValueError, "at least 1"),
        (lambda x, y: ncfast.rnc1(x[1:], ncfast.plan(y)), ValueError, "199 rows and 200 labels"),
        (
            lambda x, y: ncfast.rnc1(x, ncfast.plan(y), num_classes=6),
            ValueError,
            "`num_classes` to be 5, as in the plan, but got 6",
        ),
        (
            lambda x, y: ncfast.rnc1(x.to("meta"), ncfast.plan(y)),
            ValueError,
            "same device but got meta and cpu",
        ),
    ],
)
def test_messages(call, error, message):
    with pytest.raises(error, match=message):
        call(*classes())


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_no_host_synchronisation(device):
    """Fake tensors raise if a value is read."""
    with FakeTensorMode():
        plan = ncfast.plan(torch.empty(5000, dtype=torch.int64, device=device), 10)
        assert plan.permutation.shape == (5000,)


class Stream:
    """A CUDA stream that writes down what it is asked for."""

    def __init__(self, name, log):
        self.name, self.log = name, log

    def record_event(self):
        self.log.append(f"{self.name} records")
        return f"event of {self.name}"

    def wait_event(self, event):
        self.log.append(f"{self.name} waits for {event}")


def table_of(rows):
    """A table as the kernels make it."""
    parts = (torch.empty((number, 9), dtype=torch.int32, device="cuda") for number in (4, 4))
    return SegmentTable(rows, *parts, 9)


def test_a_table_is_shared_between_streams(monkeypatch):
    """The stream that uses the table first makes it; the others wait for it and hold its memory."""
    log, current = [], ["first"]
    capturing = [False]
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream(current[0], log))
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capturing[0])
    monkeypatch.setattr(grouping, "_cut", lambda plan, rows: table_of(rows))
    held = []
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda self, s: held.append(s.name))
    with FakeTensorMode():
        plan = build(torch.empty(50, dtype=torch.int64, device="cuda"), 7)
        table = plan.segments(16)
        assert log == ["first records"]
        current[0] = "second"
        assert plan.segments(16) is table
        assert log[1:] == ["second waits for event of first"]
        assert held == ["second", "second"]
        capturing[0] = True
        assert plan.segments(16) is table
        assert plan.segments(32) is not plan.segments(32), (
            "not kept: a graph writes it when it runs"
        )
    assert len(log) == 2, "a capture may not wait for what lies outside it"
