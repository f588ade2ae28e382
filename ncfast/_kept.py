"""Properties that keep what they computed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar, overload

from typing_extensions import Self

T = TypeVar("T")


class kept_property(Generic[T]):
    """A property that is computed at its first use and kept in the instance.

    `functools.cached_property` takes a lock before Python 3.12, and `torch.compile` cannot trace a
    lock.
    """

    def __init__(self, function: Callable[[Any], T]) -> None:
        self.function, self.__doc__ = function, function.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type) -> T: ...
    def __get__(self, instance: object | None, owner: type) -> Self | T:
        """The value, which later looks find in the instance; of the class, the property."""
        if instance is None:
            return self
        value = self.function(instance)
        setattr(instance, self.name, value)
        return value
