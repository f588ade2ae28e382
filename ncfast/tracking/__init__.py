"""Measures a model while it trains, writes the records, and analyses them."""

from ncfast.features.extractor import FeatureExtractor
from ncfast.tracking import schedule
from ncfast.tracking.analytics.events import Events, find_events
from ncfast.tracking.reduction import RanksApart
from ncfast.tracking.sinks import JsonlSink, Sink, read_records
from ncfast.tracking.tapped import Tapped
from ncfast.tracking.tracker import Tracker

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
