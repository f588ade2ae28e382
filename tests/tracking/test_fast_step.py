"""The fast step gives the same records as the full step, and leaves unusual batches to it."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import classes
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from ncfast.ops import _raw
from ncfast.ops.states import Layout, parameter_copier
from ncfast.tracking import Tracker
from ncfast.tracking.averaging import Averaging
from ncfast.tracking.buffer import MomentsBuffer

pytestmark = pytest.mark.skipif(
    _raw.extension is None or not hasattr(torch.Tensor, "__dlpack_c_exchange_api__"),
    reason="needs the extension and a PyTorch with DLPack's table",
)


def buffer(k=3, d=4):
    made = MomentsBuffer("a", ["rnc1.max"], Layout(k, d), torch.device("cpu"), Averaging("batch"))
    made.states.fill_(torch.nan)
    return made


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 9),
    st.integers(1, 40),
    st.integers(1, 70),
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]),
    st.sampled_from([torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8]),
    st.integers(1, 3),
)
def test_a_row_has_the_same_bits_as_a_full_push(k, d, n, dtype, label_type, stride):
    wide = torch.randn(n * stride, d + 1).to(dtype)
    feats, labels = wide[::stride, :d], torch.randint(k, (2 * n,)).to(label_type)[::2]
    fast, full = buffer(k, d), buffer(k, d)
    assert fast.fast_writer.push(5, feats, labels)
    full.push(5, feats, labels)
    assert fast.steps == full.steps == [5]
    assert torch.equal(fast.states[:1].view(torch.int64), full.states[:1].view(torch.int64))
    assert fast.states[1:].isnan().all()


FEATS, LABELS = torch.randn(12, 4), torch.arange(12) % 3
REFUSED = {
    "no tensor": (FEATS.tolist(), LABELS),
    "a subclass": (nn.Parameter(FEATS), LABELS),
    "width": (FEATS[:, :3], LABELS),
    "axes": (FEATS.unsqueeze(0), LABELS),
    "columns apart": (torch.randn(12, 8)[:, ::2], LABELS),
    "integers": (FEATS.long(), LABELS),
    "complex": (FEATS.to(torch.complex64), LABELS),
    "no rows": (FEATS[:0], LABELS[:0]),
    "sparse": (FEATS.to_sparse(), LABELS),
    "device": (FEATS.to("meta"), LABELS),
    "other length": (FEATS, LABELS[:11]),
    "no labels": (FEATS, None),
    "float labels": (FEATS, LABELS.float()),
    "bool labels": (FEATS, LABELS.bool()),
    "wide labels": (FEATS, LABELS.to(torch.uint16)),
    "labels of two axes": (FEATS, LABELS.unsqueeze(1)),
    "label too large": (FEATS, LABELS + 1),
    "negative label": (FEATS, LABELS - 1),
    "nan": (FEATS.clone().index_fill_(0, torch.tensor([2]), math.nan), LABELS),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_it_leaves_to_the_full_step(case):
    rows = buffer()
    assert not rows.fast_writer.push(1, *REFUSED[case])
    assert rows.steps == []
    assert rows.fast_writer.push(1, FEATS, LABELS)


def test_it_reads_nothing_that_is_traced():
    rows = buffer()
    torch.func.vmap(lambda x: x * (0 if rows.fast_writer.push(1, x, LABELS) else 1))(
        FEATS.expand(2, 12, 4)
    )
    with FakeTensorMode():
        assert not rows.fast_writer.push(1, torch.empty(12, 4), torch.empty(12, dtype=torch.int64))
    assert rows.steps == []


def test_full_rows_are_not_overwritten():
    rows = buffer()
    for step in range(rows.capacity):
        assert rows.fast_writer.push(step, FEATS, LABELS)
    before = rows.states.clone()
    assert not rows.fast_writer.push(rows.capacity, FEATS * 2, LABELS)
    assert torch.equal(rows.states, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_a_parameter_is_copied_into_its_row_alone(dtype):
    rows = torch.full((3, 2, 4), torch.nan, dtype=dtype)
    weight = nn.Parameter(torch.randn(2, 4).to(dtype))
    assert parameter_copier(rows)(1, weight)
    assert torch.equal(rows[1], weight)
    assert rows[0].isnan().all()
    assert rows[2].isnan().all()


WEIGHT = torch.randn(2, 4)
UNLIKE = {
    "width": nn.Parameter(WEIGHT[:, :3].clone()),
    "axes": nn.Parameter(WEIGHT.unsqueeze(0)),
    "fewer axes": nn.Parameter(WEIGHT[0].clone()),
    "dtype": nn.Parameter(WEIGHT.double()),
    "same bits": nn.Parameter(WEIGHT.to(torch.int32), requires_grad=False),
    "columns apart": nn.Parameter(torch.randn(4, 2).T),
    "negated": nn.Parameter(torch._neg_view(WEIGHT)),
    "device": nn.Parameter(WEIGHT.to("meta")),
    "no parameter": WEIGHT,
    "none": None,
}


@pytest.mark.parametrize("case", UNLIKE)
def test_parameters_that_do_not_fit_are_left_to_the_full_step(case):
    rows = torch.full((3, 2, 4), torch.nan)
    assert not parameter_copier(rows)(0, UNLIKE[case])
    assert not parameter_copier(rows)(3, nn.Parameter(WEIGHT))
    with FakeTensorMode():
        assert not parameter_copier(rows)(0, nn.Parameter(torch.empty(2, 4)))
    assert rows.isnan().all()


def train(steps, *, slow=False, every=1, stream="batch", inplace=False):
    """Records and weights of a small network, tracked by fast steps or by full ones."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 6), nn.ReLU(inplace=inplace), nn.Linear(6, 5))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    x, y = classes(dim=10, dtype=torch.float32)
    records, options = [], {"metrics": "standard", "log_cost": False, "layers": "1"}
    tracker = Tracker(
        model, num_classes=5, sinks=[records.append], every=every, stream=stream, **options
    )
    with tracker:
        for step in range(steps):
            rows = slice(step % 7, 100 + step % 5)
            loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if slow:
                tracker._fast_step = None
            tracker.step(labels=y[rows])
            if step % 3 == 0:
                tracker.log({"loss": loss})
    return records, [parameter.detach() for parameter in model.parameters()]


@pytest.mark.parametrize(
    "options",
    [{}, {"every": 3}, {"every": lambda step: step % 5 < 2}, {"stream": "ema:0.9"}],
    ids=["each", "interval", "schedule", "average"],
)
def test_records_and_weights_do_not_depend_on_the_path(options, monkeypatch):
    pushed = []
    for slow in (False, True):
        calls = []
        original = MomentsBuffer.push
        monkeypatch.setattr(MomentsBuffer, "push", lambda *a: calls.append(1) or original(*a))  # noqa: B023
        records, weights = train(300, slow=slow, **options)
        monkeypatch.undo()
        pushed.append((len(calls), records, weights))
    (few, records, weights), (many, reference, same) = pushed
    assert few < many
    assert repr(records) == repr(reference)  # NaN included, where a metric is undefined
    assert all(torch.equal(a, b) for a, b in zip(weights, same, strict=True))


def test_labels_features_and_splits_out_of_the_ordinary_in_mid_run():
    records = []
    with Tracker(num_classes=3, metrics="rnc1", sinks=[records.append], log_cost=False) as tracker:
        for _ in range(3):
            tracker.step(feats=FEATS, labels=LABELS)
        tracker.step(feats=FEATS, labels=LABELS, split="other")
        with pytest.warns(RuntimeWarning, match="Step 5: A batch without labels"):
            tracker.step(feats=FEATS, labels=None)
        with pytest.raises(ValueError, match="row 2 holds 3"):
            tracker.step(feats=FEATS, labels=LABELS + 1)
        with pytest.raises(TypeError, match="Expected argument `feats`"):
            tracker.step(feats="features", labels=LABELS)
        tracker.step(feats=REFUSED["nan"][0], labels=LABELS)
        tracker.step(feats=FEATS.numpy(), labels=LABELS.tolist())
    measured = {r["step"]: key for r in records for key in r if key.endswith("rnc1.max")}
    assert list(measured) == [1, 2, 3, 4, 8, 9]
    assert measured[4] == "other/rnc1.max"
    by_step = {r["step"]: r for r in records}
    assert math.isnan(by_step[8]["train/rnc1.max"])
    assert by_step[9]["train/rnc1.max"] == by_step[1]["train/rnc1.max"]


def test_features_changed_in_place_later_on_are_noticed():
    class Sometimes(nn.Module):
        spoil = False

        def forward(self, x):
            return x.mul_(2) if self.spoil else x * 2

    model, records = nn.Sequential(nn.Linear(4, 4), Sometimes(), nn.Linear(4, 3)), []
    tracker = Tracker(
        model, layers="0", num_classes=3, metrics="rnc1", sinks=[records.append], log_cost=False
    )
    with tracker, torch.no_grad():
        for step in range(4):
            Sometimes.spoil = step == 2
            model(FEATS)
            if step == 2:
                with pytest.warns(RuntimeWarning, match="Step 3: .*changed in place"):
                    tracker.step(labels=LABELS)
            else:
                tracker.step(labels=LABELS)
    assert [record["step"] for record in records] == [1, 2, 4]


def test_the_cost_is_counted():
    tracker = Tracker(num_classes=3, metrics="rnc1", flush_seconds=1e9)
    tracker.step(feats=FEATS, labels=LABELS)
    before = tracker._recorder.seconds
    tracker.step(feats=FEATS, labels=LABELS)
    assert tracker._fast_step is not None
    assert tracker._recorder.seconds > before
