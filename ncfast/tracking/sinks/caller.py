"""What the user's thread knows and the thread of a sink does not."""

from __future__ import annotations

import contextvars
import sys
from collections.abc import Callable
from typing import Any


class Caller:
    """Context variables and the active MLflow run of the thread that makes this object.

    `run` calls a function in another thread as if that thread were the caller's. trackio keeps its
    current run in a context variable; MLflow keeps the stack of its active runs by thread. The
    other thread gets a copy: it ends no run of the caller's.

    Example:
        >>> import contextvars, threading
        >>> project = contextvars.ContextVar("project")
        >>> token, seen = project.set("mine"), []
        >>> threading.Thread(target=Caller().run, args=(lambda: seen.append(project.get()),)).run()
        >>> seen
        ['mine']
    """

    def __init__(self) -> None:
        self._context = contextvars.copy_context()
        stack = _mlflow_runs()
        self._runs = [] if stack is None else list(stack.get())

    def run(self, function: Callable[[], object]) -> None:
        """Call ``function`` in the current thread with the caller's context and active run."""
        stack = _mlflow_runs() if self._runs else None
        if stack is not None:
            stack.set(self._runs)
        self._context.run(function)


def _mlflow_runs() -> Any:
    """MLflow's stack of active runs, by thread; None where MLflow is not in use."""
    # its public start_run(run_id=) would set the state of a finished run back to running
    return getattr(sys.modules.get("mlflow.tracking.fluent"), "_active_run_stack", None)
