"""The public calls: `collapse_metrics`, `describe` and the families."""

from pathlib import Path

import pytest
import torch
from harness import IDS, evaluate, evaluate_all
from samples import classes, companions
from torch._subclasses.fake_tensor import FakeTensorMode

import ncfast
from ncfast.metrics.catalogue import CATALOGUE, METRICS, OF_MOMENTS, STANDALONE


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize(("num_classes", "dim"), [(10, 8), (5, 8)], ids=["K>D", "K<D"])
def test_no_host_synchronisation(device, num_classes, dim):
    with FakeTensorMode():
        feats = torch.empty(100, dim, device=device)
        labels = torch.empty(100, dtype=torch.int64, device=device)
        values = ncfast.collapse_metrics(
            feats,
            labels,
            weight=torch.empty(num_classes, dim, device=device),
            bias=torch.empty(num_classes, device=device),
            ood_feats=torch.empty(30, dim, device=device),
        )
        assert list(values) == IDS
        values["rnc1"] = ncfast.rnc1(feats, labels, num_classes=num_classes)
        for name, value in values.items():
            assert value.shape == (), name
            assert value.dtype == torch.float64, name
            assert value.device.type == device, name


def test_which_selects_by_id_family_tier_and_list():
    feats, labels = classes()
    everything = ncfast.collapse_metrics(feats, labels)
    assert list(everything) == [
        name for name in IDS if not {"classifier", "ood"} & CATALOGUE[name].needs
    ]
    moments = ncfast.class_moments(feats, labels)
    assert list(ncfast.collapse_metrics(moments)) == list(OF_MOMENTS)
    family = [name for name in OF_MOMENTS if name.startswith("nc1.")]
    assert list(ncfast.collapse_metrics(moments, metrics="nc1")) == family
    chosen = ncfast.collapse_metrics(
        feats, labels, metrics=["nc2.equinorm", "rnc1", "nc2.equinorm"]
    )
    assert list(chosen) == ["nc2.equinorm", "rnc1.max", "rnc1.mean"]
    lite, standard, full = (
        set(ncfast.collapse_metrics(feats, labels, metrics=tier))
        for tier in ("lite", "standard", "full")
    )
    assert lite < standard < full == set(everything)
    with pytest.raises(ValueError, match=r"'nc1\.pnv'\. Did you mean 'nc1\.pinv'\? Known ids: "):
        ncfast.collapse_metrics(feats, labels, metrics="nc1.pnv")
    with pytest.raises(ValueError, match=r"'nc9'.*Known ids: rnc1\.max"):
        ncfast.collapse_metrics(feats, labels, metrics="nc9")


def test_the_default_metrics_and_the_former_name_of_the_argument():
    moments = ncfast.class_moments(*classes())
    assert tuple(ncfast.collapse_metrics(moments, metrics="default")) == tuple(METRICS)
    with pytest.warns(DeprecationWarning, match="`which`.*`metrics`") as caught:
        found = ncfast.collapse_metrics(moments, which="rnc1")
    assert caught[0].filename == __file__
    assert list(found) == ["rnc1.max", "rnc1.mean"]


def test_cheap_tiers_never_wait_for_a_device():
    for name, metric in CATALOGUE.items():
        assert metric.tier == "full" or not metric.synchronizes, name
        assert metric.tier == "full" or not metric.needs & {"scatter", "revisit"}, name


def test_a_metric_alone_equals_the_metric_among_all():
    feats, labels = classes()
    together = evaluate_all(feats, labels, 5)
    for name in IDS:
        # with the scatter matrix at hand, variances along the class directions come from it
        assert evaluate(name, feats, labels, 5) == pytest.approx(together[name], rel=1e-12), name


def test_public_calls_agree_with_the_registry():
    feats, labels = classes()
    weight, bias, ood = companions(5, 12)
    values = evaluate_all(feats, labels, 5)
    assert float(ncfast.rnc1(feats, labels)) == values["rnc1.max"]
    assert float(ncfast.rnc1(feats, labels, scale="mean")) == values["rnc1.mean"]
    assert float(ncfast.cdnv(feats, labels)) == values["nc1.cdnv"]
    assert float(ncfast.cdnv(feats, labels, variant="max")) == values["nc1.cdnv_max"]
    defaults = {
        "nc1.quotient": ncfast.nc1(feats, labels),
        "nc2.condition": ncfast.nc2(feats, labels),
        "nc3.self_duality": ncfast.nc3(feats, labels, weight),
        "nc4.agreement": ncfast.nc4(feats, labels, weight, bias),
        "nc5.ood_cosine": ncfast.nc5(feats, labels, ood),
        "bound.generalization": ncfast.generalization_bound(feats, labels, weight, bias),
        "bound.generalization_trace": ncfast.generalization_bound(
            feats, labels, weight, bias, projected=False
        ),
    }
    assert {k: v.item() for k, v in defaults.items()} == {k: values[k] for k in defaults}
    calls = {
        "nc1": lambda variant: ncfast.nc1(feats, labels, variant=variant),
        "nc2": lambda variant: ncfast.nc2(feats, labels, weight, variant=variant),
        "nc3": lambda variant: ncfast.nc3(feats, labels, weight, bias, variant=variant),
        "nc4": lambda variant: ncfast.nc4(feats, labels, weight, bias, variant=variant),
        "nc5": lambda variant: ncfast.nc5(feats, labels, ood, variant=variant),
    }
    for name in IDS:
        family, variant = name.split(".")
        if family in calls:
            assert calls[family](variant).item() == pytest.approx(values[name], rel=1e-12), name


def test_describe_knows_every_id():
    for name in [*IDS, *STANDALONE]:
        about = ncfast.describe(name)
        assert about.id == name
        assert all((about.formula, about.source, about.range, about.direction, about.call)), name
        assert about.call.removeprefix("ncfast.") in ncfast.__all__, name
    assert "nc1.svd" in ncfast.describe("nc1.pinv").variants
    with pytest.raises(ValueError, match=r"Did you mean 'nc2\.condition'\? Known ids"):
        ncfast.describe("nc2.conditon")
    with pytest.raises(ValueError, match=r"'nc1\.magic'.*Known ids: rnc1\.max"):
        ncfast.describe("nc1.magic")


def test_the_docs_have_every_definition():
    page = (Path(__file__).parents[2] / "docs/metrics.md").read_text()
    for name, metric in CATALOGUE.items():
        row = f"| `{name}` | `{metric.formula}` | {metric.source} | {metric.direction} | "
        assert row in page, f"{name}: run benchmarks/studies/metrics_table.py"
    for name in STANDALONE:
        assert f"`{name}`" in page, name


def test_the_core_set_of_the_tracker_is_part_of_the_catalogue():
    assert all(METRICS[name] is CATALOGUE[name] for name in METRICS)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, y: ncfast.rnc1(x), "`labels` of shape"),
        (lambda x, y: ncfast.rnc1(ncfast.class_moments(x, y), y), "no argument `labels`"),
        (lambda x, y: ncfast.rnc1(x, y, scale="median"), "'max' or 'mean' but got 'median'"),
        (lambda x, y: ncfast.nc1(x, y, variant="svd2"), "'quotient'.* but got 'svd2'"),
        (lambda x, y: ncfast.nc2(x, y, variant="angle"), "condition"),
        (lambda x, y: ncfast.cdnv(x, y, variant="median"), "'mean', 'max' or 'matrix'"),
        (lambda x, y: ncfast.nc3(x, y), "`weight` for the metric"),
        (lambda x, y: ncfast.nc4(x, y, variant="per_class"), "`weight` for the metric"),
        (lambda x, y: ncfast.nc5(x, y), "`ood_feats` for the metric"),
        (lambda x, y: ncfast.nc3(x, y, torch.ones(5, 3)), r"`weight` of shape \(K, D\) = \(5, 12"),
        (
            lambda x, y: ncfast.nc3(x, y, torch.ones(5, 12), torch.ones(4)),
            r"`bias` of shape \(K,\) = \(5,\) but got \(4,\)",
        ),
        (lambda x, y: ncfast.nc5(x, y, torch.ones(5, 3)), r"`ood_feats` of shape \(M, D\)"),
        (lambda x, y: ncfast.collapse_metrics(x, y, bias=torch.ones(5)), "`weight` beside `bias`"),
        (
            lambda x, y: ncfast.collapse_metrics(x, y, metrics="nc3.cosine"),
            "`weight` for the metric",
        ),
        (
            lambda x, y: ncfast.collapse_metrics(ncfast.class_moments(x, y), metrics="nc1.pinv"),
            "moments are not enough",
        ),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call(*classes())


@pytest.mark.parametrize("scale", ["max", "mean"])
@pytest.mark.parametrize(("rows", "dim", "number"), [(60, 5, 4), (3000, 130, 7), (300, 3, 4)])
def test_rnc1_has_the_same_bits_for_every_form_of_the_arguments(scale, rows, dim, number):
    """The one call of the extension, and the moments that it leaves out."""
    labels = torch.arange(rows) % number
    feats = torch.randn(rows, dim, generator=torch.Generator().manual_seed(3))
    found = ncfast.rnc1(feats, labels, scale=scale)
    others = {
        "number": ncfast.rnc1(feats, labels, num_classes=number, scale=scale),
        "narrow labels": ncfast.rnc1(feats, labels.to(torch.uint8), scale=scale),
        "plan": ncfast.rnc1(feats, ncfast.plan(labels), scale=scale),
        "arrays": ncfast.rnc1(feats.numpy(), labels.numpy(), scale=scale),
        "parameter": ncfast.rnc1(torch.nn.Parameter(feats), labels, scale=scale),
        "catalogue": ncfast.collapse_metrics(feats, labels)[f"rnc1.{scale}"],
    }
    for name, value in others.items():
        assert value.dtype == torch.float64, name
        assert torch.equal(value, found), name
    assert not found.requires_grad
    of_moments = ncfast.rnc1(ncfast.class_moments(feats, labels), scale=scale)
    torch.testing.assert_close(found, of_moments, rtol=1e-15, atol=0)
    reference = ncfast.rnc1(feats, labels, scale=scale, backend="reference")
    torch.testing.assert_close(found, reference, rtol=1e-6, atol=0)


def test_rnc1_refuses_labels_that_are_no_classes():
    feats = torch.randn(4, 3)
    for labels, number in (([0, 1, -1, 2], None), ([0, 1, 3, 2], 3), ([0, 1, 2, -1], 3)):
        with pytest.raises(ValueError, match="to lie in 0"):
            ncfast.rnc1(feats, torch.tensor(labels), num_classes=number)
    for number in (0, -1):
        with pytest.raises(ValueError, match="at least 1"):
            ncfast.rnc1(feats, torch.tensor([0, 1, 2, 0]), num_classes=number)
    with pytest.raises(TypeError, match="num_classes"):
        ncfast.rnc1(feats, torch.tensor([0, 0, 0, 0]), num_classes=True)
    feats[2] = torch.nan
    assert ncfast.rnc1(feats, torch.tensor([0, 1, 1, 0])).isnan()
