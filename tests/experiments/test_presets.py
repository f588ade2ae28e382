"""Tests that presets expand to the settings of the paper and run."""

from dataclasses import fields, replace
from pathlib import Path
from typing import get_args

import pytest
import torch

from ncfast.experiments.presets import PRESETS, expand
from ncfast.experiments.sweep_config import PresetName, SweepConfig
from ncfast.experiments.trainer import load_splits
from ncfast.experiments.training.program import ReplicaProgram

CPU = torch.device("cpu")


def config(name, quick):
    return expand(SweepConfig(out=Path("x"), preset=name, quick=quick))


def test_every_name_has_a_preset():
    assert set(PRESETS) == set(get_args(PresetName))


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_settings_of_a_sweep(name):
    known = {field.name for field in fields(SweepConfig)}
    for form in (PRESETS[name].full, PRESETS[name].quick):
        assert set(form) <= known - {"out", "preset", "quick", "resume"}
    assert config(name, True).dataset == "digits"
    assert len(config(name, True).replicas()) <= 8
    assert PRESETS[name].about.endswith((".", "?"))


@pytest.mark.parametrize("name", PRESETS)
def test_quick_presets_take_a_step(name):
    replicas = list(config(name, True).replicas().values())
    kind = [one for one in replicas if one.program == replicas[0].program][:2]
    if name == "f14":  # a small batch is enough for a test
        kind = [replace(one, batch_size=4) for one in kind]
    program = ReplicaProgram(kind, load_splits(kind[0], CPU)[0], CPU)
    before = [v.clone() for v in program.model_state(0).values()]
    program.step()
    after = program.model_state(0).values()
    assert all(v.isfinite().all() for v in after)
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_the_papers_numbers():
    f3 = config("f3", False)
    assert f3.weight_decay == (0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
    assert [one.seed for one in list(f3.replicas().values())[:5]] == [42, 43, 44, 45, 46]
    assert len(f3.replicas()) == 30
    one = next(iter(config("f2", False).replicas().values()))
    assert (one.dataset, one.train_size, one.widths) == ("mnist", 1000, (200, 200, 200))
    assert (one.init_scale, one.lr, one.weight_decay, one.steps) == (8.0, 1e-3, 0.01, 100_000)
    with pytest.raises(ValueError, match="`preset` to be one of f2, f3"):
        expand(SweepConfig(out=Path("x")))
