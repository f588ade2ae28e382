"""Primitives of a classifier and class means: C++ against the reference."""

from dataclasses import replace

import pytest
import torch

import ncfast
from ncfast.metrics.catalogue import CATALOGUE
from ncfast.metrics.inputs import MetricInputs
from ncfast.metrics.metric import evaluate
from ncfast.ops import _raw

pytestmark = [
    pytest.mark.skipif(_raw.extension is None, reason=ncfast.backends()["cpu"].reason),
    pytest.mark.usefixtures("poison"),
]
METRICS = {
    id_: metric
    for id_, metric in CATALOGUE.items()
    if metric.needs & {"classifier", "ood"} and not metric.needs & {"scatter", "revisit"}
}
IDS = list(METRICS)


def inputs(classes, dim, *, absent=(), spread=0.3, seed=0, offset=0.0):
    generator = torch.Generator().manual_seed(seed)
    draw = {"generator": generator, "dtype": torch.float64}
    labels = torch.arange(4 * classes) % classes
    for c in absent:
        labels = labels[labels != c]
    centres = torch.randn(classes, dim, **draw) + offset
    feats = centres[labels] + spread * torch.randn(len(labels), dim, **draw)
    return MetricInputs(
        ncfast.class_moments(feats, labels, num_classes=classes),
        weight=centres + 0.1 * torch.randn(classes, dim, **draw),
        bias=torch.randn(classes, **draw),
        ood=torch.randn(7, dim, **draw) + 1,
    )


def values(of):
    return torch.stack(list(evaluate(METRICS, of).values()))


def both(of):
    return values(of), values(replace(of, backend="reference", _results={}))


@pytest.mark.parametrize("shape", [(1, 1), (2, 1), (3, 2), (9, 33), (10, 200), (50, 70)])
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_each_instruction_set_against_the_reference(instruction_set, shape, offset):
    absent = (3, 7) if shape[0] > 8 else ()
    found, expected = both(inputs(*shape, absent=absent, offset=offset))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11, equal_nan=True)


def test_one_class_and_none():
    of = inputs(4, 6)
    for moments in (inputs(4, 6, absent=(1, 2, 3)).moments, ncfast.ClassMoments.empty(4, 6)):
        of = replace(of, moments=moments, _results={})
        found, expected = both(of)
        assert torch.equal(found.isnan(), expected.isnan())
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11, equal_nan=True)


def test_unusable_features_show_in_every_metric():
    of = inputs(4, 6)
    of.moments.norm_sum.fill_(torch.nan)  # as labels out of range make it
    of.moments.means.fill_(torch.nan)
    of.moments.within_ss.fill_(torch.nan)
    found, expected = both(of)
    assert found.isnan().all()
    assert expected.isnan().all()


def test_a_collapsed_self_dual_frame():
    feats = torch.eye(5, 8, dtype=torch.float64).repeat(3, 1)
    moments = ncfast.class_moments(feats, torch.arange(15) % 5, num_classes=5)
    of = MetricInputs(
        moments,
        weight=2 * moments.centred_means,
        bias=torch.zeros(5).double(),
        ood=torch.ones(2, 8).double(),
    )
    found = dict(zip(IDS, values(of).tolist(), strict=True))
    assert found.pop("nc3.cosine") == pytest.approx(1, abs=1e-12)
    assert found.pop("nc5.ood_cosine") == pytest.approx(8**-0.5, abs=1e-12)
    assert found.pop("nc3.bias_collapse") == pytest.approx(0, abs=1e-12)
    assert max(found.values()) < 1e-7  # squares of roundings, rooted


@pytest.mark.parametrize("shape", [(4, 6), (7, 3)], ids=str)
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_many_states_with_a_classifier_each_and_with_one(shape, backend):
    ones = [
        replace(inputs(*shape, seed=seed), backend=backend, ood=inputs(*shape).ood)
        for seed in range(3)
    ]
    for shared in (False, True):
        if shared:
            ones = [replace(one, weight=ones[0].weight, bias=ones[0].bias) for one in ones]
        ones = [replace(one, _results={}) for one in ones]
        parts = zip(*(one.moments.state_dict().values() for one in ones), strict=True)
        many = MetricInputs(
            ncfast.ClassMoments(*(torch.stack(part) for part in parts)),
            weight=ones[0].weight if shared else torch.stack([one.weight for one in ones]),
            bias=ones[0].bias if shared else torch.stack([one.bias for one in ones]),
            ood=ones[0].ood,
            backend=backend,
        )
        expected = torch.stack([values(one) for one in ones], 1)
        torch.testing.assert_close(values(many), expected, rtol=1e-11, atol=1e-13, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_calls_take_any_memory(dtype):
    feats, labels = torch.randn(40, 12).to(dtype), torch.arange(40) % 5
    weight, bias = torch.randn(12, 10).to(dtype)[:, ::2].T, torch.randn(10).to(dtype)[::2]
    given = {"weight": weight, "bias": bias, "ood_feats": torch.randn(24, 12).to(dtype)[::3]}
    found = ncfast.collapse_metrics(feats, labels, metrics="full", **given)
    plain = ncfast.collapse_metrics(feats, labels, metrics="full", backend="reference", **given)
    assert list(found) == list(plain)
    assert set(IDS) <= set(found)
    torch.testing.assert_close(found, plain, rtol=1e-5, atol=1e-6, equal_nan=True)
    few = ncfast.collapse_metrics(feats, labels, metrics="standard", weight=weight)
    standard = {id_ for id_ in IDS if METRICS[id_].tier != "full"}
    assert standard - set(few) == {"nc3.bias_collapse", "nc5.ood_cosine"}
    torch.testing.assert_close(few, {id_: found[id_] for id_ in few}, equal_nan=True)
