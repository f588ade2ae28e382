"""One harness: every metric answers the same questions."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import TWINS, two_pass
from samples import BACKENDS, GOLDEN, budget, classes, golden_case
from torch._subclasses.fake_tensor import FakeTensorMode

import ncfast
from ncfast.metrics.registry import METRICS

IDS = list(METRICS)
GOLDEN_NAMES = {
    "nc1.quotient": "nc1_quotient",
    "nc1.cdnv": "nc1_cdnv",
    "nc2.condition": "nc2_condition_number_of_class_means",
    "nc2.equinorm": "nc2_equinorm_cov",
    "nc2.etf_error": "nc2_etf_error",
}
# what the metric does when all features are multiplied by the same number: nothing
ROTATION_ONLY = {"rnc1.max", "rnc1.mean", "nc2.condition"}  # these look at the origin


def evaluate(name, feats, labels, num_classes):
    moments = ncfast.class_moments(feats, labels, num_classes=num_classes)
    return float(METRICS[name](moments))


def test_every_metric_has_a_twin():
    assert set(TWINS) == set(METRICS)


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: f"seed{case['seed']}")
def test_golden_values(case):
    feats, labels = golden_case(case)
    moments = ncfast.class_moments(feats, labels)
    values, checked = case["values"], 0
    for name, key in GOLDEN_NAMES.items():
        if key in values:
            assert float(METRICS[name](moments)) == pytest.approx(values[key], rel=1e-9), name
            checked += 1
    assert checked >= 4
    variance, largest, mean = (
        values[key] for key in ("within_class_variance", "norm_max", "norm_mean")
    )
    assert float(ncfast.rnc1(feats, labels)) == pytest.approx(variance / largest**2, rel=1e-9)
    assert float(ncfast.rnc1(feats, labels, scale="mean")) == pytest.approx(
        variance / mean**2, rel=1e-9
    )
    assert moments.counts.tolist() == values["counts"]


@pytest.mark.parametrize("name", IDS)
@pytest.mark.parametrize(
    ("count", "dim", "num_classes", "seed"),
    [(200, 12, 5, 0), (60, 3, 2, 1), (120, 4, 30, 2), (40, 50, 7, 3), (300, 1, 3, 4)],
    ids=["plain", "two-classes", "K>D", "D>N", "one-column"],
)
def test_equals_its_twin(name, count, dim, num_classes, seed):
    feats, labels = classes(count, dim, num_classes, seed=seed)
    expected = TWINS[name](two_pass(feats, labels, num_classes))
    assert evaluate(name, feats, labels, num_classes) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", IDS)
def test_absent_classes_are_left_out(name):
    feats, labels = classes(num_classes=4)
    expected = evaluate(name, feats, labels, 4)
    spread_out = 3 * labels + 1
    assert evaluate(name, feats, spread_out, 15) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", IDS)
def test_imbalance(name):
    feats, labels = classes(500, 8, 3, seed=5)
    labels[20:] = labels[20:].clamp(max=1) * 0
    expected = TWINS[name](two_pass(feats, labels, 3))
    assert evaluate(name, feats, labels, 3) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", IDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("backend", BACKENDS)
def test_low_precision_input(name, dtype, backend):
    feats, labels = classes(dtype=dtype)
    expected = TWINS[name](two_pass(feats, labels, 5))
    moments = ncfast.class_moments(feats, labels, num_classes=5, backend=backend)
    allowed = max(1e-9, budget(backend, dtype))
    assert float(METRICS[name](moments)) == pytest.approx(expected, rel=allowed)


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
    variants = {
        "scale": (feats * scale, labels),
        "rotation": (feats @ rotation, labels),
        "sample order": (feats[shuffle], labels[shuffle]),
        "class names": (feats, rename[labels]),
        "every sample twice": (torch.cat([feats, feats]), torch.cat([labels, labels])),
        "translation": (feats + offset, labels),
    }
    for name in IDS:
        expected = evaluate(name, feats, labels, num_classes)
        for what, (x, y) in variants.items():
            if what == "translation" and name in ROTATION_ONLY:
                continue
            found = evaluate(name, x, y, num_classes)
            # a condition number of 1e6 amplifies the rounding of the rotation
            assert found == pytest.approx(expected, rel=1e-7, abs=1e-9), (name, what)


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
def test_one_class_or_no_sample_is_nan_or_defined(name):
    feats = torch.randn(10, 3, generator=torch.Generator().manual_seed(0))
    one = evaluate(name, feats, torch.ones(10, dtype=torch.int64), 3)
    none = float(METRICS[name](ncfast.ClassMoments.empty(3, 4)))
    assert math.isnan(none)
    if name.startswith("rnc1") or name == "nc2.condition":
        assert math.isfinite(one)
    else:
        assert math.isnan(one) or math.isinf(one)


@pytest.mark.parametrize("name", IDS)
def test_nan_features_give_nan_not_an_error(name):
    feats, labels = classes()
    feats[3, 1] = torch.nan
    assert math.isnan(evaluate(name, feats, labels, 5))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_no_host_synchronisation(device):
    with FakeTensorMode():
        feats = torch.empty(100, 8, device=device)
        labels = torch.empty(100, dtype=torch.int64, device=device)
        values = ncfast.collapse_metrics(feats, labels, num_classes=10)
        values["rnc1"] = ncfast.rnc1(feats, labels, num_classes=10)
        for name, value in values.items():
            assert value.shape == (), name
            assert value.dtype == torch.float64, name
            assert value.device.type == device, name


def test_which_selects_by_id_family_and_list():
    feats, labels = classes()
    assert list(ncfast.collapse_metrics(feats, labels)) == IDS
    assert list(ncfast.collapse_metrics(feats, labels, which="nc1")) == ["nc1.quotient", "nc1.cdnv"]
    chosen = ncfast.collapse_metrics(feats, labels, which=["nc2.equinorm", "rnc1", "nc2.equinorm"])
    assert list(chosen) == ["nc2.equinorm", "rnc1.max", "rnc1.mean"]
    with pytest.raises(ValueError, match=r"'nc9'.*Known ids: rnc1\.max"):
        ncfast.collapse_metrics(feats, labels, which="nc9")


def test_public_calls_agree_with_the_registry():
    feats, labels = classes()
    moments = ncfast.class_moments(feats, labels, num_classes=5)
    values = ncfast.collapse_metrics(moments)
    calls = {
        "rnc1.max": ncfast.rnc1(feats, labels),
        "rnc1.mean": ncfast.rnc1(moments, scale="mean"),
        "nc1.quotient": ncfast.nc1(feats, labels),
        "nc1.cdnv": ncfast.cdnv(moments),
        "nc2.condition": ncfast.nc2(feats, labels),
        "nc2.equinorm": ncfast.nc2(moments, variant="equinorm"),
        "nc2.equiangular": ncfast.nc2(moments, variant="equiangular"),
        "nc2.etf_error": ncfast.nc2(moments, variant="etf_error"),
    }
    assert {k: v.item() for k, v in calls.items()} == {k: v.item() for k, v in values.items()}


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
        (lambda x, y: ncfast.nc1(x, y, variant="svd2"), r"\['quotient', 'cdnv'\] but got 'svd2'"),
        (lambda x, y: ncfast.nc2(x, y, variant="angle"), "condition"),
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
