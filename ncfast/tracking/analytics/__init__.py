"""Analyses logs of grokking runs: events, time scales, lags over seeds, power laws."""

from ncfast.tracking.analytics.events import (
    EarlyBird,
    find_early_bird,
    find_transitions,
    on_periods,
    settled_step,
)
from ncfast.tracking.analytics.seeds import Interval, SeedLags, lags_over_seeds, mean_interval
from ncfast.tracking.analytics.theory import PowerLaw, TimeScales, fit_power_law, time_scales

__all__ = [
    "EarlyBird",
    "Interval",
    "PowerLaw",
    "SeedLags",
    "TimeScales",
    "find_early_bird",
    "find_transitions",
    "fit_power_law",
    "lags_over_seeds",
    "mean_interval",
    "on_periods",
    "settled_step",
    "time_scales",
]
