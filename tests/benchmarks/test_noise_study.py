"""Tests the study of noise: it does what the plan says, and its page is its JSON."""

import json
import math
from pathlib import Path

import pytest

from ncfast.benchmarks.studies import noise

PAGE = Path(__file__).parents[2] / "docs/results/noise.md"


def test_it_does_what_the_plan_says(tmp_path):
    plan = " ".join(PAGE.read_text().split("## Plan")[1].split())
    made = noise.config(tmp_path, noise.STEPS[1])
    assert (made.preset, made.quick, made.weight_decay) == ("f3", True, (0.3,))
    assert f"seeds {made.seed} to {made.seed + made.seeds - 1}" in plan
    assert all(f"to step {steps:,}" in plan for steps in noise.STEPS)
    assert f"first {noise.SAMPLES:,} test images, four principal components" in plan
    assert noise.DIM == 4
    assert '"channel", "ksg" and "kl"' in plan
    assert noise.METHODS == ("channel", "ksg", "kl")
    assert "σ = 0.01, 0.03, 0.1, 0.3 and 1." in plan
    assert noise.SIGMAS == (0.01, 0.03, 0.1, 0.3, 1.0)


def test_the_page_has_the_numbers_of_the_json():
    found = json.loads(noise.TO.read_text())
    for row in noise.table(found["methods"]).splitlines():
        assert row in PAGE.read_text()


def test_a_fall_is_judged_by_the_plan():
    found = noise.judge([2.0, 2.2, 2.1], [1.0, 1.1, 1.05])
    assert found["verdict"] == "falls"
    assert found["ratio"] == pytest.approx([0.5] * 3)
    assert noise.judge([1.0, 1.1, 1.05], [2.0, 2.2, 2.1])["verdict"] == "rises"
    found = noise.judge([1.0, -0.1, 1.0], [1.1, 1.0, 0.9])
    assert found["verdict"] == "cannot tell"
    assert math.isnan(found["ratio"][0])


def test_it_runs(tmp_path, monkeypatch, capsys):
    """A small form: the outcome means nothing, but every number must be there."""
    monkeypatch.setattr(noise, "STEPS", (20, 40))
    monkeypatch.setattr(noise, "SEEDS", 2)
    monkeypatch.setattr(noise, "SAMPLES", 300)
    to = tmp_path / "to/digits.json"
    monkeypatch.setattr("sys.argv", ["x", "--out", str(tmp_path), "--to", str(to)])
    assert noise.main() == 0
    found = json.loads(to.read_text())["methods"]
    assert list(found) == list(noise.METHODS)
    assert all(len(one["before"]) == 2 for one in found["kl"].values())
    assert "| 0.01 |" in capsys.readouterr().out
