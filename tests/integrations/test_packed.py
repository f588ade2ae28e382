"""Tests the vector that holds the sums of a torchmetrics metric."""

import pytest
import torch
from samples import classes

from ncfast import Accumulator
from ncfast.integrations import packed

K, D = 4, 3


def accumulator(rows, scatter):
    feats, labels = classes(60, D, K)
    acc = Accumulator(K, D, metrics="nc1.pinv" if scatter else "rnc1")
    return acc.update(feats[rows], labels[rows]).update_ood(feats[rows] + 1)


def parts(scatter):
    made = [accumulator(rows, scatter)._state for rows in (slice(0, 25), slice(25, 60))]
    return made, packed.Layout(K, D, scatter, -100)


def equal(one, other):
    found, expected = one.state_dict(), other.state_dict()
    del found["flags"], expected["flags"]
    assert set(found) == set(expected)
    return all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.parametrize("scatter", [False, True])
def test_a_state_survives_and_merges(scatter):
    (one, other), layout = parts(scatter)
    vectors = torch.stack([packed.packed(state, layout) for state in (one, other)])
    assert equal(packed.opened(vectors[0], layout), one)
    assert equal(packed.opened(packed.merged(vectors, layout), layout), one.merge(other))


def test_a_state_is_updated_in_place():
    (one, _), layout = parts(scatter=True)
    vector = packed.empty(layout)
    before, state = vector.data_ptr(), packed.opened(vector, layout)
    feats, labels = classes(60, D, K)
    acc = Accumulator(K, D, metrics="nc1.pinv")
    acc._state = state
    acc.update(feats[:25], labels[:25]).update_ood(feats[:25] + 1)
    packed.close(state, vector, layout)
    assert vector.data_ptr() == before
    assert equal(packed.opened(vector, layout), one)


def test_vectors_tell_which_rows_were_left_out():
    layouts = [packed.Layout(K, D, scatter=False, ignore_index=i) for i in (-100, 0, None)]
    assert len({tuple(packed.empty(layout).tolist()) for layout in layouts}) == 3
