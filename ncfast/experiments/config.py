"""Every setting of a run, as `ncfast train` takes it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import tyro

from ncfast.tracking import schedule

Dataset = Literal["digits", "mnist", "fashion-mnist", "cifar10", "synthetic", "trec", "sst2"]
Model = Literal["mlp", "cnn", "resnet18", "transformer"]


def setting(default: Any, *, per_replica: bool = False, may_change: bool = False) -> Any:
    """A setting with its default.

    Replicas that are trained in one batched program have the same value of every setting, except
    where the setting is declared ``per_replica``. A resumed run keeps every setting, except where
    it is declared ``may_change``: such a setting decides how a run is watched or where it is kept,
    not what it computes.
    """
    return field(default=default, metadata={"per_replica": per_replica, "may_change": may_change})


def changeable(kind: type[Recipe]) -> set[str]:
    """The settings that may change when a run is resumed."""
    return {entry.name for entry in fields(kind) if entry.metadata.get("may_change")}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What `ncfast train` and `ncfast sweep` have in common. The defaults are the recipe F2."""

    out: Path = field(metadata={"per_replica": True, "may_change": True})
    """Directory of the run: config.json, metrics.jsonl, probes.jsonl, checkpoint.safetensors."""
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
    scale_layers: Literal["all", "linear", "last"] = setting("all", per_replica=True)
    """What --init-scale multiplies: all parameters, the linear layers, or the classifier."""
    zero_last: bool = setting(False, per_replica=True)
    """Start with a classifier of zeros."""
    optimizer: Literal["adamw", "sgd", "gd"] = "adamw"
    """AdamW, or gradient descent on batches (sgd) or on the whole training split (gd)."""
    momentum: float = 0.0
    """Of sgd and gd."""
    batch_size: int = 100
    """Samples in a step; the data are reshuffled each epoch. Not used by gd."""
    steps: int = setting(100_000, may_change=True)
    """Steps in all; with --resume it may be raised."""
    seed: int = setting(42, per_replica=True)
    """Of initialisation and data order."""
    schedule: str = "paper"
    """When to measure the training split: paper, log:POINTS, every or every:N."""
    test_schedule: str | None = None
    """When to measure the test split as well; None: whenever the training split is."""
    probes: str = "log:12"
    """When to look closer at the features: margins, principal components, information."""
    sigma: tuple[float, ...] = (0.1,)
    """Noise of the information estimates and bounds, relative to the largest feature norm."""
    information: int = 1500
    """Unseen samples for the information estimates at the probes; 0 leaves them out."""
    checkpoint_every: int = setting(10_000, may_change=True)
    """Steps between checkpoints; one is also written at the end and when interrupted."""
    data_dir: Path | None = setting(None, may_change=True)
    """Folder of the dataset files; None: the environment variable NCFAST_DATA."""
    download: bool = setting(False, may_change=True)
    """Fetch missing dataset files from the official mirrors, and verify them."""
    device: str = setting("auto", may_change=True)
    """cpu, cuda, cuda:1, ...; auto takes a GPU when there is one."""
    resume: bool = setting(False, may_change=True)
    """Continue what is in --out from its last checkpoint, with its settings."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "checkpoint_every", "patch_size"):
            check_positive(name, getattr(self, name))
        check_seed(self.seed)
        if not 0 <= self.momentum < 1:
            raise ValueError(f"Expected `momentum` in [0, 1) but got {self.momentum}.")
        if not self.widths or min(self.widths) < 1:
            raise ValueError(f"Expected `widths` to be positive sizes but got {self.widths}.")
        if not self.sigma:
            raise ValueError("Expected `sigma` to hold at least one value but got none.")
        for value in self.sigma:
            check_positive("sigma", value)
        if self.information < 0:
            raise ValueError(
                f"Expected `information` to be zero or more but got {self.information}."
            )

    def effective_batch_size(self, train_size: int) -> int:
        """Samples in a step; all of them for full-batch gradient descent."""
        return train_size if self.optimizer == "gd" else min(self.batch_size, train_size)

    def schedules(self) -> Schedules:
        """The steps at which this run measures.

        Raises:
            ValueError: a text that is no schedule.
        """
        test = self.test_schedule or self.schedule
        return Schedules(
            *(schedule.parse(text, self.steps) for text in (self.schedule, test, self.probes))
        )


class Schedules(NamedTuple):
    """When a run measures: its training split, its test split too, and with probes."""

    train: schedule.Schedule
    test: schedule.Schedule
    probe: schedule.Schedule


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Recipe):
    """Train a classifier and track its collapse. The defaults are the grokking recipe F2."""

    train_size: int | None = None
    """Training samples, the first so many. None: 200 for digits, 1000 for the others."""
    init_scale: float = setting(8.0, per_replica=True)
    """Factor on the initial parameters that --scale-layers names."""
    loss: Literal["mse", "ce"] = "mse"
    """Squared error on one-hot labels summed over classes and batch, or summed cross-entropy."""
    lr: float = setting(1e-3, per_replica=True)
    """Learning rate."""
    weight_decay: float = setting(0.01, per_replica=True)
    """Decoupled weight decay of AdamW; L2 (decay times parameter) of sgd and gd. May be zero."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("lr", self.lr)
        check_positive("init_scale", self.init_scale)
        check_decay(self.weight_decay)
        if self.train_size is not None:
            check_positive("train_size", self.train_size)

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

    @property
    def program(self) -> tuple[object, ...]:
        """The settings that replicas of one batched program share; see `setting`."""
        return tuple(
            getattr(self, entry.name)
            for entry in fields(self)
            if not entry.metadata.get("per_replica")
        )


def effective_train_size(train_size: int | None, dataset: str) -> int:
    """Training samples after the default of the dataset."""
    if train_size is not None:
        return train_size
    return 200 if dataset == "digits" else 1000


def check_positive(name: str, value: float) -> None:
    """Raise ValueError unless ``value`` is positive and finite."""
    if not 0 < value < math.inf:
        raise ValueError(f"Expected `{name}` to be positive and finite but got {value}.")


def check_seed(value: int) -> None:
    """Raise ValueError unless torch takes ``value`` as a seed."""
    if not -(2**63) <= value < 2**63:
        raise ValueError(f"Expected `seed` to be an integer of 64 bits but got {value}.")


def check_decay(value: float) -> None:
    """Raise ValueError unless ``value`` is zero or more, and finite."""
    if not 0 <= value < math.inf:
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
