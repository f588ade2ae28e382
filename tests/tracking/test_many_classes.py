"""Rows of a buffer that hold the classes of their batch, of many: the records do not change."""

import pytest
import torch

import ncfast
from ncfast.tracking.buffer import slots_for

K, D = 1000, 6
OWN = ("step", "tracker/seconds")


def batch(rows, seed, dtype=torch.float32):
    """Features and labels of a few classes anywhere among K."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(12, (rows,), generator=draw) * 80 + seed
    return torch.randn(rows, D, generator=draw).to(dtype), labels


def records(batches, **options):
    found = []
    with ncfast.Tracker(sinks=[found.append], on_sigterm=False, **options) as tracker:
        for feats, labels, *mask in batches:
            tracker.step(feats=feats, labels=labels, **({"mask": mask[0]} if mask else {}))
    return [{key: value for key, value in r.items() if key not in OWN} for r in found]


def relabelled(feats, labels, mask=None):
    kept = torch.ones_like(labels, dtype=torch.bool) if mask is None else mask
    kept = kept & (labels != -100)
    return feats[kept], labels[kept].unique(return_inverse=True)[1]


def same(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        one = {key: value for key, value in one.items() if key != "train/ignored"}
        assert one.keys() == other.keys()
        for key, value in other.items():
            assert one[key] == pytest.approx(value, rel=1e-6, abs=1e-9, nan_ok=True)


@pytest.mark.parametrize("metrics", ["rnc1", "default", "standard", "nc2.condition"])
def test_records_equal_those_of_the_same_batches_relabelled(metrics):
    batches = [batch(rows, seed) for seed, rows in enumerate([30, 30, 7, 200, 30, 1])]
    found = records(batches, num_classes=K, metrics=metrics)
    same(found, records([relabelled(*b) for b in batches], num_classes=K, metrics=metrics))
    alone = records([relabelled(*b) for b in batches], num_classes=12, metrics=metrics)
    for one, other in zip(found, alone, strict=True):
        for key, value in other.items():
            assert one[key] == pytest.approx(value, rel=1e-6, abs=1e-9, nan_ok=True)


def test_rows_left_out():
    feats, labels = batch(40, 3)
    labels[::5] = -100
    mask = torch.arange(40) % 3 > 0
    feats[~mask] = torch.nan
    feats[labels == -100] = torch.nan
    found = records([(feats, labels, mask)] * 3, num_classes=K, metrics="default")
    same(found, records([relabelled(feats, labels, mask)] * 3, num_classes=K, metrics="default"))
    assert found[0]["train/ignored"] == int((~mask | (labels == -100)).sum())


def test_a_label_out_of_range_is_an_error_and_leaves_no_row():
    feats, labels = batch(40, 3)
    wrong = labels.clone()
    wrong[7] = K
    found = []
    with ncfast.Tracker(num_classes=K, metrics="rnc1", sinks=[found.append]) as tracker:
        tracker.step(feats=feats, labels=labels)
        with pytest.raises(ValueError, match="labels"):
            tracker.step(feats=feats, labels=wrong)
        tracker.step(feats=feats, labels=labels)
    assert found[0]["train/rnc1.max"] == found[-1]["train/rnc1.max"]
    assert sum("train/rnc1.max" in record for record in found) == 2


def test_features_that_are_not_finite_are_not_hidden():
    feats, labels = batch(40, 3)
    feats[5, 1] = torch.nan
    found = records([batch(40, 3), (feats, labels), batch(40, 3)], num_classes=K, metrics="rnc1")
    assert (
        found[1]["train/rnc1.max"] is None
        or found[1]["train/rnc1.max"] != found[1]["train/rnc1.max"]
    )
    assert found[0]["train/rnc1.max"] == pytest.approx(found[2]["train/rnc1.max"])


def test_averages_keep_every_class():
    batches = [batch(30, seed) for seed in range(3)]  # of classes that differ
    given = {"num_classes": K, "metrics": "nc2.equinorm", "stream": "window:3"}
    whole = tuple(torch.cat(part) for part in zip(*batches, strict=True))
    found, expected = records(batches, **given)[-1], records([whole], **given)[0]
    key = "window/train/nc2.equinorm"
    assert found[key] == pytest.approx(expected[key], rel=1e-6)


@pytest.mark.parametrize(
    ("rows", "number", "slots"),
    [(1, 10, 10), (100, 300, 128), (100, 200, 200), (129, 600, 256), (129, 500, 500)],
)
def test_slots_are_a_power_of_two_that_holds_the_rows(rows, number, slots):
    assert slots_for(rows, number) == slots
