"""Tests discrete, mixed, rounded and continuous columns against known information."""

import math
import warnings

import numpy as np
import pytest
import torch
from truths import gaussian_pair, normal

import ncfast
from ncfast.benchmarks.tied_information import PAIRS, TRIPLES, die, gaussians, relu, rounded
from ncfast.information.ties import counted_sample

QUICK = {"stderr": False}
DRAWS = 3


def mean_error(function, case, **options):
    """A few draws each; benchmarks/studies/information_ties.py makes twenty, with their errors."""
    truth, draw = case
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "(?s).*constant", ncfast.EstimateWarning)
        found = [
            function(*draw(np.random.default_rng(seed), 2000), **options, **QUICK).value
            for seed in range(DRAWS)
        ]
    return sum(found) / DRAWS - truth


@pytest.mark.parametrize("preprocess", ["standardize", "rank"])
@pytest.mark.parametrize("name", PAIRS)
def test_pairs(name, preprocess):
    found = mean_error(ncfast.mutual_information, PAIRS[name], preprocess=preprocess)
    assert found == pytest.approx(0, abs=0.045)


@pytest.mark.parametrize("name", TRIPLES)
def test_triples(name):
    found = mean_error(ncfast.conditional_mutual_information, TRIPLES[name])
    assert found == pytest.approx(0, abs=0.04)


@pytest.mark.parametrize("method", ["ksg", "ksg2", "mixed", "auto"])
@pytest.mark.parametrize("name", ["dice", "ReLU", "Poisson 10", "rounded 0.5, 0.0"])
def test_jitter_is_drawn_apart_for_x_and_y(method, name):
    truth, draw = PAIRS[name]
    x, y = draw(np.random.default_rng(0), 2000)
    options = {"method": method, "duplicates": "jitter"}
    for generator in (None, torch.Generator().manual_seed(1)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ncfast.EstimateWarning)
            found = ncfast.mutual_information(x, y, generator=generator, **options, **QUICK)
        assert found.value == pytest.approx(truth, abs=0.05)


@pytest.mark.parametrize("method", ["ksg", "mixed", "auto"])
def test_jitter_is_drawn_apart_for_x_y_and_z(method):
    x, y, z = (die(np.random.default_rng(seed), 2000) for seed in range(3))
    options = {"method": method, "duplicates": "jitter"}
    with pytest.warns(ncfast.EstimateWarning, match="rows repeat"):
        found = ncfast.conditional_mutual_information(x, y, z, **options, **QUICK)
    assert found.value == pytest.approx(0, abs=0.03)


@pytest.mark.parametrize(
    "name", ["dice", "Poisson 10", "Poisson 100", "rounded 0.1, 0.0", "ReLU, 0.6", "bfloat16, 0.6"]
)
def test_mixed_counts_ties_at_positive_radii(name):
    options = {"method": "mixed", "preprocess": "standardize"}
    assert abs(mean_error(ncfast.mutual_information, PAIRS[name], **options)) < 0.06


@pytest.mark.parametrize("name", ["dice given a coin", "three ReLUs", "three rounded to 0.1"])
def test_conditional_mixed(name):
    found = mean_error(ncfast.conditional_mutual_information, TRIPLES[name], method="mixed")
    assert abs(found) < 0.06


def test_without_equal_values_it_is_ksg_to_the_bit():
    x, y = gaussian_pair(500, 0.6, dim=2)
    found = ncfast.mutual_information(x, y)
    assert found == ncfast.mutual_information(x, y, method="ksg")
    z = normal(500, 1, seed=5)
    found = ncfast.conditional_mutual_information(x, y, z)
    assert found == ncfast.conditional_mutual_information(x, y, z, method="ksg")
    assert found.method == "ksg"


def test_mixed_without_ties_is_ksg():
    x, y, z = normal(3, 500)
    plain, mixed = (
        ncfast.conditional_mutual_information(x, y, z, method=method, **QUICK).value
        for method in ("ksg", "mixed")
    )
    assert mixed == pytest.approx(plain, abs=1e-12)


def test_the_method_is_told():
    rng = np.random.default_rng(0)
    for pair, expected in (
        (gaussians(rng, 500, 0.5), "ksg"),
        ((die(rng, 2000), die(rng, 2000)), "counts"),
        (relu(0.0)(rng, 500), "ksg+counts"),
    ):
        assert ncfast.mutual_information(*pair, **QUICK).method == expected


@pytest.mark.parametrize("name", ["Poisson 10", "ReLU, 0.6", "rounded 0.5, two columns"])
def test_symmetric_and_the_same_in_any_order_and_unit(name):
    x, y = PAIRS[name][1](np.random.default_rng(0), 800)
    base = ncfast.mutual_information(x, y)
    other = ncfast.mutual_information(y, x)
    assert (other.value, other.stderr) == (base.value, base.stderr)
    order = np.random.default_rng(1).permutation(800)
    for one, two in ((x[order], y[order]), (16 * x, y / 4)):
        found = ncfast.mutual_information(one, two, **QUICK).value
        assert found == pytest.approx(base.value, abs=1e-12)


def test_a_permuted_copy_is_symmetric_too():
    x = die(np.random.default_rng(0), 400, 50)
    y = np.random.default_rng(1).permutation(x)
    one, two = (ncfast.mutual_information(*pair, **QUICK).value for pair in ((x, y), (y, x)))
    assert one == two


def test_noise_is_small_independent_and_only_where_values_repeat():
    lattice = torch.arange(200, dtype=torch.float64).remainder(7).unsqueeze(1)
    blocks = [torch.cat((lattice, normal(200, 1)), 1), lattice]
    (one, two) = counted_sample(blocks, blocks, None, None).at(None)
    assert torch.equal(one[:, 1], blocks[0][:, 1])
    first, second = (rows[:, 0] - lattice[:, 0] for rows in (one, two))
    first, second = first - first.mean(), second - second.mean()
    assert 0 < float(first.abs().max()) < 2e-3
    correlation = float((first * second).mean() / (first.std() * second.std()))
    assert abs(correlation) < 0.3


def test_subsets_keep_their_noise():
    rows = torch.arange(60, dtype=torch.float64).remainder(3).unsqueeze(1)
    sample = counted_sample([rows, rows], [rows, rows], None, None)
    part = torch.arange(30)
    whole, half = sample.at(None)[0][part], sample.at(part)[0]
    assert torch.allclose(whole - whole[0], half - half[0], atol=1e-15)


@pytest.mark.parametrize("pair", [(0, 1), (1, 0)])
def test_constants_share_nothing_and_give_no_other_warning(pair):
    blocks = [np.ones(3000), die(np.random.default_rng(0), 3000), np.full(3000, 7)]
    for other in (1, 2):
        x, y = (blocks[[0, other][i]] for i in pair)
        with pytest.warns(ncfast.EstimateWarning, match="constant") as raised:
            found = ncfast.mutual_information(x, y)
        assert (found.value, found.method) == (0, "counts")
        assert "psi" not in str(raised[0].message)
        with pytest.warns(ncfast.EstimateWarning, match="constant") as raised:
            found = ncfast.conditional_mutual_information(x, y, blocks[1])
        assert found.value == pytest.approx(0, abs=1e-12)
        assert "psi" not in str(raised[0].message)


def test_discrete_columns_come_without_warnings():
    rng = np.random.default_rng(0)
    for faces in (6, 100):
        x = die(rng, 2000, faces)
        assert not ncfast.mutual_information(x, die(rng, 2000, faces)).warnings
        assert not ncfast.mutual_information(x, x).warnings


@pytest.mark.parametrize("method", ["ksg", "ksg2"])
def test_explicit_ksg_stays_below_its_ceiling_and_names_the_remedy(method):
    x, y = die(np.random.default_rng(0), 1000), die(np.random.default_rng(1), 1000)
    with pytest.warns(ncfast.EstimateWarning, match="occur more than k = 5.*method='auto'") as seen:
        found = ncfast.mutual_information(x, y, method=method)
    top = float(torch.digamma(torch.tensor([1000.0, 5.0], dtype=torch.float64)).diff().neg())
    assert found.value <= top + 1e-12
    assert "may be much larger" not in str(seen[0].message)
    with pytest.warns(ncfast.EstimateWarning, match="method='auto'"):
        found = ncfast.conditional_mutual_information(x, y, x, method="ksg")
    assert found.value <= top


def test_ksg_of_rounded_values_stays_below_its_ceiling():
    x, y = rounded(0.2, 0.95)(np.random.default_rng(0), 1000)
    with pytest.warns(ncfast.EstimateWarning, match="repeated values"):
        found = ncfast.mutual_information(x, y, k=3, method="ksg", **QUICK)
    assert found.value < math.log(1000)


def test_policies():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 6, (2, 2000))
    for policy in ("auto", "warn"):
        with warnings.catch_warnings(record=True) as raised:
            warnings.simplefilter("always")
            found = ncfast.mutual_information(x, y, duplicates=policy, **QUICK)
        assert abs(found.value) < 0.01
        assert len(raised) == (policy == "warn")
    with pytest.warns(ncfast.EstimateWarning, match="1964 of 2000 rows repeat"):
        found = ncfast.mutual_information(x, y, duplicates="drop", **QUICK)
    assert found.n == 36
    with pytest.raises(ValueError, match=r"1964 of 2000 repeat.*duplicates='auto'"):
        ncfast.conditional_mutual_information(x, y, x, duplicates="error")


def test_samples_stored_twice_are_told():
    x, y = gaussian_pair(500, 0.5)
    x, y = torch.cat((x, x)), torch.cat((y, y))
    with pytest.warns(ncfast.EstimateWarning, match="1000 of 1000 rows are copies.*'drop'"):
        ncfast.mutual_information(x, y, **QUICK)


def test_the_generator_is_used_and_the_global_stream_is_not():
    x, y = np.random.default_rng(0).poisson(30, (2, 500))
    before = torch.get_rng_state()
    one, two = (
        ncfast.mutual_information(x, y, generator=torch.Generator().manual_seed(s), **QUICK).value
        for s in (1, 2)
    )
    assert one != two
    assert abs(one - two) < 0.1
    assert torch.equal(before, torch.get_rng_state())
