"""Probes of a replica's features at chosen steps: bounds, information, margins, components."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ncfast.experiments.data import ImageSet, TextSet
from ncfast.experiments.run_dir import PROBES_FILE, truncate_log
from ncfast.experiments.training.program import ReplicaProgram
from ncfast.information import EstimateWarning, InformationPlane
from ncfast.metrics.bounds import generalization_bound, superfluous_information_bound
from ncfast.metrics.margins import class_margins, margin_histograms
from ncfast.tracking.sinks import JsonlSink

PAIRS = ((0, 1), (4, 5), (8, 9))  # the class pairs of figure 5 of the paper
BINS = 60
POINTS = 300  # points of each split in the plot of principal components
_ROWS = 2500


class Planes:
    """The information plane of the first samples of a split, for several levels of noise.

    Texts have no estimates, because distances between token ids have no meaning.

    Args:
        split: the test split, on the device.
        sigmas: noise relative to the largest feature norm.
        samples: number of samples; 0 disables the estimates.
    """

    def __init__(self, split: ImageSet, sigmas: Sequence[float], samples: int) -> None:
        self._rows = 0 if isinstance(split, TextSet) else min(samples, len(split))
        self._planes: dict[float, InformationPlane] = {}
        if self._rows:
            inputs, labels = split.batch(slice(0, self._rows))
            flat = inputs.flatten(1)
            self._planes = {sigma: InformationPlane(flat, labels, sigma=sigma) for sigma in sigmas}

    def __call__(self, feats: Tensor) -> dict[str, float]:
        """Estimates and standard errors in nats, by "information.{what}@{sigma}".

        Args:
            feats: (N, D) features of the whole split. If they are all zero or not finite, the
                result is empty.
        """
        feats = feats[: self._rows]
        if not self._planes or not feats.isfinite().all() or not feats.any():
            return {}
        found = {}
        for sigma, plane in self._planes.items():
            with warnings.catch_warnings():
                # at step 0 every network causes warnings; the report mentions them
                warnings.simplefilter("ignore", EstimateWarning)
                point = plane(feats)
            for name in ("inputs", "labels", "superfluous"):
                estimate = getattr(point, name)
                found[f"information.{name}@{sigma:g}"] = estimate.value
                found[f"information.{name}_stderr@{sigma:g}"] = estimate.stderr
        return found


class ProbeLog:
    """The probes of one replica; probes.jsonl holds one JSON object per line.

    Args:
        out: the replica's directory.
        sigmas: noise levels of the information bound, relative to the largest feature norm.
        planes: the information estimates on the test split.
    """

    def __init__(self, out: Path, sigmas: Sequence[float], planes: Planes) -> None:
        self._path, self._sigmas, self._planes = out / PROBES_FILE, tuple(sigmas), planes

    @staticmethod
    def truncate(out: Path, last_step: int) -> None:
        """Remove the probes after ``last_step``."""
        truncate_log(out / PROBES_FILE, last_step)

    @torch.no_grad()
    def take(
        self, program: ReplicaProgram, replica: int, splits: Mapping[str, ImageSet], step: int
    ) -> dict[str, float]:
        """Probe the current state of the replica.

        Returns:
            Scalars for the record of the step. Histograms and points are appended to the file.
        """
        state = program.model_state(replica)
        weight, bias = state["classifier.weight"], state["classifier.bias"]
        scalars: dict[str, float] = {}
        features = {name: features_of(program, replica, split) for name, split in splits.items()}
        for name, feats in features.items():
            labels = splits[name].labels
            bound = generalization_bound(feats, labels, weight, bias)
            scalars[f"{name}/bound.generalization"] = bound.item()
            scalars |= self._information(name, feats, labels, len(weight))
        estimates = self._planes(features["test"])
        scalars |= {f"test/{name}": value for name, value in estimates.items()}
        shapes: dict[str, Any] = {
            "step": step,
            "margins": _margins(features, splits, weight, bias),
            "components": _components(features, splits),
        }
        sink = JsonlSink(self._path)
        sink.write(shapes)
        sink.close()
        return scalars

    def _information(
        self, name: str, feats: Tensor, labels: Tensor, num_classes: int
    ) -> dict[str, float]:
        found = {}
        for sigma in self._sigmas:
            for form in ("logdet", "trace"):
                bound = superfluous_information_bound(
                    feats, labels, sigma=sigma, form=form, num_classes=num_classes
                )
                key = "bound.superfluous" if form == "logdet" else "bound.superfluous_trace"
                found[f"{name}/{key}@{sigma:g}"] = bound.item()
        return found


def features_of(program: ReplicaProgram, replica: int, split: ImageSet) -> Tensor:
    """Features (N, D) of one replica on a whole split, in eval mode."""
    tile, row = program.place(replica)
    parts = [tile.engine.evaluate(inputs)[0][row] for inputs, _ in split.batches(_ROWS)]
    return torch.cat(parts)


def _margins(
    features: Mapping[str, Tensor], splits: Mapping[str, ImageSet], weight: Tensor, bias: Tensor
) -> dict[str, Any]:
    """Margin histograms (pair, side, bin) of each split, with bin edges shared by both splits."""
    pairs = [pair for pair in PAIRS if max(pair) < len(weight)] or [(0, 1)]
    margins = {name: class_margins(f, weight, bias, pairs=pairs) for name, f in features.items()}
    own = {
        name: torch.isin(splits[name].labels, torch.tensor(pairs).flatten().to(weight.device))
        for name in margins
    }
    chosen = torch.cat([margins[name][own[name]].abs().flatten() for name in margins])
    finite = chosen[chosen.isfinite()]
    edge = float(finite.quantile(0.999)) if len(finite) else 0.0
    edge = edge or 1.0
    counts = {
        name: margin_histograms(
            m, splits[name].labels, pairs=pairs, bins=BINS, low=-edge, high=edge
        ).tolist()
        for name, m in margins.items()
    }
    return {"pairs": [list(pair) for pair in pairs], "edge": edge, "counts": counts}


def _components(features: Mapping[str, Tensor], splits: Mapping[str, ImageSet]) -> dict[str, Any]:
    """The first samples of each split, projected on two principal axes of the training features."""
    train = features["train"].to(torch.float64)
    mean = train.mean(0)
    if not train.isfinite().all():
        return {}
    _, values, axes = torch.linalg.svd(train - mean, full_matrices=False)
    share = values.square() / values.square().sum().clamp(min=1e-300)
    found: dict[str, Any] = {"explained": [round(x, 4) for x in share[:2].tolist()]}
    for name, feats in features.items():
        points = (feats[:POINTS].to(torch.float64) - mean) @ axes[:2].T
        found[name] = [[float(f"{x:.4g}") for x in point] for point in points.tolist()]
        found[f"{name}_labels"] = splits[name].labels[:POINTS].tolist()
    return found
