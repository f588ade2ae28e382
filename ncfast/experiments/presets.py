"""Presets of `ncfast sweep`: the experiments of arXiv 2509.20829 and of its open questions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ncfast.experiments.sweep_config import SweepConfig

_SIX = (0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
_MNIST: dict[str, Any] = {"dataset": "mnist", "train_size": (1000,)}
_DIGITS: dict[str, Any] = {"dataset": "digits", "train_size": (200,)}
# with a decay of 0.3 or 0.1 the digits grok within 15,000 steps
_QUICK: dict[str, Any] = {**_DIGITS, "weight_decay": (0.3, 0.1), "seeds": 2, "steps": 15_000}
# the setting of Theorem 4.3: full-batch gradient descent, smooth activation, last layers linear.
# The loss is a sum over samples, so the ratio of decay to samples matters. A larger ratio reaches a
# floor of RNC1 early; a smaller one needs a number of steps proportional to 1 / (lr * decay).
_THEORY: dict[str, Any] = {
    "optimizer": "gd",
    "activation": "smooth-leaky-relu",
    "last_activation": False,
    "init_scale": (1.5,),
    "schedule": "log:200",
}


@dataclass(frozen=True)
class Preset:
    """An experiment.

    Attributes:
        about: the claim or question it examines.
        full: settings of its full form; other settings keep their defaults.
        quick: settings of its small form on the digits, which takes minutes on two cores.
    """

    about: str
    full: Mapping[str, Any]
    quick: Mapping[str, Any]


PRESETS: dict[str, Preset] = {
    "f2": Preset(
        "Figure 2: an MLP fits 1,000 MNIST images at once and generalises much later.",
        {**_MNIST, "weight_decay": (0.01,)},
        {**_QUICK, "weight_decay": (0.3,), "seeds": 1},
    ),
    "f3": Preset(
        "Figure 3: RNC1 and NC2 fall when test accuracy rises, earlier for larger decay.",
        {**_MNIST, "weight_decay": _SIX, "seeds": 5},
        _QUICK,
    ),
    "f4": Preset(
        "Figure 4: superfluous information falls late, earlier for larger decay.",
        {**_MNIST, "weight_decay": _SIX, "seeds": 5, "probes": "log:24"},
        {**_QUICK, "probes": "log:16"},
    ),
    "f5": Preset(
        "Figure 5: margins between classes collapse to points, those of unseen data later.",
        {**_MNIST, "weight_decay": (0.1,), "probes": "log:24"},
        {**_QUICK, "weight_decay": (0.3,), "seeds": 1, "probes": "log:16"},
    ),
    "f6": Preset(
        "Figure 6: Fashion-MNIST groks too, slightly earlier with 3,000 images.",
        {"dataset": "fashion-mnist", "train_size": (1000, 3000), "weight_decay": _SIX, "seeds": 5},
        {**_QUICK, "train_size": (100, 200), "weight_decay": (0.3,)},
    ),
    "f7": Preset(
        "Figures 7 and 8: a CNN does not grok; it has collapsed when it first fits.",
        {
            **_MNIST,
            "model": "cnn",
            "scale_layers": "linear",
            "weight_decay": _SIX,
            "seeds": 5,
        },
        {**_QUICK, "model": "cnn", "scale_layers": "linear", "steps": 4000},
    ),
    "f9": Preset(
        "Figure 9: a one-layer transformer does not grok; NC1 follows accuracy, RNC1 does not.",
        {
            **_MNIST,
            "model": "transformer",
            "scale_layers": "linear",
            "weight_decay": _SIX,
            "seeds": 5,
        },
        {
            **_QUICK,
            "model": "transformer",
            "scale_layers": "linear",
            "weight_decay": (0.3, 0.01),
            "seeds": 1,
            "steps": 4000,
        },
    ),
    "f14": Preset(
        "Figure 14: a ResNet18 on CIFAR-10: information gaps and RNC1 fall late.",
        {
            "dataset": "cifar10",
            "train_size": (50_000,),
            "model": "resnet18",
            "init_scale": (1.0,),
            "weight_decay": _SIX,
            "seeds": 5,
        },
        {
            **_DIGITS,
            "model": "resnet18",
            "init_scale": (1.0,),
            "weight_decay": (0.1,),
            "batch_size": 50,
            "steps": 150,
            "test_schedule": "log:20",
        },
    ),
    "theory": Preset(
        "Theorem 4.3 in its own setting: tau_2 goes as 1 / (lambda eta), tau_1 does not.",
        {
            **_MNIST,
            **_THEORY,
            "weight_decay": (10.0, 5.0, 2.5, 1.2, 0.6),
            "seeds": 3,
            "steps": 400_000,
            "lr": (1e-5,),
        },
        {
            **_THEORY,
            "dataset": "digits",
            "train_size": (100,),
            "widths": (100, 100),
            "weight_decay": (1.0, 0.5, 0.25, 0.12),
            "seeds": 2,
            "steps": 80_000,
            "lr": (1e-4,),
        },
    ),
    "cross-entropy": Preset(
        "Cross-entropy instead of the squared loss: do the same things happen?",
        {**_MNIST, "loss": ("ce",), "weight_decay": (0.3, 0.1, 0.03), "seeds": 3},
        {**_QUICK, "loss": ("ce",)},
    ),
    "no-decay": Preset(
        "No weight decay at all: does anything happen after the fit?",
        {**_MNIST, "weight_decay": (0.0,), "seeds": 3},
        {**_QUICK, "weight_decay": (0.0,), "seeds": 3},
    ),
    "noise": Preset(
        "How much the information estimates and bounds depend on the noise.",
        {**_MNIST, "weight_decay": (0.1,), "seeds": 2, "sigma": (0.01, 0.03, 0.1, 0.3)},
        {**_QUICK, "weight_decay": (0.3,), "sigma": (0.01, 0.03, 0.1, 0.3)},
    ),
    "early-bird": Preset(
        "Runs in which test accuracy rises before RNC1 falls: how many seeds?",
        {**_MNIST, "weight_decay": (0.1,), "seeds": 10},
        {**_QUICK, "weight_decay": (0.1,), "seeds": 4, "steps": 20_000},
    ),
}


def expand(config: SweepConfig) -> SweepConfig:
    """The settings of the preset that ``config`` names, with the directory of ``config``.

    Raises:
        ValueError: ``config`` names no preset.
    """
    if config.preset is None:
        raise ValueError(f"Expected `preset` to be one of {', '.join(PRESETS)} but got None.")
    preset = PRESETS[config.preset]
    base = SweepConfig(out=config.out, preset=config.preset, quick=config.quick)
    return replace(base, **(preset.quick if config.quick else preset.full))
