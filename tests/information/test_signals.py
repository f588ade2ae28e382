"""Tests that wrong estimates carry warnings and right ones do not.

These tests use a few distributions. benchmarks/studies/information_warnings.py measures the rates
over many.
"""

import math
import warnings

import pytest
import torch
from truths import gaussian_information, gaussian_pair, normal, student

import ncfast
from ncfast.benchmarks import known_information
from ncfast.information import signals
from ncfast.information.gaussian import (
    canonical_information,
    held_out_information,
    linear_information,
    partial_information,
)

TASKS = {task.name: task for task in known_information.everything()}
REMEDIES = ("Use fewer columns", "Use more samples, fewer columns or a smaller k")


def estimate(name, count, seed=0):
    blocks = TASKS[name].sample(count, seed)
    if len(blocks) == 2:
        return ncfast.mutual_information(*blocks)
    return ncfast.conditional_mutual_information(*blocks)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("Gaussian 2-pair 5+5", 1000),
        ("Gaussian dense 25+25", 1000),
        ("Gaussian all pairs .5, 50+50", 900),
        ("Gaussian all pairs .5, 16+16", 300),
        ("one of 100 columns, .9", 900),
        ("half-cube 2-pair 25+25", 1000),
        ("spiral 2-pair 3+3", 1000),
        ("spiral 2-pair 5+5", 2000),
        ("Student 2+2, dof 1", 1000),
        ("Student 3+3, dof 2", 2000),
        ("Student 5+5, dof 3", 2000),
        ("asinh Student 5+5, dof 2", 1000),
        ("sin 20x", 2000),
        ("given 5 columns, rho 0.9, 1+1", 1000),
        ("given 20 columns, rho 0.9, 1+1", 2000),
        ("given 50 columns, rho 0.9, 1+1", 1000),
        ("given 6 columns, rho 0.7, 3+3", 1000),
    ],
)
def test_a_wrong_estimate_names_a_remedy(name, count):
    with pytest.warns(ncfast.EstimateWarning):
        found = estimate(name, count)
    assert found.value < 0.93 * TASKS[name].truth
    assert any(remedy in text for text in found.warnings for remedy in REMEDIES)


@pytest.mark.parametrize(
    "name",
    [
        "Gaussian 1+1",
        "cdf 1+1",
        "half-cube 1+1",
        "wiggly 1+1",
        "bimodal 1+1",
        "swiss roll 2+1",
        "additive uniform 0.75",
        "Student 1+1, dof 1",
        "Gaussian dense 2+2",
        "lognormal 5 and 2, .6",
        "independent Gaussian 1+1",
        "independent Gaussian 5+5",
        "independent Gaussian 25+25",
        "independent Student 2, 5+5",
        "independent ten clusters 4+4",
        "given 1 columns, rho 0.6, 1+1",
    ],
)
def test_a_right_estimate_is_not_doubted(name):
    found = estimate(name, 2000)  # a warning is an error here
    assert found.value == pytest.approx(TASKS[name].truth, rel=0.12, abs=0.05)


def test_ranks_are_the_default_and_equal_themselves_under_monotone_maps():
    x, y = gaussian_pair(800, 0.7)
    found = ncfast.mutual_information(x, y)
    assert ncfast.mutual_information(x.exp(), y**3, preprocess="rank") == found
    assert ncfast.mutual_information((4 * x).exp(), y) == found
    kl = ncfast.mutual_information(x, y, method="kl", stderr=False)
    assert kl == ncfast.mutual_information(
        x, y, method="kl", preprocess="standardize", stderr=False
    )


def test_what_saves_time_and_what_bounds_it():
    x, y = gaussian_pair(500, 0.7)
    assert set(ncfast.mutual_information(x, y, stderr=False).details) == {"gaussian"}
    assert set(ncfast.mutual_information(x, y).details) == {
        "gaussian",
        "radii",
        "squares",
        "wider",
    }
    rows = signals.chosen_rows(50_000, torch.device("cpu"))
    assert len(rows.unique()) == len(rows) == signals.ROWS
    seen = []
    signals.wider(lambda rows, k: seen.append((len(rows), k)) or 0.0, rows, 20_000, 5)
    signals.wider(lambda rows, k: seen.append((len(rows), k)) or 0.0, rows, 100_000, 5)
    assert seen == [(10_000, 10), (10_000, 5)]  # as far as 20 neighbours of all, or 5 of a tenth


def test_held_out_directions():
    for dim, count in ((5, 300), (60, 600), (100, 300)):
        x, y = normal(2, count, dim)
        assert held_out_information(x, y) < 0.02
    x, y = normal(900, 100), normal(900, 1, seed=1)
    y = 0.9 * x[:, :1] + math.sqrt(1 - 0.81) * y
    truth = gaussian_information(0.9)
    assert 0.6 * truth < held_out_information(x, y) < truth
    assert linear_information(x, y) == held_out_information(x, y)
    x, y = gaussian_pair(4000, 0.7, dim=3)
    assert linear_information(x, y) == canonical_information(x, y)
    assert math.isnan(linear_information(x[:30], y[:30]))


def test_partial_information():
    z, one, two = normal(3000, 20), normal(3000, 1, seed=1), normal(3000, 1, seed=2)
    x, y = z.sum(1, True) + one, z.sum(1, True) + 0.6 * one + 0.8 * two
    assert partial_information(x, y, z) == pytest.approx(gaussian_information(0.6), abs=0.03)
    assert partial_information(one, two, z) == pytest.approx(0, abs=0.005)
    assert math.isnan(partial_information(x[:50], y[:50], z[:50]))
    doubled = torch.cat((z, z), 1)
    assert partial_information(x, y, doubled) == pytest.approx(partial_information(x, y, z))


def test_radii_see_a_common_scale_and_nothing_else():
    pair = student(1, 3000, 6)
    x, y = signals.random_scores((pair[:, :3], pair[:, 3:]))
    truth = known_information.student_truth(1, 3, 3)
    assert 0.7 * truth < signals.radii_information(x, y) < 1.1 * truth
    assert 0.1 * truth < signals.squares_information(x, y) < truth
    assert abs(signals.radii_information(*normal(2, 3000, 3))) < 0.05
    assert signals.squares_information(*normal(2, 3000, 3)) == 0
    x, y = gaussian_pair(3000, 0.9)
    assert signals.radii_information(x, y) < gaussian_information(0.9)
    assert signals.squares_information(x, y) < gaussian_information(0.9)


def test_labels_in_one_of_many_columns():
    labels = torch.arange(2000) % 2
    z = normal(2000, 300)
    ncfast.label_information(z, labels)
    z[:, 7] += 2 * labels
    with pytest.warns(ncfast.EstimateWarning, match="A few linear directions give 0.[12]"):
        found = ncfast.label_information(z, labels)
    assert found.value < 0.15  # the truth is 0.337


@pytest.mark.parametrize("rho", [0.0, 0.6])
def test_a_curved_condition_is_not_taken_for_dependence(rho):
    """x and y depend on z by curves that a linear fit does not remove."""
    z, one, two = normal(3, 1500)
    y = rho * one + math.sqrt(1 - rho**2) * two
    kinds = torch.arange(1500) % 4
    means = torch.tensor([[0.0, 3.0, -1.0, 2.0], [1.0, -2.0, 3.0, 0.0]], dtype=torch.float64)
    for triple in ((z**2 + one, z**2 + y, z), (means[0][kinds] + one, means[1][kinds] + y, kinds)):
        found = ncfast.conditional_mutual_information(*triple, stderr=False)
        assert found.value == pytest.approx(gaussian_information(rho), abs=0.06)
        assert found.details["gaussian"] < gaussian_information(rho) + 0.03


def test_ties_are_broken_at_random_so_that_a_bound_stays_one():
    dice = torch.randint(6, (3000, 1), generator=torch.Generator().manual_seed(0)).double()
    x, y = signals.random_scores((dice, dice))
    assert len(x.unique()) == 3000
    assert linear_information(x, y) < math.log(6)
    assert signals.radii_information(x, y) < math.log(6)
    assert (x.argsort(0) != y.argsort(0)).any()
    assert bool((dice[x.argsort(0).squeeze()].diff(dim=0) >= 0).all())  # ranks follow the values


def test_truths_of_the_suite():
    assert len(known_information.published()) == 40
    assert len(TASKS) == len(known_information.everything())
    assert TASKS["Gaussian 1+1"].truth == pytest.approx(0.413339)
    assert TASKS["Student 1+1, dof 1"].truth == pytest.approx(0.2242, abs=1e-4)
    assert TASKS["Gaussian 2-pair 25+25"].truth == pytest.approx(1.021651)
    assert TASKS["given 20 columns, rho 0.9, 1+1"].truth == pytest.approx(0.830366)
    assert TASKS["sin 20x"].truth == pytest.approx(3.77, abs=0.01)
    again = TASKS["sin 20x"].sample(10, 0)[0]
    assert (again == TASKS["sin 20x"].sample(10, 0)[0]).all()


def test_what_z_determines_leaves_nothing_to_compare_with():
    for z in (normal(1000, 1), normal(1000, 1).round(decimals=1)):
        found = ncfast.conditional_mutual_information(z, z, z)
        assert found.details["gaussian"] < 0.01
        assert not found.warnings


def test_rows_that_are_counted_stay_counted_with_more_neighbours():
    one, two = torch.randint(0, 6, (2, 2000, 2), generator=torch.Generator().manual_seed(0))
    found = ncfast.mutual_information(one, torch.stack((one[:, 0], two[:, 0]), 1))
    assert found.value == pytest.approx(math.log(6), abs=0.05)
    assert not found.warnings  # about nine copies of each row: more than k, fewer than 4 k
    few = torch.randint(0, 2, (2000, 6), generator=torch.Generator().manual_seed(1))
    other = torch.randint(0, 2, (2000, 6), generator=torch.Generator().manual_seed(2))
    kept = torch.rand(2000, 6, generator=torch.Generator().manual_seed(3)) < 0.6
    with pytest.warns(ncfast.EstimateWarning, match="it has not converged"):
        ncfast.mutual_information(few, torch.where(kept, few, other))  # 1.25 of 1.16


@pytest.mark.parametrize("count", [100, 1000])
@pytest.mark.parametrize("faces", [2, 6])
def test_independent_counts_are_not_doubted(faces, count):
    for seed in range(12):
        generator = torch.Generator().manual_seed(seed)
        x, y = torch.randint(0, faces, (2, count), generator=generator)
        with warnings.catch_warnings(record=True) as doubts:
            warnings.simplefilter("always")
            ncfast.mutual_information(x, y)
        assert not doubts, seed
