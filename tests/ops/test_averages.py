"""Running averages in C++ against the reference in torch, with each instruction set."""

import pytest
import torch

from ncfast.ops.averages import CpuAverage
from ncfast.ops.states import Layout
from ncfast.tracking.averaging import TorchAverage, parse_averaging


@pytest.mark.parametrize("text", ["window:1", "window:9", "ema:0.9"])
@pytest.mark.parametrize("dim", [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 33])
def test_odd_widths(instruction_set: str, text: str, dim: int) -> None:
    stream, layout = parse_averaging(text), Layout(3, dim, integer_counts=False)
    generator = torch.Generator().manual_seed(dim)
    states = torch.rand(40, layout.size, generator=generator, dtype=torch.float64)
    states[:, :3] = torch.randint(4, (40, 3), generator=generator)
    length = stream.length if stream.kind == "window" else 0
    found = CpuAverage(layout, length, stream.decay).update(states.clone())
    expected = TorchAverage(stream, layout, torch.device("cpu")).update(states)
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=0)


def test_rows_apart_are_refused() -> None:
    layout = Layout(2, 3)
    states = torch.zeros(4, layout.size + 1, dtype=torch.float64)[:, 1:]
    with pytest.raises(AssertionError):
        CpuAverage(layout, 2, 0.0).update(states)
