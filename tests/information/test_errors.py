"""Claimed standard errors against the spread over repetitions."""

import math

import numpy as np
import pytest
import torch
from truths import gaussian_pair, normal

import ncfast
from ncfast.information.errors import LIMIT, PARTS, subsampled_stderr

CPU = torch.device("cpu")


def ratio(estimate, repeats):
    found = [estimate(seed) for seed in range(repeats)]
    spread = np.std([one.value for one in found], ddof=1)
    return spread / math.sqrt(np.mean([one.stderr**2 for one in found]))


# the spread of 100 repetitions is itself known to 7 %
@pytest.mark.parametrize("rho", [0.0, 0.9])
def test_mutual_information(rho):
    assert (
        0.8
        < ratio(lambda s: ncfast.mutual_information(*gaussian_pair(1000, rho, seed=s)), 100)
        < 1.25
    )


def test_entropy():
    assert 0.8 < ratio(lambda s: ncfast.entropy(normal(600, 2, seed=s)), 100) < 1.25


def test_label_information():
    labels = torch.arange(600) % 2

    def estimate(seed):
        shift = (2 * labels - 1).unsqueeze(1)
        return ncfast.label_information(normal(600, 1, seed=seed) + shift, labels)

    assert 0.75 < ratio(estimate, 60) < 1.3


def test_superfluous_information():
    labels = torch.arange(800) % 4

    def estimate(seed):
        x = normal(800, 2, seed=seed)
        feats = x + 8 * torch.nn.functional.one_hot(labels, 4)[:, :2]
        return ncfast.superfluous_information(feats, labels, x, sigma=0.1)

    assert 0.75 < ratio(estimate, 60) < 1.35


def test_independent_terms_have_the_textbook_error():
    terms = normal(100_000)
    error = subsampled_stderr(lambda rows, groups: terms[rows], len(terms), 1, CPU)
    assert error == pytest.approx(1 / math.sqrt(len(terms)), rel=0.5)


def test_cost_is_bounded_and_groups_are_disjoint():
    seen = []

    def local(rows, groups):
        assert len(rows.unique()) == len(rows)
        assert len(groups.bincount().unique()) == 1
        seen.append(len(rows))
        return rows.double()

    subsampled_stderr(local, 50_000, 6, CPU)
    assert len(seen) == len(PARTS)
    assert max(seen) <= LIMIT


def test_too_few_samples_give_nan_and_a_warning():
    with pytest.warns(ncfast.EstimateWarning, match="No standard error"):
        found = ncfast.entropy(normal(9, 1), k=5)
    assert math.isnan(found.stderr)
    assert math.isfinite(found.value)


def test_switched_off_it_is_nan_without_a_warning():
    found = ncfast.entropy(normal(200, 1), stderr=False)
    assert math.isnan(found.stderr)
    assert not found.warnings


def test_the_same_every_time_and_no_touch_of_the_random_stream():
    before = torch.get_rng_state()
    one, two = (ncfast.entropy(normal(200, 2)) for _ in range(2))
    assert one == two
    assert torch.equal(before, torch.get_rng_state())
