"""`Verdict`, and the two rules that give one: a share of the runs, and a trend over them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scipy import stats

CONFIRMED, DENIED, OPEN = "confirmed", "not confirmed", "cannot tell"
MIN_RUNS = 2  # one run is only an example
MIN_TREND = 4


@dataclass(frozen=True)
class Verdict:
    """The result of judging a claim by runs.

    Attributes:
        claim: the claim, in plain language.
        outcome: `CONFIRMED`, `DENIED` or `OPEN`.
        numbers: the measured numbers behind the outcome.
        here: whether the claim holds in the run, if a single run was judged and can tell.
        empty: whether the claim is about a bound that was above one throughout and says nothing.
    """

    claim: str
    outcome: str
    numbers: str
    here: bool | None = None
    empty: bool = False

    @property
    def word(self) -> str:
        """The outcome in words; that of a single run speaks about that run alone."""
        if self.empty:
            return "the bound is empty"
        if self.here is None:
            return self.outcome
        return "yes, in this run" if self.here else "no, not in this run"


def share(claim: str, held: Sequence[bool], numbers: str, without: int = 0) -> Verdict:
    """The verdict by the share of runs in which a claim holds.

    It is confirmed from 9 of 10 runs and not confirmed up to 1 of 10.

    Args:
        claim: the claim, in plain language.
        held: whether the claim holds, for each run that can tell. With fewer than `MIN_RUNS` the
            verdict stays open.
        numbers: the measured numbers.
        without: number of runs that cannot tell.
    """
    if not held:
        told = "This run cannot tell." if without == 1 else "No run can tell."
        return Verdict(claim, OPEN, f"{told} {numbers}".strip())
    if len(held) == 1 and not without:
        return Verdict(claim, OPEN, numbers, here=held[0])
    part = sum(held) / len(held)
    outcome = CONFIRMED if part >= 0.9 else DENIED if part <= 0.1 else OPEN
    text = f"In {sum(held)} of {len(held)} runs. {numbers}"
    if without:
        text += f" {without} more cannot tell."
    return Verdict(claim, outcome if len(held) >= MIN_RUNS else OPEN, text.strip())


def trend(
    claim: str, name: str, event: str, pairs: Sequence[tuple[float, float | None]]
) -> Verdict | None:
    """The verdict on whether an event comes earlier for larger values of a setting.

    The rank correlation of value and step decides.

    Args:
        claim: the claim, in plain language.
        name: name of the setting.
        event: the event, as a verb in the past tense.
        pairs: the value and the step of the event for each run; the step is None if the event did
            not happen.

    Returns:
        None if all runs have the same value.
    """
    if len({value for value, _ in pairs}) < 2:
        return None
    found = [(value, float(step)) for value, step in pairs if step]
    values, steps = ({pair[i] for pair in found} for i in (0, 1))
    if len(values) < 2 or len(steps) < 2 or len(found) < MIN_TREND:
        at = f", at step {span(sorted(steps))}" if steps else ""
        return Verdict(claim, OPEN, f"{len(found)} of {len(pairs)} runs {event}{at}.")
    rank = stats.spearmanr(*zip(*found, strict=True))
    told = "; ".join(
        f"{name} = {value:g}: {span([y for x, y in found if x == value])}"
        for value in sorted(values, reverse=True)
    )
    outcome = OPEN if rank.pvalue >= 0.05 else CONFIRMED if rank.statistic < 0 else DENIED
    return Verdict(
        claim,
        outcome,
        f"At step {told}. Rank correlation {rank.statistic:.2f}, p = {rank.pvalue:.2g}.",
    )


def span(values: Sequence[float]) -> str:
    """The range of values as text; values from 1000 on are rounded to integers."""
    if not values:
        return "–"
    low, high = (f"{v:,.0f}" if abs(v) >= 1000 else f"{v:.3g}" for v in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"
