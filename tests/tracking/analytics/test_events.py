import numpy as np
import pytest

from ncfast.tracking.analytics.events import Events, find_events, first_lasting, series


def log(fit=100, rise=1000, fall=3000, last=10_000, dip=None):
    """A grokking run in caricature."""
    records = []
    for step in range(0, last + 1, 10):
        accuracy = 1.0 if step >= fit else 0.2
        if dip is not None and dip[0] <= step < dip[1]:
            accuracy = 0.4
        records.append(
            {
                "step": step,
                "train/accuracy": accuracy,
                "test/accuracy": 0.9 if step >= rise else 0.1,
                "train/rnc1.max": 0.2 if step < fall else 0.01,
            }
        )
    return records


def test_events_and_lags():
    events = find_events(log())
    assert events == Events(100, 1000, 3000)
    assert events.lags == {
        "fit to generalisation": 900,
        "fit to collapse": 2900,
        "generalisation to collapse": 2000,
    }


def test_a_long_dip_postpones_the_fit_and_a_spike_does_not():
    assert find_events(log(fit=400, dip=(500, 700))).fit == 700
    assert find_events(log(fit=400, dip=(500, 520))).fit == 400


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
