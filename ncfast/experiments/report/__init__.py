"""Turns the logs of runs into figures and one self-contained HTML page."""

from ncfast.experiments.report.build import Report, build_report
from ncfast.experiments.report.live import watch
from ncfast.experiments.report.runs import Run, read_run

__all__ = ["Report", "Run", "build_report", "read_run", "watch"]
