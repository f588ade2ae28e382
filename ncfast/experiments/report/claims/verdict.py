"""What a verdict is, and the two ways to come to one: a share of runs, a trend over them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scipy import stats

CONFIRMED, DENIED, OPEN = "confirmed", "not confirmed", "cannot tell"
MIN_RUNS = 2  # one run is an example
MIN_TREND = 4


@dataclass(frozen=True)
class Verdict:
    """What the runs say about a claim.

    Attributes:
        claim: in plain language.
        outcome: confirmed, not confirmed or cannot tell.
        numbers: what it rests on.
    """

    claim: str
    outcome: str
    numbers: str


def share(claim: str, held: Sequence[bool], numbers: str, without: int = 0) -> Verdict:
    """Confirmed when it holds in 9 of 10 runs, not confirmed when in 1 of 10, else open.

    Args:
        claim: in plain language.
        held: whether it holds, for each run that can tell; fewer than two leave it open.
        numbers: what it rests on.
        without: runs that cannot tell.
    """
    if not held:
        return Verdict(claim, OPEN, f"No run can tell. {numbers}".strip())
    part = sum(held) / len(held)
    outcome = CONFIRMED if part >= 0.9 else DENIED if part <= 0.1 else OPEN
    text = f"In {sum(held)} of {len(held)} runs. {numbers}"
    if without:
        text += f" {without} more cannot tell."
    return Verdict(claim, outcome if len(held) >= MIN_RUNS else OPEN, text.strip())


def trend(
    claim: str, name: str, event: str, pairs: Sequence[tuple[float, float | None]]
) -> Verdict | None:
    """Whether an event comes earlier the larger something is, by the rank correlation.

    Args:
        claim: in plain language.
        name: of that something.
        event: what happened, as a verb.
        pairs: its value and the step of the event for each run; None where it did not happen.

    Returns:
        None when all runs have one value.
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
    """The smallest and the largest value, steps in full."""
    if not values:
        return "–"
    low, high = (f"{v:,.0f}" if abs(v) >= 1000 else f"{v:.3g}" for v in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"
