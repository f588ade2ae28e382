"""Metrics of known geometries, against other packages, and of many classes."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from oracle import ORACLES, case
from samples import classes, companions

import ncfast
from ncfast.metrics import decision
from ncfast.metrics.arguments import as_inputs
from ncfast.ops import decisions, pairs


def simplex(number, dim, scale=7.0, seed=0):
    """A simplex ETF, rotated and moved away from the origin."""
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(dim, dim, generator=generator, dtype=torch.float64)
    frame = torch.eye(number, dtype=torch.float64) - 1 / number
    # K rows of rank K - 1 in D >= K - 1 columns, by singular vectors
    left, values, _ = torch.linalg.svd(frame)
    return scale * (left * values)[:, : number - 1] @ torch.linalg.qr(normal)[0][: number - 1] + 1


@pytest.mark.parametrize(("number", "dim"), [(2, 1), (2, 5), (4, 9), (9, 8), (30, 64)])
def test_a_simplex_etf_has_the_known_values(number, dim):
    means = simplex(number, dim)
    labels = torch.arange(number).repeat(3)
    weight = means - means.mean(0)
    values = ncfast.collapse_metrics(means[labels], labels, weight=2 * weight)
    cosine = -1 / (number - 1)
    distance = (2 * (1 - cosine)) ** 0.5
    expected = {
        **dict.fromkeys(["nc1.pinv", "nc1.svd", "nc1.quotient", "nc1.vci", "nc1.bounded"], 0.0),
        **dict.fromkeys(["nc1.cdnv", "nc1.cdnv_max", "nc2.equinorm", "nc2.equinorm_weight"], 0.0),
        **dict.fromkeys(["nc2.equiangular", "nc2.etf_error", "nc2.etf_error_weight"], 0.0),
        **dict.fromkeys(["nc2.cosine_std", "nc2.distance_var", "nc2.log_energy_var"], 0.0),
        **dict.fromkeys(["nc3.self_duality", "nc3.cross_coherence", "nc3.weight_sum"], 0.0),
        "nc2.cosine_mean": cosine,
        "nc2.coherence": -cosine,
        "nc2.condition_centred": 1.0,
        "nc2.distance": distance,
        "nc2.log_energy": -np.log(distance),
        "nc2.riesz_energy": 1 / distance,
        "nc3.cosine": 1.0,
        "nc4.agreement": 1.0,
        "nc4.ncc_accuracy": 1.0,
        "rank.effective_means": number - 1,
        "rank.participation_means": number - 1,
        "rank.stable_means": number - 1,
    }
    for name, value in expected.items():
        if name == "nc4.agreement":  # the classifier has no offset
            continue
        assert float(values[name]) == pytest.approx(value, rel=1e-9, abs=1e-12), name


def test_an_orthogonal_frame_has_the_known_values():
    labels = torch.arange(6).repeat(4)
    frame = 3 * torch.eye(6, 9, dtype=torch.float64)
    values = ncfast.collapse_metrics(frame[labels], labels, weight=frame)
    assert float(values["nc2.condition"]) == pytest.approx(1, rel=1e-12)
    assert float(values["nc2.etf_error"]) == pytest.approx(0, abs=1e-12)  # an ETF once centred
    assert float(values["rank.effective"]) == pytest.approx(6, rel=1e-9)
    assert float(values["rank.stable"]) == pytest.approx(6, rel=1e-9)
    assert float(values["nc4.agreement"]) == 1
    # Gram matrix I / sqrt(6) against (I - 11^T / 6) / sqrt(5)
    product = torch.eye(6) / 6**0.5 - (torch.eye(6) - 1 / 6) / 5**0.5
    assert float(values["nc2.etf_error_raw"]) == pytest.approx(float(product.norm()), rel=1e-6)


@pytest.mark.parametrize(("count", "dim", "num_classes"), [(400, 8, 5), (90, 3, 12)])
def test_the_sample_quotient_is_calinski_harabasz(count, dim, num_classes):
    calinski_harabasz_score = pytest.importorskip("sklearn.metrics").calinski_harabasz_score

    feats, labels = classes(count, dim, num_classes, seed=6)
    score = calinski_harabasz_score(feats.numpy(), labels.numpy())
    expected = (count - num_classes) / ((num_classes - 1) * score)
    found = float(ncfast.nc1(feats, labels, variant="quotient_sample"))
    assert found == pytest.approx(expected, rel=1e-9)


def test_pinv_ignores_dead_features_and_counts_coinciding_classes_once():
    feats, labels = classes(300, 6, 4)
    padded = torch.cat([feats, torch.zeros(300, 5)], 1)
    alive = float(ncfast.nc1(feats, labels, variant="pinv"))
    assert float(ncfast.nc1(padded, labels, variant="pinv")) == pytest.approx(alive, rel=1e-9)
    twins = torch.tensor([[0.0, 0.0], [2.0, 0.0]], dtype=torch.float64)
    feats = twins.repeat(3, 1)
    feats[4:] += 5
    feats = feats + torch.tensor([[0.0, 0.1], [0.0, -0.1]]).double().repeat(3, 1)
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    expected = ORACLES["nc1.pinv"](case(feats, labels, 3))
    assert float(ncfast.nc1(feats, labels, variant="pinv")) == pytest.approx(expected, rel=1e-9)
    assert float(ncfast.nc1(feats, labels, variant="svd")) > 1e9  # divides by rounding, or zero


@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.0])
def test_the_cdnv_matrix(exponent):
    feats, labels = classes(num_classes=4)
    labels = labels + (labels > 1)  # class 2 is absent
    matrix = ncfast.cdnv(feats, labels, variant="matrix", exponent=exponent)
    moments = ncfast.class_moments(feats, labels)
    gap = float((moments.means[0] - moments.means[3]).norm())
    by_hand = float(moments.class_variances[[0, 3]].sum()) / (2 * gap ** (2 * exponent))
    assert float(matrix[0, 3]) == pytest.approx(by_hand, rel=1e-12)
    assert matrix.isnan().sum() == 5 + 8 - 0, "the diagonal, and row and column of class 2"
    values = matrix[~matrix.isnan()]
    for variant, expected in (("mean", values.mean()), ("max", values.max())):
        found = ncfast.cdnv(feats, labels, variant=variant, exponent=exponent)
        assert float(found) == pytest.approx(float(expected), rel=1e-12)


@pytest.mark.parametrize("gap", [1e-2, 1e-4, 1e-7])
def test_pairs_of_nearly_coinciding_classes_keep_their_accuracy(gap):
    means = torch.randn(6, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    means[1] = means[0] + gap * means[2]
    labels = torch.arange(6).repeat(2)
    feats = means[labels]
    feats[:6, 0] += gap / 3
    stats = case(feats, labels, 6)
    values = ncfast.collapse_metrics(feats, labels)
    for name in ("nc1.cdnv", "nc1.cdnv_max", "nc2.riesz_energy", "nc2.log_energy"):
        assert float(values[name]) == pytest.approx(ORACLES[name](stats), rel=2e-15 / gap + 1e-9)


def many(number, dim, seed=0):
    """Moments of many classes, some absent, made without samples."""
    generator = torch.Generator().manual_seed(seed)
    moments = ncfast.ClassMoments.empty(number, dim)
    moments.counts = torch.randint(0, 5, (number,), generator=generator)
    there = moments.present.unsqueeze(1)
    moments.means = torch.randn(number, dim, generator=generator, dtype=torch.float64) * there
    moments.within_ss = moments.counts * torch.rand(number, generator=generator).double()
    return moments


def test_tiles_add_up_to_the_whole_and_the_kernels_agree(monkeypatch):
    moments = many(150, 9)
    weight, bias, ood = companions(150, 9)
    kernels, whole, tiled = (
        ncfast.collapse_metrics(moments, weight=weight, bias=bias, ood_feats=ood, backend=backend)
        for backend, edge in (("auto", 512), ("reference", 512), ("reference", 32))
        if not monkeypatch.setattr(pairs, "_EDGE_CPU", edge)
    )
    for name, value in whole.items():
        assert float(tiled[name]) == pytest.approx(float(value), rel=1e-12), name
        assert float(kernels[name]) == pytest.approx(float(value), rel=1e-11), name


def test_what_an_accelerator_does_about_pairs_equals_the_cpu(monkeypatch):
    moments = many(70, 9)
    here = ncfast.collapse_metrics(moments)
    monkeypatch.setattr(pairs, "is_on_host", lambda tensor: False)
    there = ncfast.collapse_metrics(moments, backend="reference")
    for name, value in here.items():
        assert float(there[name]) == pytest.approx(float(value), rel=1e-11), name


@pytest.mark.parametrize("spread", [1e-3, 0.3, 1.0])
def test_pruned_and_float32_decisions_are_those_of_float64(monkeypatch, spread):
    feats, labels = classes(400, 16, 40, spread=spread, dtype=torch.float32)
    feats[:20] = feats[20:40]
    weight, bias, _ = companions(40, 16)
    weight[:30] = ncfast.class_moments(feats, labels, num_classes=40).means[:30]
    weight[7] = weight[8]
    bias[7] = bias[8]  # exact ties
    weight, bias = torch.cat([weight, weight[:1] + 1]), torch.cat([bias, bias[:1]])

    def found(backend, wanted):
        inputs = as_inputs(feats, labels, weight=weight, bias=bias, num_classes=41, backend=backend)
        inputs.planned = frozenset({"pairs.cdnv", "margins"} if wanted else ())
        return decision.decisions(inputs, *inputs.samples)

    exact = found("reference", False)
    pruned = found("auto", True)
    monkeypatch.setattr(decisions, "_FEW", 1)
    monkeypatch.setattr(decisions, "_CLASSES", 16)
    for results in (pruned, found("reference", False), found("auto", True)):
        assert all(map(torch.equal, results, exact))


PROBE = """
import sys, torch, ncfast
from pathlib import Path
torch.set_num_threads(1)
number, dim = int(sys.argv[1]), int(sys.argv[2])
def high_water():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
weight, bias = torch.randn(number, dim), torch.randn(number)
moments = ncfast.ClassMoments.empty(number, dim)
moments.counts += torch.arange(number) % 3 + 2
moments.means += torch.randn(number, dim)
moments.within_ss += 1.0
moments.norm_max += 1.0
moments.norm_sum += number
ncfast.collapse_metrics(ncfast.class_moments(weight[:50], torch.arange(50)))  # load everything
before = high_water()
values = ncfast.collapse_metrics(
    moments, weight=weight, bias=bias, ood_feats=weight[:9], metrics=sys.argv[3].split(",")
)
assert all(value.isfinite() for value in values.values())
print(len(values), high_water() - before, high_water())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_the_square_of_the_classes():
    number, dim = 8_000, 8  # a K x K matrix would take 488 MiB
    done = subprocess.run(
        [sys.executable, "-c", PROBE, str(number), str(dim), "all"],
        capture_output=True,
        text=True,
        check=True,
    )
    metrics, grown, _ = map(float, done.stdout.split())
    assert metrics > 30
    assert grown < 150  # 38 when this was written, for 12,000 classes
