"""The settings of a run: the options of `ncfast train`, and those it shares with `ncfast sweep`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_type_hints

import tyro

from ncfast.experiments.stored_types import convert
from ncfast.tracking import schedule

Dataset = Literal["digits", "mnist", "fashion-mnist", "cifar10", "synthetic", "trec", "sst2"]
Model = Literal["mlp", "cnn", "resnet18", "transformer"]


def setting(default: Any, *, per_replica: bool = False, may_change: bool = False) -> Any:
    """A dataclass field for a setting.

    Args:
        default: the default value.
        per_replica: whether replicas of one batched program may differ in this setting.
        may_change: whether a resumed run may change this setting. Such a setting affects how a run
            is observed or stored, where it runs and how long, but not what a step computes.
    """
    return field(default=default, metadata={"per_replica": per_replica, "may_change": may_change})


def changeable(kind: type[Recipe]) -> set[str]:
    """The settings that may change when a run is resumed."""
    return {entry.name for entry in fields(kind) if entry.metadata.get("may_change")}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The settings that `ncfast train` and `ncfast sweep` share. The defaults are the recipe F2."""

    out: Path = field(metadata={"per_replica": True, "may_change": True})
    """Directory of the run: config.json, metrics.jsonl, probes.jsonl, checkpoint.safetensors."""
    dataset: Dataset = "digits"
    """digits comes with scikit-learn, synthetic has Gaussian classes, the others are files."""
    model: Model = "mlp"
    """The network. The text datasets trec and sst2 need the transformer."""
    widths: tuple[int, ...] = (200, 200, 200)
    """Sizes of the hidden layers of the mlp."""
    activation: Literal["relu", "smooth-leaky-relu", "gelu", "tanh"] = "relu"
    """Activation function after each hidden layer of the mlp."""
    last_activation: bool = True
    """Whether the mlp's last hidden layer has an activation; otherwise two layers are linear."""
    patch_size: int = 4
    """Side length of the transformer's patches, in pixels."""
    scale_layers: Literal["all", "linear", "last"] = setting("all", per_replica=True)
    """The parameters that --init-scale multiplies: all, linear layers, or the last one."""
    init: Literal["default", "lecun", "orthogonal"] = setting("default", per_replica=True)
    """How linear layers start. lecun: normal, variance 1 / fan-in. orthogonal: random rotation."""
    zero_last: bool = setting(False, per_replica=True)
    """Initialise the classifier with zeros."""
    optimizer: Literal["adamw", "sgd", "gd"] = "adamw"
    """AdamW, or gradient descent on batches (sgd) or on the whole training split (gd)."""
    momentum: float = 0.0
    """Momentum of sgd and gd."""
    adam_eps: float = 1e-8
    """The term that adamw adds to the root of the second moment."""
    weight_decay_layers: str = "all"
    """Where --weight-decay acts: all, classifier, hidden, or a factor for each layer: 1,0,0,4."""
    penalty: Literal["none", "rnc1", "quotient", "cdnv", "etf", "random"] = "none"
    """A push on the hidden layers: the gradient of a metric's logarithm, or a random direction."""
    penalty_mode: str = "ratio:0.3"
    """ratio:R gives it R times the norm of the loss's gradient; servo:X holds X times its start."""
    penalty_from: str = "0"
    """The step at which the penalty starts; fit: the first log point of training accuracy 0.99."""
    penalty_until: int | None = None
    """The step at which the penalty ends; None: never."""
    batch_size: int = 100
    """Samples per step; the data are reshuffled each epoch. Not used by gd."""
    steps: int = setting(100_000, may_change=True)
    """Total number of steps; with --resume it may be raised."""
    seed: int = setting(42, per_replica=True)
    """Seed of the initialisation and the data order."""
    schedule: str = "paper"
    """Steps at which the training split is measured: paper, log:POINTS, every or every:N."""
    test_schedule: str | None = None
    """Steps at which the test split is measured too; None: the same as --schedule."""
    probes: str = "log:12"
    """Steps of the probes, which measure margins, principal components and information."""
    sigma: tuple[float, ...] = (0.1,)
    """Noise of the information estimates and bounds, relative to the largest feature norm."""
    information: int = 1500
    """Test samples used for the information estimates at the probes; 0 disables the estimates."""
    checkpoint_every: int = setting(10_000, may_change=True)
    """Steps between checkpoints. A checkpoint is also written at the end and on an interrupt."""
    data_dir: Path | None = setting(None, may_change=True)
    """Folder of the dataset files; None: the value of the environment variable NCFAST_DATA."""
    download: bool = setting(False, may_change=True)
    """Download missing dataset files from the official mirrors and verify them."""
    device: str = setting("auto", may_change=True)
    """cpu, cuda, cuda:1, ...; auto uses a GPU if there is one."""
    start_from: Annotated[Path | None, tyro.conf.arg(name="from")] = setting(None, per_replica=True)
    """A run, or a sweep of the same seeds: start from its checkpoint, with the batches to come."""
    resume: bool = setting(False, may_change=True)
    """Continue the run in --out from its last checkpoint, with the same settings."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "checkpoint_every", "patch_size"):
            check_positive(name, getattr(self, name))
        check_seed(self.seed)
        if not 0 <= self.momentum < 1:
            raise ValueError(f"Expected `momentum` in [0, 1) but got {self.momentum}.")
        check_positive("adam_eps", self.adam_eps)
        parse_decay_layers(self.weight_decay_layers)
        parse_penalty_mode(self.penalty_mode, self.penalty)
        parse_penalty_from(self.penalty_from)
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
        """Samples per step: the whole training split with gd, otherwise at most ``batch_size``."""
        return train_size if self.optimizer == "gd" else min(self.batch_size, train_size)

    def schedules(self) -> Schedules:
        """The steps at which this run measures.

        Raises:
            ValueError: a schedule cannot be parsed.
        """
        test = self.test_schedule or self.schedule
        return Schedules(
            *(schedule.parse(text, self.steps) for text in (self.schedule, test, self.probes))
        )


class Schedules(NamedTuple):
    """The steps at which a run measures its training split, its test split, and its probes."""

    train: schedule.Schedule
    test: schedule.Schedule
    probe: schedule.Schedule


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Recipe):
    """Train a classifier and track its collapse. The defaults are the grokking recipe F2."""

    train_size: int | None = None
    """Number of training samples, from the start. None: 200 for digits, 1000 for the others."""
    init_scale: float = setting(8.0, per_replica=True)
    """Factor on the initial parameters selected by --scale-layers."""
    loss: Literal["mse", "ce"] = "mse"
    """mse: squared error on one-hot labels, or ce: cross-entropy; both summed over the batch."""
    lr: float = setting(1e-3, per_replica=True)
    """Learning rate."""
    weight_decay: float = setting(0.01, per_replica=True)
    """Weight decay, 0 or more: decoupled with adamw, L2 (decay times parameter) with sgd and gd."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("lr", self.lr)
        check_positive("init_scale", self.init_scale)
        check_decay(self.weight_decay)
        if self.train_size is not None:
            check_positive("train_size", self.train_size)

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], out: Path) -> TrainConfig:
        """The configuration stored in a run's config.json; unknown keys are ignored.

        Args:
            settings: the entry "settings" of config.json.
            out: the current directory of the run.
        """
        return cls(**{**stored_settings(cls, settings), "out": out})

    @property
    def effective_train_size(self) -> int:
        """Number of training samples, with the default of the dataset applied."""
        return effective_train_size(self.train_size, self.dataset)

    @property
    def program(self) -> tuple[object, ...]:
        """The values of the settings that replicas of one batched program share; see `setting`."""
        return tuple(
            getattr(self, entry.name)
            for entry in fields(self)
            if not entry.metadata.get("per_replica")
        )


def effective_train_size(train_size: int | None, dataset: str) -> int:
    """Number of training samples, with the default of the dataset applied."""
    if train_size is not None:
        return train_size
    return 200 if dataset == "digits" else 1000


def parse_decay_layers(text: str) -> tuple[float, ...] | None:
    """The factors of the layers that `Recipe.weight_decay_layers` lists; None if it has a word.

    Raises:
        ValueError: it is neither a word nor a list of numbers.
    """
    if text in ("all", "classifier", "hidden"):
        return None
    try:
        factors = tuple(float(part) for part in text.split(","))
    except ValueError:
        factors = ()
    if not factors or not all(0 <= factor < math.inf for factor in factors):
        raise ValueError(
            "Expected `weight_decay_layers` to be 'all', 'classifier', 'hidden' or a factor for "
            f"each layer, such as '1,0,0,4', but got {text!r}."
        )
    return factors


class PenaltyMode(NamedTuple):
    """How strong a penalty is; see `Recipe.penalty_mode`."""

    servo: bool
    value: float


def parse_penalty_mode(text: str, penalty: str) -> PenaltyMode:
    """The mode that ``text`` names.

    Raises:
        ValueError: it names none, or one that the penalty does not have.
    """
    kind, _, number = text.partition(":")
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if kind not in ("ratio", "servo") or not 0 < value < math.inf or text == "servo:1":
        raise ValueError(
            "Expected `penalty_mode` to be 'ratio:R' with R > 0, or 'servo:X' with X > 0 other "
            f"than 1, but got {text!r}."
        )
    if kind == "servo" and penalty == "random":
        raise ValueError(
            "Expected `penalty_mode` to be 'ratio:R' with penalty 'random', which has no value to "
            f"hold, but got {text!r}."
        )
    return PenaltyMode(kind == "servo", value)


def parse_penalty_from(text: str) -> int | None:
    """The step at which a penalty starts; None for "fit".

    Raises:
        ValueError: it is neither a step nor "fit".
    """
    if text == "fit":
        return None
    if not text.isdecimal() or len(text) > 18:  # Python refuses to read thousands of digits
        raise ValueError(f"Expected `penalty_from` to be 'fit' or a step but got {text!r}.")
    return int(text)


def check_positive(name: str, value: float) -> None:
    """Raise ValueError unless ``value`` is positive and finite."""
    if not 0 < value < math.inf:
        raise ValueError(f"Expected `{name}` to be positive and finite but got {value}.")


def check_seed(value: int) -> None:
    """Raise ValueError unless ``value`` is a valid seed of torch."""
    if not -(2**63) <= value < 2**63:
        raise ValueError(f"Expected `seed` to be an integer of 64 bits but got {value}.")


def check_decay(value: float) -> None:
    """Raise ValueError unless ``value`` is zero or more, and finite."""
    if not 0 <= value < math.inf:
        raise ValueError(f"Expected `weight_decay` to be zero or more but got {value}.")


def stored_settings(kind: type[Recipe], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings read from JSON, converted to the types of ``kind``.

    Unknown settings are ignored, and absent ones keep their defaults: another version may have
    written them.

    Raises:
        ValueError: a setting has another type.
    """
    hints, values = get_type_hints(kind), {}
    known = [entry.name for entry in fields(kind) if entry.name in settings]
    for name in known:
        try:
            values[name] = convert(settings[name], hints[name])
        except TypeError as error:  # noqa: PERF203
            got = repr(settings[name])
            got = got if len(got) <= 80 else f"{got[:77]}..."
            raise ValueError(f"Expected `{name}` to be {error} but got {got}.") from None
    return values


@dataclass(frozen=True)
class ReportConfig:
    """Draw runs: report.html and PNG figures."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Directories made by `ncfast train` or `ncfast sweep`."""
    out: Path | None = None
    """Directory of the report; None: the first run's directory."""
    watch: bool = False
    """Rewrite the page, which reloads itself, until the runs have reached their last step."""
