"""Tests the metrics of self-supervised learning against loops in float64 and closed forms."""

import math
from itertools import combinations

import numpy as np
import pytest
import torch

import ncfast
from ncfast.metrics import self_supervised


def normal(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def unit(row):
    return row / math.sqrt(float(row @ row))


def uniformity(x, t):
    rows = [unit(row) for row in x.double().numpy()]
    pairs = [math.exp(-t * float((a - b) @ (a - b))) for a, b in combinations(rows, 2)]
    return math.log(math.fsum(pairs) / len(pairs))


def alignment(x, y, power):
    pairs = zip(x.double().numpy(), y.double().numpy(), strict=True)
    return np.mean([np.linalg.norm(unit(a) - unit(b)) ** power for a, b in pairs])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize(("number", "dim"), [(2, 1), (17, 3), (60, 33), (40, 200)])
def test_uniformity(number, dim, dtype, monkeypatch):
    x = normal(number, dim).to(dtype)
    for t in (2.0, 0.5):
        assert ncfast.uniformity(x, t=t).item() == pytest.approx(uniformity(x, t), rel=1e-12)
    whole = ncfast.uniformity(x).item()
    monkeypatch.setattr(self_supervised, "_TILE", 5 * number)
    assert ncfast.uniformity(x).item() == pytest.approx(whole, rel=1e-13)
    assert ncfast.uniformity(x.T.contiguous().T).item() == pytest.approx(whole, rel=1e-13)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_alignment(dtype):
    x, y = normal(50, 7).to(dtype), normal(50, 7, seed=1).to(dtype)
    for power in (2.0, 1.0):
        found = ncfast.alignment(x, y, power=power).item()
        assert found == pytest.approx(alignment(x, y, power), rel=1e-12)


def test_known_values():
    x = torch.nn.functional.normalize(normal(100, 6))
    assert ncfast.alignment(x, 5 * x).item() == pytest.approx(0, abs=1e-15)
    assert ncfast.alignment(x, -x).item() == pytest.approx(4)
    assert ncfast.uniformity(x[:1].repeat(9, 1)).item() == pytest.approx(0, abs=1e-12)
    simplex = torch.eye(8).double() - 1 / 8  # all pairs at squared distance 2 + 2 / 7
    assert ncfast.uniformity(simplex).item() == pytest.approx(-2 * (2 + 2 / 7))
    # uniform on a circle: E exp(-t norm^2) = exp(-2 t) I_0(2 t), with I_0(4) = 11.301921952136330
    angle = torch.arange(2000).double() * 2 * math.pi / 2000
    circle = torch.stack([angle.cos(), angle.sin()], 1)
    limit = math.log((math.exp(-4) * 11.301921952136330 * 2000 - 1) / 1999)  # without i = j
    assert ncfast.uniformity(circle).item() == pytest.approx(limit, rel=1e-10)


def test_far_rows_do_not_underflow():
    x = torch.tensor([[0.0], [100.0], [200.0]])
    found = ncfast.uniformity(x, normalize=False).item()
    assert found == pytest.approx(-2e4 + math.log(2 / 3), rel=1e-12)


def test_undefined():
    assert math.isnan(ncfast.uniformity(normal(1, 3)))
    assert math.isnan(ncfast.uniformity(torch.tensor([[0.0, 0.0], [1.0, 0.0]])))
    assert math.isnan(ncfast.alignment(normal(3, 2) * torch.nan, normal(3, 2)))
    assert math.isnan(ncfast.alignment(torch.empty(0, 2), torch.empty(0, 2)))


def test_errors():
    with pytest.raises(ValueError, match=r"`x` and `y` of one shape .*\(3, 2\).*\(4, 2\)"):
        ncfast.alignment(normal(3, 2), normal(4, 2))
    with pytest.raises(ValueError, match="`power` to be positive but got 0"):
        ncfast.alignment(normal(3, 2), normal(3, 2), power=0)
    with pytest.raises(ValueError, match="`t` to be positive but got -1"):
        ncfast.uniformity(normal(3, 2), t=-1)
    with pytest.raises((TypeError, ValueError), match="`x`"):
        ncfast.uniformity(torch.arange(3))


def spread_evenly(instances, dim, views, within):
    """Means on the corners of a simplex, and views around them with covariance within^2 I."""
    means = (torch.eye(instances).double() - 1 / instances)[:, :dim]
    means = torch.nn.functional.pad(means, (0, dim - means.shape[1]))
    steps = math.sqrt(dim) * within * torch.cat([torch.eye(dim), -torch.eye(dim)]).double()
    assert views == 2 * dim
    feats = means[:, None] + steps[None]
    return feats.flatten(0, 1), torch.arange(instances).repeat_interleave(views)


def test_lidar_of_instances_spread_evenly_is_their_number_less_one():
    feats, labels = spread_evenly(instances=6, dim=9, views=18, within=0.1)
    found = ncfast.collapse_metrics(feats, labels, metrics="ssl.lidar")["ssl.lidar"].item()
    assert found == pytest.approx(5, rel=1e-4)  # the floor of the shares raises it


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("scale", [1.0, 1e4, 1e5, 1e6, 1e8])
def test_lidar_of_a_singular_covariance_is_exact_at_every_scale(scale, backend):
    """The views vary in six of 40 dimensions, the means in all; 34 variances are rounding."""
    turn = torch.linalg.qr(normal(40, 40))[0]
    means, steps = normal(7, 40, seed=1), 0.1 * normal(7, 9, 40)
    steps[..., 6:] = 0
    steps -= steps.mean(1, keepdim=True)
    feats = scale * (means[:, None] + steps).flatten(0, 1) @ turn
    labels = torch.arange(7).repeat_interleave(9)
    found = ncfast.collapse_metrics(feats, labels, metrics="ssl.lidar", backend=backend)
    # before the rotation: a block of six variances, and the ridge alone in the other dimensions
    whitened = scale * (means - means.mean(0))
    within = scale**2 * torch.einsum("kvi,kvj->ij", steps, steps)[:6, :6] / 63
    ridge = 1e-4 * torch.eye(6, dtype=torch.float64)
    whitened[:, :6] = torch.linalg.solve(torch.linalg.cholesky(within + ridge), whitened[:, :6].T).T
    whitened[:, 6:] /= 1e-2
    shares = torch.linalg.svdvals(whitened).square() / whitened.square().sum()
    shares = torch.cat([shares, torch.zeros(33)]) + 1e-7
    expected = (-shares * shares.log()).sum().exp().item()
    assert found["ssl.lidar"].item() == pytest.approx(expected, rel=1e-6)


def test_alpha_of_a_power_law():
    for alpha in (0.5, 1.0, 2.0):
        variances = torch.arange(1, 21).double() ** -alpha
        roots = variances.sqrt().diag()
        feats = torch.linalg.qr(normal(20, 20))[0]
        feats = torch.cat([roots, -roots]) @ feats + 3  # Sigma_T has these eigenvalues, over 20
        names = ["rank.alpha_req", "rank.alpha_req_error"]
        found = ncfast.collapse_metrics(feats, torch.arange(40) % 2, metrics=names)
        assert found["rank.alpha_req"].item() == pytest.approx(alpha, rel=1e-9)
        assert found["rank.alpha_req_error"].item() == pytest.approx(0, abs=1e-9)


def test_rankme_is_the_effective_rank_up_to_its_floor():
    feats = normal(200, 30)
    names = ["rank.rankme", "rank.effective"]
    found = ncfast.collapse_metrics(feats, torch.zeros(200).long(), metrics=names)
    ratio = (found["rank.rankme"] / found["rank.effective"]).item()
    # d/dp (-p log p) = -log p - 1, of which each of the 30 shares gets 1e-7
    singular = torch.linalg.svdvals(feats)
    share = singular / singular.sum()
    assert math.log(ratio) == pytest.approx(1e-7 * (-share.log() - 1).sum().item(), rel=1e-4)
