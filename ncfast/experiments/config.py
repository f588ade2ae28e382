"""Every setting of a run, as `ncfast train` takes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

Dataset = Literal["digits", "mnist", "fashion-mnist", "cifar10", "synthetic", "trec", "sst2"]
Model = Literal["mlp", "cnn", "resnet18", "transformer"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What `ncfast train` and `ncfast sweep` have in common. The defaults are the recipe F2."""

    out: Path
    """Directory of the run: config.json, metrics.jsonl, checkpoint.safetensors, report.html."""
    dataset: Dataset = "digits"
    """digits comes with scikit-learn; synthetic is Gaussian classes; the others are files."""
    model: Model = "mlp"
    """The network; texts (trec, sst2) need the transformer."""
    widths: tuple[int, ...] = (200, 200, 200)
    """Sizes of the hidden layers of the mlp."""
    activation: Literal["relu", "smooth-leaky-relu", "gelu", "tanh"] = "relu"
    """After each hidden layer of the mlp."""
    last_activation: bool = True
    """Whether the mlp's last hidden layer has an activation; without, the last two are linear."""
    patch_size: int = 4
    """Edge of the transformer's patches, in pixels."""
    scale_layers: Literal["all", "linear", "last"] = "all"
    """What --init-scale multiplies: all parameters, the linear layers, or the classifier."""
    zero_last: bool = False
    """Start with a classifier of zeros."""
    optimizer: Literal["adamw", "sgd", "gd"] = "adamw"
    """AdamW, or gradient descent on batches (sgd) or on the whole training split (gd)."""
    momentum: float = 0.0
    """Of sgd and gd."""
    batch_size: int = 100
    """Samples in a step; the data are reshuffled each epoch. Not used by gd."""
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
    """Continue what is in --out from its last checkpoint, with its settings."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "checkpoint_every", "patch_size"):
            check_positive(name, getattr(self, name))
        if not 0 <= self.momentum < 1:
            raise ValueError(f"Expected `momentum` in [0, 1) but got {self.momentum}.")
        if not self.widths or min(self.widths) < 1:
            raise ValueError(f"Expected `widths` to be positive sizes but got {self.widths}.")

    def effective_batch_size(self, train_size: int) -> int:
        """Samples in a step; all of them for full-batch gradient descent."""
        return train_size if self.optimizer == "gd" else min(self.batch_size, train_size)


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Recipe):
    """Train a classifier and track its collapse. The defaults are the grokking recipe F2."""

    train_size: int | None = None
    """Training samples, the first so many. None: 200 for digits, 1000 for the others."""
    init_scale: float = 8.0
    """Factor on the initial parameters that --scale-layers names."""
    loss: Literal["mse", "ce"] = "mse"
    """Squared error on one-hot labels summed over classes and batch, or summed cross-entropy."""
    lr: float = 1e-3
    """Learning rate."""
    weight_decay: float = 0.01
    """Decoupled weight decay of AdamW; L2 (decay times parameter) of sgd and gd. May be zero."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("lr", self.lr)
        check_positive("init_scale", self.init_scale)
        check_decay(self.weight_decay)

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], out: Path) -> TrainConfig:
        """The configuration that a run's config.json tells of; keys it does not know are left out.

        Args:
            settings: the entry "settings" of config.json.
            out: the run's directory, wherever it lies now.
        """
        return cls(**{**stored_settings(cls, settings), "out": out})

    @property
    def effective_train_size(self) -> int:
        """Training samples after the default of the dataset."""
        return effective_train_size(self.train_size, self.dataset)


def effective_train_size(train_size: int | None, dataset: str) -> int:
    """Training samples after the default of the dataset."""
    if train_size is not None:
        return train_size
    return 200 if dataset == "digits" else 1000


def check_positive(name: str, value: float) -> None:
    """Raise ValueError unless ``value`` is positive."""
    if not value > 0:
        raise ValueError(f"Expected `{name}` to be positive but got {value}.")


def check_decay(value: float) -> None:
    """Raise ValueError unless ``value`` is zero or more."""
    if not value >= 0:
        raise ValueError(f"Expected `weight_decay` to be zero or more but got {value}.")


def stored_settings(kind: type[Recipe], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings read from JSON, in the types of ``kind``; keys it does not know are left out."""
    known = {field.name for field in fields(kind)}
    values = {name: value for name, value in settings.items() if name in known}
    values |= {name: tuple(v) for name, v in values.items() if isinstance(v, list)}
    for name in ("out", "data_dir"):
        if values.get(name) is not None:
            values[name] = Path(values[name])
    return values


@dataclass(frozen=True)
class ReportConfig:
    """Draw runs: report.html and PNG figures."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Directories made by `ncfast train` or `ncfast sweep`."""
    out: Path | None = None
    """Where to write; None: the first run's directory."""
