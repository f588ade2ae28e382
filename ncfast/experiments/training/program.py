"""The batched training program: one call advances R replicas by one step."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ncfast.experiments.config import TrainConfig, parse_penalty_from
from ncfast.experiments.data import ImageSet
from ncfast.experiments.models import build_model
from ncfast.experiments.training.batches import ReplicaBatches
from ncfast.experiments.training.checkpoint import check_fits
from ncfast.experiments.training.engine import Engine, make_engine
from ncfast.experiments.training.optimizers import StackedOptimizer, make_stacked_optimizer
from ncfast.experiments.training.penalty import Penalty, is_classifier, norms_of

# On a CPU, computing few replicas at a time keeps weights, gradients and averages in the cache
# between the matrix products and the optimizer. An even number balances two threads.
CPU_TILE = 4
_WARM_UP = 3  # eager steps on CUDA before a graph is captured


class CapturedStep:
    """A training step that takes (R, B) indices. On CUDA it becomes one graph launch.

    On CUDA the first calls run eagerly, to warm up libraries and the allocator. Then one graph is
    captured for each shape of the indices, because the last batch of an epoch may be short, and for
    each ``kind`` of step.

    Args:
        function: the step; on CUDA it must not synchronise, and every call must use the same
            tensors.
        device: where the step runs.
    """

    def __init__(self, function: Callable[[Tensor], None], device: torch.device) -> None:
        self._function, self._device = function, device
        self._graphs: dict[tuple[torch.Size, object], tuple[torch.cuda.CUDAGraph, Tensor]] = {}
        self._calls = 0

    def __call__(self, indices: Tensor, kind: object = None) -> None:
        """Run one step on ``indices``, (R, B) int64 on the CPU."""
        if self._device.type != "cuda":
            self._function(indices.to(self._device))
            return
        self._calls += 1
        if self._calls <= _WARM_UP:
            self._on_side_stream(indices)
            return
        key = (indices.shape, kind)
        if key not in self._graphs:
            self._graphs[key] = self._capture(indices)
        graph, static = self._graphs[key]
        static.copy_(indices.pin_memory(), non_blocking=True)
        graph.replay()

    def _on_side_stream(self, indices: Tensor) -> None:
        stream = torch.cuda.Stream(self._device)
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream):
            self._function(indices.to(self._device))
        torch.cuda.current_stream(self._device).wait_stream(stream)

    def _capture(self, indices: Tensor) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        static = torch.empty_like(indices, device=self._device)
        graph = torch.cuda.CUDAGraph()
        # capturing does not execute: the first replay is the step
        static.copy_(indices)
        with torch.cuda.graph(graph):
            self._function(static)
        return graph, static


class Tile:
    """A few replicas that are computed together.

    Args:
        configs: settings of the replicas.
        train: the training split, on the device.
        device: where to train.
    """

    def __init__(
        self, configs: Sequence[TrainConfig], train: ImageSet, device: torch.device
    ) -> None:
        models = [build_model(config, train) for config in configs]
        self.engine: Engine = make_engine(models, configs[0].loss, device)
        self.optimizer: StackedOptimizer = make_stacked_optimizer(
            configs, self.engine.names, self.engine.parameters, self.engine.gradients
        )
        self.penalty: Penalty | None = None
        if configs[0].penalty != "none":
            self.penalty = Penalty(configs, self.engine.names, train.num_classes, device)
        self.batches = ReplicaBatches(configs, train)
        self._hidden = [i for i, n in enumerate(self.engine.names) if not is_classifier(n)]
        self._stepped = False
        self._update = CapturedStep(self._run, device)

    def _run(self, indices: Tensor) -> None:
        batch, penalty = self.batches.take(indices), self.penalty
        if penalty is None or not penalty.running:
            self.engine.backward(*batch)
        elif penalty.of_features:
            self.engine.backward(*batch, penalty.pull)
            penalty.add(self.engine.gradients, self.engine.pulled)
        else:
            self.engine.backward(*batch)
            penalty.add(self.engine.gradients, penalty.direction)
        self.optimizer.step()

    def step(self, number: int) -> None:
        """Update each replica once, on its next batch; ``number`` updates were made before."""
        penalty = self.penalty
        running = penalty is not None and penalty.running
        if penalty is not None and running:
            penalty.redraw(self.engine.parameters, number)
        self._update(self.batches.indices(), running)
        self._stepped = True

    def loss_gradient_norms(self) -> Tensor | None:
        """Norm of the loss's gradient in the last step, over the hidden layers, (R,) float64.

        None before the first step. The gradient of a penalty is not part of it.
        """
        if not self._stepped:
            return None
        if self.penalty is not None and self.penalty.running:
            return self.penalty.state["loss"]
        return norms_of([self.engine.gradients[i] for i in self._hidden])


class ReplicaProgram:
    """Replicas that share architecture, data, loss and batch size and differ in seed and rates.

    After any number of steps, a replica's weights equal those of a simple PyTorch training loop
    with the same settings, up to float32 rounding. They do not depend on the other replicas: on a
    CPU they are bitwise equal with any other replicas. A replica trained alone may differ by
    float32 rounding.

    Args:
        configs: settings of the replicas; all must have the same `TrainConfig.program`.
        train: the training split, on the device.
        device: where to train.
        tile: number of replicas computed together; None chooses it for the device.

    Raises:
        ValueError: there is no replica, or the replicas cannot share a program.

    Example:
        >>> from pathlib import Path
        >>> import torch
        >>> from ncfast.experiments.config import TrainConfig
        >>> from ncfast.experiments.data import make_gaussians
        >>> configs = [TrainConfig(out=Path("x"), widths=(8,), seed=seed) for seed in (1, 2, 3)]
        >>> program = ReplicaProgram(configs, make_gaussians()[0], torch.device("cpu"))
        >>> program.step()
        >>> program.model_state(2)["features.linear1.weight"].shape
        torch.Size([8, 32])
    """

    def __init__(
        self,
        configs: Sequence[TrainConfig],
        train: ImageSet,
        device: torch.device,
        *,
        tile: int | None = None,
    ) -> None:
        kinds = len({config.program for config in configs})
        if kinds != 1:
            raise ValueError(
                "Expected argument `configs` to hold at least one replica, and replicas of one "
                f"architecture, dataset, loss and optimizer, but got {kinds} kinds."
            )
        self.configs = list(configs)
        parts = _tiles(len(configs), tile or (CPU_TILE if device.type == "cpu" else len(configs)))
        self.tiles = [Tile([self.configs[r] for r in part], train, device) for part in parts]
        self._places = [
            (tile, row)
            for tile, part in zip(self.tiles, parts, strict=True)
            for row in range(len(part))
        ]

    def step(self, number: int = 0) -> None:
        """Update every replica once; ``number`` updates were made before.

        A penalty that starts or ends at a step does so here.
        """
        config = self.configs[0]
        start, until = parse_penalty_from(config.penalty_from), config.penalty_until
        over = until is not None and number >= until
        for tile in self.tiles:
            if tile.penalty is None:
                continue
            if over and tile.penalty.running:
                tile.penalty.end()
            elif not over and start is not None and number >= start:
                tile.penalty.begin_all()
        for tile in self.tiles:
            tile.step(number)

    def begin_penalty(self, replica: int) -> None:
        """Start the penalty of a replica, if it has one that does not run."""
        tile, row = self.place(replica)
        if tile.penalty is not None:
            tile.penalty.begin(row)

    def place(self, replica: int) -> tuple[Tile, int]:
        """The tile of a replica, and its row in the tile."""
        return self._places[replica]

    def model_state(self, replica: int) -> dict[str, Tensor]:
        """The state_dict of this replica's network, as views of the stacked tensors."""
        tile, row = self.place(replica)
        engine = tile.engine
        parameters = zip(engine.names, engine.parameters, strict=True)
        return {name: value[row] for name, value in (*parameters, *engine.buffers().items())}

    def state(self, replica: int) -> dict[str, Tensor]:
        """The complete training state of a replica, by the names used in its checkpoint."""
        tile, row = self.place(replica)
        found = {f"model/{name}": value for name, value in self.model_state(replica).items()}
        order = tile.batches.orders[row].state_dict()
        found |= {f"order/{name}": value for name, value in order.items()}
        optimizer = tile.optimizer.state(row)
        found |= {f"optimizer/{name}": value for name, value in optimizer.items()}
        kept = {} if tile.penalty is None else tile.penalty.state
        return found | {f"penalty/{name}": value[row] for name, value in kept.items()}

    def load(self, replica: int, state: dict[str, Tensor]) -> None:
        """Restore a state that `state` returned; all replicas of a tile must be at the same step.

        Raises:
            ValueError: a tensor is missing, unknown, or has the wrong shape or dtype.
        """
        check_fits(state, self.state(replica))
        tile, row = self.place(replica)

        def part(prefix: str) -> dict[str, Tensor]:
            return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}

        saved = part("model/")
        for name, value in self.model_state(replica).items():
            value.copy_(saved[name])
        tile.batches.orders[row].load_state_dict(part("order/"))
        tile.optimizer.load(row, part("optimizer/"))
        if tile.penalty is not None:
            tile.penalty.load(row, part("penalty/"))


def _tiles(number: int, width: int) -> list[range]:
    """Split ``number`` replicas into ranges of about ``width``, avoiding a last range of one.

    The BLAS uses a different routine for a batch of one; on two threads its rounding differs.
    """
    parts = [range(start, min(start + width, number)) for start in range(0, number, width)]
    if width > 1 and len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [range(parts[-2].start, number)]
    return parts
