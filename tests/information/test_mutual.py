"""Tests mutual information against closed forms, golden values and other definitions."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from truths import gamma, gaussian_information, gaussian_pair, normal, student, uniform

import ncfast
from ncfast.information.gaussian import canonical_information

GOLDEN = json.loads((Path(__file__).parents[1] / "golden.json").read_text())["mi"]
QUICK = {"stderr": False}


@pytest.mark.parametrize("entry", GOLDEN, ids=lambda entry: f"d{entry['d']}")
def test_golden(entry):
    rng = np.random.default_rng(entry["seed"])
    z, e = rng.standard_normal((2, entry["N"], entry["d"]))
    assert z.sum() == pytest.approx(entry["checksum"], abs=1e-9)
    w = entry["rho"] * z + np.sqrt(1 - entry["rho"] ** 2) * e
    k = entry["k"]
    alone = ncfast.entropy(z, k=k, **QUICK)
    assert alone.value == pytest.approx(entry["kl_entropy_z"], abs=1e-10)
    joint = ncfast.entropy(np.hstack((z, w)), k=k, **QUICK) if entry["d"] < 8 else None
    if joint is not None:
        assert joint.value == pytest.approx(entry["kl_entropy_joint"], abs=1e-10)
    if entry["d"] <= 2:
        found = ncfast.mutual_information(z, w, k=k, method="kl", preprocess=None, **QUICK)
        assert found.value == pytest.approx(entry["kl_mi_3h"], abs=1e-10)
        found = ncfast.mutual_information(z, w, k=k, **QUICK)
        assert found.value == pytest.approx(entry["true_mi_nats"], abs=0.05)
        assert found.details["gaussian"] == pytest.approx(entry["true_mi_nats"], abs=0.05)


@pytest.mark.parametrize("method", ["ksg", "ksg2", "kl", "mixed"])
@pytest.mark.parametrize("rho", [0.0, 0.1, 0.5, 0.75, 0.9, 0.99])
def test_gaussians(method, rho):
    x, y = gaussian_pair(2000, rho)
    found = ncfast.mutual_information(x, y, method=method, **QUICK)
    assert found.value == pytest.approx(gaussian_information(rho), abs=0.09)
    assert (found.method, found.dims) == (method, (1, 1))


def test_two_pairs():
    x, y = gaussian_pair(2000, 0.8, dim=2)
    for metric in ("l2max", "linf"):
        found = ncfast.mutual_information(x, y, metric=metric, **QUICK)
        assert found.value == pytest.approx(1.021651248, abs=0.07)


@pytest.mark.parametrize(("width", "truth"), [(0.1, 1.709437912), (0.75, 0.333333333)])
def test_additive_noise(width, truth):
    x = uniform(4000)
    y = x + width * (2 * uniform(4000, seed=1) - 1)
    assert ncfast.mutual_information(x, y, **QUICK).value == pytest.approx(truth, abs=0.07)


def test_gamma_exponential():
    """y given x is exponential of rate x, x is Gamma(a): psi(a + 1) - ln a."""
    x = gamma(2, 4000)
    y = -uniform(4000, seed=9).log() / x
    truth = float(torch.digamma(torch.tensor(3.0))) - math.log(2)
    found = ncfast.mutual_information(x, y, preprocess="rank", **QUICK)
    assert found.value == pytest.approx(truth, abs=0.05)


def test_heavy_tails_want_ranks():
    pair = student(1, 4000, 2)
    truth = 0.2242  # an uncorrelated Student pair with one degree of freedom
    columns = pair[:, 0], pair[:, 1]
    plain = ncfast.mutual_information(*columns, preprocess="standardize", **QUICK).value
    ranked = ncfast.mutual_information(*columns, **QUICK).value
    assert ranked == ncfast.mutual_information(*columns, preprocess="rank", **QUICK).value
    assert ranked == pytest.approx(truth, abs=0.04)
    assert abs(ranked - truth) < abs(plain - truth)


@pytest.mark.parametrize(("dim", "snr", "allowed"), [(1, 1, 0.05), (3, 0.5, 0.08)])
def test_channel_with_gaussian_noise(dim, snr, allowed):
    x = normal(3000, dim)
    y = math.sqrt(snr) * x + normal(3000, dim, seed=1)
    found = ncfast.mutual_information(x, y, **QUICK)
    assert found.value == pytest.approx(dim / 2 * math.log(1 + snr), abs=allowed)


@pytest.mark.parametrize(("dim", "snr"), [(3, 5), (10, 1)])
def test_a_channel_beyond_reach_says_so(dim, snr):
    x = normal(1500, dim)
    y = math.sqrt(snr) * x + normal(1500, dim, seed=1)
    truth = dim / 2 * math.log(1 + snr)
    with pytest.warns(ncfast.EstimateWarning, match="same canonical correlations share"):
        found = ncfast.mutual_information(x, y, **QUICK)
    assert found.value < truth - 0.1
    assert found.details["gaussian"] == pytest.approx(truth, abs=0.15)


def test_near_the_ceiling_it_says_so():
    x, y = gaussian_pair(1000, math.sqrt(1 - 1e-12))
    with pytest.warns(ncfast.EstimateWarning, match=r"more than half of psi\(N\) - psi\(k\) = 5.4"):
        found = ncfast.mutual_information(x, y, **QUICK)
    assert found.value < 5.41
    assert found.details["gaussian"] > 6


@pytest.mark.parametrize(
    ("classes", "truth"), [(2, 0.346573590), (5, 1.054920168), (10, 1.678752630)]
)
def test_discrete_and_continuous(classes, truth):
    """Gao et al. 2017: X uniform on 0..m-1, Y uniform on X..X+2; ln m - (m - 1) / m ln 2."""
    x = (uniform(3000) * classes).floor()
    y = x + 2 * uniform(3000, seed=1)
    found = ncfast.mutual_information(x, y, method="mixed", **QUICK)
    assert found.value == pytest.approx(truth, abs=0.06)
    with pytest.warns(ncfast.EstimateWarning, match="1 of 1 columns of `x` hold repeated values"):
        ncfast.mutual_information(x, y, method="ksg", **QUICK)


@pytest.mark.parametrize(("zeros", "truth"), [(0.0, 0.301244773), (0.15, 0.256058057)])
def test_zero_inflated_poissonisation(zeros, truth):
    x = -uniform(4000).log()
    y = torch.poisson(x, generator=torch.Generator().manual_seed(2))
    y = torch.where(uniform(4000, seed=3) < zeros, 0.0, y)
    found = ncfast.mutual_information(x, y, method="mixed", **QUICK)
    assert found.value == pytest.approx(truth, abs=0.05)


def test_two_discrete_variables_are_their_frequencies():
    x = (uniform(1000) * 3).floor()
    y = torch.where(uniform(1000, seed=1) < 0.7, x, (uniform(1000, seed=2) * 3).floor())
    found = ncfast.mutual_information(x, y, method="mixed", preprocess=None, **QUICK)
    plain = ncfast.discrete_mutual_information(x.long(), y.long())
    assert found.value == pytest.approx(plain.value, abs=0.01)


def test_relu_zeros():
    x, y = gaussian_pair(2000, 0.9)
    hidden = x.relu()
    truth = ncfast.mutual_information(hidden, y, method="mixed", **QUICK)
    assert not truth.warnings
    with pytest.warns(ncfast.EstimateWarning, match="ReLU zeros"):
        found = ncfast.mutual_information(hidden, y, method="ksg", **QUICK)
    assert found.value == pytest.approx(truth.value, abs=0.05)


def test_mixed_is_ksg_without_atoms():
    x, y = gaussian_pair(500, 0.6, dim=2)
    found = [ncfast.mutual_information(x, y, method=name).value for name in ("ksg", "mixed")]
    assert found[0] == pytest.approx(found[1], abs=1e-12)


def test_units_and_order_do_not_matter():
    x, y = gaussian_pair(600, 0.8, dim=2)
    base = ncfast.mutual_information(x, y, **QUICK).value
    for one, two in ((1e-9 * x, y), (x, 1e8 * y + 3e9), (1e150 * x, 1e-150 * y), (y, x)):
        assert ncfast.mutual_information(one, two, **QUICK).value == pytest.approx(base, abs=1e-9)
    ranked = [
        ncfast.mutual_information(one, y, preprocess="rank", **QUICK).value
        for one in (x, x.exp(), x**3)
    ]
    assert ranked[0] == ranked[1] == ranked[2]


def test_kinds_of_input_agree():
    x, y = gaussian_pair(300, 0.8)
    found = ncfast.mutual_information(x, y)
    assert ncfast.mutual_information(x.numpy(), y.numpy()) == found
    assert ncfast.mutual_information(x.squeeze(1), y) == found
    assert ncfast.mutual_information(x.float(), y.float()).value == pytest.approx(
        found.value, abs=1e-3
    )


def test_a_constant_shares_nothing():
    x, _ = gaussian_pair(200, 0.5)
    with pytest.warns(ncfast.EstimateWarning, match="constant"):
        found = ncfast.mutual_information(x, torch.full((200, 2), 3.3), **QUICK)
    assert found.value == pytest.approx(0.0, abs=1e-12)


def test_copies_of_rows():
    x, y = gaussian_pair(300, 0.8)
    x, y = torch.cat((x, x)), torch.cat((y, y))
    for policy in ("drop", "jitter", "warn"):
        with pytest.warns(ncfast.EstimateWarning, match="300 of .* rows repeat|repeated values"):
            found = ncfast.mutual_information(x, y, duplicates=policy, **QUICK)
        assert math.isfinite(found.value)
    with pytest.raises(ValueError, match="300 of 600 repeat"):
        ncfast.mutual_information(x, y, duplicates="error")


def test_canonical_information():
    x, y = gaussian_pair(4000, 0.7, dim=3)
    assert canonical_information(x, y) == pytest.approx(gaussian_information(0.7, 3), abs=0.06)
    mixed = canonical_information(x @ normal(3, 3), y @ normal(3, 3, seed=1))
    assert mixed == pytest.approx(canonical_information(x, y), abs=1e-9)
    assert canonical_information(x, x) == math.inf
    assert canonical_information(x, torch.ones(4000, 1, dtype=torch.float64)) == 0
    wide = torch.cat((x, x), 1)  # repeated columns must not count twice
    assert canonical_information(wide, y) == pytest.approx(canonical_information(x, y), abs=1e-9)


def test_what_is_not_finite_says_so():
    x, y = gaussian_pair(3000, 0.5)
    x[:6] = x[0]  # too few rows for an atom, enough for a distance of zero
    with pytest.warns(ncfast.EstimateWarning, match="Not finite: rows are equal to k others"):
        found = ncfast.mutual_information(x, y, method="kl", **QUICK)
    assert found.value == -math.inf
    assert math.isfinite(ncfast.mutual_information(x, y, method="mixed", **QUICK).value)
