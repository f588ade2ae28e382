"""Tests differential entropy against closed forms: any scale, ties, many dimensions."""

import math

import pytest
import torch
from truths import ball, collapsed, mixture_entropy, normal, student, uniform

import ncfast
from ncfast.information.caveats import gaussian_bias
from ncfast.information.differential_entropy import log_unit_ball

HALF = 0.5 * math.log(2 * math.pi * math.e)


def ar(number, dim, rho):
    rows = [normal(number, seed=1)]
    for step in range(1, dim):
        rows.append(rho * rows[-1] + math.sqrt(1 - rho**2) * normal(number, seed=step + 1))
    return torch.stack(rows, 1)


def laplace(number):
    share = uniform(number, seed=3) - 0.5
    return -share.sign() * torch.log1p(-2 * share.abs())


CASES = {
    "normal 1": (normal(4000, 1), HALF, 0.05),
    "normal 2": (normal(4000, 2), 2 * HALF, 0.06),
    "normal 5": (normal(4000, 5), 5 * HALF, 0.13),
    "normal 10": (normal(4000, 10), 10 * HALF, 0.15),
    "autoregressive": (ar(4000, 5, 0.7), 5.748003559, 0.2),
    "laplace": (laplace(4000), 1.693147181, 0.06),
    "exponential": (-uniform(4000).log(), 1.0, 0.06),
    "cauchy": (torch.tan(math.pi * (uniform(4000) - 0.5)), 2.531024247, 0.08),
    "uniform": (uniform(4000), 0.0, 0.05),
    "student 1": (student(3, 4000, 1), 1.773477572, 0.07),
    "student 5": (student(3, 4000, 5), 8.574324507, 0.2),
    "ball": (ball(4000, 5), 1.660851112, 0.35),
}


@pytest.mark.parametrize("name", CASES)
def test_closed_forms(name):
    x, truth, allowed = CASES[name]
    found = ncfast.entropy(x, stderr=False)
    assert found.value == pytest.approx(truth, abs=allowed)
    assert (found.n, found.k, found.method) == (4000, 5, "kl")
    other = ncfast.entropy(x, metric="linf", stderr=False)
    assert other.value == pytest.approx(truth, abs=2 * allowed)


def test_no_scale_and_no_offset_changes_it():
    x = normal(500, 3)
    base = ncfast.entropy(x, stderr=False).value
    for scale in (1e-300, 1e-12, 1e-3, 1e8, 1e150):
        moved = ncfast.entropy(scale * x, stderr=False).value - 3 * math.log(scale)
        assert moved == pytest.approx(base, abs=1e-9)
    assert ncfast.entropy(x + 1e3, stderr=False).value == pytest.approx(base, abs=1e-9)
    order = torch.randperm(500, generator=torch.Generator().manual_seed(0))
    assert ncfast.entropy(x[order], stderr=False).value == pytest.approx(base, abs=1e-12)
    turned = x @ torch.linalg.qr(normal(3, 3, seed=5))[0]
    assert ncfast.entropy(turned, stderr=False).value == pytest.approx(base, abs=1e-9)


@pytest.mark.parametrize(
    ("classes", "dim", "spread", "allowed"), [(10, 10, 1e-3, 0.4), (10, 9, 1e-4, 0.4)]
)
def test_collapsed_float32_features(classes, dim, spread, allowed):
    rows, _ = collapsed(4000, classes, dim, spread)
    found = ncfast.entropy(rows.float(), stderr=False)
    assert found.value == pytest.approx(mixture_entropy(classes, dim, spread), abs=allowed)


def test_input_kinds_agree():
    x = normal(300, 2)
    found = ncfast.entropy(x)
    assert ncfast.entropy(x.numpy()) == found
    assert ncfast.entropy(x.T.contiguous().T) == found
    assert ncfast.entropy(x[:, 0], stderr=False).value == pytest.approx(
        ncfast.entropy(x[:, :1].float(), stderr=False).value, abs=1e-4
    )
    assert float(found) == found.value
    assert ncfast.entropy(x.clone().requires_grad_()) == found


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_read_and_its_ties_are_told(dtype):
    x = normal(1000, 4)
    found = ncfast.entropy(x.to(dtype), stderr=False)
    assert found.value == pytest.approx(ncfast.entropy(x, stderr=False).value, abs=0.05)
    with pytest.warns(ncfast.EstimateWarning, match="of 1000 rows repeat another one"):
        ncfast.entropy(x[:, 0].to(dtype), stderr=False)


def test_many_columns_carry_a_warning_with_the_bias():
    x = normal(2000, 20)
    with pytest.warns(ncfast.EstimateWarning, match="20 columns are many for 2000 samples"):
        found = ncfast.entropy(x, stderr=False)
    bias = found.details["gaussian_bias"]
    assert found.value - 20 * HALF == pytest.approx(bias, abs=0.3)
    assert bias > 1


def test_a_thousand_columns_stay_finite():
    x = normal(60, 1000)
    with pytest.warns(ncfast.EstimateWarning, match="columns are many"):
        found = ncfast.entropy(x, stderr=False)
    assert math.isfinite(found.value)
    assert found.value - 1000 * HALF == pytest.approx(found.details["gaussian_bias"], rel=0.05)


@pytest.mark.parametrize(
    ("number", "dim", "measured"),
    [(1000, 5, -0.06), (5000, 10, 0.05), (1000, 20, 1.31), (5000, 20, 0.96), (20000, 20, 0.72)],
)
def test_bias_by_theory_is_the_bias_measured(number, dim, measured):
    # Rounded measurements with k = 5 over many samples, which vary by 0.02 to 0.06.
    assert gaussian_bias(number, 5, dim) == pytest.approx(measured, abs=0.09)


def test_unit_balls():
    assert log_unit_ball(3, "l2") == pytest.approx(math.log(4 / 3 * math.pi))
    assert log_unit_ball(3, "linf") == pytest.approx(math.log(8))


class TestDuplicates:
    x = torch.cat((normal(200, 2), normal(20, 2, seed=1).repeat(8, 1)))

    def test_left_alone_the_value_is_minus_infinity_and_says_so(self):
        with pytest.warns(ncfast.EstimateWarning, match=r"140 of 360 rows repeat.*No standard"):
            found = ncfast.entropy(self.x)
        assert found.value == -math.inf
        assert math.isnan(found.stderr)
        assert found.details["duplicates"] == 140

    def test_few_copies_are_harmless_and_told(self):
        x = torch.cat((normal(300, 2), normal(300, 2)[:3]))
        with pytest.warns(ncfast.EstimateWarning, match="3 of 303 rows repeat"):
            found = ncfast.entropy(x, stderr=False)
        assert found.value == pytest.approx(2 * HALF, abs=0.3)

    def test_dropped(self):
        with pytest.warns(ncfast.EstimateWarning, match="repeat"):
            found = ncfast.entropy(self.x, duplicates="drop", stderr=False)
        assert found.n == 220
        expected = ncfast.entropy(self.x[:220], stderr=False).value
        assert found.value == pytest.approx(expected, abs=1e-12)

    def test_jittered_the_same_every_time_and_relative(self):
        with pytest.warns(ncfast.EstimateWarning, match="repeat"):
            one, two, wide = (
                ncfast.entropy(x, duplicates="jitter", stderr=False).value
                for x in (self.x, self.x, 1e-9 * self.x)
            )
        assert one == two
        assert math.isfinite(one)
        assert wide - 2 * math.log(1e-9) == pytest.approx(one, abs=1e-5)

    def test_refused(self):
        with pytest.raises(ValueError, match="140 of 360 repeat another one.*'drop'"):
            ncfast.entropy(self.x, duplicates="error")

    def test_the_global_random_stream_is_not_touched(self):
        before = torch.get_rng_state()
        with pytest.warns(ncfast.EstimateWarning, match="repeat"):
            ncfast.entropy(self.x, duplicates="jitter")
        assert torch.equal(before, torch.get_rng_state())


def test_a_constant_column_is_minus_infinity_with_a_warning():
    x = torch.cat((normal(100, 2), torch.ones(100, 1)), 1)
    with pytest.warns(ncfast.EstimateWarning, match="1 columns of `x` are constant") as raised:
        assert ncfast.entropy(x).value == -math.inf
    assert raised[0].filename == __file__, "the warning points at the caller"


def _on_a_sphere(number, dim, dtype=torch.float64):
    return torch.nn.functional.normalize(normal(number, dim).to(dtype), dim=1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_planes_and_spheres(dtype):
    x = normal(400, 1).to(dtype)
    flat = {
        "a multiple": torch.cat((x, 2 * x), 1),
        "affine": torch.cat((x, 3 * x + 7), 1),
        "softmax": torch.softmax(2 * normal(400, 3).to(dtype), 1),
        "softmax of ten": torch.softmax(normal(400, 10).to(dtype), 1),
        "circle": _on_a_sphere(400, 2, dtype),
        "sphere elsewhere": 7 * _on_a_sphere(400, 3, dtype) + 3,
        "sphere of many columns": _on_a_sphere(400, 40, dtype),
        "few factors": (normal(400, 5) @ normal(5, 20)).to(dtype),
        "layer norm": torch.nn.functional.layer_norm(normal(400, 16).to(dtype), (16,)),
    }
    for name, rows in flat.items():
        with pytest.warns(ncfast.EstimateWarning, match="in a plane or on a sphere"):
            found = ncfast.entropy(rows, stderr=False)
        assert found.value == -math.inf, name


@pytest.mark.filterwarnings("ignore::ncfast.EstimateWarning")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_what_is_nearly_flat_is_not_flat(dtype):
    x, y = normal(2, 2000, 1)
    outlier = normal(2000, 3)
    outlier[7] = 1e8
    classes = 3 * normal(10, 3, seed=5)[torch.arange(2000) % 10]
    full = [
        torch.cat((x, x + 0.01 * y), 1),
        normal(2000, 3) + 100,
        normal(2000, 1) / normal(2000, 1, seed=3),
        torch.cat((x, y), 1).mul(5).exp(),
        outlier,
        classes + 1e-3 * normal(2000, 3),
        normal(2000, 2) * torch.tensor([1.0, 1e-9]),
    ]
    for rows in full:
        assert math.isfinite(ncfast.entropy(rows.to(dtype), stderr=False).value)


def test_curved_surfaces():
    angle = 4.7 * (1 + 2 * uniform(2000))
    roll = torch.stack((angle * angle.cos(), angle * angle.sin(), 20 * uniform(2000, seed=1)), 1)
    x, y = normal(2, 2000, 1)
    half = torch.cat((_on_a_sphere(2000, 2), normal(2000, 2, seed=3)), 1)
    for rows in (
        roll,
        torch.cat((x, x.sin(), y), 1),
        half,
        torch.tanh(normal(2000, 2) @ normal(2, 6)),
    ):
        with pytest.warns(ncfast.EstimateWarning, match="Neighbours vary in about"):
            ncfast.entropy(rows, stderr=False)
