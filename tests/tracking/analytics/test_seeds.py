import math

import numpy as np
import pytest
from grokking_logs import log
from scipy import stats

from ncfast.tracking import find_events
from ncfast.tracking.analytics import lags_over_seeds, mean_interval


def test_students_interval_is_scipys():
    values = [3.0, 5.0, 4.0, 9.0]
    found = mean_interval(values, confidence=0.9)
    low, high = stats.t.interval(0.9, 3, np.mean(values), stats.sem(values))
    assert (found.mean, found.low, found.high) == pytest.approx((5.25, low, high))


@pytest.mark.parametrize(("method", "count", "least"), [("t", 5, 0.92), ("bootstrap", 30, 0.90)])
def test_intervals_cover_the_truth_as_often_as_they_say(method, count, least):
    rng = np.random.default_rng(1)
    draws = rng.normal(7, 3, (200, count))
    inside = [i.low <= 7 <= i.high for row in draws for i in [mean_interval(row, method=method)]]
    assert least <= np.mean(inside) <= 0.98


def test_few_values():
    none, one = mean_interval([]), mean_interval([4.0])
    assert math.isnan(none.mean)
    assert (one.mean, one.count) == (4.0, 1)
    assert math.isnan(one.low)
    with pytest.raises(ValueError, match="finite"):
        mean_interval([1.0, math.inf])
    with pytest.raises(ValueError, match="'t' or 'bootstrap'"):
        mean_interval([1.0], method="z")


@pytest.mark.parametrize("events", [find_events, None])
def test_lags_over_seeds(events):
    options = {} if events is None else {"events": events}
    runs = [log(rise=3000 + lag, fall=3000) for lag in (-500, 0, 500, 10**6)]
    found = lags_over_seeds(runs, **options)
    assert found.lags == (-500, 0, 500, None)
    assert found.censored == (3,)
    assert (found.interval.mean, found.interval.count) == (0.0, 3)
    half = stats.t.ppf(0.975, 2) * 500 / math.sqrt(3)
    assert found.interval.high == pytest.approx(half)
    assert lags_over_seeds(runs, start="fit", end="collapse", **options).lags == (2900,) * 4
    with pytest.raises(ValueError, match="'collapse' but got 'rise'"):
        lags_over_seeds(runs, end="rise")
