"""Tests neural regression collapse against loops in float64, theory, and another library."""

import math
import os

import numpy as np
import pytest
import torch
import torch.distributed as dist
from oracle.regression import gram_distance, regression, root_of_covariance
from ranks import run_ranks
from torch._subclasses import FakeTensorMode

import ncfast
from ncfast.metrics import joint_moments

IDS = ["nrc1.features", "nrc2.weight", "nrc3.gram"]


def normal(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def drawn(count=120, dim=9, targets=3, seed=0, dtype=torch.float64):
    """Features, correlated targets and a last layer."""
    feats = normal(count, dim, seed=seed) @ normal(dim, dim, seed=seed + 1) + 0.3
    y = normal(count, targets, seed=seed + 2) @ normal(targets, targets, seed=seed + 3) - 1
    return feats.to(dtype), y, normal(targets, dim, seed=seed + 4)


def optimum(count=80, dim=12, targets=3, features=0.02, weights=0.05):
    """The global minimum of Theorem 4.1: features, targets and last layer, and its c."""
    _, y, _ = drawn(count, dim, targets)
    y = 3 * y
    _, root = root_of_covariance(y.numpy())
    root, c = torch.from_numpy(root), features * weights
    assert c < torch.linalg.eigvalsh(root)[0] ** 2
    values, vectors = torch.linalg.eigh(root - math.sqrt(c) * torch.eye(targets).double())
    half = vectors @ values.sqrt().diag() @ vectors.T
    frame = torch.linalg.qr(normal(dim, targets, seed=9))[0].T
    weight = (features / weights) ** 0.25 * half @ frame
    centred = (y - y.mean(0)) @ torch.linalg.inv(root)
    return math.sqrt(weights / features) * centred @ weight, y, weight, c


def measured(*arguments, **options):
    found = ncfast.regression_metrics(*arguments, **options)
    assert all(v.shape == () and v.dtype == torch.float64 for v in found.values())
    return {name: value.item() for name, value in found.items()}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("count", "dim", "targets"), [(120, 9, 3), (50, 30, 2), (20, 40, 5), (300, 4, 3)]
)
@pytest.mark.parametrize("seed", [0, 10])
def test_equals_its_oracle(count, dim, targets, dtype, seed):
    feats, y, weight = drawn(count, dim, targets, seed, dtype)
    expected = regression(feats.double().numpy(), y.numpy(), weight.numpy())
    found = measured(feats, y, weight=weight)
    for name in IDS:
        assert found[name] == pytest.approx(expected[name], rel=1e-9), name
    smallest, root = root_of_covariance(y.numpy())
    assert 0 <= found["nrc3.gamma"] <= smallest * (1 + 1e-12)
    at_gamma = gram_distance(weight.numpy(), root, min(found["nrc3.gamma"], smallest))
    assert at_gamma == pytest.approx(found["nrc3.gram"], rel=1e-9)


def test_the_best_gamma_lies_inside_or_at_an_end():
    places = set()
    near = optimum(dim=6)[2]
    for seed in range(0, 90, 5):
        _, y, weight = drawn(40, 6, 3, seed)
        _, vectors = torch.linalg.eigh(torch.cov(y.T))
        leading = torch.outer(vectors[:, -1], weight[0])
        weight = (weight, leading + 0.01 * weight, near + 0.01 * weight)[seed % 3]
        y = optimum()[1] if seed % 3 == 2 else y
        found = measured(y @ weight, y, weight=weight)
        share = found["nrc3.gamma"] / root_of_covariance(y.numpy())[0]
        places.add("low" if share == 0 else "high" if share > 1 - 1e-9 else "inside")
        expected = regression((y @ weight).numpy(), y.numpy(), weight.numpy())
        assert found["nrc3.gram"] == pytest.approx(expected["nrc3.gram"], rel=1e-8)
    assert places == {"low", "high", "inside"}


def test_the_optimum_of_the_theory_has_collapsed():
    feats, y, weight, c = optimum()
    found = measured(feats, y, weight=weight)
    assert [found[name] for name in IDS] == pytest.approx([0, 0, 0], abs=1e-14)
    assert found["nrc3.gamma"] == pytest.approx(c, rel=1e-9)
    fixed = measured(feats, y, weight=weight, gamma=c)
    assert fixed["nrc3.gram"] == pytest.approx(0, abs=1e-14)
    assert measured(feats, y, weight=weight, gamma=0.5 * c)["nrc3.gram"] > 1e-8
    assert measured(feats, y, weight=weight, gamma=found["nrc3.gamma"]) == pytest.approx(found)


def test_a_known_share_outside():
    """Each feature has one unit in the plane of the targets and `step` outside of it."""
    y = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]).double()
    for step in (1e-3, 0.5):
        feats = torch.cat([y, step * torch.tensor([[1.0], [1.0], [-1.0], [-1.0]])], 1)
        weight = torch.eye(2, 3)
        found = measured(feats, y, weight=weight)
        expected = step**2 / (1 + step**2)
        assert found["nrc1.features"] == pytest.approx(expected, rel=1e-9)
        assert found["nrc2.weight"] == pytest.approx(expected, rel=1e-9)
        assert found["nrc3.gram"] == pytest.approx(0, abs=1e-15)


def test_invariances():
    feats, y, weight = drawn()
    expected = measured(feats, y, weight=weight)
    turn, turn_y = (torch.linalg.qr(normal(n, n, seed=7))[0] for n in (9, 3))
    order = torch.randperm(120, generator=torch.Generator().manual_seed(0))
    variants = {
        "rotation": (feats @ turn, y, weight @ turn),
        "rotation of the targets": (feats, y @ turn_y, turn_y.T @ weight),
        "scale of features": (1e3 * feats, y, weight),
        "scale of the layer": (feats, y, 1e-3 * weight),
        "translation of targets": (feats, y + 5, weight),
        "sample order": (feats[order], y[order], weight),
        "twice": (feats.repeat(2, 1), y.repeat(2, 1), weight),
    }
    for what, (h, t, w) in variants.items():
        assert measured(h, t, weight=w) == pytest.approx(expected, rel=1e-9), what
    scaled = measured(feats, 10 * y, weight=weight)
    assert scaled.pop("nrc3.gamma") == pytest.approx(100 * expected.pop("nrc3.gamma"))
    assert scaled == pytest.approx(expected, rel=1e-9)
    # the definition of NRC1 does not see a scale for each row, but for the components
    rows = measured(feats * 2, y, weight=weight)["nrc2.weight"]
    assert measured(feats * normal(120, 1).abs(), y, weight=weight)["nrc2.weight"] == (
        pytest.approx(rows, rel=1e-9)
    )


def test_the_components_are_those_of_scikit_learn():
    pca = pytest.importorskip("sklearn.decomposition").PCA
    feats, y, _ = drawn(300, 20, 3)
    rows = feats.numpy()
    axes = pca(n_components=3).fit(rows).components_
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    rest = ((units - units @ axes.T @ axes) ** 2).sum(1).mean()
    assert measured(feats, y)["nrc1.features"] == pytest.approx(rest, rel=1e-9)


def batches(feats, y, size):
    return zip(feats.split(size), y.split(size), strict=True)


@pytest.mark.parametrize("size", [1, 7, 120])
def test_streams_merge_and_load(size, monkeypatch):
    feats, y, weight = drawn(dtype=torch.float32)
    expected = measured(feats, y, weight=weight)
    monkeypatch.setattr(joint_moments, "_BLOCK", 5 * 12)
    stream = ncfast.RegressionMoments.empty(9, 3)
    parts = [ncfast.regression_moments(*batch) for batch in batches(feats, y, size)]
    for batch in batches(feats, y, size):
        assert stream.update_(*batch) is stream
    stream.update_(feats[:0], y[:0])
    merged = ncfast.RegressionMoments.empty(9, 3)
    for part in parts:
        merged = merged.merge(part)
    loaded = ncfast.RegressionMoments.empty(9, 3).load_state_dict(stream.state_dict())
    for moments in (stream, merged, loaded, stream.to("cpu")):
        assert moments.count.item() == 120
        assert measured(moments, weight=weight) == pytest.approx(expected, rel=1e-10)


def test_the_covariances():
    feats, y, _ = drawn()
    moments = ncfast.regression_moments(feats, y)
    for found, rows in ((moments.feature_covariance, feats), (moments.target_covariance, y)):
        torch.testing.assert_close(found, torch.cov(rows.T, correction=0), rtol=1e-12, atol=1e-12)
    cross = torch.cov(torch.cat([feats, y], 1).T, correction=0)[:9, 9:]
    torch.testing.assert_close(moments.scatter[:9, 9:] / 120, cross, rtol=1e-12, atol=1e-12)


def test_far_from_the_origin_nothing_cancels():
    """Features whose spread is 1e-6 of their norm: float32 products would lose all of it."""
    feats, y, weight = drawn(400, 6, 2)
    far = feats * 1e-6 + normal(1, 6, seed=3)
    expected = regression(far.numpy(), y.numpy(), weight.numpy())
    stream = ncfast.RegressionMoments.empty(6, 2)
    for batch in batches(far, y, 33):
        stream.update_(*batch)
    assert measured(stream, weight=weight)["nrc1.features"] == (
        pytest.approx(expected["nrc1.features"], rel=1e-6)
    )


def test_a_mask_leaves_rows_out():
    feats, y, weight = drawn()
    kept = torch.arange(120) % 3 > 0
    expected = measured(feats[kept], y[kept], weight=weight)
    feats[~kept], y[~kept] = torch.nan, torch.inf
    moments = ncfast.regression_moments(feats, y, mask=kept)
    assert moments.count.item() == 80
    assert measured(moments, weight=weight) == pytest.approx(expected, rel=1e-10)
    nothing = ncfast.regression_moments(feats, y, mask=torch.zeros(120, dtype=torch.bool))
    moments.merge(nothing)
    assert measured(moments.merge(nothing), weight=weight) == pytest.approx(expected, rel=1e-10)


def test_rows_of_zeros_have_no_direction():
    feats, y, weight = drawn()
    feats[::4] = 0
    expected = regression(feats.numpy(), y.numpy(), weight.numpy())
    found = measured(feats, y, weight=weight)
    assert found["nrc1.features"] == pytest.approx(expected["nrc1.features"], rel=1e-9)
    assert found["nrc2.weight"] == pytest.approx(expected["nrc2.weight"], rel=1e-9)


def test_fewer_directions_than_targets():
    """Two components vary; the third principal component is noise of rounding and is not taken."""
    _, y, weight = drawn()
    plane = torch.linalg.qr(normal(9, 3, seed=5))[0].T
    feats = normal(120, 2) @ plane[:2]
    assert measured(feats, y)["nrc1.features"] == pytest.approx(0, abs=1e-14)
    moved = feats + 2 * plane[2]
    square = feats.square().sum(1)
    assert measured(moved, y)["nrc1.features"] == pytest.approx((4 / (4 + square)).mean().item())
    weight[2] = weight[0] + weight[1]
    assert measured(0 * feats + weight[:1], y, weight=weight)["nrc2.weight"] == (
        pytest.approx(0, abs=1e-14)
    )


def test_undefined_values_are_nan():
    feats, y, weight = drawn()
    one = measured(feats, y[:, 0], weight=weight[:1])
    assert math.isnan(one["nrc3.gram"])
    assert 0 < one["nrc1.features"] < 1
    narrow = measured(feats[:, :3], y, weight=weight[:, :3])
    assert math.isnan(narrow["nrc1.features"])
    assert math.isnan(narrow["nrc2.weight"])
    narrow = measured(feats[:, :3], y, weight=weight[:, :3] * torch.tensor([1.0, 1.0, 0.0]))
    assert 0 < narrow["nrc2.weight"] < 1
    assert math.isnan(measured(feats[:1].repeat(50, 1), y[:50])["nrc1.features"])
    assert math.isnan(measured(0 * feats, y, weight=weight)["nrc2.weight"])
    assert math.isnan(measured(feats, y, weight=0 * weight)["nrc3.gram"])
    assert math.isnan(measured(feats, y, weight=weight, gamma=1e9)["nrc3.gram"])
    empty = ncfast.RegressionMoments.empty(9, 3)
    assert all(math.isnan(v) for v in measured(empty, weight=weight).values())
    for at, value in enumerate((torch.nan, torch.nan, torch.inf)):
        inputs = drawn()
        inputs[at][1, 1] = value
        found = measured(*inputs[:2], weight=inputs[2])
        assert math.isnan(found["nrc1.features"]) == (at == 0)
        assert math.isnan(found["nrc2.weight"]) == (at != 1)
        assert math.isnan(found["nrc3.gram"]) == (at != 0)


def test_targets_of_equal_variance_without_correlation():
    y = torch.cat([torch.eye(4), -torch.eye(4)]).double()
    weight = normal(4, 9)
    found = measured(y @ weight, y, weight=weight)
    gram = weight @ weight.T
    expected = (gram / gram.norm() - torch.eye(4) / 2).square().sum().item()
    assert found["nrc3.gram"] == pytest.approx(expected, rel=1e-12)
    assert found["nrc3.gamma"] == 0


def test_integer_targets_and_columns():
    feats, y, weight = drawn(targets=1)
    whole = (10 * y).round()
    expected = measured(feats, whole, weight=weight)["nrc2.weight"]
    for targets in (whole.long(), whole.squeeze(1), whole.float().numpy()):
        assert measured(feats, targets, weight=weight)["nrc2.weight"] == pytest.approx(expected)


def test_results_have_no_graph():
    feats, y, weight = drawn()
    feats.requires_grad_()
    weight.requires_grad_()
    found = ncfast.regression_metrics(feats, y, weight=weight)
    assert not any(value.requires_grad for value in found.values())


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_no_host_synchronisation(device):
    with FakeTensorMode():
        feats, y = torch.empty(120, 9, device=device), torch.empty(120, 3, device=device)
        mask = torch.ones(120, dtype=torch.bool, device=device)
        moments = ncfast.RegressionMoments.empty(9, 3, device).update_(feats, y, mask=mask)
        moments = moments.merge(ncfast.regression_moments(feats, y))
        weight = torch.empty(3, 9, device=device)
        for gamma in (None, 0.1):
            found = ncfast.regression_metrics(moments, weight=weight, gamma=gamma)
            assert all(value.device.type == device for value in found.values())


def test_errors():
    feats, y, weight = drawn()
    moments = ncfast.regression_moments(feats, y)
    wrong = {
        "`targets` beside `feats`": lambda: ncfast.regression_metrics(feats),
        "no argument `targets`": lambda: ncfast.regression_metrics(moments, y),
        r"`targets` of shape \(N, n\) with N = 120": lambda: ncfast.regression_moments(
            feats, y[1:]
        ),
        r"`weight` of shape \(n, D\) = \(3, 9\) but got \(9, 3\)": lambda: (
            ncfast.regression_metrics(moments, weight=weight.T)
        ),
        "`gamma` to be finite and at least 0 but got -1": lambda: ncfast.regression_metrics(
            moments, gamma=-1
        ),
        "`feats` with 9 columns on cpu.*got 8": lambda: moments.update_(feats[:, :8], y),
        "`targets` with 3 columns on cpu.*got 2": lambda: moments.update_(feats, y[:, :2]),
        r"`mask` of shape \(120,\)": lambda: moments.update_(feats, y, mask=torch.ones(3).bool()),
        r"\(9, 3, cpu\) but got \(8, 3, cpu\)": lambda: moments.merge(
            ncfast.RegressionMoments.empty(8, 3)
        ),
        "`dim` to be at least 1 but got 0": lambda: ncfast.RegressionMoments.empty(0, 1),
        r"keys \['count'": lambda: moments.load_state_dict({}),
        "'mean' of `state`": lambda: moments.load_state_dict(
            ncfast.RegressionMoments.empty(8, 3).state_dict()
        ),
        "'count' of `state` to be at least 0 but got -5": lambda: moments.load_state_dict(
            moments.state_dict() | {"count": torch.tensor(-5)}
        ),
        "'scatter' of `state` to be at least 0": lambda: moments.load_state_dict(
            moments.state_dict() | {"scatter": -moments.scatter}
        ),
    }
    for message, call in wrong.items():
        with pytest.raises(ValueError, match=message):
            call()
    for message, call in {
        "`other` to be a RegressionMoments but got int": lambda: moments.merge(1),
        "`mask` to be a bool tensor": lambda: moments.update_(feats, y, mask=torch.ones(120)),
        "`targets` to hold real numbers": lambda: ncfast.regression_moments(feats, y > 0),
    }.items():
        with pytest.raises(TypeError, match=message):
            call()
    assert measured(moments, weight=weight) == measured(feats, y, weight=weight)


def _rank(rank, world, port, folder):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=world)
    feats, y, _ = drawn()
    moments = ncfast.RegressionMoments.empty(9, 3)
    if rank < 2:
        rows = slice(0, 50) if rank else slice(50, 120)
        moments.update_(feats[rows], y[rows])
    found = moments.all_reduce()
    other = ncfast.RegressionMoments.empty(9, 2 + (rank == 0))
    with pytest.raises(ValueError, match=r"same \(D, n\) but got .*\(9, 3\) on rank 0"):
        other.all_reduce()
    torch.save(found.state_dict(), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_ranks(tmp_path):
    run_ranks(_rank, 3, str(tmp_path))
    states = [torch.load(tmp_path / f"{rank}.pt") for rank in range(3)]
    for name, tensor in states[0].items():
        assert all(torch.equal(state[name], tensor) for state in states)
    feats, y, weight = drawn()
    moments = ncfast.RegressionMoments.empty(9, 3).load_state_dict(states[0])
    expected = measured(feats, y, weight=weight)
    assert measured(moments, weight=weight) == pytest.approx(expected, rel=1e-10)


def test_all_reduce_names_what_is_missing():
    with pytest.raises(RuntimeError, match="initialised before RegressionMoments.all_reduce"):
        ncfast.RegressionMoments.empty(2, 1).all_reduce()
