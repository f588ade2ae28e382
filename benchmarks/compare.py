"""Compares two runs and reports what became slower or less accurate, beyond the noise.

On the same machine, times are compared directly. Otherwise each time is divided by a yardstick of
its own run: the time of the fastest plain torch contestant (a plain read is one) that was right in
both runs, or else the least time by the roofline. A change counts if the quartiles of the two runs
do not overlap and the medians differ by more than `LEAST_CHANGE`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from ncfast.benchmarks import environment
from ncfast.benchmarks.results_file import Report, key, ran

LEAST_CHANGE = 0.05
YARDSTICKS = ("torch", "baseline")
Verdict = Literal["slower", "faster", "within the noise", "became wrong", "became right"]
SLOWER_OR_WRONG = ("slower", "became wrong")


class Span(NamedTuple):
    """First quartile, median, third quartile."""

    low: float
    median: float
    high: float


@dataclass(frozen=True)
class Change:
    """One contestant of one case in both runs; ``factor`` is new over old."""

    operation: str
    case: str
    contestant: str
    yardstick: str
    factor: float
    verdict: Verdict

    def __str__(self) -> str:
        return (
            f"{self.operation}: {self.case}: {self.contestant}: {self.factor:.2f} times the old "
            f"{self.yardstick}: {self.verdict}"
        )


def compare(old: Report, new: Report) -> list[Change]:
    """The changes of all ncfast contestants that both runs timed.

    Args:
        old: the run to compare with.
        new: the run under test.
    """
    raw = environment.same_machine(old["environment"], new["environment"])
    return [
        _change(name, before, after, contestant, raw)
        for name, before, after in _cases(old, new)
        for contestant in _by_name(before)
        if contestant in _by_name(after) and _by_name(before)[contestant]["kind"] == "ncfast"
    ]


def _cases(old: Report, new: Report) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    for name, entries in old["operations"].items():
        after = {key(entry): entry for entry in new["operations"].get(name, ())}
        for entry in entries:
            if key(entry) in after:
                yield name, entry, after[key(entry)]


def _by_name(entry: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {result["contestant"]: result for result in ran(dict(entry))}


def _change(
    operation: str, before: dict[str, Any], after: dict[str, Any], contestant: str, raw: bool
) -> Change:
    one, other = _by_name(before)[contestant], _by_name(after)[contestant]
    yardstick, old, new = ("time", _span(one), _span(other)) if raw else _scaled(before, after, one)
    label = ", ".join(f"{name} = {value}" for name, value in before["case"].items())
    factor = new.median / old.median
    return Change(
        operation, label, contestant, yardstick, factor, _verdict(one["ok"], other["ok"], old, new)
    )


def _verdict(was: bool, is_: bool, old: Span, new: Span) -> Verdict:
    if was != is_:
        return "became right" if is_ else "became wrong"
    factor = new.median / old.median
    if new.low > old.high and factor > 1 + LEAST_CHANGE:
        return "slower"
    if new.high < old.low and factor < 1 / (1 + LEAST_CHANGE):
        return "faster"
    return "within the noise"


def _span(result: Mapping[str, Any]) -> Span:
    low, high = result["quartiles_s"]
    return Span(low, result["median_s"], high)


def _scaled(
    before: dict[str, Any], after: dict[str, Any], one: Mapping[str, Any]
) -> tuple[str, Span, Span]:
    """The times of the contestant of ``one`` over a yardstick of their own run."""
    other = _by_name(after)[one["contestant"]]
    torch_before, torch_after = (
        {n: r for n, r in _by_name(entry).items() if r["kind"] in YARDSTICKS and r["ok"]}
        for entry in (before, after)
    )
    common = [name for name in torch_before if name in torch_after]
    if common:
        name = min(common, key=lambda n: torch_before[n]["median_s"])
        return (
            f"in units of {name!r}",
            _over(_span(one), _span(torch_before[name])),
            _over(_span(other), _span(torch_after[name])),
        )
    if one.get("share_of_ceiling") and other.get("share_of_ceiling"):
        return "in units of the ceiling", _of_ceiling(one), _of_ceiling(other)
    return "time, of another machine and without a yardstick", _span(one), _span(other)


def _over(span: Span, unit: Span) -> Span:
    return Span(span.low / unit.high, span.median / unit.median, span.high / unit.low)


def _of_ceiling(result: Mapping[str, Any]) -> Span:
    least = result["share_of_ceiling"] * result["median_s"]
    return Span(*(value / least for value in _span(result)))
