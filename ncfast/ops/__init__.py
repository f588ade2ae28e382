"""The engines behind `ncfast.class_moments`, and which of them can run here."""

from ncfast.ops._dispatch import BackendStatus, backends, select
from ncfast.ops.plan import LabelPlan, plan

__all__ = ["BackendStatus", "LabelPlan", "backends", "plan", "select"]
