"""Operations, one file each, and who can run them; see README.md."""

# its operators need their gradients before their first call: torch keeps what it finds then
from ncfast.ops import gradient as gradient
from ncfast.ops._registry import BackendStatus, backends
from ncfast.ops.grouping import LabelPlan, plan
from ncfast.ops.moments import select

__all__ = ["BackendStatus", "LabelPlan", "backends", "plan", "select"]
