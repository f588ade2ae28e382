"""Tests the permutation test against its definition, and the scale from 0 to 1."""

import math

import numpy as np
import pytest
import torch
from truths import normal

import ncfast
from ncfast.information import signals


def test_dependent_and_independent():
    x, noise = normal(100, 1), normal(100, 1, seed=1)
    found = ncfast.permutation_test(x, x + noise, permutations=np.int64(19))
    assert found.p == 1 / 20
    assert found.value == ncfast.mutual_information(x, x + noise).value == found.estimate.value
    assert ncfast.permutation_test(x, noise, permutations=19).p > 0.05


def test_p_counts_what_reaches_the_value():
    found = ncfast.permutation_test(normal(40, 1), normal(40, 1, seed=1), permutations=30)
    assert found.p == (1 + sum(value >= found.value for value in found.null)) / 31


CASES = {
    "continuous": (normal(60, 2), normal(60, 1, seed=1)),
    "ties": (normal(60, 1).round(decimals=1), normal(60, 2, seed=1).clamp(min=0)),
    "counts": (torch.arange(60) % 4, (torch.arange(60) // 4 % 3).double()),
    "labels": (1e3 * normal(60, 2).clamp(min=0), torch.arange(60) % 3),
}


@pytest.mark.parametrize(("x", "y"), CASES.values(), ids=CASES)
@pytest.mark.filterwarnings("ignore::ncfast.EstimateWarning")
def test_null_is_the_estimate_of_permuted_rows(x, y, monkeypatch):
    estimate = ncfast.mutual_information if y.is_floating_point() else ncfast.label_information
    source = torch.Generator().manual_seed(3)
    orders = [torch.randperm(60, generator=source) for _ in range(4)]
    expected = [estimate(x, y[order], k=3, stderr=False).value for order in orders]
    compared = []
    for name in ("pair_signals", "chosen_rows"):
        original = getattr(signals, name)
        monkeypatch.setattr(
            signals, name, lambda *args, of=original: (compared.append(1), of(*args))[1]
        )
    source.manual_seed(3)
    found = ncfast.permutation_test(x, y, k=3, permutations=4, generator=source)
    assert list(found.null) == expected
    assert len(compared) <= 2  # for the estimate itself; none for the permutations


def test_p_is_uniform_at_independence():
    small = []
    for seed in range(60):
        x, y = normal(30, 1, seed=seed), normal(30, 1, seed=900 + seed)
        small.append(ncfast.permutation_test(x, y, permutations=9).p)
    assert 0.35 < np.mean(small) < 0.75  # (1 + 1/10) / 2 within five standard errors


def test_labels_and_names():
    labels = torch.arange(60) % 2
    z = labels + 0.3 * normal(60, 1)[:, 0]
    found = ncfast.permutation_test(z, ["ab"[label] for label in labels], permutations=19)
    assert found.p == 1 / 20
    assert found.value == ncfast.label_information(z, labels).value


def test_progress_and_generator():
    seen = []

    def bar(steps):
        for step in steps:
            seen.append(step)
            yield step

    x, y = normal(30, 1), normal(30, 1, seed=1)
    draw = [
        ncfast.permutation_test(
            x, y, permutations=5, progress=bar, generator=torch.Generator().manual_seed(seed)
        ).null
        for seed in (0, 0, 1)
    ]
    assert seen == [*range(5)] * 3
    assert draw[0] == draw[1] != draw[2]


def test_wrong_arguments():
    x = normal(30, 1)
    with pytest.raises(ValueError, match="`permutations` to be at least 1 but got 0"):
        ncfast.permutation_test(x, x, permutations=0)
    with pytest.raises(ValueError, match="`x` and `y` to have the same length"):
        ncfast.permutation_test(x, x[:20])


@pytest.mark.parametrize(("nats", "expected"), [(0.0, 0.0), (-0.1, 0.0), (math.inf, 1.0)])
def test_correlation_at_the_ends(nats, expected):
    assert ncfast.information_correlation(nats) == expected


def test_correlation_of_an_estimate():
    x, noise = normal(4000, 2).T
    found = ncfast.mutual_information(x, 0.6 * x + 0.8 * noise)
    assert ncfast.information_correlation(found) == pytest.approx(0.6, abs=0.05)
    assert math.isnan(ncfast.information_correlation(math.nan))
