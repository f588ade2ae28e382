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
from ncfast.metrics.registry import METRICS
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
    with Tracker(num_classes=5, sinks=[records.append]) as tracker:
        for start in (0, 100):
            tracker.step(
                feats=feats[start : start + 100], labels=labels[start : start + 100], split="a"
            )
    assert [record["step"] for record in records] == [1, 2]
    assert set(records[0]) == {"step", *(f"a/{name}" for name in METRICS)}
    expected = ncfast.collapse_metrics(
        feats[100:], labels[100:], num_classes=5, which=list(METRICS)
    )
    assert records[1] == {"step": 2, **{f"a/{k}": v.item() for k, v in expected.items()}}


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
    assert records[0]["train/rnc1.max"] == expected
    assert records[0]["weight.norm"] == ncfast.weight_norm(model).item()


def test_several_layers_have_their_names_in_the_keys():
    model, (x, y), records = network().eval(), data(), []
    layers = ["hidden", "head:input"]
    with Tracker(
        model, layers=layers, num_classes=5, metrics="rnc1", sinks=[records.append]
    ) as tracker:
        model(x)
        tracker.step(labels=y)
    assert set(records[0]) == {
        "step",
        *(f"train/{layer}/rnc1.{scale}" for layer in layers for scale in ("max", "mean")),
    }
    found = records[0]["train/hidden/rnc1.max"]
    assert found == ncfast.rnc1(model.hidden(x), y, num_classes=5).item()


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
    with pytest.raises(ValueError, match="same length"):
        tracker.snapshot([(torch.randn(4, 12), torch.zeros(3, dtype=torch.int64))])
    assert model.training


def test_hooks_are_removed_and_hold_nothing_between_log_points():
    model, (x, y) = network(), data()
    tracker = Tracker(model, num_classes=5, every=10)
    model(x)
    assert not tracker._capture._seen, "step 1 is no log point"
    tracker.step(labels=y)
    tracker.close()
    tracker.close()
    assert not any(module._forward_hooks for module in model.modules())


def test_no_data_says_why():
    model, (_, y) = network(), data()
    compiled = r"\['head:input'\].*compiled before the tracker"
    with Tracker(model, num_classes=5) as tracker, pytest.raises(RuntimeError, match=compiled):
        tracker.step(labels=y)
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
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        Tracker(network(), **{"num_classes": 5, **arguments})


def test_a_model_without_linear_layers_needs_layers():
    with pytest.raises(ValueError, match="without an nn.Linear"):
        Tracker(nn.Sequential(nn.ReLU()), num_classes=2)


def test_a_layer_that_yields_no_tensor():
    rnn = nn.GRU(4, 4)
    model = nn.Sequential(rnn)
    with (
        Tracker(model, layers="0", num_classes=2),
        pytest.raises(TypeError, match="yield a tensor but got tuple"),
    ):
        model(torch.randn(3, 2, 4))


def test_records_reach_the_file_as_soon_as_the_next_step_begins(tmp_path):
    feats, labels = data()
    path = tmp_path / "metrics.jsonl"
    tracker = Tracker(num_classes=5, sinks=[path], metrics="rnc1")
    tracker.step(feats=feats, labels=labels)
    tracker.step(feats=feats, labels=labels)
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


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_step_does_not_synchronise(device):
    """Fake tensors raise when a value is read; the copy to the host is replaced by a witness."""
    with FakeTensorMode():
        feats = torch.empty(64, 16, device=device)
        labels = torch.empty(64, dtype=torch.int64, device=device)
        tracker = Tracker(num_classes=5)
        with pytest.MonkeyPatch.context() as patch:
            copies = []
            patch.setattr(
                "ncfast.tracking.tracker.HostCopy", lambda values: copies.append(values) or Never()
            )
            for _ in range(3):
                tracker.step(feats=feats, labels=labels)
        assert len(copies) == 2


class Never:
    """A copy that has not arrived yet."""

    def ready(self):
        return False

    def wait(self):
        raise AssertionError("a step waited for a copy")


def test_copies_that_arrive_late_are_written_in_order():
    feats, labels = data()
    records = []
    tracker = Tracker(num_classes=5, metrics="rnc1", sinks=[records.append])

    class Late:
        def __init__(self, values):
            self.step, self.polls = values["step"], 0

        def ready(self):
            self.polls += 1
            return self.polls > 2

        def wait(self):
            return {"step": self.step}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ncfast.tracking.tracker.HostCopy", Late)
        for _ in range(6):
            tracker.step(feats=feats, labels=labels)
        assert 0 < len(records) < 5
        tracker.close()
    assert [record["step"] for record in records] == [1, 2, 3, 4, 5, 6]


def test_a_step_off_the_schedule_costs_next_to_nothing():
    tracker = Tracker(network(), num_classes=5, every=10**9)
    y = torch.zeros(3, dtype=torch.int64)
    start = time.perf_counter()
    for _ in range(1000):
        tracker.step(labels=y)
    assert time.perf_counter() - start < 1.0, "seconds for a thousand steps"
