"""The engines behind `ncfast.class_moments`, and which of them can run here."""

from ncfast.backends._dispatch import BackendStatus, backends, select
from ncfast.backends.plan import LabelPlan, plan

__all__ = ["BackendStatus", "LabelPlan", "backends", "plan", "select"]
