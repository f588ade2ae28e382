"""Measures all replicas on a split: metrics from class moments, accuracy and loss, in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ncfast.experiments.data import ImageSet
from ncfast.experiments.run_dir import LOGGED
from ncfast.experiments.training.engine import LOSSES
from ncfast.experiments.training.program import ReplicaProgram
from ncfast.experiments.training.readout import Readouts
from ncfast.metrics.catalogue import CATALOGUE
from ncfast.metrics.inputs import MetricInputs
from ncfast.metrics.metric import evaluate
from ncfast.metrics.weights import balancedness, weight_norm
from ncfast.moments import ClassMoments, class_moments

_ROWS = 20_000  # rows of features evaluated at a time, over all replicas


@dataclass
class SplitTotals:
    """Sums over a split for R replicas; see `measure_split`.

    Attributes:
        moments: class moments with R K classes, one for each pair of replica and class.
        norm_sum: sum of the feature norms of each replica, (R,) float64.
        norm_max: largest feature norm of each replica, (R,) float64.
        correct: number of correctly classified samples, (R,).
        loss: summed loss, (R,) float64.
        used: which units have a value other than 0 for some sample, (R, D) bool.
        read: samples that the readouts classify correctly, (2, R) float64; (0, R) without them.
        count: number of samples.
    """

    moments: ClassMoments
    norm_sum: Tensor
    norm_max: Tensor
    correct: Tensor
    loss: Tensor
    used: Tensor
    read: Tensor
    count: int

    def states(self) -> ClassMoments:
        """The class moments with the replicas as leading axis; views."""
        replicas, m = len(self.correct), self.moments
        return ClassMoments(
            m.counts.unflatten(0, (replicas, -1)),
            m.means.unflatten(0, (replicas, -1)),
            m.within_ss.unflatten(0, (replicas, -1)),
            self.norm_sum,
            self.norm_max,
        )


def _totals(
    features: Tensor,
    logits: Tensor,
    labels: Tensor,
    loss: str,
    num_classes: int,
    readouts: Readouts | None,
) -> SplitTotals:
    replicas = len(features)
    offset = torch.arange(replicas, device=labels.device).unsqueeze(1) * num_classes
    moments = class_moments(
        features.flatten(0, 1), (offset + labels).flatten(), num_classes=replicas * num_classes
    )
    norms = torch.linalg.vector_norm(features, dim=2, dtype=torch.float64)
    losses = [LOSSES[loss](rows, labels).to(torch.float64) for rows in logits]
    return SplitTotals(
        moments,
        norms.sum(1),
        norms.amax(1),
        (logits.argmax(2) == labels).sum(1),
        torch.stack(losses),
        features.abs().amax(1) != 0,
        norms.new_zeros(0, replicas) if readouts is None else readouts.correct(features, labels),
        len(labels),
    )


def _merged(one: SplitTotals, other: SplitTotals) -> SplitTotals:
    return SplitTotals(
        one.moments.merge(other.moments),
        one.norm_sum + other.norm_sum,
        torch.maximum(one.norm_max, other.norm_max),
        one.correct + other.correct,
        one.loss + other.loss,
        one.used | other.used,
        one.read + other.read,
        one.count + other.count,
    )


@torch.no_grad()
def totals_of(
    program: ReplicaProgram, split: ImageSet, readouts: Readouts | None = None
) -> SplitTotals:
    """Sums over ``split`` for all replicas, in eval mode."""
    replicas = len(program.configs)
    found: SplitTotals | None = None
    for inputs, labels in split.batches(max(250, min(2500, _ROWS // replicas))):
        parts = [tile.engine.evaluate(inputs) for tile in program.tiles]
        features, logits = (torch.cat(column) for column in zip(*parts, strict=True))
        loss, classes = program.configs[0].loss, split.num_classes
        part = _totals(features, logits, labels, loss, classes, readouts)
        found = part if found is None else _merged(found, part)
    assert found is not None
    return found


@torch.no_grad()
def measure_split(
    program: ReplicaProgram, split: ImageSet, name: str, readouts: Readouts | None = None
) -> list[dict[str, Tensor]]:
    """Accuracy, mean loss, the `LOGGED` metrics and the shape of the features of each replica.

    Args:
        program: the replicas.
        split: the split, on the device of the replicas.
        name: the first part of the keys, such as "train".
        readouts: made from the training split; the result has their accuracies too.

    Returns:
        One dictionary per replica, with 0-d tensors by ``name/metric``.
    """
    totals = totals_of(program, split, readouts)
    moments = totals.states()
    states = [program.model_state(replica) for replica in range(len(program.configs))]
    weight, bias = (
        torch.stack([state[f"classifier.{part}"].to(torch.float64) for state in states])
        for part in ("weight", "bias")
    )
    values = {
        "accuracy": totals.correct.to(torch.float64) / totals.count,
        "loss": totals.loss / totals.count,
        **evaluate(
            {id_: CATALOGUE[id_] for id_ in LOGGED},
            MetricInputs(moments, weight=weight, bias=bias),
        ),
        **_shape_of(moments, totals),
    }
    if readouts is not None:
        nearest, ridge = totals.read / totals.count
        values["nearest_mean_accuracy"] = nearest
        values["ridge_accuracy"] = readouts.left_out if name == "train" else ridge
    columns = {f"{name}/{id_}": value.unbind() for id_, value in values.items()}
    return [
        {key: column[replica] for key, column in columns.items()} for replica in range(len(states))
    ]


def _shape_of(moments: ClassMoments, totals: SplitTotals) -> dict[str, Tensor]:
    """Measures that show how a penalised metric was reached; see `run_dir.CONVENTIONS`."""
    mean_norm = totals.norm_sum / totals.count
    share = (moments.counts / totals.count).to(torch.float64).unsqueeze(2)
    offset = torch.linalg.vector_norm((share * moments.means).sum(1), dim=1)
    return {
        "within_trace": moments.within_trace,
        "norm_ratio": totals.norm_max / mean_norm,
        "common_offset": offset / mean_norm,
        "dead_units": 1 - totals.used.to(torch.float64).mean(1),
    }


# of the last step: log of the metric of its batch, factor on its gradient, norm of the push
_OF_PENALTY = (
    ("log_value", "value"),
    ("strength", "strength"),
    ("gradient_norm", "penalty"),
)


@torch.no_grad()
def measure_weights(program: ReplicaProgram, replica: int) -> dict[str, Tensor]:
    """Norms of the weights and of the last gradient, balancedness of an MLP, force of a penalty."""
    state = program.model_state(replica)
    names = program.tiles[0].engine.names
    found = {"weight.norm": weight_norm([state[name] for name in names])}
    if program.configs[0].model == "mlp":
        last, previous = state["classifier.weight"], state[names[-4]]
        found["balancedness"] = balancedness(last, previous)
        found["balancedness.absolute"] = balancedness(last, previous, relative=False)
    tile, row = program.place(replica)
    if (norms := tile.loss_gradient_norms()) is not None:
        found["loss.gradient_norm"] = norms[row]
    if tile.penalty is not None:
        found |= {f"penalty.{name}": tile.penalty.state[key][row] for name, key in _OF_PENALTY}
    return found


def to_numbers(records: Sequence[dict[str, Tensor]]) -> list[dict[str, float]]:
    """The 0-d tensors of all replicas as numbers, with one copy from the device."""
    flat = [value.to(torch.float64) for record in records for value in record.values()]
    numbers = iter(torch.stack(flat).tolist() if flat else [])
    return [{name: next(numbers) for name in record} for record in records]
