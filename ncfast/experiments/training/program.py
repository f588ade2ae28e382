"""The batched trainer: R replicas advance by one step in one call."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ncfast.experiments.config import TrainConfig
from ncfast.experiments.data import ImageSet
from ncfast.experiments.models import build_model
from ncfast.experiments.training.batches import ReplicaBatches
from ncfast.experiments.training.captured_step import CapturedStep
from ncfast.experiments.training.checkpoint import check_fits
from ncfast.experiments.training.engine import Engine, make_engine
from ncfast.experiments.training.optimizers import StackedOptimizer, make_stacked_optimizer

# On a CPU a few replicas at a time keep weights, gradients and averages in the cache between the
# matrix products and the optimiser; an even number feeds two threads evenly.
CPU_TILE = 4


class Tile:
    """A few replicas that are computed together.

    Args:
        configs: their settings.
        train: the training split, on the device.
        device: where to train.
    """

    def __init__(
        self, configs: Sequence[TrainConfig], train: ImageSet, device: torch.device
    ) -> None:
        models = [build_model(config, train) for config in configs]
        self.engine: Engine = make_engine(models, configs[0].loss, device)
        self.optimizer: StackedOptimizer = make_stacked_optimizer(
            configs, self.engine.parameters, self.engine.gradients
        )
        self.batches = ReplicaBatches(configs, train)
        self._update = CapturedStep(self._run, device)

    def _run(self, indices: Tensor) -> None:
        self.engine.backward(*self.batches.take(indices))
        self.optimizer.step()

    def step(self) -> None:
        """One update of each replica on its next batch."""
        self._update(self.batches.indices())


class ReplicaProgram:
    """Replicas of one architecture, dataset, loss and batch size, each with its own seed and rates.

    After any number of steps a replica equals the network that a plain PyTorch loop trains with its
    settings, to float32 rounding. It does not see its neighbours: on a CPU its weights are bitwise
    the same in any company, and to float32 rounding the same alone.

    Args:
        configs: settings of the replicas; `TrainConfig.program` is what they must share.
        train: the training split, on the device.
        device: where to train.
        tile: replicas computed together; None chooses for the device.

    Raises:
        ValueError: no replica, or replicas that cannot share a program.

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
                f"architecture, dataset, loss and optimiser, but got {kinds} kinds."
            )
        self.configs = list(configs)
        parts = _tiles(len(configs), tile or (CPU_TILE if device.type == "cpu" else len(configs)))
        self.tiles = [Tile([self.configs[r] for r in part], train, device) for part in parts]
        self._places = [
            (tile, row)
            for tile, part in zip(self.tiles, parts, strict=True)
            for row in range(len(part))
        ]

    def step(self) -> None:
        """One update of every replica."""
        for tile in self.tiles:
            tile.step()

    def place(self, replica: int) -> tuple[Tile, int]:
        """The tile of a replica, and its row there."""
        return self._places[replica]

    def model_state(self, replica: int) -> dict[str, Tensor]:
        """The state_dict that the network of this replica would have alone; views."""
        tile, row = self.place(replica)
        engine = tile.engine
        parameters = zip(engine.names, engine.parameters, strict=True)
        return {name: value[row] for name, value in (*parameters, *engine.buffers().items())}

    def state(self, replica: int) -> dict[str, Tensor]:
        """Everything that decides how a replica goes on, by the names of its checkpoint."""
        tile, row = self.place(replica)
        found = {f"model/{name}": value for name, value in self.model_state(replica).items()}
        order = tile.batches.orders[row].state_dict()
        found |= {f"order/{name}": value for name, value in order.items()}
        optimizer = tile.optimizer.state(row)
        return found | {f"optimizer/{name}": value for name, value in optimizer.items()}

    def load(self, replica: int, state: dict[str, Tensor]) -> None:
        """Restore what `state` gave; replicas of one tile must be at the same step.

        Raises:
            ValueError: a tensor is missing, or its shape or dtype is another one.
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


def _tiles(number: int, width: int) -> list[range]:
    """Ranges of at most ``width`` replicas; none of one alone where it can be helped.

    A batch of one goes through another routine of the BLAS, which rounds otherwise on two threads.
    """
    parts = [range(start, min(start + width, number)) for start in range(0, number, width)]
    if width > 1 and len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [range(parts[-2].start, number)]
    return parts
