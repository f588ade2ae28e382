"""Analyses logs of grokking runs: events, time scales, lags over seeds, power laws."""

from ncfast.tracking.analytics.early_bird import EarlyBird, find_early_bird
from ncfast.tracking.analytics.hysteresis import find_transitions, on_periods, settled_step
from ncfast.tracking.analytics.lags import SeedLags, lags_over_seeds
from ncfast.tracking.analytics.power_law import PowerLaw, fit_power_law
from ncfast.tracking.analytics.seeds import Interval, mean_interval
from ncfast.tracking.analytics.tau import TimeScales, time_scales

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
