import re

import pytest
import torch
from torch import nn

from ncfast.features.layers import as_pool, resolve_layers, tensor_of


def test_names_patterns_expressions_and_types():
    blocks = nn.ModuleList(nn.Conv2d(3, 3, 3) for _ in range(2))
    model = nn.ModuleDict({"blocks": blocks, "head": nn.Linear(3, 5)})
    assert resolve_layers(model, "blocks.*") == ("blocks.0", "blocks.1")
    assert resolve_layers(model, ["blocks.[1]", "head:input"]) == ("blocks.1", "head:input")
    assert resolve_layers(model, re.compile(r"blocks\.\d")) == ("blocks.0", "blocks.1")
    assert resolve_layers(model, [nn.Linear, nn.Conv2d]) == ("head", "blocks.0", "blocks.1")
    assert resolve_layers(model, ["head", nn.Linear, "h*"]) == ("head",)
    with pytest.raises(ValueError, match=r"'blocs\.\*'.*Known names"):
        resolve_layers(model, "blocs.*")
    with pytest.raises(TypeError, match="got int"):
        resolve_layers(model, [3])


@pytest.mark.parametrize(
    ("pool", "shape", "expected"),
    [
        ("flatten", (2, 3, 4, 4), lambda x: x.reshape(2, 48)),
        ("gap", (2, 3, 4, 4), lambda x: x.mean((2, 3))),
        ("gap", (2, 5, 3), lambda x: x.mean(1)),
        ("cls", (2, 5, 3), lambda x: x[:, 0]),
        ("last", (2, 5, 3), lambda x: x[:, 4]),
        (lambda out: out[:, :2], (2, 5), lambda x: x[:, :2]),
        (None, (2, 5), lambda x: x),
    ],
)
def test_pooling(pool, shape, expected):
    x = torch.randn(shape)
    torch.testing.assert_close(as_pool(pool)(x), expected(x))


@pytest.mark.parametrize(
    ("pool", "shape", "message"),
    [
        ("gap", (2, 3), r"pool='gap'.*got \(2, 3\)"),
        ("cls", (2, 3, 4, 4), r"pool='cls'.*got \(2, 3, 4, 4\)"),
        ("last", (2, 3), "pool='last'"),
    ],
)
def test_pooling_of_unfit_shapes(pool, shape, message):
    with pytest.raises(ValueError, match=message):
        as_pool(pool)(torch.zeros(shape))


def test_where_the_tensor_is_in_an_output():
    x, y = torch.ones(2, 3), torch.zeros(2, 3)
    assert tensor_of((x, (y, y))) is x
    assert tensor_of({"last_hidden_state": x, "attentions": y}) is x
    assert tensor_of({"hidden_states": (y, x)}) is x
    assert tensor_of({"mine": x}) is x
    with pytest.raises(TypeError, match=r"dict with the keys \['a', 'b'\].*pass pool="):
        tensor_of({"a": x, "b": y})
    with pytest.raises(TypeError, match="got NoneType"):
        tensor_of(None)
    with pytest.raises(ValueError, match=r"\['flatten', 'gap', 'cls', 'last'\].*'avg'"):
        as_pool("avg")
