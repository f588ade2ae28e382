"""Shows progress: a bar on a terminal or in a notebook, otherwise one line per log point."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from tqdm.auto import tqdm
from typing_extensions import Self

_SHOWN = (
    ("train/accuracy", "train", "{:.3f}"),
    ("test/accuracy", "test", "{:.3f}"),
    ("train/rnc1.max", "rnc1", "{:.2e}"),
)


def _is_widget() -> bool:
    """Whether the bar is a widget: in a notebook that has ipywidgets."""
    from tqdm.notebook import tqdm_notebook

    return issubclass(tqdm, tqdm_notebook)


class Progress:
    """Shows step, accuracies and RNC1 on standard error.

    Args:
        start: the first step.
        total: the last step.
    """

    def __init__(self, start: int, total: int) -> None:
        self._live = sys.stderr.isatty() or _is_widget()
        self._total = total
        self._bar = tqdm(initial=start, total=total, unit="step", disable=not self._live)
        self._shown: dict[str, str] = {}
        # without a bar: the step of the next line, and the steps between lines, of which a long run
        # has about fifty
        self._next, self._apart = float(start), (total - start) / 50

    def advance(self) -> None:
        """Advance by one step."""
        self._bar.update()

    def record(self, record: Mapping[str, float]) -> None:
        """Show a record in the bar. Without a bar, print some of those that have both splits."""
        for key, name, pattern in _SHOWN:
            if key in record:
                self._shown[name] = pattern.format(record[key])
        if self._live:
            self._bar.set_postfix(self._shown, refresh=False)
        elif "test/accuracy" in record and self._is_due(record["step"]):
            values = "  ".join(f"{name} {value}" for name, value in self._shown.items())
            print(f"step {record['step']}/{self._total}  {values}", file=sys.stderr, flush=True)

    def _is_due(self, step: float) -> bool:
        """Whether a line is due: the last one was some steps ago, or this is the last step."""
        if step < self._next and step != self._total:
            return False
        self._next = step + self._apart
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()
