"""Every id of the catalogue in the steps of a tracker, with masks, tokens and a classifier."""

import math
import re

import pytest
import torch
from torch import nn

import ncfast
from ncfast.metrics.catalogue import CATALOGUE
from ncfast.ops import _raw
from ncfast.tracking import messages

K, D, N = 4, 10, 60
IN_STEPS = [id_ for id_, metric in CATALOGUE.items() if "ood" not in metric.needs]


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(7, D), nn.Tanh(), nn.Linear(D, K))


def batch(seed=1):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(N, 7, generator=draw), torch.arange(N) % K


def steps(model, batches, *, train=True, **options):
    """Train on the batches; return the records and what each step's metrics should be."""
    records, expected = [], []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    with ncfast.Tracker(model, num_classes=K, sinks=[records.append], **options) as tracker:
        for x, y in batches:
            optimizer.zero_grad()
            feats = model[:2](x)
            nn.functional.cross_entropy(model(x), y).backward()
            if train:
                optimizer.step()
            tracker.step(labels=y)
            head = model[2]
            found = ncfast.collapse_metrics(feats, y, weight=head.weight, bias=head.bias)
            expected.append({id_: value.item() for id_, value in found.items()})
    return records, expected


def agree(record, expected, ids, prefix="train/"):
    for id_ in ids:
        assert record[f"{prefix}{id_}"] == pytest.approx(
            float(expected[id_]), rel=1e-6, nan_ok=True
        ), id_


@pytest.mark.parametrize("with_extension", [True, False])
def test_every_id_is_that_of_the_batch_and_the_classifier_of_its_step(with_extension, monkeypatch):
    if not with_extension:
        monkeypatch.setattr(_raw, "extension", None)
    batches = [batch(seed) for seed in range(4)]
    records, expected = steps(network(), batches, metrics=IN_STEPS)
    for record, values in zip(records, expected, strict=True):
        assert [key for key in record if "." in key] == [f"train/{id_}" for id_ in IN_STEPS]
        agree(record, values, IN_STEPS)


def test_fast_steps_keep_the_classifier_of_each_step():
    ids = ["nc3.self_duality", "rnc1.max", "nc3.bias_collapse"]
    records, expected = steps(network(), [batch(seed) for seed in range(5)] * 60, metrics=ids)
    assert len(records) == 300  # blocks of 128
    for record, values in zip(records, expected, strict=True):
        agree(record, values, ids)


def test_all_is_every_id_whose_inputs_are_there(monkeypatch):
    monkeypatch.setattr(messages, "_said_all", [])
    with pytest.warns(FutureWarning, match="metrics='default'"):
        records, expected = steps(network(), [batch()], metrics="all")
    assert {k.removeprefix("train/") for k in records[0] if "." in k} == {*IN_STEPS, "weight.norm"}
    agree(records[0], expected[0], IN_STEPS)
    layer = []
    with ncfast.Tracker(network(), layers="1", num_classes=K, metrics="all", sinks=[layer.append]):
        pass  # said once
    feats, labels = batch()
    with ncfast.Tracker(num_classes=K, metrics="all", sinks=[layer.append]) as tracker:
        tracker.step(feats=feats, labels=labels)
    without = {i for i in IN_STEPS if "classifier" not in CATALOGUE[i].needs}
    assert {k.removeprefix("train/") for k in layer[0] if "." in k} == without


def test_a_classifier_that_is_passed():
    feats, labels = torch.randn(N, D), torch.arange(N) % K
    weight, bias = torch.randn(K, D), torch.randn(K)
    records = []
    ids = ["nc3.self_duality", "nc4.agreement", "rnc1.max", "nc3.bias_collapse"]
    with ncfast.Tracker(num_classes=K, metrics=ids, sinks=[records.append]) as tracker:
        tracker.step(feats=feats, labels=labels, weight=weight, bias=bias)
        tracker.step(feats=feats, labels=labels, weight=2 * weight.double().numpy(), bias=bias)
        with pytest.raises(ValueError, match=r"argument `weight`.*nc3.self_duality"):
            tracker.step(feats=feats, labels=labels)
        with pytest.raises(ValueError, match=r"`weight` of shape \(K, D\)"):
            tracker.step(feats=feats, labels=labels, weight=weight[:, :3])
    for record, factor in zip(records, (1, 2), strict=False):
        w = factor * weight
        agree(record, ncfast.collapse_metrics(feats, labels, weight=w, bias=bias), ids)


def test_metrics_that_no_step_can_have():
    with pytest.raises(ValueError, match=r"nc5.ood_cosine.*snapshot"):
        ncfast.Tracker(num_classes=K, metrics=["nc5.ood_cosine"])
    with pytest.raises(ValueError, match="nc1.pinv"):
        ncfast.Tracker(num_classes=K, metrics=["nc1.pinv"], stream="ema:0.9")
    with pytest.warns(RuntimeWarning, match=r"nc1.pinv.*snapshots"):
        records, _ = steps(network(), [batch()], metrics=["nc1.pinv", "rnc1"], stream="ema:0.9")
    assert [k for k in records[0] if "." in k] == ["ema/train/rnc1.max", "ema/train/rnc1.mean"]


def test_averages_take_the_classifier_of_the_step():
    records, _ = steps(network(), [batch()], metrics=["nc3.self_duality"], stream="window:3")
    model = network()
    _, expected = steps(model, [batch()], metrics=["rnc1"])
    agree(records[0], expected[0], ["nc3.self_duality"], "window/train/")


MASKED = ["rnc1.max", "nc1.pinv", "nc1.bounded", "nc4.agreement", "nc4.ncc_accuracy_class",
          "nc3.self_duality", "bound.generalization", "rank.effective",
          "nc2.condition"]  # fmt: skip


@pytest.mark.parametrize("on_host", [True, False])
@pytest.mark.parametrize("how", ["ignore_index", "mask", "both"])
def test_rows_that_are_left_out(how, on_host, monkeypatch):
    if not on_host:  # the path of an accelerator, where no label is read
        monkeypatch.setattr("ncfast._validate.is_on_host", lambda labels: False)
        monkeypatch.setattr(_raw, "extension", None)
    feats, labels = torch.randn(N, D), torch.arange(N) % K
    weight, bias = torch.randn(K, D), torch.randn(K)
    keep = torch.rand(N) > 0.3
    given, mask = labels.clone(), None
    if how != "mask":
        given[~keep] = -100
        feats[~keep] = math.nan
    if how != "ignore_index":
        mask = keep.to(torch.int64) if how == "mask" else torch.ones(N, dtype=torch.bool)
    records = []
    with ncfast.Tracker(num_classes=K, metrics=MASKED, sinks=[records.append]) as tracker:
        for _ in range(2):
            tracker.step(feats=feats, labels=given, mask=mask, weight=weight, bias=bias)
    expected = ncfast.collapse_metrics(feats[keep], labels[keep], weight=weight, bias=bias)
    for record in records:
        agree(record, expected, MASKED)
        assert record["train/ignored"] == (~keep).sum()


def test_a_batch_with_nothing_left_has_its_number_alone(tmp_path):
    feats, labels = torch.randn(N, D), torch.arange(N) % K
    records, path = [], tmp_path / "log.jsonl"
    with ncfast.Tracker(num_classes=K, sinks=[records.append, path]) as tracker:
        tracker.step(feats=feats, labels=labels)
        tracker.step(feats=feats, labels=torch.full((N,), -100))
        tracker.step(feats=feats, labels=labels, mask=labels > 0)
        with pytest.raises(ValueError, match="`labels` to lie in"):
            tracker.step(feats=feats, labels=labels - 5)
    assert {k: v for k, v in records[1].items() if "/ignored" in k} == {"train/ignored": N}
    assert not any("rnc1" in key for key in records[1])
    assert "train/ignored" not in records[0]
    assert records[2]["train/ignored"] == N / K
    assert [re.findall(r'ignored": ([0-9]+)', line) for line in path.read_text().splitlines()][
        :3
    ] == [[], [str(N)], [str(N // K)]]


def test_no_label_is_left_out_without_an_ignore_index():
    with (
        ncfast.Tracker(num_classes=K, ignore_index=None) as tracker,
        pytest.raises(ValueError, match="row 0 holds -100"),
    ):
        tracker.step(feats=torch.randn(3, D), labels=torch.tensor([-100, 0, 1]))


def test_tokens_are_flattened():
    feats, labels = torch.randn(6, 10, D), torch.arange(N).reshape(6, 10) % K
    mask = torch.rand(6, 10) > 0.5
    records = []
    with ncfast.Tracker(num_classes=K, sinks=[records.append]) as tracker:
        tracker.step(feats=feats, labels=labels)
        tracker.step(feats=feats, labels=labels, mask=mask)
        with pytest.raises(ValueError, match="one for each vector"):
            tracker.step(feats=feats, labels=labels[:, :3])
    whole = ncfast.collapse_metrics(feats.flatten(0, 1), labels.flatten(), metrics="default")
    agree(records[0], whole, whole)
    rest = ncfast.collapse_metrics(feats[mask], labels[mask], num_classes=K, metrics="default")
    agree(records[1], rest, rest)


def trained(norm, *, tracked):
    """A network with a normalised classifier after three steps, and its records."""
    model, records = network(), []
    norm(model[2])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    options = {"metrics": ["nc3.self_duality"], "sinks": [records.append]}
    with ncfast.Tracker(model, num_classes=K, **options) as tracker:
        for seed in range(3):
            x, y = batch(seed)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            if tracked:
                tracker.step(labels=y)
        if tracked:
            tracker.snapshot([batch()])
    return model, records


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
@pytest.mark.parametrize(
    "norm",
    [
        nn.utils.parametrizations.spectral_norm,
        nn.utils.parametrizations.weight_norm,
        nn.utils.spectral_norm,
        nn.utils.weight_norm,
    ],
    ids=lambda norm: f"{norm.__module__}.{norm.__name__}",
)
def test_a_weight_that_is_computed_is_current_and_training_goes_on_unchanged(norm):
    model, records = trained(norm, tracked=True)
    alone = trained(norm, tracked=False)[0].state_dict()
    assert all(torch.equal(value, alone[name]) for name, value in model.state_dict().items())
    x, y = batch()
    with torch.no_grad():
        model.eval()(x)
        expected = ncfast.nc3(model[:2](x), y, model[2].weight, variant="self_duality")
    assert records[-1]["test/nc3.self_duality"] == pytest.approx(expected.item(), rel=1e-6)
