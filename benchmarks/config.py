"""Every setting of `ncfast bench`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """Time every operation against plain torch, public ways and libraries, accuracy first."""

    quick: bool = False
    """Few small cases: under two minutes on two cores."""
    ops: tuple[str, ...] = ()
    """Operations by name; all of them without."""
    cases: tuple[int, ...] = ()
    """Numbers of the cases of each operation, from 0; the others in --out stay. Without: all."""
    threads: int | None = None
    """Threads of torch, ncfast and libraries; None: one a core."""
    device: str = "auto"
    """cpu or cuda; auto takes a GPU when there is one."""
    seconds: float | None = None
    """Of timing a case, apart from set-up and slow contestants; None: 10, or 1.5 with --quick."""
    out: Path | None = None
    """JSON file to write; other operations in it are kept if the environment is the same."""
    compare: tuple[Path, Path] | None = None
    """Two JSON files, old and new: no run, exit status 1 if the new one is slower or less right."""

    @property
    def command(self) -> str:
        """The command line that repeats this run, all cases and operations in one go."""
        given = {"threads": self.threads, "seconds": self.seconds}
        words = ["ncfast bench", *(["--quick"] if self.quick else [])]
        words += [f"--{name} {value:g}" for name, value in given.items() if value is not None]
        words += [f"--device {self.device}"] if self.device != "auto" else []
        return " ".join(words)

    def __post_init__(self) -> None:
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"Expected `threads` to be positive but got {self.threads}.")
        if self.seconds is not None and self.seconds <= 0:
            raise ValueError(f"Expected `seconds` to be positive but got {self.seconds}.")
        if self.compare is None and self.out is None:
            raise ValueError("Expected `out`, the JSON file to write. Add --out FILE.json.")
