"""Methods that no signal handler and no other thread finds half done, and whose time is counted."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Concatenate, ParamSpec, Protocol, TypeVar, cast

from ncfast.tracking import shutdown
from ncfast.tracking.recorder import Recorder

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class Recording(Protocol):
    """What has a recorder."""

    _recorder: Recorder


Owner = TypeVar("Owner", bound=Recording)


def whole(
    method: Callable[Concatenate[Owner, Arguments], Result],
) -> Callable[Concatenate[Owner, Arguments], Result]:
    """Count the time of a method, and let nobody else look at a record half made."""

    @functools.wraps(method)
    def call(self: Owner, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        recorder = self._recorder
        with recorder.lock:
            if recorder.busy:
                return method(self, *args, **kwargs)
            begin = time.perf_counter()
            try:
                recorder.busy = True
                return method(self, *args, **kwargs)
            finally:
                recorder.busy = False
                recorder.seconds += time.perf_counter() - begin
                shutdown.deliver_late()

    return cast("Callable[Concatenate[Owner, Arguments], Result]", call)
