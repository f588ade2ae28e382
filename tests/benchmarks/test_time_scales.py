"""Tests the study of time scales: its sweeps are those of the plan, and its page is its JSON."""

import json
import math
from pathlib import Path

import pytest

from ncfast.benchmarks.studies import time_scales

PAGE = Path(__file__).parents[2] / "docs/results/time-scales.md"


def planned():
    """The rows of the plan: setting, preset, scale, weight decay and last step."""
    text = PAGE.read_text()
    table = text[text.index("| setting | preset |") :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


def test_the_sweeps_are_those_of_the_plan(tmp_path):
    rows = planned()
    assert len(rows) == len(time_scales.PARTS)
    for part, (setting, preset, scale, decay, steps) in zip(time_scales.PARTS, rows, strict=True):
        made = time_scales.config(part, tmp_path)
        assert part.setting == setting
        drawn = "" if made.init == "default" else f" --init {made.init}"
        assert f"`{made.preset} --quick{drawn}`" == preset
        assert made.quick
        assert made.init_scale == (float(scale),)
        assert made.weight_decay == (float(decay),)
        assert made.steps == int(steps.replace(",", ""))
        assert (made.seed, made.seeds) == (1010, 5)


def test_the_page_has_the_numbers_of_the_json():
    found = json.loads(time_scales.TO.read_text())
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
    monkeypatch.setattr(time_scales, "PARTS", parts)
    monkeypatch.setattr(time_scales, "SEEDS", 2)
    monkeypatch.setattr("sys.argv", ["x", "run", "--out", str(tmp_path)])
    assert time_scales.main() == 0
    gone = time_scales.Part("standard scale", 0.01, 60, 1.0)
    monkeypatch.setattr(time_scales, "PARTS", (*parts, gone))
    to = tmp_path / "to/digits.json"
    monkeypatch.setattr("sys.argv", ["x", "analyse", "--out", str(tmp_path), "--to", str(to)])
    assert time_scales.main() == 0
    found = json.loads(to.read_text())
    assert found["not run"] == [gone.name]
    assert set(found["settings"]) == {time_scales.THEORY, "standard scale"}
    assert list(found["settings"]["standard scale"]["tau_1"]["steps"]) == ["0.3", "0.1"]
