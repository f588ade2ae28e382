"""The settings of a sweep, the options of `ncfast sweep`, and the replicas that they define."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from ncfast.experiments.config import (
    Recipe,
    TrainConfig,
    check_decay,
    check_positive,
    check_seed,
    setting,
    stored_settings,
)

SWEEP = "sweep.json"
PresetName = Literal[
    "f2",
    "f3",
    "f4",
    "f5",
    "f6",
    "f7",
    "f9",
    "f14",
    "theory",
    "cross-entropy",
    "no-decay",
    "noise",
    "early-bird",
]
_MOST_REPLICAS = 100_000
# the axes of a sweep, in the order in which they appear in a replica's name, and their format
_AXES = (
    ("loss", "{}"),
    ("train_size", "n{}"),
    ("init_scale", "scale{:g}"),
    ("lr", "lr{:g}"),
    ("weight_decay", "wd{:g}"),
)


@dataclass(frozen=True, kw_only=True)
class SweepConfig(Recipe):
    """Train all combinations of the given values and seeds in one batched program."""

    preset: PresetName | None = setting(None, may_change=True)
    """An experiment of arXiv 2509.20829 or a related one; other options override its settings."""
    quick: bool = setting(False, may_change=True)
    """Use the preset's small form on the bundled digits, which takes minutes on two cores."""
    weight_decay: tuple[float, ...] = (0.01,)
    """Weight decays, 0 or more: decoupled with adamw, L2 with sgd and gd."""
    seeds: int = 1
    """Number of seeds; they are --seed, --seed + 1, ..."""
    lr: tuple[float, ...] = (1e-3,)
    """Learning rates."""
    init_scale: tuple[float, ...] = (8.0,)
    """Factors on the initial parameters selected by --scale-layers."""
    train_size: tuple[int, ...] = ()
    """Numbers of training samples, from the start. Empty: 200 for digits, 1000 for the others."""
    loss: tuple[Literal["mse", "ce"], ...] = ("mse",)
    """mse: squared error on one-hot labels, or ce: cross-entropy; both summed over the batch."""
    group_size: int | None = setting(None, may_change=True)
    """Number of replicas trained at once; None: as many as fit into memory."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("weight_decay", "lr", "init_scale", "loss"):
            if not getattr(self, name):
                raise ValueError(f"Expected `{name}` to hold at least one value but got none.")
        for name in ("lr", "init_scale", "train_size"):
            for value in getattr(self, name):
                check_positive(name, value)
        for value in self.weight_decay:
            check_decay(value)
        check_positive("seeds", self.seeds)
        check_seed(self.seed + self.seeds)
        number = self.seeds * math.prod(len(getattr(self, name)) or 1 for name, _ in _AXES)
        if number > _MOST_REPLICAS:
            raise ValueError(
                f"Expected `seeds` and the values of the sweep to give at most {_MOST_REPLICAS:,} "
                f"replicas but got {number:,}."
            )
        if self.group_size is not None:
            check_positive("group_size", self.group_size)

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], out: Path) -> SweepConfig:
        """The configuration stored in a sweep.json; unknown keys are ignored."""
        return cls(**{**stored_settings(cls, settings), "out": out})

    def replicas(self) -> dict[str, TrainConfig]:
        """The settings of every replica by its name; the name is also its folder.

        Example:
            >>> from pathlib import Path
            >>> list(SweepConfig(out=Path("x"), weight_decay=(0.3, 0.1), seeds=2).replicas())
            ['wd0.3-seed42', 'wd0.3-seed43', 'wd0.1-seed42', 'wd0.1-seed43']
        """
        axes: dict[str, tuple[Any, ...]] = {
            name: getattr(self, name) or (None,) for name, _ in _AXES
        }
        shared = {field.name for field in fields(Recipe)}
        own = {"out", "seed", "resume", "start_from"}
        common = {name: getattr(self, name) for name in shared - own}
        found = {}
        for values in itertools.product(*axes.values()):
            chosen = dict(zip(axes, values, strict=True))
            for seed in range(self.seed, self.seed + self.seeds):
                name = self._name(axes, chosen, seed)
                found[name] = TrainConfig(
                    out=self.out / name,
                    seed=seed,
                    start_from=self._start_of(seed),
                    **common,
                    **chosen,
                )
        return found

    def _start_of(self, seed: int) -> Path | None:
        """The run of a seed in the sweep that this one starts from; a run stands for itself.

        Raises:
            ValueError: the sweep has no run of this seed, or several.
        """
        if self.start_from is None or not (self.start_from / SWEEP).exists():
            return self.start_from
        runs = [path for path in self.start_from.iterdir() if _seed_of(path) == seed]
        if len(runs) != 1:
            raise ValueError(
                f"Expected `from` to be a sweep with one run of seed {seed} but {self.start_from} "
                f"has {len(runs)}. Name one run: {self.start_from}/NAME."
            )
        return runs[0]

    def _name(
        self, axes: Mapping[str, tuple[Any, ...]], chosen: Mapping[str, Any], seed: int
    ) -> str:
        told = [
            pattern.format(chosen[name])
            for name, pattern in _AXES
            if name == "weight_decay" or len(set(axes[name])) > 1
        ]
        return "-".join([*told, f"seed{seed}"])


def _seed_of(run: Path) -> int | None:
    """The seed in the name of a replica's folder."""
    _, _, seed = run.name.rpartition("seed")
    return int(seed) if seed.isdecimal() else None
