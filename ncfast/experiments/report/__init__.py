"""Turns the logs of runs into figures and one self-contained HTML page."""

from ncfast.experiments.report.build import Report, build_report

__all__ = ["Report", "build_report"]
