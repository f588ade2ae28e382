import math

import numpy as np
import pytest
from grokking_logs import log
from scipy import stats

from ncfast.tracking.analytics import fit_power_law, time_scales


def exponential(decay, eta=0.1, steps=20_000):
    """RNC1 of the theory's linear model, exp(-lambda eta t); the loss has a rate of its own."""
    at = np.unique(np.round(np.geomspace(1, steps, 2000))).astype(int)
    loss, rnc1 = np.exp(-eta * at), np.exp(-decay * eta * at)
    return [
        {"step": int(t), "train/loss": float(a), "train/rnc1.max": float(b)}
        for t, a, b in zip(at, loss, rnc1, strict=True)
    ]


@pytest.mark.parametrize("decay", [0.3, 0.1, 0.03])
def test_time_scales_of_the_linear_model(decay):
    found = time_scales(exponential(decay), eps_1=1e-2, eps_2=1e-3)
    assert found.tau_1 == pytest.approx(math.log(1e2) / 0.1, abs=1)
    assert found.tau_2 == pytest.approx(math.log(1e3) / (decay * 0.1), rel=0.02)
    assert found.ratio == found.tau_2 / found.tau_1
    assert found.last_step == 20_000


def test_time_scales_that_the_log_does_not_reach():
    found = time_scales(exponential(1e-4), eps_1=1e-2, eps_2=1e-3)
    assert found.tau_1 is not None
    assert found.tau_2 is None
    assert found.ratio is None


def test_a_spike_within_the_slack_does_not_undo_a_fit():
    records = log(fit=100)
    for record in records[20:23]:
        record["train/loss"] = 1.5e-2
    assert time_scales(records, eps_1=1e-2, eps_2=0.1).tau_1 == 100
    for record in records[12:15]:
        record["train/loss"] = math.nan
    assert time_scales(records, eps_1=1e-2, eps_2=0.1).tau_1 == 150


def test_bad_time_scales():
    with pytest.raises(ValueError, match="key 'train/rnc1'"):
        time_scales(log(), eps_1=1, eps_2=1, rnc1="train/rnc1")
    with pytest.raises(ValueError, match="positive `eps_1`"):
        time_scales(log(), eps_1=0, eps_2=1)


def test_the_exponent_of_an_exact_law():
    decays = [0.3, 0.1, 0.03, 0.01]
    found = fit_power_law(decays, [70 * w**-1.5 for w in decays])
    assert (found.exponent, found.low, found.high) == pytest.approx((-1.5,) * 3)
    assert (found.prefactor, found.r_squared) == pytest.approx((70, 1))
    assert found(0.05) == pytest.approx(70 * 0.05**-1.5)


def test_the_law_of_noisy_runs_is_scipys_and_names_the_censored():
    rng = np.random.default_rng(0)
    decays = np.repeat([0.3, 0.1, 0.03, 0.01], 5)
    steps = [50 / w * math.exp(0.2 * rng.standard_normal()) for w in decays]
    steps[17] = None
    found = fit_power_law(list(decays), steps)
    keep = [i for i in range(20) if i != 17]
    expected = stats.linregress(np.log(decays[keep]), np.log([steps[i] for i in keep]))
    half = stats.t.ppf(0.975, 17) * expected.stderr
    assert found.exponent == pytest.approx(expected.slope)
    assert (found.low, found.high) == pytest.approx((expected.slope - half, expected.slope + half))
    assert found.low < -1 < found.high
    assert found.r_squared == pytest.approx(expected.rvalue**2)
    assert (found.count, found.censored) == (19, ((0.01, 17),))


def test_tau_2_of_the_linear_model_goes_as_one_over_lambda():
    decays = [0.3, 0.1, 0.03, 0.01]
    taus = [time_scales(exponential(w), eps_1=1e-2, eps_2=1e-3).tau_2 for w in decays]
    law = fit_power_law(decays, taus)
    assert law.exponent == pytest.approx(-1, abs=0.01)


@pytest.mark.parametrize(
    ("decays", "steps", "message"),
    [
        ([0.1], [1, 2], "as many `weight_decays` as `steps`"),
        ([0.1, 0.0], [1, 2], "Expected positive"),
        ([0.1, 0.2], [1, 0], "Expected positive"),
        ([0.1, 0.1, 0.2], [1, 2, None], "at least two different weight decays.*got 1"),
    ],
)
def test_laws_that_cannot_be_fitted(decays, steps, message):
    with pytest.raises(ValueError, match=message):
        fit_power_law(decays, steps)
