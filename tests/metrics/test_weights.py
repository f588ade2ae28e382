import math

import pytest
import torch
from torch import nn

import ncfast


def test_is_the_global_l2_norm_not_the_sum_of_norms():
    model = nn.Sequential(nn.Linear(5, 3), nn.Linear(3, 2))
    by_hand = math.sqrt(sum(float((p.detach().double() ** 2).sum()) for p in model.parameters()))
    assert float(ncfast.weight_norm(model)) == pytest.approx(by_hand, rel=1e-12)
    assert float(ncfast.weight_norm(model.parameters())) == pytest.approx(by_hand, rel=1e-12)


def test_half_precision_does_not_overflow():
    weights = torch.full((1000, 1000), 200.0, dtype=torch.float16)
    assert float(ncfast.weight_norm([weights])) == pytest.approx(2e5, rel=1e-12)


def test_no_parameter():
    with pytest.raises(ValueError, match="at least one parameter"):
        ncfast.weight_norm(nn.ReLU())
