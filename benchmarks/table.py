"""Prints a case as text: contestant, error, time, ratio, share, and whether it is right."""

from __future__ import annotations

from typing import Any

WIDTH = 48


def header(operation: str, entry: dict[str, Any]) -> str:
    """What was measured."""
    sizes = ", ".join(
        f"{name} = {value:,}" if isinstance(value, int) else f"{name} = {value}"
        for name, value in entry["case"].items()
    )
    return f"{operation}: {sizes}; {entry['bytes'] / 1e6:,.1f} MB and {entry['flops']:.1e} flops"


def lines(entry: dict[str, Any]) -> list[str]:
    """A line of titles, and one line per contestant."""
    title = f"  {'contestant':<{WIDTH}} {'error':>8} {'time':>10} {'+-':>5} {'x ncfast':>9} "
    title += f"{'ceiling':>7} {'MiB':>6}"
    return [title, *(_line(result) for result in entry["results"])]


def _line(result: dict[str, Any]) -> str:
    name = f"  {result['contestant']:<{WIDTH}}"
    if "reason" in result:
        return f"{name} did not run: {result['reason']}"
    error = "NaN" if result["error"] is None else f"{result['error']:.0e}"
    low, high = result["quartiles_s"]
    spread = f"{50 * (high - low) / result['median_s']:.0f} %"
    ratio, share = result["ratio_to_ncfast"], result["share_of_ceiling"]
    times = f"{ratio['median']:.2f}" if ratio else ""
    of_ceiling = f"{100 * share:.0f} %" if share else ""
    peak = result.get("peak_bytes")
    memory = "" if peak is None else f"{peak / 2**20:,.0f}"
    return (
        f"{name} {error:>8} {duration(result['median_s']):>10} {spread:>5} "
        f"{times:>9} {of_ceiling:>7} {memory:>6}{'' if result['ok'] else ' WRONG'}"
    )


def duration(seconds: float) -> str:
    """Seconds with three digits and a unit."""
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("us", 1e6)):
        if seconds * factor >= 1:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"
