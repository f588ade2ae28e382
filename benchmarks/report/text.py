"""Writes numbers and tables as Markdown, and tables into the pages of docs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ncfast.benchmarks import results_file
from ncfast.benchmarks.table import duration

DOCS = Path(__file__).resolve().parents[2] / "docs"


def table(
    titles: Sequence[str],
    rows: Iterable[Sequence[str]],
    numbers_from: int = 1,
    numbers_to: int | None = None,
) -> str:
    """A Markdown table whose columns ``numbers_from`` to ``numbers_to`` are aligned to the right.

    Without ``numbers_to`` all columns from ``numbers_from`` on are.
    """
    numbers = range(len(titles))[numbers_from:numbers_to]
    rule = ["--:" if i in numbers else "---" for i in range(len(titles))]
    lines = ["| " + " | ".join(titles) + " |", "|" + "|".join(rule) + "|"]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


def write_between(page: Path, name: str, content: str) -> None:
    """Replace the content between ``<!-- table: NAME -->`` and the next ``<!-- end -->``.

    Raises:
        ValueError: the page does not hold exactly one such marker, or no end after it.
    """
    opening, closing = f"<!-- table: {name} -->", "<!-- end -->"
    before, *rest = page.read_text().split(opening)
    if len(rest) != 1 or closing not in rest[0]:
        raise ValueError(f"Expected {page} to hold {opening} once, and {closing} after it.")
    after = rest[0].partition(closing)[2]
    page.write_text(f"{before}{opening}\n{content}\n{closing}{after}")


def publish(page: str, name: str, content: str) -> None:
    """Write a table into a page of docs; print it if the results are not those of the docs."""
    if results_file.folder() == results_file.OURS:
        write_between(DOCS / page, name, content)
    else:
        print(content)


def images() -> Path:
    """The folder of the figures of docs; that of the results if they are not those of the docs."""
    ours = results_file.folder() == results_file.OURS
    return DOCS / "images" if ours else results_file.folder()


def folded(summary: str, content: str) -> str:
    """Content that a reader unfolds by a click on the summary."""
    return f"<details><summary>{summary}</summary>\n\n{content}\n\n</details>"


def case(sizes: Mapping[str, Any]) -> str:
    """The sizes of a case in one line."""
    parts = [_part(name, value) for name, value in sizes.items()]
    return ", ".join(part for part in parts if part)


def _part(name: str, value: Any) -> str:
    if name == "caches":
        return "cold" if value == "cold" else ""
    if name == "dtype":
        return str(value)
    if isinstance(value, str):
        return f"{name} {value}"
    return f"{name} {value:,}" if isinstance(value, int) else f"{name} {value:g}"


def error(value: float | None) -> str:
    """A relative error with one digit."""
    return "NaN" if value is None else f"{value:.0e}"


def times(result: Mapping[str, Any]) -> str:
    """Median with quartiles."""
    low, high = result["quartiles_s"]
    return f"{duration(result['median_s'])} [{duration(low)}, {duration(high)}]"


def ratio(result: Mapping[str, Any]) -> str:
    """A result's time over ncfast's with its quartiles, which few rounds do not have."""
    found, rounds = result["ratio_to_ncfast"], result["rounds"]
    if not found:
        return ""
    low, high = found["quartiles"]
    spread = f"[{low:.2f}, {high:.2f}]" if rounds > 2 else f"({plural(rounds, 'round')})"
    return f"{found['median']:.2f} {spread}"


def percent(share: float | None) -> str:
    """A share, empty without one."""
    return "" if share is None else f"{100 * share:.0f} %"


def size(count: float) -> str:
    """Bytes with three digits and a unit."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.3g} {unit}"
    return f"{count:.0f} B"


def plural(count: int, noun: str) -> str:
    """A number with its noun."""
    return f"{count} {noun}{'' if count == 1 else 's'}"
