"""Every setting of a run, as `ncfast train` takes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro


@dataclass(frozen=True)
class TrainConfig:
    """Train a classifier and track its collapse. The defaults are the grokking recipe F2."""

    out: Path
    """Directory of the run: config.json, metrics.jsonl, checkpoint.safetensors, report.html."""
    dataset: Literal["digits", "mnist", "fashion-mnist", "cifar10", "synthetic"] = "digits"
    """digits comes with scikit-learn; synthetic is Gaussian classes; the others are files."""
    train_size: int | None = None
    """Training images, the first so many. None: 200 for digits, 1000 for the others."""
    model: Literal["mlp"] = "mlp"
    """The network."""
    widths: tuple[int, ...] = (200, 200, 200)
    """Sizes of the hidden layers."""
    activation: Literal["relu", "smooth-leaky-relu", "gelu", "tanh"] = "relu"
    """After each hidden layer."""
    last_activation: bool = True
    """Whether the last hidden layer has an activation; without, the last two layers are linear."""
    init_scale: float = 8.0
    """Factor on all initial parameters."""
    loss: Literal["mse", "ce"] = "mse"
    """Squared error on one-hot labels summed over classes and batch, or summed cross-entropy."""
    lr: float = 1e-3
    """Learning rate of AdamW."""
    weight_decay: float = 0.01
    """Decoupled weight decay of AdamW."""
    batch_size: int = 100
    """Images in a step; the data are reshuffled each epoch."""
    steps: int = 100_000
    """Steps in all; with --resume it may be raised."""
    seed: int = 42
    """Of initialisation and data order."""
    schedule: str = "paper"
    """When to measure the training split: paper, log:POINTS, every or every:N."""
    test_schedule: str | None = None
    """When to measure the test split as well; None: whenever the training split is."""
    checkpoint_every: int = 10_000
    """Steps between checkpoints; one is also written at the end and when interrupted."""
    data_dir: Path | None = None
    """Folder of the dataset files; None: the environment variable NCFAST_DATA."""
    download: bool = False
    """Fetch missing dataset files from the official mirrors, and verify them."""
    device: str = "auto"
    """cpu, cuda, cuda:1, ...; auto takes a GPU when there is one."""
    resume: bool = False
    """Continue the run in --out from its last checkpoint, with its settings."""

    def __post_init__(self) -> None:
        positive = ("steps", "batch_size", "checkpoint_every", "lr", "init_scale")
        for name in positive:
            if not getattr(self, name) > 0:
                raise ValueError(f"Expected `{name}` to be positive but got {getattr(self, name)}.")
        if not self.weight_decay >= 0:
            raise ValueError(
                f"Expected `weight_decay` to be zero or more but got {self.weight_decay}."
            )
        if not self.widths or min(self.widths) < 1:
            raise ValueError(f"Expected `widths` to be positive sizes but got {self.widths}.")

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], out: Path) -> TrainConfig:
        """The configuration that a run's config.json tells of; keys it does not know are left out.

        Args:
            settings: the entry "settings" of config.json.
            out: the run's directory, wherever it lies now.
        """
        known = {field.name for field in fields(cls)}
        values = {name: value for name, value in settings.items() if name in known}
        values["out"] = out
        values["widths"] = tuple(values["widths"])
        if values["data_dir"] is not None:
            values["data_dir"] = Path(values["data_dir"])
        return cls(**values)

    @property
    def effective_train_size(self) -> int:
        """Training images after the default of the dataset."""
        if self.train_size is not None:
            return self.train_size
        return 200 if self.dataset == "digits" else 1000


@dataclass(frozen=True)
class ReportConfig:
    """Draw runs: report.html and PNG figures."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Directories made by `ncfast train`."""
    out: Path | None = None
    """Where to write; None: the first run's directory."""
