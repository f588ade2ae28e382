"""Tests the study of cause: its arms are those of the plan, and it runs and is analysed."""

import json
import re
from dataclasses import fields
from pathlib import Path

import pytest
import tyro

from ncfast.benchmarks.studies import cause, cause_results
from ncfast.experiments.sweep_config import SweepConfig

PLAN = Path(__file__).parents[2] / "docs/results/cause.md"


def planned():
    """The arms of the plan and their options, in order."""
    text = PLAN.read_text()
    table = text[text.index("| arm | options |") :].split("\n\n")[0].splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    return {name: options for name, options, *_ in cells}


def test_the_arms_are_those_of_the_plan():
    assert list(planned()) == list(cause.ARMS)


@pytest.mark.parametrize("name", cause.ARMS)
@pytest.mark.parametrize("dataset", cause.SETTINGS)
def test_an_arm_has_the_options_of_the_plan(name, dataset):
    quoted = " ".join(re.findall(r"`([^`]*)`", planned()[name]))
    given = tyro.cli(SweepConfig, args=["--out", "x", "--weight-decay", "0.1", *quoted.split()])
    made = cause.configs(dataset, Path("runs"), None)[name]
    plain = SweepConfig(out=Path("x"))
    of_study = {"out", "start_from", "dataset", "seed", "seeds", "steps", "device", "probes"}
    of_study |= {"schedule", "test_schedule", "information", "checkpoint_every"}
    for entry in fields(SweepConfig):
        if entry.name not in of_study:
            assert getattr(made, entry.name) == getattr(given, entry.name), entry.name
    assert (made.start_from is None) is ("from step 0" in planned()[name])
    assert (made.seed, made.seeds) == (1000, 5)
    assert plain.widths == made.widths


def test_it_runs_and_is_analysed(tmp_path, monkeypatch, capsys):
    """A small form: the outcome means nothing, but every number must be there."""
    small = cause.Setting(branch=200, steps=400, test_schedule="every:200", seed=7, seeds=2)
    monkeypatch.setitem(cause.SETTINGS, "digits", small)
    names = ("none", "rnc1 down", "zero classifier", "no decay")
    monkeypatch.setattr(cause, "ARMS", {name: cause.ARMS[name] for name in names})
    monkeypatch.setattr("sys.argv", ["cause", "digits", "--out", str(tmp_path)])
    assert cause.main() == 0
    first = (tmp_path / "digits/none/wd0.1-seed7/metrics.jsonl").stat().st_mtime_ns
    assert cause.main() == 0  # complete arms are left alone
    assert (tmp_path / "digits/none/wd0.1-seed7/metrics.jsonl").stat().st_mtime_ns == first
    monkeypatch.setattr(cause_results, "unfitted", lambda *_: [])  # 200 steps do not fit
    monkeypatch.setattr("sys.argv", ["x", "--out", str(tmp_path), "--to", str(tmp_path / "to")])
    cause_results.main()
    found = json.loads((tmp_path / "to/digits.json").read_text())
    assert list(found["arms"]) == list(names)
    assert found["not run"] == []
    assert found["rnc1"] == "cannot tell"
    assert (tmp_path / "to/effects.png").stat().st_size > 10_000
    assert "| zero classifier |" in capsys.readouterr().out


def test_a_seed_that_is_not_fitted_and_an_arm_that_is_not_run():
    arm = cause_results.Arm("none", {1: [{"step": 2000, "train/accuracy": 0.98}]}, {})
    assert cause_results.unfitted({"none": arm}, "digits") == [1]
    assert cause_results.without(arm, [1]).logs == {}
    assert cause_results.conclude("rnc1", {}) == "cannot tell"
