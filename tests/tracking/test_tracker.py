import copy
import json
import math
import random
import time
from collections import OrderedDict

import numpy as np
import pytest
import torch
from samples import classes
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.data import DataLoader, TensorDataset

import ncfast
from ncfast.metrics.catalogue import METRICS
from ncfast.tracking import Tracker, read_records


def network(dropout=0.0):
    torch.manual_seed(0)
    return nn.Sequential(
        OrderedDict(
            hidden=nn.Linear(12, 8),
            norm=nn.BatchNorm1d(8),
            activation=nn.ReLU(),
            dropout=nn.Dropout(dropout),
            head=nn.Linear(8, 5),
        )
    )


def data():
    return classes(dtype=torch.float32)


def test_explicit_features_are_measured_at_every_step():
    feats, labels = data()
    records = []
    with Tracker(num_classes=5, sinks=[records.append], log_cost=False) as tracker:
        for start in (0, 100):
            tracker.step(
                feats=feats[start : start + 100], labels=labels[start : start + 100], split="a"
            )
    assert [record["step"] for record in records] == [1, 2]
    assert set(records[0]) == {"step", *(f"a/{name}" for name in METRICS)}
    expected = ncfast.collapse_metrics(
        feats[100:], labels[100:], num_classes=5, metrics=list(METRICS)
    )
    found = {key.removeprefix("a/"): value for key, value in records[1].items()}
    assert found == pytest.approx({"step": 2} | {k: v.item() for k, v in expected.items()}, 1e-12)


def test_schedules():
    feats, labels = data()
    for every, expected in ((2, [2, 4, 6]), (lambda step: step in (1, 5), [1, 5])):
        records = []
        with Tracker(num_classes=5, every=every, sinks=[records.append]) as tracker:
            for _ in range(6):
                tracker.step(feats=feats, labels=labels)
        assert [record["step"] for record in records] == expected


def test_default_capture_is_the_input_of_the_last_linear():
    model, (x, y), records = network().eval(), data(), []
    with Tracker(model, num_classes=5, sinks=[records.append]) as tracker:
        model(x)
        tracker.step(labels=y)
    hidden = model[:4](x)
    expected = ncfast.rnc1(hidden, y, num_classes=5).item()
    assert records[0]["train/rnc1.max"] == pytest.approx(expected, rel=1e-12)
    assert records[0]["weight.norm"] == ncfast.weight_norm(model).item()


def test_several_layers_have_their_names_in_the_keys():
    model, (x, y), records = network().eval(), data(), []
    layers = ["hidden", "head:input"]
    with Tracker(
        model,
        layers=layers,
        num_classes=5,
        metrics="rnc1",
        sinks=[records.append],
        log_cost=False,
    ) as tracker:
        model(x)
        tracker.step(labels=y)
    assert set(records[0]) == {
        "step",
        *(f"train/{layer}/rnc1.{scale}" for layer in layers for scale in ("max", "mean")),
    }
    found = records[0]["train/hidden/rnc1.max"]
    expected = ncfast.rnc1(model.hidden(x), y, num_classes=5).item()
    assert found == pytest.approx(expected, rel=1e-12)


def test_snapshot_is_exact_over_batches_and_joins_the_record_of_its_step():
    model, (x, y), records = network().eval(), data(), []
    loss = nn.CrossEntropyLoss(reduction="sum")
    with Tracker(model, num_classes=5, sinks=[records.append]) as tracker:
        loader = DataLoader(TensorDataset(x, y), batch_size=37)
        tracker.snapshot([(x, y)], split="whole", loss=loss)
        tracker.snapshot(loader, split="batched", loss=loss)
        tracker.log({"mine": 3.0, "tensor": torch.tensor(0.5)})
    (record,) = records
    assert record["step"] == 0
    assert record["mine"] == 3.0
    assert record["tensor"] == 0.5
    logits = model(x).detach()
    assert record["batched/accuracy"] == (logits.argmax(1) == y).double().mean().item()
    assert record["batched/loss"] == pytest.approx(loss(logits, y).item() / 200, rel=1e-6)
    for name in METRICS:
        assert record[f"batched/{name}"] == pytest.approx(record[f"whole/{name}"], rel=1e-6)


def test_snapshot_leaves_no_trace():
    model, (x, y) = network(dropout=0.5), data()
    model.train()
    model.norm.eval()  # a frozen layer must stay frozen
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    expected = torch.rand(3), np.random.rand(3).tolist(), random.random()
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    with Tracker(model, num_classes=5) as tracker:
        # a DataLoader draws from the global stream even without shuffling
        loader = DataLoader(TensorDataset(x, y), batch_size=50, shuffle=True)
        tracker.snapshot(loader)
    found = torch.rand(3), np.random.rand(3).tolist(), random.random()
    assert torch.equal(found[0], expected[0])
    assert found[1:] == expected[1:]
    assert model.training
    assert model.dropout.training
    assert not model.norm.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_snapshot_restores_after_an_error():
    model = network().train()
    tracker = Tracker(model, num_classes=5)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        tracker.snapshot([(torch.randn(4, 11), torch.zeros(4, dtype=torch.int64))])
    assert model.training


def test_hooks_are_removed_and_hold_nothing_between_log_points():
    model, (x, y) = network(), data()
    tracker = Tracker(model, num_classes=5, every=10)
    model(x)
    assert all(hook.value is None for hook in tracker._capture._hooks.values())
    tracker.step(labels=y)
    tracker.close()
    tracker.close()
    assert not any(module._forward_hooks for module in model.modules())


def test_no_data_says_why():
    model, (_, y) = network(), data()
    with Tracker(model, num_classes=5) as tracker:
        with pytest.warns(
            RuntimeWarning, match=r"Step 1: Layer 'head:input' .*compiled and had run"
        ):
            tracker.step(labels=y)
        tracker.step(labels=y)  # said once
    with Tracker(num_classes=5) as tracker, pytest.raises(RuntimeError, match="no model"):
        tracker.step(labels=y)
    with Tracker(num_classes=5) as tracker, pytest.raises(ValueError, match="with a model"):
        tracker.snapshot([])
    with Tracker(network(), num_classes=5) as tracker, pytest.raises(ValueError, match="one batch"):
        tracker.snapshot([])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layers": "hiden"}, r"'hiden'.*Known names: \['hidden'"),
        ({"metrics": ["nc7"]}, r"'nc7'.*weight\.norm"),
        ({"num_classes": 0}, "at least 1"),
        ({"every": 0}, "`interval` to be at least 1"),
        ({"layers": 5}, "`layers` to hold names, patterns or types of modules but got int"),
        ({"sinks": 5}, "`sinks` to be a sink or a list of sinks but got int"),
        ({"stream": None}, "`stream` to be 'batch'"),
        ({"stream": "window:" + "9" * 5000}, "`stream` to be 'batch'"),
        ({"start_step": -1}, "`start_step` to be 0 or more"),
        ({"start_step": 2**53}, "`start_step` to be 0 or more, and below 2.53"),
        ({"ignore_index": "a"}, "`ignore_index` to be an int"),
        ({"ignore_index": 1.5}, "`ignore_index` to be an int"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        Tracker(network(), **{"num_classes": 5, **arguments})


@pytest.mark.parametrize("none", [[], ()])
def test_a_model_without_layers_to_capture(none):
    """The features come with each step; the model has no hooks, and gives its norm."""
    model, (x, y), records = network(), data(), []
    named = {"metrics": ["nc1.quotient", "weight.norm"], "sinks": [records.append]}
    with Tracker(model, num_classes=5, layers=none, **named) as tracker:
        assert not any(module._forward_hooks for module in model.modules())
        for _ in range(2):
            model(x)
            tracker.step(feats=x, labels=y)
        with pytest.raises(RuntimeError, match="no layers to capture from"):
            tracker.step(labels=y)
        with pytest.raises(ValueError, match="layers to capture, for snapshot"):
            tracker.snapshot([(x, y)])
    norm = sum(p.double().square().sum() for p in model.parameters()).sqrt().item()
    for record in records[:2]:
        expected = ncfast.collapse_metrics(x, y, num_classes=5)["nc1.quotient"]
        assert record["train/nc1.quotient"] == pytest.approx(expected)
        assert record["weight.norm"] == pytest.approx(norm)
    with pytest.raises(ValueError, match=r"no layers to take a snapshot of.*nc5"):
        Tracker(model, num_classes=5, layers=none, metrics=["nc5.ood_cosine"])


def test_a_model_without_linear_layers_needs_layers():
    with pytest.raises(ValueError, match="without an nn.Linear"):
        Tracker(nn.Sequential(nn.ReLU()), num_classes=2)


def test_records_reach_the_file_when_they_have_grown_old(tmp_path):
    feats, labels = data()
    path = tmp_path / "metrics.jsonl"
    tracker = Tracker(num_classes=5, sinks=[path], metrics="rnc1", flush_seconds=0.05)
    tracker.step(feats=feats, labels=labels)
    time.sleep(0.06)
    tracker.step(feats=feats, labels=labels)
    for _ in range(200):  # the writer has a thread of its own
        if path.stat().st_size:
            break
        time.sleep(0.01)
    assert [record["step"] for record in read_records(path)] == [1]
    tracker.flush()
    assert [record["step"] for record in read_records(path)] == [1, 2]
    tracker.close()


def test_an_exception_in_the_loop_loses_nothing(tmp_path):
    feats, labels = data()
    path = tmp_path / "metrics.jsonl"
    with pytest.raises(ZeroDivisionError), Tracker(num_classes=5, sinks=[path]) as tracker:
        tracker.step(feats=feats, labels=labels)
        raise ZeroDivisionError
    assert len(list(read_records(path))) == 1


class Copied:
    """Takes the place of the copy to the host."""

    made = ()

    def __init__(self, values):
        Copied.made = (*Copied.made, values)
        self._number = values.numel()

    def wait(self):
        return torch.zeros(self._number)


@pytest.mark.parametrize("stream", ["batch", "ema:0.9", "window:3"])
@pytest.mark.parametrize("metrics", ["default", "full"])
def test_a_step_and_a_block_do_not_synchronise(stream, metrics, monkeypatch):
    """Meta tensors raise when a value is read, and take the paths of an accelerator."""
    monkeypatch.setattr("ncfast.tracking.records.HostCopy", Copied)
    monkeypatch.setattr(Copied, "made", ())
    records = []
    feats = torch.empty(64, 16, device="meta")
    labels = torch.empty(64, dtype=torch.int64, device="meta")
    monkeypatch.setattr("ncfast.tracking.buffer.ROWS", 4)
    options = {"stream": stream, "metrics": metrics, "log_cost": False, "flush_seconds": 1e9}
    with Tracker(num_classes=5, sinks=[records.append], **options) as tracker:
        for _ in range(6):
            tracker.step(feats=feats, labels=labels)
        values, left_out = Copied.made
        assert values.device.type == left_out.device.type == "meta"
        assert left_out.numel() == 4 * 2
    assert values.numel() == 4 * (len(records[0]) - 1)
    assert [record["step"] for record in records] == list(range(1, 7))


def test_a_model_without_data_gives_nan_and_ends_no_sink():
    records = []
    feats, labels = torch.empty(64, 16, device="meta"), torch.empty(64, device="meta").long()
    with Tracker(num_classes=5, metrics="rnc1", sinks=[records.append]) as tracker:
        tracker.step(feats=feats, labels=labels)
        tracker.log({"own": 1.0})
    assert math.isnan(records[0]["train/rnc1.max"])
    assert records[0]["own"] == 1.0


def test_a_step_can_be_faked():
    with FakeTensorMode():
        feats, labels = torch.empty(64, 16), torch.empty(64, dtype=torch.int64)
        tracker = Tracker(num_classes=5)
        for _ in range(3):
            tracker.step(feats=feats, labels=labels)


def test_more_log_points_than_a_block_holds():
    feats, labels = data()
    records = []
    with Tracker(num_classes=5, metrics="rnc1", sinks=[records.append]) as tracker:
        for _ in range(300):
            tracker.step(feats=feats[:50], labels=labels[:50])
    assert [record["step"] for record in records] == list(range(1, 301))
    assert len({record["train/rnc1.max"] for record in records}) == 1
    costs = [r["tracker/seconds"] for r in records if "tracker/seconds" in r]
    assert costs == sorted(costs)
    assert costs[0] > 0


def test_features_of_changing_width():
    records = []
    labels = torch.arange(20) % 5
    with Tracker(num_classes=5, metrics="rnc1", sinks=[records.append]) as tracker:
        for step in range(6):
            tracker.step(feats=torch.randn(20, 3 + step % 2), labels=labels)
    assert len(tracker._recorder.buffers._buffers) == 2
    assert [record["step"] for record in records if "train/rnc1.max" in record] == list(range(1, 7))


def test_replays_of_a_graph_are_counted(monkeypatch):
    """The device's part is in test_evaluation; here its rows are written by hand."""
    feats, labels = data()
    records = []
    with Tracker(num_classes=5, metrics="rnc1", sinks=[records.append]) as tracker:
        tracker.step(feats=feats, labels=labels)
        buffer = next(iter(tracker._recorder.buffers._buffers.values()))
        with monkeypatch.context() as patch:
            patch.setattr("ncfast.tracking.buffer._capturing", lambda device: True)
            patch.setattr("ncfast.tracking.tracker._capturing", lambda: True)
            patch.setattr("ncfast.tracking.tracker._CUDA", True)
            tracker.step(feats=feats, labels=labels)
        assert tracker.current_step == 1
        assert buffer.number == 1
        for _ in range(2):
            buffer.states[buffer.number] = buffer.states[0]
            tracker.replayed()
    assert [record["step"] for record in records] == [1, 2, 3]
    assert len({record["train/rnc1.max"] for record in records}) == 1


def test_a_split_that_is_measured_both_ways_has_two_names():
    model, (x, y), records = network().eval(), data(), []
    with Tracker(model, num_classes=5, metrics="rnc1", sinks=[records.append]) as tracker:
        model(x[:20])
        tracker.step(labels=y[:20])
        with pytest.warns(RuntimeWarning, match="those of the snapshot begin with snapshot/train/"):
            tracker.snapshot([(x, y)], split="train")
    expected = ncfast.rnc1(model[:4](x), y, num_classes=5).item()
    assert records[0]["snapshot/train/rnc1.max"] == pytest.approx(expected, rel=1e-6)
    assert records[0]["train/rnc1.max"] != records[0]["snapshot/train/rnc1.max"]


def test_averages_have_a_prefix():
    feats, labels = data()
    records = []
    with Tracker(num_classes=5, stream="ema:0.9", sinks=[records.append]) as tracker:
        tracker.step(feats=feats, labels=labels)
    assert "ema/train/rnc1.max" in records[0]
    assert "train/rnc1.max" not in records[0]
    with pytest.raises(ValueError, match="'ema:DECAY'"):
        Tracker(num_classes=5, stream="ema:2")


def test_values_that_are_overwritten_after_they_were_logged():
    value = torch.zeros(())
    records = []
    with Tracker(num_classes=5, sinks=[records.append]) as tracker:
        for _ in range(3):
            tracker.advance()
            value += 1
            tracker.log({"mine": value})
    assert [record["mine"] for record in records] == [1, 2, 3]


def test_a_tracker_stays_in_its_process():
    with pytest.raises(TypeError, match="stay in its process"):
        copy.deepcopy(Tracker(num_classes=2))


def test_the_header_says_what_was_measured():
    class Keeps(list):
        def start(self, header):
            self.header = header

        write = list.append

        def close(self):
            pass

    sink, (feats, labels) = Keeps(), data()
    with Tracker(num_classes=5, stream="window:7", metrics="nc1", sinks=[sink]) as tracker:
        tracker.step(feats=feats, labels=labels)
    assert "last 7 batches" in sink.header["measured"]["step"]
    assert sink.header["metrics"]["nc1.cdnv"]["formula"] == ncfast.describe("nc1.cdnv").formula
    assert sink.header["versions"]["ncfast"] == ncfast.__version__
    json.dumps(sink.header)


@pytest.mark.parametrize("tier", ["lite", "standard", "full"])
def test_a_tier_leaves_out_the_norm_of_the_weights(tier):
    assert "weight.norm" not in Tracker(network(), num_classes=5, metrics=tier).metrics
    both = Tracker(network(), num_classes=5, metrics=[tier, "weight.norm"]).metrics
    assert "weight.norm" in both


def test_a_step_off_the_schedule_costs_next_to_nothing():
    tracker = Tracker(network(), num_classes=5, every=10**9)
    y = torch.zeros(3, dtype=torch.int64)
    start = time.perf_counter()
    for _ in range(1000):
        tracker.step(labels=y)
    assert time.perf_counter() - start < 1.0, "seconds for a thousand steps"
