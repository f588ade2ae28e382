"""Tests the choice of configurations by trial, with a synthetic clock."""

import pytest
import torch
from oracle import two_pass
from samples import classes

from ncfast.kernels import autotune
from ncfast.kernels.configuration import segments_config
from ncfast.ops import moments as passes
from ncfast.ops.grouping import build


@pytest.fixture
def clock(monkeypatch):
    """A clock whose trials take 5, 4, 3 and then always 6."""
    trials = []

    def milliseconds(call):
        call()
        trials.append(call)
        return [5.0, 4.0, 3.0, 6.0][min(len(trials), 4) - 1]

    monkeypatch.setattr(autotune, "milliseconds", milliseconds)
    monkeypatch.setattr(autotune, "_best", {})
    monkeypatch.setenv("NCFAST_AUTOTUNE", "1")
    return trials


def test_the_best_neighbour_is_kept(clock):
    feats, labels = classes(200, 6, 3, dtype=torch.float32)
    plan = build(labels, 3)
    found = passes.planned(feats, plan)
    number = len(clock)
    rule = segments_config(200, 6, 3, 4, 132)
    assert number == len(autotune.neighbors(rule)) > 3
    assert list(autotune._best.values()) == [autotune.neighbors(rule)[2]]
    again = passes.planned(feats[:150], build(labels[:150], 3))  # the same class of shapes
    assert len(clock) == number
    assert again.counts.sum() == 150
    expected = torch.from_numpy(two_pass(feats, labels, 3)["within_ss"])
    torch.testing.assert_close(found.within_ss, expected, rtol=1e-6, atol=0)


def test_what_does_not_fit_is_passed_over(clock):
    rule = segments_config(200, 6, 3, 4, 132)

    def run(config):
        if config != rule:
            raise RuntimeError("out of resource: shared memory")

    feats = torch.zeros(200, 6)
    assert autotune.segments(feats, 3, rule, run) == rule


def test_nothing_is_tried_unless_asked_for(clock, monkeypatch):
    monkeypatch.delenv("NCFAST_AUTOTUNE")
    feats, labels = classes(60, 6, 3, dtype=torch.float32)
    passes.planned(feats, build(labels, 3))
    assert not clock
