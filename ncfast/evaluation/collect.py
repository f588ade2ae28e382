"""From arguments to accumulators, one for each layer, and from those to an `Evaluation`."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor

from ncfast import _ranks
from ncfast.accumulator import Accumulator
from ncfast.evaluation.result import Evaluation


def all_reduced(accumulators: Mapping[str, Accumulator], group: dist.ProcessGroup | None) -> None:
    """Merge every accumulator with those of the other ranks."""
    for accumulator in accumulators.values():
        accumulator.all_reduce(group)


def summed(values: Tensor, several: bool, group: dist.ProcessGroup | None) -> list[float]:
    """Sums over the ranks of a (n,) float64 tensor, as Python numbers."""
    if several:
        device = "cuda" if dist.get_backend(group) == "nccl" else "cpu"
        call = f"{len(values)} counts of an evaluation"
        values = _ranks.gather(values.to(device), call, f"{len(values)} sums", group).sum(0)
    found: list[float] = values.tolist()
    return found


@torch.no_grad()
def collected(
    accumulators: Mapping[str, Accumulator],
    *,
    accuracy: float | None,
    missing: Mapping[str, str],
    nonfinite: tuple[int, int] = (0, 0),
) -> Evaluation:
    """The metrics of every layer, read on the host once a layer.

    Raises:
        ValueError: there is no row to measure; see `Accumulator.compute`.

    Args:
        accumulators: by layer.
        accuracy: of the network; None where nothing told it.
        missing: keys that no accumulator was asked for, and why.
        nonfinite: rows that were skipped, of the data and from outside the distribution.
    """
    if not all(map(_rows, accumulators.values())):
        raise ValueError(
            "Expected at least one row to measure but got no batch, or batches whose labels and "
            "masks leave out every row."
        )
    numbers = {} if accuracy is None else {"accuracy": accuracy}
    left_out = dict(missing)
    for layer, accumulator in accumulators.items():
        prefix = f"{layer}/" if len(accumulators) > 1 else ""
        values = accumulator.compute()
        read = torch.stack(list(values.values())).tolist() if values else []
        numbers |= {prefix + id_: value for id_, value in zip(values, read, strict=True)}
        # what an accumulator adds, the name of its method, is not for who calls `evaluate`
        reasons = accumulator.missing.items()
        left_out |= {prefix + id_: why.partition(":")[0] for id_, why in reasons}
    first = next(iter(accumulators.values()))
    return Evaluation(
        numbers,
        layers=tuple(accumulators),
        num_classes=first.num_classes,
        samples=int(first.moments.total),
        ignored=int(first.ignored) - nonfinite[0],
        missing=left_out,
        nonfinite=sum(nonfinite),
    )


def _rows(accumulator: Accumulator) -> int:
    try:
        return int(accumulator.moments.total)
    except ValueError:  # no batch at all
        return 0
