import math

import numpy as np
import pytest
from grokking_logs import log
from hypothesis import given
from hypothesis import strategies as st

from ncfast.tracking.analytics import (
    find_early_bird,
    find_transitions,
    on_periods,
    settled_step,
)
from ncfast.tracking.analytics.events import Events, find_events, first_lasting, series


def test_events_and_lags():
    events = find_events(log())
    assert events == Events(100, 1000, 3000)
    assert events.lags == {
        "fit to generalisation": 900,
        "fit to collapse": 2900,
        "generalisation to collapse": 2000,
    }


def with_dip(start, end):
    """A run that fits at step 400, with a low training accuracy for a while."""
    records = log(fit=400)
    for record in records:
        if start <= record["step"] < end:
            record["train/accuracy"] = 0.4
    return records


def test_a_long_dip_postpones_the_fit_and_a_spike_does_not():
    assert find_events(with_dip(500, 700)).fit == 700
    assert find_events(with_dip(500, 520)).fit == 400


def test_events_that_do_not_happen():
    never = find_events(log(fit=10**9, rise=10**9, fall=10**9))
    assert never == Events(None, None, None)
    assert set(never.lags.values()) == {None}
    assert find_events(log(fall=10**9)).collapse is None
    assert find_events([]) == Events(None, None, None)


def test_records_without_the_test_split_are_skipped():
    records = log()
    for record in records[1::2]:
        del record["test/accuracy"]
    assert find_events(records).generalisation == 1000
    assert len(series(records, "test/accuracy")[0]) == 501


def test_nan_is_not_an_event():
    records = log()
    for record in records:
        record["train/accuracy"] = float("nan")
    assert find_events(records).fit is None


@pytest.mark.parametrize("start", [0, 1, 5])
def test_first_lasting_at_the_edges(start):
    steps = np.arange(start, start + 20)
    holds = np.ones(20, bool)
    assert first_lasting(steps, holds) == start
    assert first_lasting(steps, ~holds) is None
    assert first_lasting(steps[:0], holds[:0]) is None


def by_hand(steps, values, enter, leave):
    """The trigger as a loop over the log points."""
    periods, start = [], None
    for step, value in zip(steps, values, strict=True):
        if start is None and value >= enter:
            start = step
        elif start is not None and not value >= leave:
            periods.append((start, step))
            start = None
    return periods + ([(start, None)] if start is not None else [])


@given(
    st.lists(st.sampled_from([0.0, 0.4, 0.5, 0.6, 0.8, 0.9, float("nan")]), max_size=30),
    st.booleans(),
)
def test_the_trigger_is_the_loop(values, falling):
    steps = list(range(3, 3 + len(values)))
    expected = by_hand(steps, values, 0.8, 0.5)
    sign = -1 if falling else 1
    found = on_periods(steps, sign * np.array(values), sign * 0.8, sign * 0.5, falling=falling)
    assert found == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, 0, 0, 1, 1, 1, 1, 1], 0),  # up to twice step 0 is no time at all
        ([0, 1, 0, 0, 1, 1, 1, 1], 4),  # a spike
        ([0, 1, 1, 1, 0, 0, 1, 1], 1),  # a dip long afterwards
        ([0, 0, 0, 0, 0, 0, 0, 1], 7),
        ([0, 0, 0, 0, 0, 0, 0, 0], None),
        ([], None),
    ],
)
def test_settling(values, expected):
    assert settled_step(range(len(values)), values, 0.9, 0.5) == expected


def test_noise_between_the_thresholds_makes_no_events():
    rng = np.random.default_rng(0)
    steps = np.arange(2000)
    values = np.where(steps < 500, 0.0, 1.0) + 0.05 * rng.standard_normal(2000)
    values[500:520] = np.linspace(0.5, 0.95, 20)
    assert len(on_periods(steps, values, 0.95, 0.95)) > 50, "one threshold flickers"
    assert len(on_periods(steps, values, 0.95, 0.7)) == 1


def test_transitions_of_a_run():
    expected = Events(100, 1000, 3000)
    assert find_transitions(log()) == expected == find_events(log())
    noisy = find_transitions(log(noise=0.02))
    assert noisy.fit is not None
    assert abs(noisy.fit - 100) <= 60, "noise may delay the entry"
    assert noisy.collapse == 3000
    assert abs(noisy.generalisation - 1000) <= 300
    never = log(fit=10**9, rise=10**9, fall=10**9)
    assert find_transitions(never) == Events(None, None, None)
    assert find_transitions([]) == Events(None, None, None)


def test_bad_thresholds():
    with pytest.raises(ValueError, match="`leave` to be at most `enter` = 0.5 but got 0.6"):
        on_periods([0], [1.0], 0.5, 0.6)
    with pytest.raises(ValueError, match="`leave` to be at least `enter`"):
        on_periods([0], [1.0], 0.5, 0.4, falling=True)
    with pytest.raises(ValueError, match="of one length"):
        on_periods([0, 1], [1.0], 0.5, 0.4)


def test_early_birds():
    early = find_early_bird(log(rise=1000, fall=3000))
    assert early.early
    assert early.rnc1_share == 1.0
    late = find_early_bird(log(rise=4000, fall=3000))
    assert not late.early
    assert late.rnc1_share == pytest.approx(0.05)
    never_collapsed = find_early_bird(log(rise=1000, fall=10**9))
    assert never_collapsed.early
    assert never_collapsed.collapse is None
    for records in (log(rise=10**9), log(fit=10**9), []):
        found = find_early_bird(records)
        assert not found.early
        assert math.isnan(found.rnc1_share)
    with pytest.raises(ValueError, match="`still`"):
        find_early_bird([], still=0)
