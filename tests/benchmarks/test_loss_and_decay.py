"""Tests the study of cross-entropy and no decay: its verdicts, and that its page is its JSON."""

import json
import math
import re
from pathlib import Path

import pytest

from ncfast.benchmarks.studies import loss_and_decay
from ncfast.cli import main
from ncfast.experiments.report.runs import Run
from ncfast.tracking.analytics.events import find_events

PAGE = Path(__file__).parents[2] / "docs/results/loss-and-decay.md"


def run(test_accuracy, decay=0.1, seed=1, collapse=True):
    """A run fitted from step 100 on, whose test accuracy is a function of the step."""
    records = [
        {
            "step": step,
            "train/accuracy": float(step >= 100),
            "test/accuracy": test_accuracy(step),
            "train/rnc1.max": 0.01 if collapse and step > 5000 else 0.1,
            "test/rnc1.max": 0.1,
        }
        for step in range(0, 10_001, 100)
    ]
    settings = {"weight_decay": decay, "seed": seed, "model": "mlp", "steps": 10_000}
    return Run(Path("x"), {"settings": settings}, records, find_events(records))


def late(step):
    return 0.9 if step >= 4000 else 0.1


def early(step):
    return 0.9 if step >= 100 else 0.1


def test_the_verdicts_on_cross_entropy():
    judge = loss_and_decay.judge_cross_entropy
    found = judge([run(late, 0.1), run(late, 0.3)])
    assert found["grokking"] == "confirmed"
    assert found["late rise"] == "a late rise"
    assert found["larger λ"] == "not earlier"
    found = judge([run(early, 0.3), run(late, 0.1)])
    assert found["grokking"] == "cannot tell"
    assert found["late rise"] == "cannot tell"
    assert found["larger λ"] == "earlier"
    found = judge([run(early, 0.3), run(early, 0.1)])
    assert found["grokking"] == "not confirmed"
    assert found["late rise"] == "no late rise"
    found = judge([run(late, 0.3), run(early, 0.1), run(early, 0.3, 2), run(late, 0.1, 2)])
    assert found["larger λ"] == "cannot tell"


def test_the_verdicts_without_decay():
    judge = loss_and_decay.judge_no_decay
    found = judge([run(late), run(early)])
    assert found == {"generalisation": "generalises", "RNC1, train": "collapses"}
    found = judge([run(lambda _: 0.1, collapse=False), run(lambda _: 0.2, collapse=False)])
    expected = {"generalisation": "does not generalise", "RNC1, train": "does not collapse"}
    assert found == expected
    found = judge([run(late), run(lambda _: 0.1, collapse=False)])
    assert found == dict.fromkeys(expected, "cannot tell")
    assert judge([run(lambda _: 0.4), run(lambda _: 0.4)])["generalisation"] == "cannot tell"
    lost = judge([run(lambda step: 0.1 if step == 10_000 else 0.9)])
    assert lost["generalisation"] == "cannot tell"


def test_an_event_that_did_not_happen():
    found = loss_and_decay.outcome(run(lambda _: 0.1, collapse=False))
    assert found["fit"] == 100
    assert math.isnan(found["90 % of the best"])
    row = loss_and_decay.table({"no decay": {"runs": [found]}}).splitlines()[-1]
    assert row == "| no decay | 0.1 | 1 | 100 | 0.100 | never | never | 0.100, 0.100 | 1.000 |"


@pytest.mark.parametrize("command", re.findall(r"^    ncfast (sweep .*)$", PAGE.read_text(), re.M))
def test_the_commands_of_the_page_are_those_of_the_plan(command):
    name = Path(command.split("--out ")[1]).name
    sweep = {folder: one for one, folder in loss_and_decay.SWEEPS.items()}[name]
    rows = re.findall(rf"^\| {sweep} \| `(.*?)` \| (.*?) \| (.*?) \|$", PAGE.read_text(), re.M)
    [(preset, decays, steps)] = rows
    assert command.startswith("sweep --preset " + preset.split()[0])
    assert all(part in command for part in preset.split())
    assert all(decay in command for decay in decays.split(" and ") if decay != "0")
    assert f"--steps {steps.replace(',', '')} " in command or steps == "100,000"
    assert "--seed 1020 --seeds 2 " in command


def test_the_page_has_the_numbers_of_the_json():
    found = json.loads(loss_and_decay.TO.read_text())
    for row in loss_and_decay.table(found["sweeps"]).splitlines():
        assert row in PAGE.read_text()
    for name in found["not run"]:
        assert f"`{name}`" in PAGE.read_text()


def test_it_reads_complete_sweeps_alone(tmp_path, monkeypatch, capsys):
    """A small form: the outcome means nothing, but every number must be there."""
    shared = ["--quick", "--device", "cpu", "--seeds", "2", "--steps", "20", "--probes", "log:2"]
    shared += ["--information", "0"]
    for name in ("cross-entropy", "no-decay"):
        assert main(["sweep", "--preset", name, *shared, "--out", str(tmp_path / name)]) == 0
    gone = tmp_path / "no-decay" / "wd0-seed43"
    (gone / "checkpoint.safetensors").unlink()
    to = tmp_path / "to/mnist.json"
    monkeypatch.setattr("sys.argv", ["x", "--out", str(tmp_path), "--to", str(to)])
    loss_and_decay.main()
    found = json.loads(to.read_text())
    assert found["not run"] == ["no decay", "no decay, larger ε"]
    assert len(found["sweeps"]["cross-entropy"]["runs"]) == 4
    assert set(found["sweeps"]["cross-entropy"]["verdicts"]) == {
        *("grokking", "RNC1, train", "RNC1, unseen", "late rise", "larger λ"),
    }
    assert "| cross-entropy | 0.3 | 42 |" in capsys.readouterr().out
