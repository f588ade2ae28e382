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

    def advance(self) -> None:
        """Advance by one step."""
        self._bar.update()

    def record(self, record: Mapping[str, float]) -> None:
        """Show a record in the bar. Without a bar, print a line if the record has both splits."""
        for key, name, pattern in _SHOWN:
            if key in record:
                self._shown[name] = pattern.format(record[key])
        if self._live:
            self._bar.set_postfix(self._shown, refresh=False)
        elif "test/accuracy" in record:
            values = "  ".join(f"{name} {value}" for name, value in self._shown.items())
            print(f"step {record['step']}/{self._total}  {values}", file=sys.stderr, flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()
