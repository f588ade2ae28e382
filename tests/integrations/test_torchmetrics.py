import copy
import os
import pickle

import pytest
import torch
import torch.distributed as dist
from ranks import run_ranks
from samples import classes
from torchmetrics import MetricCollection

import ncfast
from ncfast.integrations.torchmetrics import NC1, NC2, RNC1, CollapseMetric, CollapseValue
from ncfast.metrics.catalogue import METRICS

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
            "all": CollapseMetric(K, D, metrics="rank"),
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
    with pytest.raises(ValueError, match="names of metrics but got 'nc4'"):
        CollapseMetric(K, D, metrics=["nc4"])
    with pytest.raises(ValueError, match=r"`id_`.*got 'rnc1\.median'.*rnc1\.max"):
        RNC1(K, D, scale="median")
    metric = CollapseMetric(K, D)
    with pytest.raises(ValueError, match=r"means of shape"):
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
    """As all of torchmetrics: one value, values over time, a dict, a collection."""
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
    """Also while it is empty: a rank without data sends as many bytes as the others."""
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
    """K = 5, D = 12 and K = 7, D = 8 have as many numbers."""
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
    del saved["moments_shape"]  # a state of version 0.1
    twin.load_state_dict(saved)
    with pytest.raises(RuntimeError, match="with 72 numbers"):
        RNC1(5, 13).load_state_dict(saved)
    assert not RNC1(5, 12).state_dict(), "nothing is saved unless it is asked for"


def worker(rank, world, port, folder):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=world)
    metric = CollapseMetric(K, D)
    mine = batches()[:3] if rank == 0 else batches()[3:]
    for feats, labels in mine:
        metric.update(feats, labels)
    values = metric.compute()
    assert metric.moments.total == sum(len(y) for _, y in mine), "the local state is kept"
    torch.save(values, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_ranks_are_merged(tmp_path):
    run_ranks(worker, 2, str(tmp_path))
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for values in found:
        close(values, whole())
    assert all(torch.equal(found[0][name], found[1][name]) for name in METRICS)
