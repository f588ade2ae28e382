"""Measures a model while it trains, writes the records, and analyses them."""

import sys

from ncfast.features import extractor
from ncfast.features.extractor import FeatureExtractor, Tapped
from ncfast.tracking import schedule
from ncfast.tracking.analytics.events import Events, find_events
from ncfast.tracking.reduction import RanksApart
from ncfast.tracking.sinks import JsonlSink, Sink, read_records
from ncfast.tracking.tracker import Tracker

# models that version 0.1 saved look up names in these modules
sys.modules[f"{__name__}.capture"] = sys.modules[f"{__name__}.tapped"] = extractor

__all__ = [
    "Events",
    "FeatureExtractor",
    "JsonlSink",
    "RanksApart",
    "Sink",
    "Tapped",
    "Tracker",
    "find_events",
    "read_records",
    "schedule",
]
