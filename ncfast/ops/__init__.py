"""Operations, one file each, and who can run them; see README.md."""

from ncfast.ops._registry import BackendStatus, backends
from ncfast.ops.grouping import LabelPlan, plan
from ncfast.ops.moments import select

__all__ = ["BackendStatus", "LabelPlan", "backends", "plan", "select"]
