"""Tables for notebooks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """An HTML table of texts, which are escaped; an empty ``head`` gives a table without one."""
    lines = ["".join(f"<th>{escape(cell)}</th>" for cell in head)] if head else []
    lines += ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows]
    return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def paragraphs(lines: Iterable[str]) -> str:
    """A paragraph for each line that is not empty; the texts are escaped."""
    return "".join(f"<p>{escape(line)}</p>" for line in lines if line)
