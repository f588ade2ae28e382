"""Every id of the catalogue in a snapshot, which looks twice at a split where it must."""

import warnings

import pytest
import torch
from torch import nn

import ncfast
from ncfast.metrics.catalogue import CATALOGUE

K, D = 4, 10


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(7, D), nn.Tanh(), nn.Linear(D, K))


def data(number=90, seed=3):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(number, 7, generator=draw), torch.arange(number) % K


def batches(x, y, size=32):
    return list(zip(x.split(size), y.split(size), strict=True))


def snapshot(loader, model=None, *, metrics="all", tracker_options=None, **options):
    records = []
    model = network() if model is None else model
    given = {"metrics": ["rnc1"], **(tracker_options or {})}
    with ncfast.Tracker(model, num_classes=K, sinks=[records.append], **given) as tracker:
        tracker.snapshot(loader, metrics=metrics, **options)
    return records[0]


def expected(model, x, y, ood=None):
    feats = model[:2](x)
    outside = None if ood is None else model[:2](ood)
    head = model[2]
    found = ncfast.collapse_metrics(feats, y, weight=head.weight, bias=head.bias, ood_feats=outside)
    return {id_: value.item() for id_, value in found.items()}


def agree(record, values, ids, prefix="test/"):
    for id_ in ids:
        assert record[f"{prefix}{id_}"] == pytest.approx(values[id_], rel=1e-6, nan_ok=True), id_


@pytest.mark.parametrize("limit", ["2GiB", "1KiB"])
def test_every_id_is_that_of_the_whole_split(limit):
    model, (x, y), (ood, _) = network(), data(), data(40, seed=4)
    # 1 KiB holds no D x D matrix of float64 beyond D = 11, and no features: the model runs twice
    record = snapshot(batches(x, y), model, ood=batches(ood, y[:40]), memory_limit=limit)
    values = expected(model, x, y, ood)
    assert [key for key in record if key.startswith("test/") and "." in key] == [
        f"test/{id_}" for id_ in CATALOGUE
    ]
    agree(record, values, CATALOGUE)


def test_batches_from_outside_need_no_labels():
    model, (x, y), (ood, _) = network(), data(), data(40, seed=4)
    for outside in ([ood], [(ood,)], [{"x": ood, "labels": y[:40]}], iter([ood])):
        record = snapshot(batches(x, y), model, metrics=["nc5"], ood=outside)
        agree(record, expected(model, x, y, ood), [i for i in CATALOGUE if i.startswith("nc5")])


def test_ids_that_lack_an_input_are_an_error_before_the_model_runs():
    def nothing():
        raise AssertionError
        yield

    with pytest.raises(ValueError, match=r"nc5.ood_cosine.*ood="):
        snapshot(nothing(), metrics=["nc5.ood_cosine"])
    with pytest.raises(ValueError, match=r"nc3.self_duality.*nn.Linear"):
        snapshot(nothing(), metrics=["nc3.self_duality"], tracker_options={"layers": "1"})


def test_an_iterator_is_kept_and_looked_at_twice():
    model, (x, y) = network(), data()
    record = snapshot(iter(batches(x, y)), model, metrics=["nc4", "rnc1"])
    agree(record, expected(model, x, y), ["nc4.agreement", "rnc1.max"])
    with pytest.warns(RuntimeWarning, match="cannot be read twice"):
        record = snapshot(iter(batches(x, y)), model, metrics=["nc4.agreement", "rnc1"],
                          memory_limit=100)  # fmt: skip
    assert "test/rnc1.max" in record
    assert "test/nc4.agreement" not in record


def test_a_split_is_read_once_where_no_metric_looks_twice():
    reads, (x, y) = [], data()

    class Loader:
        def __iter__(self):
            reads.append(1)
            return iter(batches(x, y))

    snapshot(Loader(), metrics=["default", "nc1.pinv", "nc3"], memory_limit=2000)
    assert len(reads) == 1
    snapshot(Loader(), metrics=["nc4"], memory_limit=2000)
    assert len(reads) == 3
    snapshot(Loader(), metrics=["nc4"])
    assert len(reads) == 4


def test_other_rows_at_the_second_look_leave_its_metrics_out():
    seeds = iter((3, 4))

    class Augmented:
        def __iter__(self):
            return iter(batches(*data(seed=next(seeds))))

    with pytest.warns(RuntimeWarning, match="rows whose norms sum"):
        record = snapshot(Augmented(), metrics=["nc4", "rnc1"], memory_limit=100)
    assert "test/rnc1.max" in record
    assert "test/nc4.agreement" not in record


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_rows_that_are_left_out(reduction):
    model, (x, y) = network(), data()
    keep = torch.rand(len(y)) > 0.4
    keep[:32] = False  # of the first batch nothing is left
    labels = torch.where(keep, y, -100)
    loss = nn.CrossEntropyLoss(reduction=reduction)
    record = snapshot(batches(x, labels), model, loss=loss)
    ids = [id_ for id_ in CATALOGUE if "ood" not in CATALOGUE[id_].needs]
    agree(record, expected(model, x[keep], y[keep]), ids)
    logits = model(x[keep])
    assert record["test/ignored"] == (~keep).sum()
    assert record["test/accuracy"] == pytest.approx((logits.argmax(1) == y[keep]).double().mean())
    assert record["test/loss"] == pytest.approx(nn.functional.cross_entropy(logits, y[keep]).item())


class Tokens(nn.Module):
    """Logits of tokens (B, T, K), which never looks at its mask."""

    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(20, D), nn.Linear(D, K)

    def forward(self, input_ids, attention_mask=None):
        return self.head(self.embedding(input_ids))


def test_tokens_and_their_mask():
    torch.manual_seed(0)
    model, ids = Tokens(), torch.randint(20, (6, 8))
    labels, mask = torch.randint(K, (6, 8)), (torch.rand(6, 8) > 0.3).long()
    loader = [{"input_ids": ids, "attention_mask": mask, "labels": labels}]
    record = snapshot(loader, model, metrics=["rnc1", "nc4.agreement"])
    kept = mask.bool()
    feats = model.embedding(ids)[kept]
    found = ncfast.collapse_metrics(
        feats, labels[kept], num_classes=K, weight=model.head.weight, bias=model.head.bias
    )
    agree(record, {i: v.item() for i, v in found.items()}, ["rnc1.max", "nc4.agreement"])
    assert record["test/ignored"] == (~kept).sum()
    right = model.head(feats).argmax(1) == labels[kept]
    assert record["test/accuracy"] == pytest.approx(right.double().mean().item())


def test_a_layer_without_a_classifier_beside_one_that_has_it():
    model, (x, y) = network(), data()
    record = snapshot(
        batches(x, y),
        model,
        metrics=["nc3.self_duality", "nc1.pinv"],
        tracker_options={"layers": ["0", "2:input"]},
    )
    assert {k for k in record if "." in k} == {
        "test/0/nc1.pinv",
        "test/2:input/nc1.pinv",
        "test/2:input/nc3.self_duality",
    }


def test_a_snapshot_takes_the_metrics_of_its_tracker():
    model, (x, y) = network(), data()
    options = {"metrics": ["nc1.pinv", "nc4.agreement", "weight.norm"]}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        record = snapshot(batches(x, y), model, metrics=None, tracker_options=options)
    agree(record, expected(model, x, y), ["nc1.pinv", "nc4.agreement"])
    assert record["weight.norm"] > 0
