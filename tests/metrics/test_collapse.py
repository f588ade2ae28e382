"""One harness: every metric answers the same questions."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import TWINS, case, two_pass
from samples import BACKENDS, GOLDEN, budget, classes, companions, golden_companions
from torch._subclasses.fake_tensor import FakeTensorMode

import ncfast
from ncfast.metrics.registry import CATALOGUE, METRICS, OF_MOMENTS, STANDALONE

IDS = list(CATALOGUE)
GOLDEN_NAMES = {
    "nc1.pinv": "nc1_pinv",
    "nc1.svd": "nc1_svd",
    "nc1.quotient": "nc1_quotient",
    "nc1.cdnv": "nc1_cdnv",
    "nc2.condition": "nc2_condition_number_of_class_means",
    "nc2.equinorm": "nc2_equinorm_cov",
    "nc2.etf_error": "nc2_etf_error",
    "nc2.distance": "nc2_distance_mean",
    "nc2.distance_var": "nc2_distance_var",
    "nc2.log_energy": "nc2_log_mean",
    "nc2.log_energy_var": "nc2_log_var",
    "nc2.cosine_mean": "nc2_cosine_mean",
    "nc2.cosine_std": "nc2_cosine_std",
    "nc3.cross_coherence": "nc3_self_duality_error",
    "nc3.cosine": "nc3_similarity_mean",
    "nc3.uniform_duality": "nc3_dot_variance",
    "nc4.agreement": "nc4_ncc_agreement",
    "nc5.ood_cosine": "nc5_ood_deviation",
}
# these look at the origin, so a translation changes them
ROTATION_ONLY = {
    *("rnc1.max", "rnc1.mean", "nc2.condition", "nc2.etf_error_raw", "nc3.bias_collapse"),
    *("nc4.agreement", "nc4.agreement_class", "nc5.ood_cosine", "rank.effective", "rank.stable"),
    *("bound.generalization", "bound.generalization_trace"),
}
# these carry the units of the features
SCALE_DEPENDENT = {"nc3.uniform_duality", "nc3.bias_collapse"}
# a classifier may choose a class that has no sample
SEE_ABSENT_CLASSES = {
    *("nc4.agreement", "nc4.agreement_class"),
    *("bound.generalization", "bound.generalization_trace"),
}
DEFINED_FOR_ONE_CLASS = {
    *("rnc1.max", "rnc1.mean", "nc2.condition", "nc1.within_fraction"),
    *("nc1.within_fraction_sample", "nc3.bias_collapse"),
    *("nc4.agreement", "nc4.agreement_class", "nc4.ncc_accuracy", "nc4.ncc_accuracy_class"),
    *("nc5.ood_cosine", "rank.effective", "rank.participation", "rank.stable"),
    *("bound.generalization", "bound.generalization_trace"),
}


def evaluate_all(feats, labels, num_classes, weight=None, bias=None, ood=None, **options):
    if weight is None:
        weight, bias, ood = companions(num_classes, feats.shape[1])
    values = ncfast.collapse_metrics(
        feats,
        labels,
        weight=weight,
        bias=bias,
        ood_feats=ood,
        num_classes=num_classes,
        **options,
    )
    return {name: float(value) for name, value in values.items()}


def evaluate(name, feats, labels, num_classes, backend="auto"):
    return evaluate_all(feats, labels, num_classes, which=name, backend=backend)[name]


def expect(name, feats, labels, num_classes):
    return TWINS[name](case(feats, labels, num_classes, *companions(num_classes, feats.shape[1])))


def test_every_metric_has_a_twin():
    assert set(TWINS) == set(CATALOGUE)


@pytest.mark.parametrize("golden", GOLDEN["cases"], ids=lambda golden: f"seed{golden['seed']}")
def test_golden_values(golden):
    feats, labels, weight, ood = golden_companions(golden)
    found = evaluate_all(feats, labels, golden["C"], weight, None, ood)
    values = golden["values"]
    for name, key in GOLDEN_NAMES.items():
        if key in values:
            assert found[name] == pytest.approx(values[key], rel=1e-9), name
    assert len(set(GOLDEN_NAMES.values()) & set(values)) >= 15
    variance, largest, mean = (
        values[key] for key in ("within_class_variance", "norm_max", "norm_mean")
    )
    assert found["rnc1.max"] == pytest.approx(variance / largest**2, rel=1e-9)
    assert found["rnc1.mean"] == pytest.approx(variance / mean**2, rel=1e-9)
    sample = variance / values["between_class_variance_weighted"]
    assert found["nc1.quotient_sample"] == pytest.approx(sample, rel=1e-9)
    moments = ncfast.class_moments(feats, labels)
    assert moments.counts.tolist() == values["counts"]
    first = torch.linalg.vector_norm(moments.centred_means, dim=1)[:3].tolist()
    assert first == pytest.approx(values["nc2_mean_norms_first3"], rel=1e-9)


@pytest.mark.parametrize("name", IDS)
@pytest.mark.parametrize(
    ("count", "dim", "num_classes", "seed"),
    [(200, 12, 5, 0), (60, 3, 2, 1), (120, 4, 30, 2), (40, 50, 7, 3), (300, 1, 3, 4)],
    ids=["plain", "two-classes", "K>D", "D>N", "one-column"],
)
def test_equals_its_twin(name, count, dim, num_classes, seed):
    feats, labels = classes(count, dim, num_classes, seed=seed)
    expected = expect(name, feats, labels, num_classes)
    found = evaluate(name, feats, labels, num_classes)
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-14, nan_ok=True)


@pytest.mark.parametrize("name", [name for name in IDS if name not in SEE_ABSENT_CLASSES])
def test_absent_classes_are_left_out(name):
    feats, labels = classes(num_classes=4)
    weight, bias, ood = companions(15, 12)
    there = torch.tensor([1, 4, 7, 10])
    expected = evaluate_all(feats, labels, 4, weight[there], bias[there], ood, which=name)
    found = evaluate_all(feats, there[labels], 15, weight, bias, ood, which=name)
    assert found == pytest.approx(expected, rel=1e-12, abs=1e-14)


@pytest.mark.parametrize("name", IDS)
def test_imbalance(name):
    feats, labels = classes(500, 8, 3, seed=5)
    labels[20:] = labels[20:].clamp(max=1) * 0
    expected = expect(name, feats, labels, 3)
    assert evaluate(name, feats, labels, 3) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", IDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("backend", BACKENDS)
def test_low_precision_input(name, dtype, backend):
    feats, labels = classes(dtype=dtype)
    expected = expect(name, feats, labels, 5)
    found = evaluate(name, feats, labels, 5, backend)
    allowed = max(1e-9, budget(backend, dtype))
    assert found == pytest.approx(expected, rel=allowed)


@settings(deadline=None, max_examples=25)
@given(st.integers(2, 8), st.integers(2, 9), st.integers(0, 10**6), st.floats(1e-3, 1e3))
def test_invariances(num_classes, dim, seed, scale):
    feats, labels = classes(60, dim, num_classes, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(dim, dim, generator=generator, dtype=torch.float64)
    rotation = torch.linalg.qr(normal)[0]
    shuffle = torch.randperm(60, generator=generator)
    rename = torch.randperm(num_classes, generator=generator)
    offset = torch.randn(dim, generator=generator, dtype=torch.float64)
    weight, bias, ood = companions(num_classes, dim)
    turned = (weight @ rotation, bias, ood @ rotation)
    old_names = rename.argsort()
    variants = {
        "scale": (feats * scale, labels, weight, bias * scale, ood * scale),
        "rotation": (feats @ rotation, labels, *turned),
        "sample order": (feats[shuffle], labels[shuffle], weight, bias, ood),
        "class names": (feats, rename[labels], weight[old_names], bias[old_names], ood),
        "twice": (feats.repeat(2, 1), labels.repeat(2), weight, bias, ood),
        "translation": (feats + offset, labels, weight, bias, ood + offset),
    }
    expected = evaluate_all(feats, labels, num_classes, weight, bias, ood)
    for what, (x, y, *others) in variants.items():
        found = evaluate_all(x, y, num_classes, *others)
        exempt = {"translation": ROTATION_ONLY, "scale": SCALE_DEPENDENT}.get(what, set())
        for name in set(IDS) - exempt:
            # a condition number of 1e6 amplifies the rounding of the rotation
            assert found[name] == pytest.approx(expected[name], rel=1e-7, abs=1e-9), (name, what)


def test_a_simplex_etf_is_perfect():
    rotation = torch.linalg.qr(torch.randn(9, 9, dtype=torch.float64))[0][:4]
    etf = (torch.eye(4, dtype=torch.float64) - 0.25) @ rotation
    labels = torch.arange(40) % 4
    values = ncfast.collapse_metrics(etf[labels] * 7 + 1, labels, num_classes=4)
    for name in ("nc2.equinorm", "nc2.equiangular", "nc2.etf_error", "nc1.cdnv", "rnc1.max"):
        assert float(values[name]) == pytest.approx(0.0, abs=1e-7), name


def test_an_orthogonal_frame_has_condition_one():
    labels = torch.arange(30) % 5
    feats = 3 * torch.eye(8, dtype=torch.float64)[labels]
    assert float(ncfast.nc2(feats, labels)) == pytest.approx(1.0, rel=1e-12)


def test_condition_number_beyond_the_reach_of_a_squared_matrix():
    means = torch.diag(torch.tensor([1.0, 1e-5, 1e-10], dtype=torch.float64))
    found = ncfast.nc2(means, torch.arange(3))
    assert float(found) == pytest.approx(1e10, rel=1e-9)


def test_cdnv_of_close_means_far_from_the_origin():
    feats = torch.tensor([[1e4, 0.0], [1e4 + 1e-4, 0.0]], dtype=torch.float64).repeat(2, 1)
    feats = feats + torch.tensor([[0.0, 1e-5], [0.0, 1e-5], [0.0, 0.0], [0.0, 0.0]])
    labels = torch.tensor([0, 1, 0, 1])
    expected = TWINS["nc1.cdnv"](two_pass(feats, labels, 2))
    assert float(ncfast.cdnv(feats, labels)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", IDS)
def test_one_class_is_nan_or_defined(name):
    feats = torch.randn(10, 3, generator=torch.Generator().manual_seed(0))
    one = evaluate(name, feats, torch.ones(10, dtype=torch.int64), 3)
    if name in DEFINED_FOR_ONE_CLASS:
        assert math.isfinite(one)
    else:
        assert math.isnan(one) or math.isinf(one)


def test_no_sample_is_nan():
    weight, bias, ood = companions(3, 4)
    empty = ncfast.ClassMoments.empty(3, 4)
    values = ncfast.collapse_metrics(empty, weight=weight, bias=bias, ood_feats=ood)
    assert set(values) >= set(OF_MOMENTS)
    for name, value in values.items():
        assert math.isnan(float(value)), name


@pytest.mark.parametrize("name", IDS)
def test_nan_features_give_nan_not_an_error(name):
    feats, labels = classes()
    feats[3, 1] = torch.nan
    assert math.isnan(evaluate(name, feats, labels, 5))


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
        name for name in IDS if not {"weight", "bias", "ood"} & set(CATALOGUE[name].needs)
    ]
    moments = ncfast.class_moments(feats, labels)
    assert list(ncfast.collapse_metrics(moments)) == list(OF_MOMENTS)
    assert set(ncfast.collapse_metrics(moments, which="nc1")) == {
        *("nc1.quotient", "nc1.quotient_sample", "nc1.within_fraction"),
        *("nc1.within_fraction_sample", "nc1.cdnv", "nc1.cdnv_max"),
    }
    chosen = ncfast.collapse_metrics(feats, labels, which=["nc2.equinorm", "rnc1", "nc2.equinorm"])
    assert list(chosen) == ["nc2.equinorm", "rnc1.max", "rnc1.mean"]
    lite, standard, full = (
        set(ncfast.collapse_metrics(feats, labels, which=tier))
        for tier in ("lite", "standard", "full")
    )
    assert lite < standard < full == set(everything)
    with pytest.raises(ValueError, match=r"'nc9'.*Known ids: rnc1\.max"):
        ncfast.collapse_metrics(feats, labels, which="nc9")


def test_cheap_tiers_never_stall_a_device():
    for name, metric in CATALOGUE.items():
        assert metric.tier == "full" or not metric.stalls, name
        assert metric.tier == "full" or "feats" not in metric.needs, name


def test_a_metric_alone_equals_the_metric_among_all():
    feats, labels = classes()
    together = evaluate_all(feats, labels, 5)
    for name in IDS:
        # the variances along the class directions come from the scatter matrix when that is there
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
    for name in [*IDS, "weight.norm", "balancedness", "bound.superfluous"]:
        about = ncfast.describe(name)
        assert about.id == name
        assert all((about.formula, about.source, about.range, about.direction, about.call)), name
    assert "nc1.svd" in ncfast.describe("nc1.pinv").variants
    with pytest.raises(ValueError, match=r"'nc1\.magic'.*Known ids: rnc1\.max"):
        ncfast.describe("nc1.magic")


def test_the_docs_have_every_definition():
    page = (Path(__file__).parents[2] / "docs/metrics.md").read_text()
    for name, metric in CATALOGUE.items():
        row = f"| `{name}` | `{metric.formula}` | {metric.source} | {metric.direction} | "
        assert row in page, f"{name}: run benchmarks/metrics_table.py"
    for name in STANDALONE:
        assert f"`{name}`" in page, name


def test_the_core_set_of_the_tracker_is_part_of_the_catalogue():
    assert all(METRICS[name] is CATALOGUE[name] for name in METRICS)


def test_float32_variance_loss_of_the_naive_formula_is_not_ours():
    """The published expression E[x^2] - E[x]^2 in float32 is wrong here by far; ours is not."""
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(64, generator=generator)
    feats = mean + 1e-5 * torch.randn(5000, 64, generator=generator)
    labels = torch.zeros(5000, dtype=torch.int64)
    truth = two_pass(feats, labels, 1)["within_ss"][0] / 5000
    naive = float((feats.square().mean(0) - feats.mean(0).square()).sum())
    ours = float(ncfast.class_moments(feats, labels).within_trace)
    assert abs(naive / truth - 1) > 1
    assert ours == pytest.approx(truth, rel=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, y: ncfast.rnc1(x), "`labels` of shape"),
        (lambda x, y: ncfast.rnc1(ncfast.class_moments(x, y), y), "no argument `labels`"),
        (lambda x, y: ncfast.rnc1(x, y, scale="median"), "'max' or 'mean' but got 'median'"),
        (lambda x, y: ncfast.nc1(x, y, variant="svd2"), "'quotient'.* but got 'svd2'"),
        (lambda x, y: ncfast.nc2(x, y, variant="angle"), "condition"),
        (lambda x, y: ncfast.cdnv(x, y, variant="median"), "'mean', 'max' or 'matrix'"),
        (lambda x, y: ncfast.nc3(x, y), "weight for variant 'self_duality'"),
        (lambda x, y: ncfast.nc4(x, y, variant="per_class"), "`weight` for variant 'per_class'"),
        (lambda x, y: ncfast.nc5(x, y), "ood for variant"),
        (lambda x, y: ncfast.nc3(x, y, torch.ones(5, 3)), r"`weight` of shape \(K, D\) = \(5, 12"),
        (
            lambda x, y: ncfast.nc3(x, y, torch.ones(5, 12), torch.ones(4)),
            r"`bias` of shape \(K,\) = \(5,\) but got \(4,\)",
        ),
        (lambda x, y: ncfast.nc5(x, y, torch.ones(5, 3)), r"`ood_feats` of shape \(M, D\)"),
        (lambda x, y: ncfast.collapse_metrics(x, y, bias=torch.ones(5)), "`weight` beside `bias`"),
        (lambda x, y: ncfast.collapse_metrics(x, y, which="nc3.cosine"), "`weight` for the metric"),
        (
            lambda x, y: ncfast.collapse_metrics(ncfast.class_moments(x, y), which="nc1.pinv"),
            "moments are not enough",
        ),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call(*classes())


def test_results_are_on_the_scale_of_numpy():
    """A check by hand: two classes on a line."""
    feats = torch.tensor([[0.0], [2.0], [10.0], [10.0]])
    labels = torch.tensor([0, 0, 1, 1])
    assert float(ncfast.rnc1(feats, labels)) == pytest.approx(0.5 / 100)
    assert float(ncfast.nc1(feats, labels)) == pytest.approx(0.5 / np.var([1.0, 10.0]))
    assert float(ncfast.cdnv(feats, labels)) == pytest.approx(1.0 / (2 * 81))
