"""Every metric at the edges of its inputs: all CPU paths give the same number, and the true one."""

import math
from fractions import Fraction

import pytest
import torch
from harness import IDS, evaluate_all
from samples import classes, companions

import ncfast
from ncfast.metrics.catalogue import CATALOGUE, OF_MOMENTS

# these carry units: a scale of the features changes them
SCALE_DEPENDENT = {"nc3.uniform_duality", "nc3.bias_collapse", "ssl.lidar"}
# these weigh directions by the inverse of their variance, see docs/accuracy.md
OF_SMALL_DIRECTIONS = {
    *("nc1.bounded", "nc1.vci", "nc5.neco_auroc", "nc5.neco_fpr95"),
    *("rank.alpha_req", "rank.alpha_req_error", "ssl.lidar"),
}
ENERGIES = ["nc2.log_energy", "nc2.riesz_energy"]


def accumulated(feats, labels, num_classes, weight, bias, ood, backend):
    acc = ncfast.Accumulator(num_classes, metrics="all", weight=weight, bias=bias, backend=backend)
    batches = list(zip(feats.split(37), labels.split(37), strict=True))
    for batch in batches:
        acc.update(*batch)
    acc.update_ood(ood)
    for batch in batches:
        acc.revisit(*batch)
    acc.revisit_ood(ood)
    return {name: float(value) for name, value in acc.compute().items()}


def states_at_once(feats, labels, num_classes, backend):
    """The metrics of moments alone, of the last of two states computed together."""
    moments = ncfast.class_moments(feats, labels, num_classes=num_classes, backend=backend)
    fields = ("counts", "means", "within_ss", "norm_sum", "norm_max")
    pair = ncfast.ClassMoments(
        *(torch.stack([getattr(moments, name) * 0 + 1, getattr(moments, name)]) for name in fields)
    )
    found = ncfast.collapse_metrics(pair, metrics=list(OF_MOMENTS), backend=backend)
    return {name: float(value[1]) for name, value in found.items()}


def every_path(feats, labels, num_classes, scale=1.0):
    weight, bias, ood = companions(num_classes, feats.shape[1])
    ood = ood * scale
    found = {}
    for backend in ("reference", "cpu"):
        if not ncfast.backends()[backend].available:
            continue
        others = (weight, bias * scale, ood)
        found[backend] = evaluate_all(feats, labels, num_classes, *others, backend=backend)
        found[f"{backend}, stream"] = accumulated(feats, labels, num_classes, *others, backend)
        found[f"{backend}, states"] = states_at_once(feats, labels, num_classes, backend)
    return found


def assert_same(found, expected=None, *, without=frozenset()):
    expected = found["reference"] if expected is None else expected
    for path, values in found.items():
        for name in values.keys() - without:
            close = pytest.approx(expected[name], rel=1e-7, abs=1e-12, nan_ok=True)
            assert values[name] == close, (name, path)


def coinciding(num_classes, dim, spread):
    """Two classes around each mean, bit for bit."""
    generator = torch.Generator().manual_seed(num_classes)
    means = torch.randn(num_classes // 2, dim, generator=generator, dtype=torch.float64)
    means = (means * 2**20).round().div(2**20).repeat(2, 1)
    feats = torch.cat([means + spread, means - spread])
    return feats, torch.arange(num_classes).repeat(2)


@pytest.mark.parametrize("num_classes", [6, 40, 300, 1100])
def test_classes_that_coincide(num_classes):
    feats, labels = coinciding(num_classes, 64, 0.125)
    # rounding decides which of two equal means is the nearest
    found = every_path(feats, labels, num_classes)
    assert_same(found, without={"nc4.ncc_accuracy", "nc4.ncc_accuracy_class"})
    for path, values in found.items():
        for name in ("nc1.cdnv", "nc1.cdnv_max", *ENERGIES):
            assert values[name] == math.inf, (name, path)
        for name in ENERGIES:
            assert math.isnan(values[f"{name}_var"]), (name, path)


@pytest.mark.parametrize("num_classes", [6, 300])
def test_the_cdnv_of_coinciding_classes_without_spread_is_nan(num_classes):
    feats, labels = coinciding(num_classes, 64, 0.0)
    for values in every_path(feats, labels, num_classes).values():
        assert math.isnan(values["nc1.cdnv"])
        assert math.isnan(values["nc1.cdnv_max"])


@pytest.mark.parametrize(("num_classes", "dim"), [(6, 8), (7, 3), (200, 256)])
def test_means_that_all_coincide_leave_no_rounding_behind(num_classes, dim):
    """The mean of equal numbers can be off by a rounding: no metric may see that as a direction."""
    feats = torch.full((2 * num_classes, dim), 0.1, dtype=torch.float64)
    found = every_path(feats, torch.arange(2 * num_classes) % num_classes, num_classes)
    assert_same(found)
    for name in ("nc1.quotient", "nc1.cdnv", "nc2.equinorm", "nc2.cosine_mean", "nc2.etf_error"):
        assert math.isnan(found["reference"][name]), name


def test_one_class():
    feats, _ = classes(60, 8)
    assert_same(every_path(feats, torch.full((60,), 2), 4))


@pytest.mark.parametrize("shape", [(200, 12, 5), (120, 4, 30)])
@pytest.mark.parametrize("exponent", [-150, -100, -77, 77, 100, 150])
def test_the_scale_of_the_features(shape, exponent):
    feats, labels = classes(*shape)
    expected = every_path(feats, labels, shape[2])["reference"]
    scale = 10.0**exponent
    found = every_path(feats * scale, labels, shape[2], scale)
    assert_same(found, expected, without=SCALE_DEPENDENT)
    for path, values in found.items():
        if "states" not in path:
            bias = values["nc3.bias_collapse"] / scale
            assert bias == pytest.approx(expected["nc3.bias_collapse"], rel=1e-7)


@pytest.mark.parametrize("exponent", [-150, 150])
def test_the_scale_of_features_and_classifier(exponent):
    feats, labels = classes()
    weight, bias, ood = companions(5, 12)
    names = sorted({n for n in IDS if n.split(".")[0] == "nc3"} - SCALE_DEPENDENT)
    names += ["nc2.etf_error_weight", "nc2.etf_error_weight_raw", "nc4.agreement"]
    expected = evaluate_all(feats, labels, 5, weight, bias, ood, metrics=names)
    scale = 10.0**exponent
    large = (feats * scale, labels, 5, weight * scale, bias * scale * scale, ood)
    for backend in ("reference", "auto"):
        found = evaluate_all(*large, metrics=names, backend=backend)
        assert found == pytest.approx(expected, rel=1e-9)


def exact_decisions(feats, labels, num_classes, weight, bias):
    """Shares of nc4.agreement and nc4.ncc_accuracy in rational numbers."""
    rows = [[Fraction(value) for value in row] for row in feats.tolist()]
    own = labels.tolist()
    members = [
        [row for row, c in zip(rows, own, strict=True) if c == k] for k in range(num_classes)
    ]
    means = [[sum(column) / len(m) for column in zip(*m, strict=True)] for m in members]
    weight = [[Fraction(value) for value in row] for row in weight.tolist()]
    bias = [Fraction(value) for value in bias.tolist()]

    def distance(row, c):
        return sum((a - b) ** 2 for a, b in zip(row, means[c], strict=True))

    def logit(row, c):
        return sum(a * b for a, b in zip(row, weight[c], strict=True)) + bias[c]

    nearest = [min(range(num_classes), key=lambda c, r=row: distance(r, c)) for row in rows]
    chosen = [max(range(num_classes), key=lambda c, r=row: logit(r, c)) for row in rows]
    agree = sum(a == b for a, b in zip(nearest, chosen, strict=True))
    hits = sum(a == b for a, b in zip(nearest, own, strict=True))
    return {"nc4.agreement": agree / len(rows), "nc4.ncc_accuracy": hits / len(rows)}


@pytest.mark.parametrize("outlier", [1e6, 1e12, -1e15])
@pytest.mark.parametrize("seed", range(3))
def test_one_finite_outlier_leaves_the_decisions_exact(outlier, seed):
    feats, labels = classes(100, 8, 5, seed=seed)
    feats[7, 3] = outlier
    expected = exact_decisions(feats, labels, 5, *companions(5, 8)[:2])
    for path, values in every_path(feats, labels, 5).items():
        if "states" not in path:
            assert {name: values[name] for name in expected} == pytest.approx(expected), path


def test_columns_of_different_scales():
    feats, labels = classes()
    feats = feats * torch.logspace(-12, 12, 12, dtype=torch.float64)
    assert_same(every_path(feats, labels, 5), without=OF_SMALL_DIRECTIONS)


@pytest.mark.parametrize("offset", [0.0, 1e6, 1e15])
def test_values_that_cannot_be_negative_are_not(offset):
    feats, labels = classes()
    never = [name for name in IDS if CATALOGUE[name].range.startswith("[0")]
    for rows in (feats, feats[:5][labels]):
        for path, values in every_path(rows + offset, labels, 5).items():
            for name in set(never) & values.keys():
                assert not values[name] < 0, (name, path)


def exact_within(rows, offset):
    """Sum of squares around the mean of rows near ``offset``, in rational numbers."""
    total = Fraction(0)
    for column in (rows - offset).T.tolist():
        values = [Fraction(value) for value in column]
        total += sum(value * value for value in values) - sum(values) ** 2 / len(values)
    return float(total)


@pytest.mark.parametrize("offset", [1e6, 1e10, 1e12, 1e14])
def test_float64_features_far_from_the_origin(offset):
    """The stored mean is rounded to 1e-16 of the offset: the sum of squares must not be."""
    generator = torch.Generator().manual_seed(0)
    feats = offset + torch.randn(400, 17, generator=generator, dtype=torch.float64)
    labels = torch.arange(400) % 3
    expected = [exact_within(feats[labels == c], offset) for c in range(3)]
    for name, status in ncfast.backends().items():
        if name in ("reference", "cpu") and status.available:
            found = ncfast.class_moments(feats, labels, backend=name).within_ss.tolist()
            assert found == pytest.approx(expected, rel=1e-13), name
