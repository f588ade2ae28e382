"""Pushes the hidden layers of replicas along the gradient of a collapse metric, or at random.

The push is the gradient of the logarithm of a metric of the batch's features, sent through the
hidden layers; the classifier is not pushed. With "ratio" its norm is a share of that of the loss's
gradient. With "servo" a controller chooses its strength, so that the metric of the batches follows
a target: the value at the start of the penalty, moved to a multiple of it within `RAMP` steps.

Nothing here reads a value from the device: a step with a penalty can be captured as a graph.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ncfast.experiments.config import TrainConfig, parse_penalty_mode
from ncfast.losses import metric
from ncfast.moments import ClassMoments, class_moments
from ncfast.ops.gradient import GRADIENT

METRICS = {
    "rnc1": "rnc1.max",
    "quotient": "nc1.quotient",
    "cdnv": "nc1.cdnv",
    "etf": "nc2.etf_error",
}
WARM_UP = 20  # batches whose mean logarithm is the value at the start; they are not pushed
RAMP = 1000  # steps in which the target moves
PROPORTIONAL, INTEGRAL = 100.0, 0.2  # gains, per unit of the logarithm
LARGEST = 1000.0  # strength that the integral can reach
UNWINDING = 10.0  # past the target the integral falls so many times faster than it rose
REDRAWN = 100  # steps for which a random direction is kept


class Penalty:
    """The penalty of R replicas that are computed together.

    Args:
        configs: settings of the replicas, which share those of the penalty.
        names: names of the parameters; those of the classifier are not pushed.
        num_classes: K.
        device: where the replicas are.

    Attributes:
        running: whether any replica is pushed.
        direction: that of a random penalty, (R, ...) for each parameter.
        state: what a checkpoint keeps, (R,) float64 each: "active" (1 while it is pushed), "count"
            (steps since the start), "start" (sum of the logarithms of the warm-up), "integral" of
            the controller, and the last "value", "strength", and norms of both gradients.
    """

    def __init__(
        self,
        configs: Sequence[TrainConfig],
        names: Sequence[str],
        num_classes: int,
        device: torch.device,
    ) -> None:
        self._kind, self._num_classes = configs[0].penalty, num_classes
        self._mode = parse_penalty_mode(configs[0].penalty_mode, self._kind)
        self._seeds = [config.seed for config in configs]
        self._pushed = [i for i, name in enumerate(names) if not is_classifier(name)]
        self.running = False
        self.direction: list[Tensor] = []
        self._drawn_at = -1
        keys = ("active", "count", "start", "integral", "value", "strength", "loss", "penalty")
        zero = torch.zeros(len(configs), dtype=torch.float64, device=device)
        self.state = {key: zero.clone() for key in keys}

    def begin(self, row: int) -> None:
        """Start the penalty of a replica, if it does not run yet."""
        self.state["active"][row] = 1
        self.running = True

    def begin_all(self) -> None:
        """Start the penalty of all replicas, unless it runs."""
        if not self.running:
            self.state["active"].fill_(1)
            self.running = True

    def end(self) -> None:
        """End the penalty of all replicas."""
        self.state["active"].zero_()
        self.state["strength"].zero_()
        self.running = False

    def load(self, row: int, state: dict[str, Tensor]) -> None:
        """Restore the state of a replica, by the keys of ``state``."""
        for name, value in self.state.items():
            value[row] = state[name]
        self.running = bool(self.state["active"].any())

    @property
    def of_features(self) -> bool:
        """Whether the push is a gradient with respect to the features; else a random direction."""
        return self._kind != "random"

    def pull(self, features: Tensor, labels: Tensor) -> Tensor:
        """The gradient of log(metric) of each replica, (R, B, D), and note the value.

        Args:
            features: (R, B, D) of the batches.
            labels: (R, B) int64.
        """
        value, gradient = log_metric(METRICS[self._kind], features, labels, self._num_classes)
        self.state["value"].copy_(value)
        return gradient

    def redraw(self, parameters: Sequence[Tensor], step: int) -> None:
        """Draw a Gaussian direction for each replica; it stays for `REDRAWN` steps."""
        if self.of_features or self._drawn_at == step // REDRAWN:
            return
        self._drawn_at = step // REDRAWN
        if not self.direction:
            self.direction = [torch.zeros_like(p) for p in parameters]
        for row, seed in enumerate(self._seeds):
            generator = torch.Generator().manual_seed(
                (seed * 1_000_003 + self._drawn_at) % (1 << 62)
            )
            for i in self._pushed:
                drawn = torch.randn(parameters[i].shape[1:], generator=generator)
                self.direction[i][row].copy_(drawn)

    @torch.no_grad()
    def add(self, gradients: Sequence[Tensor], pushes: Sequence[Tensor]) -> None:
        """Add the pushes, (R, ...) each, to the gradients of the loss, in place."""
        state = self.state
        state["loss"].copy_(norms_of([gradients[i] for i in self._pushed]))
        size = norms_of([pushes[i] for i in self._pushed])
        if self._mode.servo:
            strength = self._steer()
        else:
            wanted = self._mode.value * state["loss"]
            strength = torch.where(size > 0, wanted / size, 0.0)
        strength = strength * state["active"]
        state["strength"].copy_(strength)
        state["penalty"].copy_(strength.abs() * size)
        for i in self._pushed:
            factor = strength.to(pushes[i].dtype).view(-1, *[1] * (pushes[i].ndim - 1))
            # where: an inactive replica may have a gradient that is not finite
            gradients[i].add_(torch.where(factor == 0, 0.0, pushes[i] * factor))

    def _steer(self) -> Tensor:
        """The strength of each replica: a proportional and integral controller of log(metric)."""
        state = self.state
        value = state["value"]
        state["count"] += state["active"]
        warm = state["count"] <= WARM_UP
        state["start"] += torch.where(warm, value * state["active"], 0.0)
        way = ((state["count"] - WARM_UP) / RAMP).clamp(0, 1)
        wanted = torch.tensor(self._mode.value, dtype=torch.float64, device=value.device)
        target = state["start"] / WARM_UP + way * wanted.log()
        sign = -1.0 if self._mode.value > 1 else 1.0
        error = torch.where(warm, 0.0, sign * (value - target)).nan_to_num(0.0, 0.0, 0.0)
        error = error * state["active"]
        change = torch.where(error < 0, UNWINDING * error, error)
        state["integral"].add_(change).clamp_(0, LARGEST / INTEGRAL)
        return sign * (PROPORTIONAL * error + INTEGRAL * state["integral"]).clamp(min=0)


def is_classifier(name: str) -> bool:
    """Whether a parameter of this name belongs to the classifier, which a penalty spares."""
    return name.startswith("classifier.")


def norms_of(tensors: Sequence[Tensor]) -> Tensor:
    """The norm over all entries of (R, ...) tensors, for each replica, (R,) float64."""
    squares = [
        torch.linalg.vector_norm(t.flatten(1), dim=1, dtype=torch.float64).square() for t in tensors
    ]
    return torch.stack(squares).sum(0).sqrt()


def log_metric(
    id_: str, features: Tensor, labels: Tensor, num_classes: int
) -> tuple[Tensor, Tensor]:
    """Log of a metric of each replica's batch, (R,) float64, and its gradient, (R, B, D).

    All replicas share one pass over the features: a class of one replica is a class of its own.
    """
    replicas, dim = len(features), features.shape[-1]
    offset = torch.arange(replicas, device=labels.device).unsqueeze(1) * num_classes
    flat, classes = features.flatten(0, 1), (offset + labels).flatten()
    whole = class_moments(flat, classes, num_classes=replicas * num_classes)
    norms = torch.linalg.vector_norm(features, dim=2, dtype=torch.float64)
    with torch.enable_grad():
        means, within = (part.requires_grad_() for part in (whole.means, whole.within_ss))
        of_rows = norms.requires_grad_()
        moments = ClassMoments(
            whole.counts.view(replicas, num_classes),
            means.view(replicas, num_classes, dim),
            within.view(replicas, num_classes),
            of_rows.sum(1),
            of_rows.amax(1),
        )
        value = metric(id_, moments).log()
        parts = torch.autograd.grad(value.sum(), (means, within, of_rows), allow_unused=True)
    of_means, of_within, of_norms = parts
    run = GRADIENT.select("auto", flat)
    gradient = run(
        flat, classes, whole.counts, whole.means.detach(), of_means, of_within, None, None
    ).view_as(features)
    if of_norms is not None:
        slope = torch.where(norms > 0, of_norms / norms.detach(), 0.0)
        gradient = gradient + slope.to(features.dtype).unsqueeze(-1) * features
    return value.detach(), gradient
