"""The engines behind `ncfast.class_moments`, and which of them can run here."""

from ncfast.backends._dispatch import BackendStatus, backends, select

__all__ = ["BackendStatus", "backends", "select"]
