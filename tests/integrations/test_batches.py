"""Tests how batches of other frameworks are read: masks, labels of later tokens, and logits."""

import pytest
import torch
from torch import nn

from ncfast.integrations.callback import Logits, mask_of, next_tokens


@pytest.mark.parametrize("masked", [False, True])
def test_the_label_of_a_token_is_the_next_one(masked):
    """A pair counts where both of its tokens do; the last token has none."""
    labels = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    found, kept = next_tokens(labels, mask if masked else None, 1)
    assert found[:, :3].tolist() == labels[:, 1:].tolist()
    second = [True, False, False, False] if masked else [True, True, True, False]
    assert kept.tolist() == [[True, True, True, False], second]


def test_a_mask_is_one_of_the_labels():
    labels, mask = torch.zeros(2, 3).long(), torch.ones(2, 3)
    assert mask_of({"attention_mask": mask}, labels).shape == labels.shape
    assert mask_of({"attention_mask": mask}, labels[:, 0]) is None
    assert mask_of((mask,), labels) is None


def test_logits_of_tokens_and_of_models_of_transformers():
    class Model(nn.Module):
        def forward(self, x):
            return {"logits": x}

    model = Model()
    logits = Logits(model, 3)
    model(torch.zeros(2, 4, 3))
    assert logits.take().shape == (2, 4, 3)
    model(torch.zeros(2, 4, 5))
    assert logits.take() is None
