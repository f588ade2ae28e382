"""`Evaluation` holds the metrics of a data set; it makes a table, a figure or a file of them."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ncfast._files import replacing
from ncfast._html import paragraphs, table
from ncfast._optional import need
from ncfast._strict_json import nonfinite_values, with_nulls
from ncfast.metrics.catalogue import CATALOGUE, CONVENTIONS, definition_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WIDTH = 100  # characters in a line of a table of layers
_LETTERS = "N: samples, D: columns, K: classes, P: classes that have a sample"


@dataclass(frozen=True, eq=False, repr=False)
class Evaluation(Mapping[str, float]):
    """The results of `ncfast.evaluate`: a mapping from metric ids to floats.

    With several layers a key is "LAYER/ID", such as "block3/nc1.pinv". The accuracy belongs to no
    layer. Printing it shows a table.

    Attributes:
        numbers: the metrics by key.
        layers: the measured layers, in the order of the call.
        dims: D of each layer.
        num_classes: K.
        samples: the rows that were measured.
        ignored: the rows that a mask or ``ignore_index`` left out.
        missing: the keys that were left out, and why.
        nonfinite: the rows of files that were skipped because they hold NaN or infinities.
    """

    numbers: Mapping[str, float]
    layers: tuple[str, ...] = ("",)
    dims: tuple[int, ...] = ()
    num_classes: int = 0
    samples: int = 0
    ignored: int = 0
    missing: Mapping[str, str] = field(default_factory=dict)
    nonfinite: int = 0

    def __getitem__(self, key: str) -> float:
        try:
            return self.numbers[key]
        except KeyError:
            raise KeyError(f"{key!r} is not in this evaluation: {self._why_not(key)}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self.numbers)

    def __len__(self) -> int:
        return len(self.numbers)

    def __repr__(self) -> str:
        rows = self._rows()
        parts = _side_by_side(rows) if len(self.layers) > 1 else [rows]  # a meaning by its value
        shown = "\n\n".join(map(_table, parts))
        return "\n".join([self._heading(), "", shown, *self._notes()])

    def _repr_html_(self) -> str:
        """The table of a notebook."""
        head, *rows = self._rows()
        return paragraphs([self._heading()]) + table(head, rows) + paragraphs(self._notes())

    def to_dict(self) -> dict[str, float]:
        """The metrics by key, in a dict of their own."""
        return dict(self.numbers)

    def to_frame(self) -> Any:
        """A pandas.DataFrame with a row for each metric and a column for each layer.

        A metric that a layer does not have is NaN. The accuracy, which belongs to no layer, is the
        same in each column.

        Raises:
            ModuleNotFoundError: pandas is not installed.
        """
        pandas = need("pandas", "Evaluation.to_frame")
        columns = {layer: [self._value(layer, id_) for id_ in self._ids()] for layer in self.layers}
        return pandas.DataFrame(columns, index=self._ids())

    def plot(self, metrics: str | Sequence[str] | None = None) -> Figure:
        """Draw metrics over the layers, one panel for each.

        A panel is logarithmic where all its values are positive and they span more than a decade.
        The panel of "nc4.ncc_accuracy" shows the accuracy of the network as a dashed line.

        Args:
            metrics: ids; None draws those that at least two layers have (or the only layer) among
                "nc1.pinv", "nc1.quotient", "nc2.etf_error", "nc4.ncc_accuracy", "rank.effective",
                "nc3.self_duality" and "nc4.agreement".

        Returns:
            A figure that no window shows: ``figure.savefig("depth.png")``.

        Raises:
            ModuleNotFoundError: matplotlib is not installed.
            ValueError: a metric is not in this evaluation.
        """
        need("matplotlib", "Evaluation.plot")
        from matplotlib.figure import Figure

        drawn = [metrics] if isinstance(metrics, str) else metrics
        drawn = [id_ for id_ in _DRAWN if self._has_a_line(id_)] if drawn is None else drawn
        if unknown := [id_ for id_ in drawn if id_ not in self._ids()]:
            raise ValueError(
                f"Expected argument `metrics` to hold ids of this evaluation but got {unknown}. "
                f"It has {', '.join(self._ids())}."
            )
        columns = min(3, max(len(drawn), 1))
        lines = -(-len(drawn) // columns)
        figure = Figure(figsize=(4 * columns, 2.8 * max(lines, 1)), layout="constrained")
        for number, id_ in enumerate(drawn):
            self._panel(figure.add_subplot(lines, columns, number + 1), id_)
        return figure

    def tunnel(self, metric: str = "nc4.ncc_accuracy", *, tolerance: float = 0.05) -> str:
        """The layer from which on a metric stands still; the later layers are the tunnel.

        The rule: the first layer, in the order of ``layers``, at which and after which the metric
        differs from its value at the last layer by at most ``tolerance`` times that value.

        Masarczyk et al. 2023 (arXiv 2305.19753) find that the layers of a deep network up to some
        layer build the representation, and that those after it, the tunnel, compress it without an
        effect on the accuracy. They train a linear probe at each layer. The nearest class mean is
        a linear classifier without training: its accuracy may grow where that of a probe does not.

        Args:
            metric: an id that every layer has.
            tolerance: relative difference, at least 0.

        Returns:
            The name of the layer. The last layer means that there is no tunnel.

        Raises:
            ValueError: fewer than two layers; a layer lacks the metric, or it is not finite at the
                last layer; a negative ``tolerance``.

        Example:
            >>> import ncfast
            >>> values = {"a/nc1.cdnv": 4.0, "b/nc1.cdnv": 0.51, "c/nc1.cdnv": 0.5}
            >>> ncfast.Evaluation(values, layers=("a", "b", "c")).tunnel("nc1.cdnv")
            'b'
        """
        if not tolerance >= 0:
            raise ValueError(f"Expected argument `tolerance` to be at least 0 but got {tolerance}.")
        if len(self.layers) < 2:
            raise ValueError(
                "Expected an evaluation of several layers, from the input on, but got "
                f"{len(self.layers)}. Call evaluate(..., layers=[...])."
            )
        values = [self._value(layer, metric) for layer in self.layers]
        absent = [k for layer in self.layers if (k := self._key(layer, metric)) not in self.numbers]
        if absent or metric not in CATALOGUE or not math.isfinite(values[-1]):
            raise ValueError(
                "Expected argument `metric` to be an id with a value at every layer but "
                f"{metric!r} has {values}. Evaluate every layer with metrics=[{metric!r}]."
            )
        first = len(values) - 1
        while first and abs(values[first - 1] - values[-1]) <= tolerance * abs(values[-1]):
            first -= 1
        return self.layers[first]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a JSON file: the metrics, what was measured, conventions and definitions.

        Numbers that are not finite are null and listed under "nonfinite", as in a log. An
        interrupted call leaves the file that was there before.

        Raises:
            OSError: the file cannot be written.
        """
        import ncfast

        record: dict[str, Any] = {
            "version": ncfast.__version__,
            "metrics": with_nulls(self.numbers),
            "nonfinite": nonfinite_values(self.numbers),
            "layers": list(self.layers),
            "dims": list(self.dims),
            "num_classes": self.num_classes,
            "samples": self.samples,
            "ignored": self.ignored,
            "skipped_nonfinite_rows": self.nonfinite,
            "missing": dict(self.missing),
            "conventions": CONVENTIONS,
            "definitions": {id_: definition_of(id_) for id_ in self._ids() if id_ in CATALOGUE},
        }
        with replacing(Path(path)) as temporary:
            temporary.write_text(json.dumps(record, indent=2, allow_nan=False) + "\n")

    def _key(self, layer: str, id_: str) -> str:
        of_layer = len(self.layers) > 1 and id_ in CATALOGUE
        return f"{layer}/{id_}" if of_layer else id_

    def _value(self, layer: str, id_: str) -> float:
        return self.numbers.get(self._key(layer, id_), math.nan)

    def _ids(self) -> list[str]:
        """The accuracy, where there is one, and the ids that some layer has."""
        known = [id_ for id_ in ("accuracy", *CATALOGUE) if self._is_there(id_)]
        return known

    def _is_there(self, id_: str) -> bool:
        return any(self._key(layer, id_) in self.numbers for layer in self.layers)

    def _has_a_line(self, id_: str) -> bool:
        there = sum(self._key(layer, id_) in self.numbers for layer in self.layers)
        return there >= min(2, len(self.layers))

    def _heading(self) -> str:
        parts = [f"{self.samples} samples", f"{self.num_classes} classes"]
        parts += [f"{' or '.join(map(str, dict.fromkeys(self.dims)))} columns"] if self.dims else []
        parts += [f"{self.ignored} left out"] if self.ignored else []
        parts += [f"{self.nonfinite} not finite and skipped"] if self.nonfinite else []
        parts += [f"layer {self.layers[0]}"] if self.layers[0] and len(self.layers) == 1 else []
        return ", ".join(parts)

    def _rows(self) -> list[list[str]]:
        """The table as text: a head, then a row for each metric, with its meaning for one layer."""
        several = len(self.layers) > 1
        rows = [["metric", *self.layers] if several else ["metric", "value", "meaning"]]
        for id_ in self._ids():
            keys = [self._key(layer, id_) for layer in self.layers]
            values = [f"{self.numbers[key]:.6g}" if key in self.numbers else "" for key in keys]
            meaning = CATALOGUE[id_].direction if id_ in CATALOGUE else ""
            rows.append([id_, *values] if several else [id_, *values, meaning])
        return rows

    def _why_not(self, key: str) -> str:
        if key in self.missing:
            return f"it {self.missing[key]}."
        if key in CATALOGUE and len(self.layers) > 1:
            return f"a key is LAYER/ID, such as {self._key(self.layers[0], key)!r}."
        if key.rpartition("/")[2] in CATALOGUE:
            return "it was not measured. Name it in `metrics`."
        return f"it has {', '.join(self.numbers)}."

    def _notes(self) -> list[str]:
        """The lines below the table: the letters of its meanings, and what was left out."""
        shown = " ".join(row[-1] for row in self._rows()[1:]) if len(self.layers) == 1 else ""
        letters = [_LETTERS] if re.search(r"\b[DKNP]\b", shown) else []
        told = [*letters, *self._left_out()]
        return ["", *told] if told else []

    def _left_out(self) -> list[str]:
        """A line for each reason, with its ids; a family that is left out whole is "nc5.*"."""
        lines: dict[str, list[str]] = {}
        for layer in self.layers:
            reasons: dict[str, list[str]] = {}
            for id_ in CATALOGUE:
                if why := self.missing.get(self._key(layer, id_)):
                    reasons.setdefault(why, []).append(id_)
            for why, ids in reasons.items():
                lines.setdefault(f"{', '.join(_shortened(ids))} ({why})", []).append(layer)
        several = len(self.layers) > 1
        return [
            f"left out{' for ' + ', '.join(layers) if several else ''}: {line}"
            for line, layers in lines.items()
        ]

    def _panel(self, axes: Any, id_: str) -> None:
        values = [self._value(layer, id_) for layer in self.layers]
        axes.plot(range(len(values)), values, marker="o")
        positive = [value for value in values if value > 0]
        if len(positive) == len(values) and max(values) > 10 * min(values):
            axes.set_yscale("log")
        if id_ == "nc4.ncc_accuracy" and "accuracy" in self.numbers:
            axes.axhline(self.numbers["accuracy"], color="0.5", linestyle="--", label="accuracy")
            axes.legend()
        names = [layer or "features" for layer in self.layers]
        axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
        axes.set_title(id_)


_DRAWN = (
    "nc1.pinv",
    "nc1.quotient",
    "nc2.etf_error",
    "nc4.ncc_accuracy",
    "rank.effective",
    "nc3.self_duality",
    "nc4.agreement",
)


def _shortened(ids: Sequence[str]) -> list[str]:
    families = {id_: id_.split(".")[0] for id_ in CATALOGUE}
    whole = {f for f in families.values() if {i for i in CATALOGUE if families[i] == f} <= {*ids}}
    return list(dict.fromkeys(f"{families[i]}.*" if families[i] in whole else i for i in ids))


def _side_by_side(rows: list[list[str]]) -> list[list[list[str]]]:
    """The table in parts no wider than `_WIDTH`, each of which begins with the metrics."""
    widths = [max(map(len, column)) + 2 for column in zip(*rows, strict=True)]
    parts: list[list[int]] = [[]]
    for column in range(1, len(widths)):
        if parts[-1] and sum(widths[c] for c in (0, *parts[-1], column)) > _WIDTH:
            parts.append([])
        parts[-1].append(column)
    return [[[row[0], *(row[c] for c in part)] for row in rows] for part in parts]


def _table(rows: list[list[str]]) -> str:
    """Aligned columns: names and meanings to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    left = [column == 0 or rows[0][column] == "meaning" for column in range(len(widths))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if to_left else cell.rjust(width)
            for cell, width, to_left in zip(row, widths, left, strict=True)
        ).rstrip()
        for row in rows
    )
