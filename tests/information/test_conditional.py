"""Tests conditional mutual information on Gaussians and chains."""

import math

import pytest
import torch
from truths import normal

import ncfast


def test_gaussian():
    z, one, two = normal(3, 3000)
    found = ncfast.conditional_mutual_information(z + one, z + 0.5 * one + two, z, stderr=False)
    assert found.value == pytest.approx(0.111571776, abs=0.03)
    plain = ncfast.mutual_information(z + one, z + 0.5 * one + two, stderr=False)
    assert plain.value == pytest.approx(0.346573590, abs=0.06)


def test_chain_and_units():
    z, one, two = normal(3, 1500)
    x, y = z + one, z + two
    found = ncfast.conditional_mutual_information(x, y, z)
    assert found.value == pytest.approx(0.0, abs=0.04)
    assert found.stderr < 0.03
    moved = ncfast.conditional_mutual_information(1e-6 * x, 1e6 * y + 5, -z)
    assert moved.value == pytest.approx(found.value, abs=1e-9)
    assert found.dims == (1, 1, 1)


def test_an_unrelated_condition_changes_little():
    x, noise, z = normal(3, 1500)
    y = x + noise
    found = ncfast.conditional_mutual_information(x, y, z, stderr=False)
    assert found.value == pytest.approx(0.5 * math.log(2), abs=0.06)


def test_a_constant_condition_is_mutual_information():
    x, noise = normal(2, 800)
    y = x + noise
    with pytest.warns(ncfast.EstimateWarning, match="columns of `z` are constant"):
        found = ncfast.conditional_mutual_information(x, y, torch.ones(800), stderr=False)
    plain = ncfast.mutual_information(x, y, metric="linf", preprocess="standardize", stderr=False)
    assert found.value == pytest.approx(plain.value, abs=1e-9)
