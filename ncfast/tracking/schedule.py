"""Schedules: functions that tell whether a step is measured."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Iterable

Schedule = Callable[[int], bool]
_MOST_POINTS = 1_000_000
_MOST_DIGITS = 18  # of a number of steps; Python refuses to read one of thousands of digits


def every(interval: int) -> Schedule:
    """A schedule of step 0 and every multiple of ``interval``.

    Raises:
        TypeError: the interval is not a whole number.
        ValueError: the interval is not positive.

    Example:
        >>> [step for step in range(7) if every(3)(step)]
        [0, 3, 6]
    """
    if not isinstance(interval, numbers.Integral):
        raise TypeError(
            "Expected argument `interval` to be a whole number of steps but got "
            f"{interval!r}. Pass an int, or a function from the step to a bool."
        )
    if interval < 1:
        raise ValueError(f"Expected argument `interval` to be at least 1 but got {interval}.")
    return lambda step: step % interval == 0


def at(steps: Iterable[int]) -> Schedule:
    """A schedule of exactly the given steps."""
    return frozenset(steps).__contains__


def log_spaced(points: int, last: int) -> Schedule:
    """A schedule of step 0 and about ``points`` steps, evenly spaced on a log axis up to ``last``.

    Points that round to the same step count once.

    Raises:
        ValueError: ``points`` is less than 2 or more than a million, or ``last`` is not positive.

    Example:
        >>> [step for step in range(1001) if log_spaced(4, 1000)(step)]
        [0, 1, 10, 100, 1000]
    """
    if not 2 <= points <= _MOST_POINTS or last < 1:
        raise ValueError(
            f"Expected `points` of 2 to {_MOST_POINTS:,} and a positive `last` but got {points} "
            f"and {last}."
        )
    return at({0} | {round(last ** (i / (points - 1))) for i in range(points)})


def paper(last: int) -> Schedule:
    """A schedule of steps 0 to 29, every tenth step to 140, and about 150 steps up to ``last``.

    This is the schedule of the public code of Sakamoto & Sato 2025 (arXiv 2509.20829).

    Example:
        >>> len([step for step in range(100_001) if paper(100_000)(step)])
        193
    """
    stride = max(1, last // 150)
    return at({*range(30), *range(30, 141, 10), *range(0, last + 1, stride), last})


def parse(text: str, last: int) -> Schedule:
    """The schedule that a text means: "paper", "log:POINTS", "every:N" or "every".

    Args:
        text: the text.
        last: the last step of the training.

    Raises:
        ValueError: the text is none of these.

    Example:
        >>> parse("every:100", 1000)(300)
        True
    """
    name, _, number = text.partition(":")
    count = int(number) if number.isdecimal() and len(number) <= _MOST_DIGITS else None
    if name == "paper" and not number:
        return paper(last)
    if name == "every" and (count is not None or not number):
        return every(1 if count is None else count)
    if name == "log" and count is not None:
        return log_spaced(count, last)
    raise ValueError(
        f"Expected a schedule 'paper', 'log:POINTS', 'every' or 'every:N' but got {text!r}."
    )


def as_schedule(every_or_schedule: int | Schedule) -> Schedule:
    """The schedule of an interval; a callable is returned unchanged."""
    return every_or_schedule if callable(every_or_schedule) else every(every_or_schedule)
