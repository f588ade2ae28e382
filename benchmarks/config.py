"""Settings of ``ncfast bench``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """Check and time every operation against plain torch, public code and libraries."""

    quick: bool = False
    """Few small cases: under two minutes on two cores."""
    ops: tuple[str, ...] = ()
    """Operations by name. Without: class_moments, update, update.scatter, gradient, rnc1,
    metrics.lite, metrics.standard, metrics.full, sigma_w, knn, mutual_information, plane,
    tracker_block, tracker_step, replica_step. Only when named, because they take long, much memory
    or data: class_moments.grid, update.vocabulary, rnc1.call, metrics.suite, knn.grid, knn.engines,
    entropy, mutual_information.grid, mutual_information.engines, tracker_cost.mlp,
    tracker_cost.resnet18, tracker_cost.alone, replica_step.f2, log_point, all_reduce,
    packages.training, packages.nc1, packages.vocabulary, packages.information,
    packages.discrete."""
    cases: tuple[int, ...] = ()
    """Numbers of the cases of each operation, from 0; other cases in --out stay. Default: all."""
    threads: int | None = None
    """Threads of torch, ncfast and libraries; None: one per core."""
    device: str = "auto"
    """cpu or cuda; auto takes a GPU if there is one."""
    seconds: float | None = None
    """Time of a case without set-up and slow contestants; None: 10, or 1.5 with --quick."""
    out: Path | None = None
    """JSON file to write; other operations in it are kept if the environment is the same. It may be
    left out with --quick or --ops: then the tables are printed alone."""
    compare: tuple[Path, Path] | None = None
    """Compare two JSON files, old and new; status 1 if the new one is slower or less accurate."""

    @property
    def command(self) -> str:
        """The command line that repeats this run, with all cases and operations."""
        given = {"threads": self.threads, "seconds": self.seconds}
        words = ["ncfast bench", *(["--quick"] if self.quick else [])]
        words += [f"--{name} {value:g}" for name, value in given.items() if value is not None]
        words += [f"--device {self.device}"] if self.device != "auto" else []
        return " ".join(words)

    def __post_init__(self) -> None:
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"Expected `threads` to be positive but got {self.threads}.")
        if self.seconds is not None and not 0 < self.seconds < math.inf:
            raise ValueError(f"Expected `seconds` to be positive but got {self.seconds}.")
        if any(case < 0 for case in self.cases):
            raise ValueError(f"Expected `cases` to be numbers from 0 but got {self.cases}.")
        if not (self.compare or self.out or self.quick or self.ops):
            raise ValueError(
                "Expected `out`, the JSON file to write, in a run of all operations, which takes "
                "long. Add --out FILE.json, --quick or --ops."
            )
