import warnings

import torch
from torch import nn

from ncfast.tracking import Tracker


def test_a_warning_points_at_the_users_line_and_is_given_once():
    model = nn.Sequential(nn.Linear(4, 3))
    with warnings.catch_warnings(record=True) as caught, Tracker(model, num_classes=3) as tracker:
        warnings.simplefilter("always")
        for _ in range(2):
            tracker.step(labels=torch.arange(3))  # without a forward pass
            tracker.step(feats=torch.randn(3, 4), labels=None)
            tracker.snapshot([(torch.randn(3, 4), None)])
    assert [warning.filename for warning in caught] == [__file__] * 3
    assert len({warning.lineno for warning in caught}) == 3
