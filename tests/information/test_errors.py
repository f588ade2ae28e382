"""Tests standard errors against the spread over repetitions."""

import math

import numpy as np
import pytest
import torch
from truths import gaussian_pair, normal, student

import ncfast
from ncfast.information.errors import BLOCKS, LIMIT, jackknife_stderr


def coverage(estimate, repeats):
    """Share of intervals that contain the mean of all values, and width over the exact one."""
    found = [estimate(seed) for seed in range(repeats)]
    values = np.array([one.value for one in found])
    errors = np.array([one.stderr for one in found])
    inside = np.abs(values - values.mean()) <= 1.96 * errors
    return inside.mean(), errors.mean() / values.std(ddof=1)


def pair(count, rho, k):
    return lambda seed: ncfast.mutual_information(*gaussian_pair(count, rho, seed=seed), k=k)


def heavy(seed):
    x, y = student(1, 300, 2, seed=7 * seed).split(1, 1)
    return ncfast.mutual_information(x, y)


def conditional(count, k):
    def estimate(seed):
        z, one, two = normal(3, count, seed=seed)
        return ncfast.conditional_mutual_information(z + one, z + two, z, k=k)

    return estimate


def labelled(count, k):
    labels = torch.arange(count) % 3

    def estimate(seed):
        z = normal(count, 1, seed=seed) + 2 * labels.unsqueeze(1)
        return ncfast.label_information(z, labels, k=k)

    return estimate


def superfluous(seed):
    labels, x = torch.arange(400) % 4, normal(400, 2, seed=seed)
    feats = x + 8 * torch.nn.functional.one_hot(labels, 4)[:, :2]
    return ncfast.superfluous_information(feats, labels, x, sigma=0.1)


# docs/information.md has the table of 200 repetitions. A share of 50 has an error of 0.04.
CELLS = {
    "independent, N = 30, k = 3": pair(30, 0.0, 3),
    "independent, N = 100, k = 20": pair(100, 0.0, 20),
    "rho 0.6, N = 250, k = 50": pair(250, 0.6, 50),
    "rho 0.99, N = 300": pair(300, 0.99, 5),
    "Student": heavy,
    "entropy, N = 30, k = 3": lambda seed: ncfast.entropy(normal(30, 2, seed=seed), k=3),
    "entropy, N = 100, k = 20": lambda seed: ncfast.entropy(normal(100, 2, seed=seed), k=20),
    "conditional, N = 100, k = 20": conditional(100, 20),
    "conditional, N = 300": conditional(300, 5),
    "labels, N = 30, k = 5": labelled(30, 5),
    "labels, N = 300": labelled(300, 5),
    "superfluous": superfluous,
}


@pytest.mark.filterwarnings("ignore::ncfast.EstimateWarning")
@pytest.mark.parametrize("cell", CELLS)
def test_the_interval_covers_and_is_not_wide(cell):
    inside, width = coverage(CELLS[cell], 50)
    assert inside > 0.87
    assert 0.8 < width < 2.3


def test_independent_terms_have_the_textbook_error():
    terms = normal(100_000)
    error = jackknife_stderr(lambda rows: float(terms[rows].mean()), len(terms), 1)
    assert error == pytest.approx(1 / math.sqrt(len(terms)), rel=0.5)


def test_cost_is_bounded_and_every_row_is_left_out_once():
    seen = []

    def estimate(rows):
        assert len(rows.unique()) == len(rows)
        seen.append(rows)
        return float(rows.double().mean())

    jackknife_stderr(estimate, 50_000, 5)
    assert len(seen) == BLOCKS
    times = torch.cat(seen).bincount()
    assert int(times.sum()) == (BLOCKS - 1) * LIMIT
    assert set(times.tolist()) == {0, BLOCKS - 1}


def too_few():
    rows = normal(24, 1)
    labels = torch.arange(24) % 2
    return {
        "entropy": lambda: ncfast.entropy(rows),
        "mutual": lambda: ncfast.mutual_information(rows, rows.flip(0)),
        "conditional": lambda: ncfast.conditional_mutual_information(rows, rows.flip(0), rows**2),
        "labels": lambda: ncfast.label_information(rows, labels),
        "superfluous": lambda: ncfast.superfluous_information(rows, labels, rows, sigma=0.1),
    }


@pytest.mark.parametrize("name", too_few())
def test_too_few_samples_give_nan_and_a_warning(name):
    with pytest.warns(ncfast.EstimateWarning, match=r"No standard error: .* fewer than 5 k = 25"):
        found = too_few()[name]()
    assert math.isnan(found.stderr)
    assert math.isfinite(found.value)


def test_too_few_members_a_class_give_nan_and_a_warning():
    with pytest.warns(
        ncfast.EstimateWarning, match="60 samples of 20 classes are fewer than 5 per class"
    ):
        found = ncfast.label_information(normal(60, 1), torch.arange(60) % 20)
    assert math.isnan(found.stderr)


def test_never_zero():
    assert jackknife_stderr(lambda rows: 1.0, 100, 5) == 1 / 200
    tiny = jackknife_stderr(lambda rows: 1e-9 * float(rows[0]), 100, 5)
    assert tiny == 1 / 200


def test_not_finite_estimates_give_nan():
    assert math.isnan(jackknife_stderr(lambda rows: -math.inf, 100, 5))


def test_switched_off_it_is_nan_without_a_warning():
    found = ncfast.entropy(normal(200, 1), stderr=False)
    assert math.isnan(found.stderr)
    assert not found.warnings


def test_the_same_every_time_and_no_touch_of_the_random_stream():
    before = torch.get_rng_state()
    one, two = (ncfast.entropy(normal(200, 2)) for _ in range(2))
    assert one == two
    assert torch.equal(before, torch.get_rng_state())
