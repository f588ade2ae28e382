"""Tests the metrics for torchmetrics."""

import copy
import os
import pickle
import warnings

import pytest
import torch
import torch.distributed as dist
from ranks import run_ranks
from samples import classes
from torchmetrics import MetricCollection, MetricTracker

import ncfast
from ncfast.integrations.torchmetrics import (
    NC1,
    NC2,
    NC3,
    NC4,
    NC5,
    RNC1,
    CollapseMetric,
    CollapseValue,
)
from ncfast.metrics.catalogue import CATALOGUE, METRICS
from ncfast.tracking import messages

K, D = 5, 6


def batches():
    feats, labels = classes(300, D, K, seed=3)
    feats = feats + 100
    order = torch.argsort(labels)  # early batches lack classes
    sizes = [7, 120, 1, 172]
    return list(zip(feats[order].split(sizes), labels[order].split(sizes), strict=True))


def whole(which=tuple(METRICS)):
    feats, labels = map(torch.cat, zip(*batches(), strict=True))
    return ncfast.collapse_metrics(feats, labels, num_classes=K, metrics=list(which))


def close(found, expected):
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert found[name].dtype == torch.float64
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-12, equal_nan=True)


def test_update_and_compute_equal_one_pass():
    metric = CollapseMetric(K, D)
    for feats, labels in batches():
        metric.update(feats, labels)
    close(metric.compute(), whole())
    metric.reset()
    assert metric.moments.total == 0
    metric.update(*batches()[1])
    assert metric.moments.total == 120


def test_forward_gives_the_batch_and_keeps_the_total():
    metric = CollapseMetric(K, D, metrics="rnc1")
    for feats, labels in batches():
        found = metric(feats, labels)
        close(found, ncfast.collapse_metrics(feats, labels, num_classes=K, metrics="rnc1"))
    close(metric.compute(), whole(["rnc1"]))


def test_states_merge():
    one, other = CollapseMetric(K, D), CollapseMetric(K, D)
    for metric, part in zip((one, other), (batches()[:2], batches()[2:]), strict=True):
        for feats, labels in part:
            metric.update(feats, labels)
    assert one.compute() is not None
    one.merge_state(other)
    close(one.compute(), whole())


@pytest.mark.parametrize(
    "duplicate",
    [lambda m: pickle.loads(pickle.dumps(m)), copy.deepcopy, lambda m: m.clone()],
    ids=["pickle", "deepcopy", "clone"],
)
def test_copies_keep_the_state(duplicate):
    metric = CollapseMetric(K, D)
    metric.update(*batches()[1])
    twin = duplicate(metric)
    metric.reset()
    for index in (0, 2, 3):
        twin.update(*batches()[index])
    close(twin.compute(), whole())


def test_the_state_stays_float64_and_can_be_saved():
    metric = CollapseMetric(K, D).half().float()
    metric.persistent(True)
    metric.update(batches()[1][0].half(), batches()[1][1])
    assert metric.moments_state.dtype == torch.float64
    loaded = CollapseMetric(K, D)
    loaded.load_state_dict(metric.state_dict())
    assert torch.equal(loaded.moments_state, metric.moments_state)


def test_a_collection_shares_one_state():
    collection = MetricCollection(
        {
            "rnc1": RNC1(K, D),
            "rnc1_mean": RNC1(K, D, scale="mean"),
            "nc1": NC1(K, D),
            "cdnv": NC1(K, D, variant="cdnv"),
            "nc2": NC2(K, D),
            "energy": CollapseValue("nc2.log_energy", K, D),
            "rank": CollapseMetric(K, D, metrics=["rank.stable_means"]),
        },
        prefix="val/",
    )
    for feats, labels in batches():
        collection.update(feats, labels)
    assert len(collection.compute_groups) == 1
    found = collection.compute()
    expected = whole(
        ["rnc1", "nc1.quotient", "nc1.cdnv", "nc2.condition", "nc2.log_energy", "rank.stable_means"]
    )
    pairs = {
        "val/rnc1": "rnc1.max",
        "val/rnc1_mean": "rnc1.mean",
        "val/nc1": "nc1.quotient",
        "val/cdnv": "nc1.cdnv",
        "val/nc2": "nc2.condition",
        "val/energy": "nc2.log_energy",
        "val/rank.stable_means": "rank.stable_means",
    }
    close({key: found[key] for key in pairs}, {key: expected[id_] for key, id_ in pairs.items()})


def test_another_number_of_classes_is_another_group():
    collection = MetricCollection({"a": RNC1(K, D), "b": RNC1(K + 1, D)})
    collection.update(*batches()[1])
    assert len(collection.compute_groups) == 2


def test_bad_arguments():
    with pytest.raises(ValueError, match="`dim` to be at least 1"):
        CollapseMetric(K, 0)
    with pytest.raises(ValueError, match="names of metrics but got 'nc6'"):
        CollapseMetric(K, D, metrics=["nc6"])
    with pytest.raises(ValueError, match=r"`weight` of shape \(K, D\) = \(5, 6\)"):
        NC3(K, D, weight=torch.zeros(K, D + 1))
    with pytest.raises(ValueError, match=r"`id_`.*got 'rnc1\.median'.*rnc1\.max"):
        RNC1(K, D, scale="median")
    metric = CollapseMetric(K, D)
    with pytest.raises(ValueError, match=rf"D = {D}"):
        metric.update(torch.randn(4, D + 1), torch.zeros(4).long())


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torchmetrics", "ignore:.*torch.jit")
def test_a_module_that_holds_one_can_be_scripted():
    class Holder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.head, self.metric = torch.nn.Linear(D, K), RNC1(K, D)

        def forward(self, x):
            return self.head(x)

    scripted = torch.jit.script(Holder())
    assert scripted(torch.zeros(2, D)).shape == (2, K)
    torch.jit.script(CollapseMetric(K, D))


def test_plots():
    """As for all metrics of torchmetrics: one value, values over time, a dict, a collection."""
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    from matplotlib import pyplot

    one, several = RNC1(K, D), CollapseMetric(K, D)
    seen = []
    for feats, labels in batches()[1:]:
        seen.append(one(feats, labels))
        several.update(feats, labels)
    for figure, _ in (one.plot(), one.plot(seen), several.plot()):
        assert figure.axes[0].has_data()
    collection = MetricCollection({"a": one, "b": NC1(K, D)})
    collection.update(*batches()[1])
    assert len(collection.plot()) == 2
    pyplot.close("all")


@pytest.mark.parametrize("full", [False, True])
def test_the_state_stays_float64(full):
    """Also for an empty state: a rank without data sends as many bytes as the others."""
    metric = CollapseMetric(K, D)
    if full:
        metric.update(*batches()[1])
    before = metric.moments_state.clone()
    assert metric.set_dtype(torch.float32) is metric
    assert metric.half().moments_state.dtype == torch.float64
    assert torch.equal(metric.moments_state, before)
    metric.reset()
    assert metric.moments_state.dtype == torch.float64


def test_a_batch_without_rows():
    metric = RNC1(K, D)
    metric.update(torch.zeros(0, D), torch.zeros(0).long())
    for feats, labels in batches():
        metric.update(feats, labels)
        metric.update(feats[:0], labels[:0])
    close({"rnc1.max": metric.compute()}, whole(["rnc1.max"]))
    with pytest.raises(ValueError, match="feats"):
        metric.update(torch.zeros(0, D + 1), torch.zeros(0).long())


def test_states_are_saved_with_their_shape():
    """K = 5, D = 12 and K = 7, D = 8 have the same number of values."""
    metric = RNC1(5, 12)
    metric.persistent(True)
    feats, labels = classes(100, 12, 5)
    metric.update(feats, labels)
    saved = metric.state_dict()
    twin = RNC1(5, 12)
    twin.load_state_dict(saved)
    assert torch.equal(twin.moments_state, metric.moments_state)
    for other, found in ((RNC1(7, 8), r"\[7, 8\] but got one of \[5, 12\]"), (RNC1(5, 13), "13")):
        with pytest.raises(RuntimeError, match=found):
            other.load_state_dict(saved)
        assert other.moments.total == 0
    del saved["moments_shape"]
    twin.load_state_dict(saved)
    with pytest.raises(RuntimeError, match="with 90 numbers"):
        RNC1(5, 13).load_state_dict(saved)
    assert not RNC1(5, 12).state_dict(), "nothing is saved unless it is asked for"


@pytest.mark.parametrize(
    ("at", "value", "message"),
    [
        (2, -5.0, "moments_state.counts' .* at least 0 but got -5"),
        (2, 1.5, "moments_state.counts' .* whole numbers but got 1.5"),
        (0, -1.0, "moments_state.norm_sum' .* at least 0"),
        (2 + K, -1.0, "moments_state.within_ss' .* at least 0"),
        (2 + 2 * K, torch.nan, "moments_state.means' .* finite"),
        (-1, -1.0, "moments_state.scatter' .* at least 0"),
    ],
)
def test_a_damaged_state_is_refused(at, value, message):
    metric = NC1(K, D, variant="pinv")
    metric.persistent(True)
    metric.update(*batches()[1])
    saved = metric.state_dict()
    saved["moments_state"][at] = value
    with pytest.raises(RuntimeError, match=message):
        NC1(K, D, variant="pinv").load_state_dict(saved)


def test_saved_states_and_moments_are_copies():
    """Updates are in place: they must not change what was taken before, or loaded elsewhere."""
    metric = NC4(K, D, variant="ncc_accuracy")
    metric.persistent(True)
    metric.update(*batches()[1])
    saved, moments = metric.state_dict(), metric.moments
    loaded = NC4(K, D, variant="ncc_accuracy")
    loaded.load_state_dict(saved)
    for other in (metric, loaded):
        other.update(*batches()[3])
    assert torch.equal(metric.moments_state, loaded.moments_state)
    twin = NC4(K, D, variant="ncc_accuracy")
    twin.load_state_dict(saved)
    twin.update(batches()[0][0][:0], batches()[0][1][:0])
    assert torch.equal(twin.moments.means, moments.means)
    torch.testing.assert_close(
        twin.compute(), ncfast.nc4(*batches()[1], num_classes=K, variant="ncc_accuracy")
    )


def test_states_of_version_0_1_are_loaded():
    """They hold two norms, then the count, the sum of squares and the mean of each class."""
    feats, labels = map(torch.cat, zip(*batches(), strict=True))
    moments = ncfast.class_moments(feats, labels, num_classes=K)
    rows = torch.cat([torch.stack([moments.counts, moments.within_ss], 1), moments.means], 1)
    norms = torch.stack([moments.norm_sum, moments.norm_max])
    saved = {"moments_state": torch.cat([norms, rows.flatten()])}
    metric = CollapseMetric(K, D)
    metric.load_state_dict(saved)
    metric.update(feats[:0], labels[:0])
    close(metric.compute(), whole())
    with pytest.raises(RuntimeError, match="metrics of the state"):
        NC1(K, D, variant="pinv").load_state_dict(saved)  # it lacks the scatter matrix


@pytest.fixture
def head():
    return torch.nn.Linear(D, K)


def everything(feats, labels, head, ood):
    return ncfast.collapse_metrics(
        feats,
        labels,
        weight=head.weight,
        bias=head.bias,
        ood_feats=ood,
        num_classes=K,
        metrics="all",
    )


def filled(metric, ood, rounds=1):
    for feats, labels in batches() * rounds:
        metric.update(feats, labels)
    metric.update(feats[:0], labels[:0], ood_feats=ood)
    return metric


@pytest.mark.filterwarnings("ignore:metrics=.all. means:FutureWarning")
def test_every_id_equals_one_pass(head):
    feats, labels = map(torch.cat, zip(*batches(), strict=True))
    ood = torch.randn(40, D) + 100
    metric = CollapseMetric(K, D, metrics="all", weight=head.weight, bias=head.bias)
    found = filled(metric, ood).compute()
    assert set(found) == set(CATALOGUE)
    assert not metric.missing
    expected = everything(feats, labels, head, ood)
    for id_, value in expected.items():
        torch.testing.assert_close(found[id_], value, rtol=1e-6, atol=1e-9, msg=id_)


def test_a_batch_that_is_refused_changes_nothing():
    metric = CollapseMetric(K, D, metrics=["rnc1.max", "nc5.ood_cosine"])
    feats, labels = batches()[1]
    metric.update(feats, labels, ood_feats=feats)
    before = metric.moments_state.clone()
    with pytest.raises(ValueError, match=f"D = {D}"):
        metric.update(feats, labels, ood_feats=feats[:, 1:])
    with pytest.raises(ValueError, match="labels"):
        metric.update(feats, labels + K)
    assert torch.equal(metric.moments_state, before)


@pytest.mark.filterwarnings("ignore:metrics=.all. means:FutureWarning")
def test_inputs_that_are_not_there(head):
    metric = CollapseMetric(K, D, metrics="all")
    metric.update(*batches()[1])
    found = metric.compute()
    assert set(found) | set(metric.missing) == set(CATALOGUE)
    assert "classifier" in metric.missing["nc3.cosine"]
    assert "ood_feats" in metric.missing["nc5.ood_cosine"]
    assert "nc4.ncc_accuracy" in found, "it needs the features alone"
    metric.set_classifier(head.weight, head.bias)
    assert set(metric.compute()) > set(found)
    for lacking, text in ((NC3(K, D), "set_classifier"), (NC5(K, D), "ood_feats")):
        lacking.update(*batches()[1])
        with pytest.raises(ValueError, match=text):
            lacking.compute()


def test_all_used_to_mean_the_default(monkeypatch):
    monkeypatch.setattr(messages, "_said_all", [])
    with pytest.warns(FutureWarning, match="'default'"):
        CollapseMetric(K, D, metrics="all")
    assert CollapseMetric(K, D).metrics == tuple(METRICS)


def test_rows_that_are_left_out(head):
    """Of (B, T, D), by the mask, and by the label -100."""
    feats, labels = classes(120, D, K)
    feats, labels = feats.view(10, 12, D), labels.view(10, 12).clone()
    mask = torch.arange(12) < torch.arange(3, 13).unsqueeze(1)
    labels[:, 0] = -100
    kept = mask & (labels != -100)
    options = {"metrics": ["nc1.pinv", "nc4.agreement"], "weight": head.weight, "bias": head.bias}
    metric = CollapseMetric(K, D, **options)
    metric.update(feats, labels, mask)
    metric.update(feats, labels, torch.zeros_like(mask))  # nothing is left
    expected = ncfast.collapse_metrics(feats[kept], labels[kept], num_classes=K, **options)
    close(metric.compute(), expected)
    assert metric.ignored == 240 - kept.sum()
    with pytest.raises(ValueError, match="-100"):
        CollapseMetric(K, D, ignore_index=None).update(feats, labels)


def test_metrics_that_leave_out_other_rows_share_nothing():
    collection = MetricCollection({"a": RNC1(K, D), "b": RNC1(K, D, ignore_index=0)})
    collection.update(torch.randn(4, D), torch.ones(4).long())
    assert len(collection.compute_groups) == 2


def test_a_collection_with_a_classifier(head):
    ids = {"nc3": NC3(K, D), "nc4": NC4(K, D), "pinv": NC1(K, D, variant="pinv"), "nc5": NC5(K, D)}
    collection = MetricCollection(ids)
    for metric in collection.values():
        metric.set_classifier(head.weight, head.bias)
    ood = torch.randn(9, D)
    for feats, labels in batches():
        collection.update(feats, labels, ood_feats=ood)
    feats, labels = map(torch.cat, zip(*batches(), strict=True))
    expected = everything(feats, labels, head, ood)
    found = collection.compute()
    names = ["nc3.self_duality", "nc4.agreement", "nc1.pinv", "nc5.ood_cosine"]
    for key, id_ in zip(ids, names, strict=True):
        torch.testing.assert_close(found[key], expected[id_], rtol=1e-6, atol=0)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: m.clone()])
def test_copies_share_the_classifier_which_goes_on_training(head, duplicate):
    twin = duplicate(NC3(K, D, weight=head.weight))
    with torch.no_grad():
        head.weight.add_(1)
    twin.update(*batches()[1])
    expected = ncfast.nc3(*batches()[1], head.weight, num_classes=K)
    torch.testing.assert_close(twin.compute(), expected)
    sent = pickle.loads(pickle.dumps(twin))
    assert torch.equal(sent.compute(), twin.compute())


def test_forward_and_merge_state_keep_the_features(head):
    one, other = (NC4(K, D, weight=head.weight, bias=head.bias) for _ in range(2))
    for metric, part in zip((one, other), (batches()[:2], batches()[2:]), strict=True):
        for feats, labels in part:
            found = metric(feats, labels)
            expected = ncfast.nc4(feats, labels, head.weight, head.bias, num_classes=K)
            torch.testing.assert_close(found, expected)
    one.merge_state(other)
    feats, labels = map(torch.cat, zip(*batches(), strict=True))
    expected = ncfast.nc4(feats, labels, head.weight, head.bias, num_classes=K)
    torch.testing.assert_close(one.compute(), expected)


@pytest.mark.parametrize("call", ["update", "forward"])
def test_features_above_the_memory_limit(head, call):
    """A value of some of the rows would be wrong."""
    metric = CollapseMetric(
        K,
        D,
        metrics=["nc4.ncc_accuracy", "rnc1.max", "nc3.cosine"],
        weight=head.weight,
        memory_limit=8000,
    )
    with pytest.warns(UserWarning, match=r"8,000 bytes.*NaN.*ncfast\.evaluate") as caught:
        [getattr(metric, call)(feats, labels) for feats, labels in batches() * 2]
    assert len(caught) == 1
    found = metric.compute()
    assert found["nc4.ncc_accuracy"].isnan()
    close({"rnc1.max": found["rnc1.max"]}, whole(["rnc1.max"]))
    assert found["nc3.cosine"].isfinite()
    metric.reset()
    metric.update(*batches()[1])
    assert metric.compute()["nc4.ncc_accuracy"].isfinite()


def test_a_scatter_matrix_above_the_memory_limit():
    with pytest.warns(UserWarning, match=r"nc1\.pinv.*memory_limit"):
        metric = NC1(K, D, variant="pinv", memory_limit=100)
    metric.update(*batches()[1])
    assert metric.compute().isnan()


def test_kept_features_are_copies(head):
    metric = NC4(K, D, variant="ncc_accuracy")
    feats, labels = (part.clone() for part in batches()[1])
    metric.update(feats, labels)
    expected = metric.compute()
    metric._computed = None
    feats.zero_()
    labels.zero_()
    assert torch.equal(metric.compute(), expected)


def test_inference_mode_and_back():
    metric = CollapseMetric(K, D)
    with torch.inference_mode():
        metric.reset()
        metric.update(*batches()[0])
        metric(*batches()[1])
    for feats, labels in batches()[2:]:
        metric.update(feats, labels)
    close(metric.compute(), whole())


def test_higher_is_better():
    """A metric tracker needs to know."""
    found = {id_: CollapseValue(id_, K, D).higher_is_better for id_ in CATALOGUE}
    assert found["nc1.pinv"] is found["nc2.condition"] is found["nc2.log_energy"] is False
    assert found["nc4.agreement"] is found["nc3.cosine"] is found["nc2.distance"] is True
    assert found["rank.effective"] is None
    tracker = MetricTracker(NC2(K, D), maximize=None)
    for feats, labels in batches()[1:]:
        tracker.increment()
        tracker.update(feats, labels)
    assert tracker.best_metric() == min(tracker.compute_all())


def worker(rank, world, port, folder):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=world)
    warnings.simplefilter("ignore")
    metric = CollapseMetric(K, D)
    mine = batches()[:3] if rank == 0 else batches()[3:]
    for feats, labels in mine:
        metric.update(feats, labels)
    values = metric.compute()
    assert metric.moments.total == sum(len(y) for _, y in mine), "the local state is kept"
    torch.manual_seed(0)
    head, ood = torch.nn.Linear(D, K), torch.randn(40, D) + 100
    full = CollapseMetric(K, D, metrics="all", weight=head.weight, bias=head.bias)
    if rank == 0:  # the other rank has no row at all
        filled(full, ood)
    else:
        full.update(feats[:0], labels[:0])
    limited = NC4(K, D, variant="ncc_accuracy", memory_limit=8000)
    for feats, labels in mine:
        limited.update(feats, labels)
    found = {"default": values, "all": full.compute(), "limited": limited.compute()}
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_ranks_are_merged(tmp_path):
    run_ranks(worker, 2, str(tmp_path))
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    feats, labels = map(torch.cat, zip(*batches(), strict=True))
    torch.manual_seed(0)
    head, ood = torch.nn.Linear(D, K), torch.randn(40, D) + 100
    expected = everything(feats, labels, head, ood)
    for values in found:
        close(values["default"], whole())
        for id_, value in expected.items():
            torch.testing.assert_close(values["all"][id_], value, rtol=1e-6, atol=1e-9, msg=id_)
        assert values["limited"].isnan(), "rank 1 has dropped its features"
    for name in ("default", "all"):
        one, other = (values[name] for values in found)
        assert all(torch.equal(one[id_], other[id_]) for id_ in one)
