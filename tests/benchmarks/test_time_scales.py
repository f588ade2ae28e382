"""Tests the study of time scales: its sweeps are those of the plan, and its page is its JSON."""

import dataclasses
import json
import math
import re
from pathlib import Path

import pytest
import tyro

from ncfast.benchmarks.studies import time_scales
from ncfast.experiments.presets import expand
from ncfast.experiments.sweep_config import SweepConfig

PAGE = Path(__file__).parents[2] / "docs/results/time-scales.md"

# settings that have a column of their own in the plan, or do not change what a run computes
OF_STUDY = {"out", "data_dir", "weight_decay", "init_scale", "steps", "seed", "seeds", "device"}
OF_STUDY |= {"schedule", "test_schedule", "probes", "information", "checkpoint_every"}
HEADINGS = {
    "digits": "## Plan",
    "longer": "## Plan for longer runs",
    "mnist": "## Plan for MNIST",
}


def section(study):
    """The plan of a study."""
    start = rf"^{HEADINGS[study]}\n(.*?)(?=^## |\Z)"
    return re.search(start, PAGE.read_text(), re.DOTALL | re.MULTILINE)[1]


def planned(study):
    """The rows of the plan: setting, preset, scale, weight decay and last step."""
    text = section(study)
    table = text[text.index("| setting | preset |") :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


@pytest.mark.parametrize("study", time_scales.STUDIES)
def test_the_sweeps_are_those_of_the_plan(study, tmp_path):
    rows, chosen = planned(study), time_scales.STUDIES[study]
    assert len(rows) == len(chosen.parts)
    for part, (setting, preset, scale, decay, steps) in zip(chosen.parts, rows, strict=True):
        made = time_scales.config(study, part, tmp_path)
        assert part.setting == setting
        name, *options = preset.strip("`").split()
        base = expand(SweepConfig(out=tmp_path, preset=name, quick="--quick" in options))
        asked = tyro.cli(SweepConfig, args=options, default=base)
        for entry in dataclasses.fields(SweepConfig):
            if entry.name not in OF_STUDY:
                assert getattr(made, entry.name) == getattr(asked, entry.name), entry.name
        assert made.init_scale == (float(scale),)
        assert made.weight_decay == (float(decay),)
        assert made.steps == int(steps.replace(",", ""))
        assert f"seeds {made.seed} to {made.seed + made.seeds - 1}" in section(study)


@pytest.mark.parametrize("study", time_scales.STUDIES)
def test_the_levels_are_those_of_the_plan(study):
    chosen = time_scales.STUDIES[study]
    for level in (*chosen.theory.values(), *chosen.adamw.values()):
        assert ("a fifth" if level.value is None else f"{level.value:g}") in section(study)


@pytest.mark.parametrize("path", sorted(time_scales.TO.glob("*.json")), ids=lambda path: path.stem)
def test_the_page_has_the_numbers_of_the_json(path):
    found = json.loads(path.read_text())
    for row in time_scales.table(found["settings"]).splitlines():
        assert row in PAGE.read_text()
    for name in found["not run"]:
        assert name in PAGE.read_text()


def log(decay, floor=0.0):
    """A run that fits at step 100, and whose RNC1 falls at a rate of ``decay`` / 1,000."""
    return [
        {
            "step": step,
            "train/accuracy": float(step >= 100),
            "test/accuracy": 0.1 if step < 1000 else 0.9,
            "train/rnc1.max": floor + math.exp(-decay * (step - 100) / 1000),
        }
        for step in range(0, 20_001, 100)
    ]


@pytest.mark.parametrize("decay", [0.3, 1.0])
def test_tau_2_is_interpolated(decay):
    expected = 100 + 1000 * math.log(1 / 0.2) / decay
    assert time_scales.tau_2(log(decay)) == pytest.approx(expected, rel=1e-9)
    assert time_scales.tau_2(log(decay), 0.05) == pytest.approx(
        100 + 1000 * math.log(20) / decay, rel=1e-9
    )
    assert math.isnan(time_scales.tau_2(log(decay, floor=0.3), 0.05))


def test_a_law_is_judged_by_the_plan():
    def steps(exponent, noise=0.0):
        return {
            decay: {seed: 1e4 * decay ** (exponent + noise * seed) for seed in range(5)}
            for decay in (0.1, 0.2, 0.4)
        }

    found = time_scales.law(steps(-1.05), -1)
    assert found["exponents"] == pytest.approx([-1.05] * 5)
    assert found["verdict"] == "confirmed"
    assert time_scales.law(steps(-1.2), -1)["verdict"] == "not confirmed"
    assert time_scales.law(steps(-1.2, noise=0.1), -1)["verdict"] == "cannot tell"
    missing = steps(-1)
    missing[0.1][3] = math.nan
    found = time_scales.law(missing, -1)
    assert found["verdict"] == "cannot tell"
    assert "λ = 0.1: reached by 4 of 5" in time_scales.table({"x": {"tau_2": found}})
    assert time_scales.law({0.1: {1: 5.0}}, -1)["verdict"] == "cannot tell"


def test_grokking_is_the_rule_of_the_plan():
    assert time_scales.groks(log(1.0))
    assert time_scales.groks([dict(r, **{"test/accuracy": 0.1}) for r in log(1.0)]) is None
    early = [dict(r, **{"test/accuracy": 0.9 * r["train/accuracy"]}) for r in log(1.0)]
    assert time_scales.groks(early) is False


def test_it_runs_and_is_analysed(tmp_path, monkeypatch):
    """A small form: the outcome means nothing, but every number must be there."""
    parts = (
        time_scales.Part(time_scales.THEORY, 0.5, 60, 1.5),
        time_scales.Part("standard scale", 0.3, 60, 1.0),
        time_scales.Part("standard scale", 0.1, 60, 1.0),
    )
    digits = time_scales.STUDIES["digits"]
    small = dataclasses.replace(digits, parts=parts)
    monkeypatch.setitem(time_scales.STUDIES, "digits", small)
    monkeypatch.setattr(time_scales, "SEEDS", 2)
    monkeypatch.setattr("sys.argv", ["x", "run", "digits", "--out", str(tmp_path)])
    assert time_scales.main() == 0
    gone = time_scales.Part("standard scale", 0.01, 60, 1.0)
    larger = dataclasses.replace(digits, parts=(*parts, gone))
    monkeypatch.setitem(time_scales.STUDIES, "digits", larger)
    to, analysis = tmp_path / "to", ["x", "analyse", "digits", "--out", str(tmp_path)]
    monkeypatch.setattr("sys.argv", [*analysis, "--to", str(to)])
    assert time_scales.main() == 0
    found = json.loads((to / "digits.json").read_text())
    assert found["not run"] == [gone.name]
    assert set(found["settings"]) == {time_scales.THEORY, "standard scale"}
    assert list(found["settings"]["standard scale"]["tau_1"]["steps"]) == ["0.3", "0.1"]
    assert list(found["settings"][time_scales.THEORY]) == ["tau_2", "tau_2, deeper"]
    assert (to / "digits.png").stat().st_size > 10_000
