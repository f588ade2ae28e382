"""Every metric of the catalogue passes the same tests."""

import math

import pytest
import torch
from harness import DEFINED_FOR_ONE_CLASS, IDS, evaluate, evaluate_all, expect
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import ORACLES
from samples import BACKENDS, GOLDEN, budget, classes, companions, golden_companions

import ncfast
from ncfast.metrics.catalogue import CATALOGUE, OF_MOMENTS

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
# these depend on the origin: a translation changes them
ROTATION_ONLY = {
    *("rnc1.max", "rnc1.mean", "nc2.condition", "nc2.etf_error_raw", "nc3.bias_collapse"),
    *("nc4.agreement", "nc4.agreement_class", "nc5.ood_cosine", "rank.effective", "rank.stable"),
    *("bound.generalization", "bound.generalization_trace", "rank.rankme"),
}
# these carry the units of the features
SCALE_DEPENDENT = {"nc3.uniform_duality", "nc3.bias_collapse", "ssl.lidar"}
# a classifier may choose a class that has no sample
SEE_ABSENT_CLASSES = {
    *("nc4.agreement", "nc4.agreement_class"),
    *("bound.generalization", "bound.generalization_trace"),
}
# these are NaN where all classes have the same size, or too few are small
OF_UNEQUAL_SIZES = {name for name in CATALOGUE if name.startswith("imbalance.")}


def test_every_metric_has_a_twin():
    assert set(ORACLES) == set(CATALOGUE)


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
    expected = evaluate_all(feats, labels, 4, weight[there], bias[there], ood, metrics=name)
    found = evaluate_all(feats, there[labels], 15, weight, bias, ood, metrics=name)
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
            allowed = {"rel": 1e-7, "abs": 1e-9, "nan_ok": name in OF_UNEQUAL_SIZES}
            assert found[name] == pytest.approx(expected[name], **allowed), (name, what)


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
