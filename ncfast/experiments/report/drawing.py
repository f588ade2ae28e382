"""A figure together with the numbers it shows."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from matplotlib.figure import Figure


@dataclass(frozen=True)
class Drawing:
    """What goes into the report as a picture, a PNG and a CSV file.

    Attributes:
        name: of the files.
        title: heading in the page.
        caption: what it shows and how to read it.
        figure: the picture.
        head: column names of the data.
        rows: the data that the picture shows.
    """

    name: str
    title: str
    caption: str
    figure: Figure
    head: Sequence[str]
    rows: list[Sequence[Any]] = field(default_factory=list)

    def csv(self) -> bytes:
        """The data as a CSV file."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(self.head)
        writer.writerows(self.rows)
        return buffer.getvalue().encode()
