import re

import pytest
from torch import nn

from ncfast.features.layers import resolve_layers


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
