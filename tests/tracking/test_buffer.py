"""The buffers of moments and of norms of the weights, with the extension and without it."""

import os

import pytest
import torch
from samples import classes
from torch import nn

import ncfast
from ncfast.ops import _raw
from ncfast.ops.states import Layout
from ncfast.tracking import Tracker, read_records
from ncfast.tracking.averaging import Averaging
from ncfast.tracking.buffer import MomentsBuffer
from ncfast.tracking.recorder import NormBuffer
from ncfast.tracking.step import FullStep

needs_column = pytest.mark.skipif(
    NormBuffer().writer is None, reason="needs the extension and a PyTorch with DLPack's table"
)


@needs_column
def test_a_column_measures_a_step_once_and_overwrites_nothing():
    model, column = nn.Linear(3, 2), NormBuffer()
    assert column.table() == []
    norms = []
    for step in range(1, 129):
        assert not column.full
        model.weight.data.mul_(1.01)
        norms.append(ncfast.weight_norm(model).item())
        assert column.push(step, model)
    model.weight.data.mul_(2)
    assert column.push(128, model)
    assert column.full
    assert not column.push(129, model)
    (table,) = column.table()
    column.clear()
    assert column.push(130, model)
    assert table.steps == list(range(1, 129))
    assert table.values.squeeze(1).tolist() == norms
    assert column.steps == [130]


@needs_column
def test_a_column_leaves_the_unusual_to_torch():
    column = NormBuffer()
    assert not column.push(1, nn.ReLU())
    assert not column.push(1, nn.Linear(3, 2, device="meta"))
    assert column.steps == []


def track(path, *, steps=300, change=lambda step, model: None, **options):
    """Records of a small network, and its norm at each step."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 6), nn.ReLU(), nn.Linear(6, 5))
    x, y = classes(dim=10, dtype=torch.float32)
    norms, options = {}, {"metrics": ["rnc1", "weight.norm"], "log_cost": False, **options}
    with Tracker(model, num_classes=5, sinks=[path], **options) as tracker, torch.no_grad():
        for step in range(1, steps + 1):
            change(step, model)
            model[0].weight.add_(0.01)
            model(x[: 100 + step % 7])
            tracker.step(labels=y[: 100 + step % 7])
            norms[step] = ncfast.weight_norm(model).item()
    return list(read_records(path)), norms


KEYS = ["step", "train/rnc1.max", "train/rnc1.mean", "weight.norm", "tracker/run"]


@pytest.mark.parametrize("extension", [True, False])
@pytest.mark.parametrize("options", [{}, {"stream": "ema:0.9"}], ids=["batch", "average"])
def test_every_record_has_the_norm_of_its_step(tmp_path, monkeypatch, extension, options):
    if not extension:
        monkeypatch.setattr(_raw, "extension", None)
    records, norms = track(tmp_path / "log.jsonl", **options)
    prefix = "ema/" if options else ""
    assert list(records[0]) == [KEYS[0], *(prefix + key for key in KEYS[1:3]), *KEYS[3:]]
    assert {record["step"]: record["weight.norm"] for record in records} == norms


@needs_column
def test_ordinary_steps_are_short(tmp_path, monkeypatch):
    steps, full, original, measure = [], [], Tracker._step, FullStep.measure
    monkeypatch.setattr(Tracker, "_step", lambda *args: steps.append(1) or original(*args))
    monkeypatch.setattr(FullStep, "measure", lambda *args: full.append(1) or measure(*args))
    track(tmp_path / "log.jsonl", flush_seconds=1e9)
    assert len(steps) == 3  # the first, and the first of each further block
    assert len(full) == 1


class Own(nn.Linear):
    """Counts its bias alone."""

    def named_modules(self, *args, **kwargs):
        return iter([])


def replaced(step, model):
    if step == 10:
        model[0].weight = nn.Parameter(torch.ones(6, 10))
    if step == 20:
        model[0].register_parameter("extra", nn.Parameter(torch.ones(4).double()))
    if step == 30:
        model.append(nn.Linear(5, 5))


def unusual_for_a_while(step, model):
    if step == 10:
        model[0].add_module("own", Own(3, 2))
    if step == 200:
        del model[0].own


@pytest.mark.parametrize("change", [replaced, unusual_for_a_while])
def test_parameters_may_change_in_mid_run(tmp_path, change):
    records, norms = track(tmp_path / "log.jsonl", change=change, layers="0")
    assert [list(record) for record in records] == [KEYS] * 300
    assert {record["step"]: record["weight.norm"] for record in records} == norms
    assert len(set(norms.values())) == 300


def test_splits_of_a_step_share_one_norm(tmp_path):
    model, (x, y) = nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 5)), classes()
    x, path = x.float(), tmp_path / "log.jsonl"
    with Tracker(model, num_classes=5, sinks=[path], log_cost=False) as tracker:
        tracker.snapshot([(x, y)], split="test")
        for _ in range(2):
            model(x)
            tracker.step(labels=y)
            tracker.snapshot([(x, y)], split="test")
            tracker.snapshot([(x, y)], split="valid")
    norm = ncfast.weight_norm(model).item()
    records = list(read_records(path))
    assert [record["step"] for record in records] == [0, 1, 2]
    assert all(record["weight.norm"] == norm for record in records)
    assert path.read_bytes().count(b"weight.norm") == 3


def test_a_step_without_labels_still_has_its_norm(tmp_path):
    model, (x, y), path = nn.Sequential(nn.Linear(12, 5)), classes(), tmp_path / "log.jsonl"
    with Tracker(model, num_classes=5, sinks=[path], log_cost=False) as tracker:
        for labels in (y, y, None, y):
            model(x.float())
            if labels is None:
                with pytest.warns(RuntimeWarning, match="without labels"):
                    tracker.step(labels=None)
            else:
                tracker.step(labels=labels)
    records = list(read_records(path))
    assert [record["step"] for record in records] == [1, 2, 3, 4]
    assert list(records[2]) == ["step", "weight.norm", "tracker/run"]
    assert len({record["weight.norm"] for record in records}) == 1


def test_when_other_ranks_are_missing_the_norms_are_kept(tmp_path, monkeypatch):
    def missing(*args):
        raise TimeoutError("a rank is gone")

    monkeypatch.setattr("ncfast.tracking.recorder.tables_of", missing)
    path = tmp_path / "log.jsonl"
    with pytest.raises(TimeoutError):
        track(path, steps=5)
    keys = ["step", "weight.norm", "tracker/run"]
    assert [list(record) for record in read_records(path)] == [keys] * 5


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_may_go_on_for_more_than_a_block():
    model, (x, y) = nn.Sequential(nn.Linear(12, 5)), classes()
    tracker = Tracker(model, num_classes=5, metrics=["rnc1", "weight.norm"], flush_seconds=1e9)
    model(x.float())
    tracker.step(labels=y)
    child = os.fork()
    if child == 0:
        for _ in range(300):
            model(x.float())
            tracker.step(labels=y)
        buffer = next(iter(tracker._recorder.buffers._buffers.values()))
        os._exit(0 if buffer.number <= buffer.capacity else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def buffer(monkeypatch=None):
    if monkeypatch is not None:  # the path of an accelerator
        monkeypatch.setattr(_raw, "extension", None)
    return MomentsBuffer("a", ["rnc1.max"], Layout(3, 4), torch.device("cpu"), Averaging("batch"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_row_of_the_ring_is_what_class_moments_gives(dtype, monkeypatch):
    feats, labels = torch.randn(20, 8).to(dtype), torch.arange(20) % 3
    expected = ncfast.class_moments(feats[:, ::2].contiguous(), labels, num_classes=3)
    for other in (None, monkeypatch):
        rows = buffer(other)
        for wide in (labels, labels.to(torch.uint16), labels.to(torch.int16)):
            rows.push(7, feats[:, ::2].contiguous(), wide)
        rows.push(8, feats[:, ::2], labels)  # columns that are not adjacent
        steps, states = rows.steps[:], rows.states[: rows.number]
        assert steps == [7, 7, 7, 8]
        rows.clear()
        assert rows.number == 0
        for state in states:
            found = ncfast.ClassMoments(*rows.layout.split(state))
            assert torch.equal(found.counts, expected.counts)
            torch.testing.assert_close(found.means, expected.means, rtol=1e-6, atol=1e-6)
            torch.testing.assert_close(found.within_ss, expected.within_ss, rtol=1e-6, atol=0)


def test_what_a_graph_records_fills_row_after_row(monkeypatch):
    """A captured push holds the operations of one row; each replay must find the next one."""
    from torch.fx.experimental.proxy_tensor import make_fx

    rows = buffer(monkeypatch)
    labels = torch.arange(20) % 3
    warm = torch.randn(20, 4)
    rows.push(0, warm, labels)
    rows.clear()

    monkeypatch.setattr("ncfast.tracking.buffer._capturing", lambda device: True)
    # labels on the host would be looked at, which those of an accelerator are not
    monkeypatch.setattr("ncfast._validate.is_on_host", lambda labels: False)
    graph = make_fx(lambda feats: rows.push(0, feats, labels), tracing_mode="real")(warm)
    rows.states.zero_()
    rows._position.zero_()
    assert rows.number == 0
    inputs = [torch.randn(20, 4) for _ in range(3)]
    for step, feats in enumerate(inputs):
        graph(feats)
        rows.replayed(step)
    steps, states = rows.steps[:], rows.states[: rows.number]
    assert steps == [0, 1, 2]
    for feats, state in zip(inputs, states, strict=True):
        expected = ncfast.class_moments(feats, labels, num_classes=3)
        torch.testing.assert_close(
            ncfast.ClassMoments(*rows.layout.split(state)).means, expected.means
        )
    first = states[0].clone()
    rows.clear()
    graph(inputs[0])
    rows.replayed(3)
    assert torch.equal(rows.states[0], first)
