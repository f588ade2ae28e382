"""Label plans: the permutation, the segment table, and plans in place of labels."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import classes
from torch._subclasses.fake_tensor import FakeTensorMode

import ncfast
from ncfast._validate import LABEL_DTYPES
from ncfast.ops.grouping import _cut, build, present_segments


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


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 11), min_size=1, max_size=80),
    st.integers(1, 14),
    st.sampled_from([1, 2, 4, 8, 64]),
)
def test_segments_cover_every_row_once(labels, num_classes, rows):
    num_classes = max(num_classes, max(labels) + 1)
    plan = build(torch.tensor(labels), num_classes)
    table = plan.segments(rows)
    covered, slots = [], []
    for start, length, owner, pivot, slot in table.segments.T.tolist():
        assert length <= rows
        members = plan.permutation[start : start + length].tolist()
        covered += members
        assert all(labels[row] == owner for row in members)
        if owner >= 0 and plan.counts[owner]:
            assert pivot == labels.index(owner)
            alone = bool(plan.counts[owner] <= rows)
            assert alone == (slot < 0)
        slots += [slot] if slot >= 0 else []
    assert sorted(covered) == list(range(len(labels)))
    owners = set(table.segments[2].tolist())
    assert owners >= set(range(num_classes)), "absent classes own a segment too"
    assert slots == list(range(len(slots)))
    assert len(slots) <= table.slots


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 11), min_size=1, max_size=80),
    st.integers(12, 70_000),
    st.sampled_from([1, 2, 4, 64]),
)
def test_segments_of_present_classes_cover_every_row_that_counts_once(labels, num_classes, rows):
    """Label 11 stands for rows that are left out."""
    keys = torch.tensor([num_classes if label == 11 else label for label in labels])
    found = present_segments(keys, num_classes, rows)
    assert found.segments.shape == (6, len(labels) // rows + min(len(labels), num_classes))
    covered, members = [], {}
    for start, length, owner, first, segment, count in found.segments.T.tolist():
        run = found.permutation[start : start + length].tolist()
        assert length <= rows
        assert (owner >= 0) == (length > 0)
        assert all(labels[row] == owner for row in run)
        if count:
            members[owner] = segment
            assert count == labels.count(owner)
        if length:
            assert first == labels.index(owner)
        covered += run
    assert sorted(covered) == [row for row, label in enumerate(labels) if label != 11]
    assert set(members) == set(labels) - {11}
    assert found.leaders.tolist() == [members.get(label, -1) for label in labels]


def test_the_cuts_do_not_depend_on_rows_left_out():
    keys = torch.tensor([3, 1, 3, 9, 3, 9, 1, 3])
    whole, part = present_segments(keys, 9, 2), present_segments(keys[keys < 9], 9, 2)
    used = part.segments[1] > 0
    for row in (0, 1, 2, 4, 5):
        assert torch.equal(whole.segments[row][: len(used)][used], part.segments[row][used])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=80), st.sampled_from([1, 2, 4, 64]))
def test_shared_classes(labels, rows):
    plan = build(torch.tensor(labels), 6)
    table = plan.segments(rows)
    found = [column for column in table.shared.T.tolist() if column[0] >= 0]
    assert [column[0] for column in found] == [c for c in range(6) if plan.counts[c] > rows], (
        "every class of several segments, in order"
    )
    for owner, first, number, slot in found:
        part = table.segments[:, first : first + number]
        assert part[2].eq(owner).all()
        assert part[1].sum() == plan.counts[owner]
        assert part[4].tolist() == list(range(slot, slot + number))


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
        assert _cut(plan, 64).segments.shape == (5, 5000 // 64 + 10)


class Stream:
    """A CUDA stream that writes down what it is asked for."""

    def __init__(self, name, log):
        self.name, self.log = name, log

    def record_event(self):
        self.log.append(f"{self.name} records")
        return f"event of {self.name}"

    def wait_event(self, event):
        self.log.append(f"{self.name} waits for {event}")


def test_a_table_is_shared_between_streams(monkeypatch):
    """The stream that uses the table first makes it; the others wait for it and hold its memory."""
    log, current = [], ["first"]
    capturing = [False]
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream(current[0], log))
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capturing[0])
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
