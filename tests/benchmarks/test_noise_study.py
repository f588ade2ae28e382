"""Tests the study of noise: it does what the plan says, and its page is its JSON."""

import dataclasses
import json
import math
import re
from pathlib import Path

import pytest

from ncfast.benchmarks.studies import noise

PAGE = Path(__file__).parents[2] / "docs/results/noise.md"


def part(dataset):
    """The plan of a dataset, on one line."""
    named = {"digits": "## Plan", "mnist": "## Plan for MNIST"}[dataset]
    found = re.search(rf"^{named}\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    return " ".join(found[1].split())


@pytest.mark.parametrize("dataset", noise.SETTINGS)
def test_it_does_what_the_plan_says(dataset, tmp_path):
    plan, chosen = part(dataset), noise.SETTINGS[dataset]
    for late in (False, True):
        made = noise.config(dataset, tmp_path, None, late)
        quick = " --quick" if made.quick else ""
        assert f"--preset {made.preset}{quick} --weight-decay {made.weight_decay[0]:g}`" in plan
        assert f"seeds {made.seed} to {made.seed + made.seeds - 1}" in plan
        assert made.steps == chosen.steps[late]
        assert f"to step {made.steps:,}" in plan
        assert made.dataset == dataset


def test_it_estimates_as_the_plan_says():
    plan = part("digits")
    assert f"first {noise.SAMPLES:,} test images, four principal components" in plan
    assert noise.DIM == 4
    assert '"channel", "ksg" and "kl"' in plan
    assert noise.METHODS == ("channel", "ksg", "kl")
    assert "σ = 0.01, 0.03, 0.1, 0.3 and 1." in plan
    assert noise.SIGMAS == (0.01, 0.03, 0.1, 0.3, 1.0)


@pytest.mark.parametrize("path", sorted(noise.TO.glob("*.json")), ids=lambda path: path.stem)
def test_the_page_has_the_numbers_of_the_json(path):
    found = json.loads(path.read_text())
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


def test_the_verdict_over_all_choices():
    def results(*verdicts):
        return {"ksg": {f"{at}": {"verdict": verdict} for at, verdict in enumerate(verdicts)}}

    assert noise.conclude(results("falls", "falls")) == "does not depend on the choice"
    assert noise.conclude(results("falls", "rises")) == "depends on the choice"
    assert noise.conclude(results("falls", "cannot tell")) == "cannot tell"


def test_it_runs(tmp_path, monkeypatch, capsys):
    """A small form: the outcome means nothing, but every number must be there."""
    small = dataclasses.replace(noise.SETTINGS["digits"], steps=(20, 40))
    monkeypatch.setitem(noise.SETTINGS, "digits", small)
    monkeypatch.setattr(noise, "SEEDS", 2)
    monkeypatch.setattr(noise, "SAMPLES", 300)
    to = tmp_path / "to"
    monkeypatch.setattr("sys.argv", ["x", "digits", "--out", str(tmp_path), "--to", str(to)])
    assert noise.main() == 0
    found = json.loads((to / "digits.json").read_text())
    assert list(found["methods"]) == list(noise.METHODS)
    assert all(len(one["before"]) == 2 for one in found["methods"]["kl"].values())
    assert [len(found["accuracy"][step]["test"]) for step in ("20", "40")] == [2, 2]
    assert (to / "digits.png").stat().st_size > 10_000
    assert "| 0.01 |" in capsys.readouterr().out
