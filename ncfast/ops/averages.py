"""Running averages of packed moments, computed in C++ (``csrc/tracker/average.h``)."""

from __future__ import annotations

import torch
from torch import Tensor

from ncfast.ops import _raw
from ncfast.ops.states import Layout


class CpuAverage:
    """An average over a window of batches on the CPU, or an exponential average.

    Args:
        layout: of the batches' packed moments.
        length: batches in the window; 0 for an exponential average.
        decay: of an exponential average.

    Attributes:
        layout: of the averages, whose counts are weights.
    """

    def __init__(self, layout: Layout, length: int, decay: float) -> None:
        assert _raw.extension is not None, _raw.import_error
        self.layout = layout._replace(integer_counts=False)
        self._sums = _raw.extension.Average(
            layout.classes, layout.dim, length, decay, layout.integer_counts
        )

    def update(self, states: Tensor) -> Tensor:
        """Replace each of the next batches by the average that ends with it.

        A batch that is not finite gives NaN, and does not enter later averages.

        Args:
            states: (n, size) packed moments, oldest first, contiguous.

        Returns:
            The same tensor, whose layout is `layout` now.
        """
        assert type(states) is Tensor
        assert states.is_contiguous()
        self._sums.update(states.data_ptr(), len(states))
        return states

    def state(self) -> Tensor:
        """The complete state, (n,) float64: with it another average gives the same bits."""
        found = torch.empty(self._sums.state_size(), dtype=torch.float64, device="cpu")
        self._sums.save(found.data_ptr())
        return found

    def load(self, state: Tensor) -> None:
        """Continue from what `state` returned.

        Raises:
            ValueError: no such average can have this state; nothing is changed then.
        """
        found = state.detach().to(device="cpu", dtype=torch.float64).contiguous()
        if found.shape != (self._sums.state_size(),):
            raise ValueError(
                f"Expected a state of shape ({self._sums.state_size()},) but got "
                f"{tuple(state.shape)}."
            )
        self._sums.load(found.data_ptr())
