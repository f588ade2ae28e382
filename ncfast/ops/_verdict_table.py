"""Writes the verdicts of all CUDA devices as lines of text, for `ncfast.backends`."""

from __future__ import annotations

import torch

from ncfast.ops import _auto, _verdicts
from ncfast.ops._verdicts import COMMAND, Table


def tables() -> list[Table]:
    """The verdicts of every CUDA device that torch finds, as their files say now."""
    found = []
    for number in _verdicts.devices():
        table = _verdicts.table_of(torch.device("cuda", number))
        if table is not None:
            _verdicts.read(table)
            found.append(table)
    return found


def summary() -> str:
    """When "auto" takes the kernels, in one sentence."""
    said = _auto.forced()
    if said is not None:
        return f'"auto" takes them {"always" if said else "never"}: {_auto.VARIABLE} is {int(said)}'
    counts = []
    for table in tables():
        good = sum(entry.usable for entry in table.verdicts.values())
        checked = f"{good} of {len(table.verdicts)} checks passed"
        counts.append(f"cuda:{table.number} {checked if table.verdicts else 'unchecked'}")
    if not any(table.verdicts for table in tables()):
        return f'"auto" takes none before a self-check has run: `{COMMAND}`'
    return f'"auto" takes those that passed the self-check: {", ".join(counts)}'


def lines() -> tuple[str, ...]:
    """A line for each device, operation and path, with the verdict on each dtype."""
    return tuple(line for table in tables() for line in _lines(table))


def _lines(table: Table) -> list[str]:
    device = f"cuda:{table.number} ({table.facts['device']})"
    if not table.verdicts:
        return [f"{device}: unchecked"]
    grouped: dict[tuple[str, str], list[str]] = {}
    for name, entry in table.verdicts.items():
        grouped.setdefault(name[:2], []).append(f"{name.dtype} {entry}")
    return [
        f"{device}: {operation}{f', {path}' if path else ''}: {'; '.join(entries)}"
        for (operation, path), entries in grouped.items()
    ]
