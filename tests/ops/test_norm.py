"""The norm of many tensors: C++ against exact sums, and the tensors that torch must take."""

from __future__ import annotations

import math
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

import ncfast
from ncfast.ops import _raw
from ncfast.ops.weight_norm import norm_reader
from ncfast.ops.weight_norm import reference as reference_weight_norm

READER = norm_reader(_raw.extension)
pytestmark = pytest.mark.skipif(
    READER is None, reason="needs the extension and a PyTorch with DLPack's table"
)
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
INF = math.inf


def exact(tensors: list[Tensor]) -> float:
    """The exact norm, from sums of integers."""
    numbers = [x for tensor in tensors for x in tensor.double().flatten().tolist()]
    return math.sqrt(sum(int(math.ldexp(x, 200)) ** 2 for x in numbers)) / 2.0**200


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_length_and_offset(instruction_set: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    numbers = torch.randn(70_003, dtype=torch.float64).mul_(2).to(dtype)
    lengths = [*range(1, 70), 127, 128, 129, 1000, 65_536, 65_537, 70_000]
    for length in lengths:
        part = numbers[length % 3 :][:length]
        found = READER.of_tensors([part])
        assert found == pytest.approx(exact([part]), rel=1e-13)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(
        st.tuples(st.lists(st.integers(0, 5), max_size=4), st.sampled_from(DTYPES)),
        min_size=1,
        max_size=5,
    ),
    st.randoms(use_true_random=False),
)
def test_any_shapes_with_axes_in_any_order(
    shapes: list[tuple[list[int], torch.dtype]], draw: random.Random
) -> None:
    tensors = [
        torch.randn(shape).to(dtype).permute(draw.sample(range(len(shape)), len(shape)))
        for shape, dtype in shapes
    ]
    assert READER.of_tensors(tensors) == pytest.approx(exact(tensors), rel=1e-12)
    assert READER.of_tensors(tensors) == pytest.approx(
        reference_weight_norm(tensors).item(), rel=1e-12
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "special", [[math.nan], [INF], [-INF, math.nan], [INF, 1e4], [0.0], [-0.0]]
)
def test_what_is_not_finite_and_zero(
    instruction_set: str, special: list[float], dtype: torch.dtype
) -> None:
    tensors = [torch.zeros(100).to(dtype), torch.zeros(70, 3).to(dtype)]
    tensors[1].view(-1)[7 : 7 + len(special)] = torch.tensor(special).to(dtype)
    found, expected = READER.of_tensors(tensors), reference_weight_norm(tensors).item()
    assert found == expected or (math.isnan(found) and math.isnan(expected))


@pytest.mark.parametrize("size", [1e200, 1e-200, 1e150, 1e-150, 5e-324])
def test_squares_out_of_range_are_those_of_the_reference(size: float) -> None:
    tensors = [torch.full((50,), size, dtype=torch.float64) for _ in range(3)]
    assert READER.of_tensors(tensors) == pytest.approx(reference_weight_norm(tensors).item(), 1e-12)


@pytest.mark.parametrize("number", [2.0**-149, 2.0**-126, 3.4028234663852886e38])
def test_the_ends_of_float32(instruction_set: str, number: float) -> None:
    tensor = torch.full((100,), number)
    assert READER.of_tensors([tensor]) == pytest.approx(10 * number, rel=1e-14)


def test_same_bits_for_any_number_of_threads() -> None:
    torch.manual_seed(0)
    tensors = [torch.randn(1_700_001), torch.randn(3), torch.randn(400_000).bfloat16()]
    before, found = torch.get_num_threads(), set()
    for threads in (1, 2, 3, 8):
        torch.set_num_threads(threads)
        found.add(READER.of_tensors(tensors))
    torch.set_num_threads(before)
    assert len(found) == 1
    assert found.pop() == pytest.approx(reference_weight_norm(tensors).item(), rel=1e-12)


class Subclass(Tensor):
    pass


LEFT = {
    "none": [],
    "no tensor": [1.0],
    "overlap": [torch.ones(3, 1).expand(3, 4)],
    "gaps": [torch.ones(4, 6)[:, ::2]],
    "integers": [torch.ones(3, dtype=torch.int64)],
    "complex": [torch.ones(3, dtype=torch.complex64)],
    "sparse": [torch.eye(3).to_sparse()],
    "device": [torch.ones(3, device="meta")],
    "subclass": [torch.ones(3).as_subclass(Subclass)],
    "lazy": [nn.LazyLinear(3).weight],
    "the second": [torch.ones(3), torch.ones(4, 6)[:, ::2]],
}


@pytest.mark.parametrize("case", LEFT)
def test_what_it_leaves_to_torch(case: str) -> None:
    assert READER.of_tensors(LEFT[case]) is None


def test_it_reads_nothing_that_is_traced() -> None:
    with FakeTensorMode():
        assert READER.of_tensors([torch.empty(3)]) is None
        assert ncfast.weight_norm([torch.empty(3)]).shape == ()
    rows = torch.tensor([[3.0, 4.0], [6.0, 8.0]])
    assert torch.func.vmap(lambda row: ncfast.weight_norm([row]))(rows).tolist() == [5.0, 10.0]
    compiled = torch.compile(ncfast.weight_norm, backend="eager", fullgraph=True)
    assert compiled([rows]).item() == pytest.approx(math.sqrt(125), rel=1e-15)


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tied = nn.Linear(4, 4)
        self.again = self.tied
        self.head = nn.Linear(4, 4, bias=False)
        self.head.weight = self.tied.weight
        self.own = nn.Parameter(torch.randn(3, 2).T)
        self.empty = nn.Parameter(torch.empty(0, 5))
        self.absent, self.nothing = None, nn.Identity()
        self.register_parameter("missing", None)
        self.register_module("none", None)
        self.register_buffer("ignored", torch.ones(5))
        self.several = nn.ParameterList([torch.randn(2), torch.randn(3).double()])
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(3, 2))


def test_a_module_counts_what_its_parameters_are() -> None:
    model = Shared()
    parameters = list(model.parameters())
    assert READER.of_module(model) == READER.of_tensors(parameters) == ncfast.weight_norm(model)
    assert READER.of_module(model) == pytest.approx(exact([p.detach() for p in parameters]), 1e-13)


def test_a_module_is_looked_at_afresh() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Sequential(nn.ReLU()))

    def check() -> float:
        found = READER.of_module(model)
        assert found == READER.of_tensors(list(model.parameters()))
        return found

    seen = {check()}
    model[1].append(nn.Linear(2, 2))
    seen.add(check())
    model[0].weight = nn.Parameter(torch.randn(5, 5))
    seen.add(check())
    model[0].bias.data = torch.randn(7).double()
    seen.add(check())
    model[1][1].weight.requires_grad_(False).mul_(2)
    seen.add(check())
    del model[1]
    seen.add(check())
    assert len(seen) == 6


class OwnParameters(nn.Linear):
    def parameters(self, recurse: bool = True):
        return iter([self.bias])


class OwnNamedParameters(nn.Linear):
    def named_parameters(self, *args, **kwargs):
        return iter([("bias", self.bias)])


class OwnModules(nn.Sequential):
    def named_modules(self, *args, **kwargs):
        return iter([])


def on_the_instance() -> nn.Module:
    model = nn.Linear(3, 2)
    model.parameters = lambda recurse=True: iter([model.bias])
    return model


@pytest.mark.parametrize(
    "model",
    [
        OwnParameters(3, 2),
        OwnNamedParameters(3, 2),
        nn.Sequential(nn.Linear(2, 2), OwnModules(nn.Linear(3, 2))),
        on_the_instance(),
        nn.ReLU(),
    ],
    ids=lambda model: type(model).__name__,
)
def test_a_module_with_ways_of_its_own_is_asked(model: nn.Module) -> None:
    assert READER.of_module(model) is None
    if list(model.parameters()):
        expected = reference_weight_norm(list(model.parameters()))
        assert torch.equal(ncfast.weight_norm(model), expected)


def test_without_the_extension(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Linear(3, 2)
    fast = ncfast.weight_norm(model)
    monkeypatch.setattr(_raw, "extension", None)
    assert norm_reader(_raw.extension) is None
    assert ncfast.weight_norm(model).item() == pytest.approx(fast.item(), rel=1e-14)
    assert fast.dtype == torch.float64
    assert fast.shape == ()
