"""Tests verdicts about synthetic runs with known answers."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from ncfast.experiments.report.build import summarise
from ncfast.experiments.report.claims import CONFIRMED, DENIED, OPEN, verdicts
from ncfast.experiments.report.runs import Run, band, run_groups
from ncfast.experiments.report.scaling import (
    balance_rate,
    decay_law,
    laws_by_level,
    midpoint,
    time_scales,
)
from ncfast.tracking.analytics.events import find_events

STEPS = sorted({round(10 ** (k / 40)) for k in range(201)})


def run(
    decay, seed, *, fit=100, late=10_000, collapse=None, bound=2.0, model="mlp", ends=1e5, **more
):
    """Accuracy steps up at ``fit`` and ``late``; RNC1 and NC2 fall around ``collapse``."""
    collapse = 0.7 * late if collapse is None else collapse
    records = []
    for step in [s for s in STEPS if s <= ends]:
        error = float(np.interp(np.log(step), np.log([0.6 * late, late]), [0.9, 0.1]))
        fall = 1 / (1 + (step / collapse) ** 4)
        records.append(
            {
                "step": step,
                "train/accuracy": 1.0 if step >= fit else 0.2,
                "test/accuracy": 1 - error,
                "test/error": error,
                "train/rnc1.max": 0.1 * fall + 1e-4,
                "test/rnc1.max": 0.1 * fall + 1e-3,
                "train/nc2.condition": 1 + 20 * fall,
                "test/bound.generalization": bound * error,
                "test/bound.superfluous@0.1": 3 * fall + 0.01,
                "balancedness.absolute": 50 * (1 - 1e-4 * decay) ** (2 * step),
            }
        )
    settings = {"weight_decay": decay, "seed": seed, "model": model, "dataset": "digits", **more}
    about = {"settings": settings, "versions": {}}
    return Run(Path(f"wd{decay}-seed{seed}"), about, records, find_events(records))


def paper():
    return [
        run(d, s, late=round(1000 / d * (1 + 0.02 * s))) for d in (0.3, 0.1, 0.03) for s in (0, 1)
    ]


def outcomes(runs):
    return {v.claim.split(":")[0].split(",")[0]: v for v in verdicts(runs)}


def test_runs_as_in_the_paper_confirm_everything():
    for verdict in verdicts(paper()):
        assert verdict.outcome == CONFIRMED, verdict
        assert any(c.isdigit() for c in verdict.numbers)
    assert len(verdicts(paper())) == 11


def test_one_run_is_an_example():
    for verdict in verdicts([run(0.3, 0)]):
        assert verdict.outcome == (CONFIRMED if "bound is above" in verdict.claim else OPEN), (
            verdict
        )


def test_a_verdict_on_one_run_speaks_about_it():
    for late, word in ((10_000, "yes, in this run"), (110, "no, not in this run")):
        found = outcomes([run(0.3, 0, late=late)])
        assert found["It groks"].word == word
        assert found["It groks"].here is (late == 10_000)
        assert "runs" not in found["It groks"].numbers
    birds = outcomes([run(0.3, 0, late=1000, collapse=20_000)])["No early birds"]
    assert birds.word == "no, not in this run"
    several = outcomes([run(0.3, seed) for seed in (0, 1)])["It groks"]
    assert (several.word, several.here) == (CONFIRMED, None)


def test_one_run_that_did_not_get_there_cannot_tell():
    found = outcomes([run(0.3, 0, ends=50)])["It groks"]
    assert found.word == OPEN
    assert found.numbers.startswith("This run cannot tell. This needs a fit")


def test_a_verdict_on_a_bound_says_where_it_is_empty():
    bound = "The generalisation bound is above the measured error."
    assert outcomes([run(0.1, 0, bound=20)])[bound].word == "the bound is empty"
    telling = outcomes([run(0.1, 0)])[bound]
    assert telling.word == "yes, in this run"
    assert "at the other" in telling.numbers
    assert telling.numbers.split("at the other ")[1].startswith("1")
    broken = outcomes([run(0.1, 0, bound=0.9)])[bound]
    assert broken.word == "no, not in this run"
    assert "it is empty" not in broken.numbers


def test_runs_that_generalise_at_once_do_not_grok():
    found = outcomes([run(d, s, late=110) for d in (0.3, 0.1, 0.03) for s in (0, 1)])
    assert found["It groks"].outcome == DENIED
    assert found["Larger weight decay generalises earlier."].outcome == OPEN
    assert found["The time of the collapse"].outcome == DENIED
    assert "leaves out -1" in found["The time of the collapse"].numbers


def test_a_late_rise_of_little_is_not_grokking():
    """Test accuracy is 0.8 at the fit and 0.95 much later, when it passes 90 % of its best."""
    runs = [run(0.1, seed, late=10_000) for seed in (0, 1)]
    for record in (record for late in runs for record in late.records):
        early = 0.8 if record["step"] >= 50 else 0.1
        record["test/accuracy"] = 0.95 if record["step"] >= 10_000 else early
    again = [Run(late.path, late.config, late.records, find_events(late.records)) for late in runs]
    assert again[0].events.generalisation >= 100 * again[0].events.fit
    assert outcomes(again)["It groks"].outcome == DENIED


def test_a_network_that_is_no_perceptron_is_expected_not_to():
    found = outcomes([run(0.1, s, late=110, model="cnn") for s in range(3)])
    assert found["This network does not grok"].outcome == CONFIRMED
    assert "It groks" not in found


def test_collapse_at_the_fit_is_not_confirmed():
    found = verdicts([run(0.1, s, collapse=120) for s in range(3)])
    fall = next(v for v in found if v.claim.startswith("RNC1 of the training features falls"))
    assert fall.outcome == DENIED


def test_a_cnn_that_collapses_with_the_fit_has_collapsed_when_it_fits():
    for collapse, outcome in ((20, CONFIRMED), (5000, DENIED)):
        found = outcomes([run(0.1, s, model="cnn", collapse=collapse) for s in (0, 1)])
        assert found["It has collapsed when it first fits"].outcome == outcome


def test_a_transformer_whose_nc1_alone_follows_the_accuracy():
    runs = [run(0.1, s, model="transformer") for s in (0, 1)]
    for record in (record for one in runs for record in one.records):
        record["test/nc1.quotient"] = record["test/rnc1.max"] = record["test/error"]
    assert outcomes(runs)["NC1 (unseen data) follows the test accuracy"].outcome == DENIED
    for record in (record for one in runs for record in one.records):
        record["test/rnc1.max"] = math.sin(record["step"])
    assert outcomes(runs)["NC1 (unseen data) follows the test accuracy"].outcome == CONFIRMED


def test_more_data_and_larger_decay_come_earlier():
    sizes = [
        run(0.1, s, late=6_000_000 / n + 50 * s, train_size=n)
        for n in (1000, 3000)
        for s in range(3)
    ]
    assert outcomes(sizes)["More training samples generalise earlier."].outcome == CONFIRMED
    claim = "Superfluous information (its log-det bound"
    assert outcomes(paper())[claim].outcome == CONFIRMED
    assert outcomes([run(d, 0) for d in (0.3, 0.1, 0.03, 0.01)])[claim].outcome == OPEN


def test_margins_of_training_samples_become_spikes_first(tmp_path):
    def probe(step, widths):
        def counts(width):
            side = [1000 * math.exp(-(((b - 44.5) / width) ** 2)) for b in range(60)]
            return [[side, side[::-1]]]

        split = dict(zip(("train", "test"), map(counts, widths), strict=True))
        return {"step": step, "margins": {"pairs": [[0, 1]], "edge": 3.0, "counts": split}}

    for name, last, outcome in (("a", (0.5, 2), CONFIRMED), ("b", (4, 5), DENIED)):
        runs = []
        for seed in (0, 1):
            made = run(0.1, seed)
            path = tmp_path / name / str(seed)
            path.mkdir(parents=True)
            probes = [probe(0, (9, 9)), probe(100, (5, 8)), probe(100_000, last)]
            (path / "probes.jsonl").write_text("".join(json.dumps(p) + "\n" for p in probes))
            runs.append(Run(path, made.config, made.records, made.events))
        assert (
            outcomes(runs)["Margins between classes collapse to points after the fit"].outcome
            == outcome
        )


def test_early_birds_are_counted():
    found = verdicts([run(0.1, s, late=1000, collapse=20_000) for s in range(4)])
    bird = next(v for v in found if "early birds" in v.claim)
    assert bird.outcome == DENIED
    assert bird.numbers.startswith("4 of 4")


def test_the_balance_of_linear_layers_is_asked_of_its_own_setting():
    def setting(lr):
        return {"optimizer": "gd", "momentum": 0.0, "last_activation": False, "lr": lr}

    for lr, outcome in ((1e-4, CONFIRMED), (2e-4, DENIED)):
        found = verdicts([run(d, 0, **setting(lr)) for d in (0.3, 0.1)])
        mechanism = next(v for v in found if v.claim.startswith("The mechanism"))
        assert mechanism.outcome == outcome
    assert not any(v.claim.startswith("The mechanism") for v in verdicts(paper()))
    rate = balance_rate(run(0.3, 0, **setting(1e-4)))
    assert rate.mean == pytest.approx(1, abs=1e-6)
    assert (
        json.loads(json.dumps(summarise([run(0.3, 0, **setting(1e-4))])))["runs"][0]["tau_1"] == 100
    )


def test_a_broken_bound_is_found():
    found = outcomes([run(0.1, 0, bound=0.9)])
    assert found["The generalisation bound is above the measured error."].outcome == DENIED


def test_a_bound_above_one_confirms_nothing():
    """An error of 8.6 is not evidence, because no error is above one."""
    found = outcomes([run(0.1, 0, bound=20)])[
        "The generalisation bound is above the measured error."
    ]
    assert found.outcome == OPEN
    assert "at 0 of them it is below one" in found.numbers


def test_runs_that_stop_early_tell_nothing():
    found = outcomes([run(d, 0, ends=50) for d in (0.3, 0.1)])
    for claim in ("It groks", "The time of the fit", "The time of the collapse"):
        assert found[claim].outcome == OPEN


def test_runs_that_did_not_get_there_are_counted_and_leave_the_law_open():
    """tau_2 is proportional to lambda^(-1/2) in the runs that reached it; slow runs are missing."""
    late = {(d, s): round(1000 / d**0.5 * (1 + 0.02 * s)) for d in (0.3, 0.1) for s in (0, 1)}
    runs = [run(d, s, late=step) for (d, s), step in late.items()]
    slope = decay_law(runs, time_scales(runs).tau2)
    assert slope.exponent == pytest.approx(-0.5, abs=0.1)
    assert outcomes(runs)["The time of the collapse"].outcome == DENIED
    slow = outcomes([*runs, run(0.01, 0, late=90_000, ends=20_000)])["The time of the collapse"]
    assert slow.outcome == OPEN
    assert "1 more did not get there" in slow.numbers
    assert decay_law(runs[:2], time_scales(runs[:2]).tau2) is None


def test_time_scales_share_one_level():
    scales = time_scales(paper())
    assert scales.eps2 == pytest.approx(0.075, rel=0.01)
    assert scales.tau1 == (100,) * 6
    assert list(scales.tau2) == sorted(scales.tau2)
    laws = laws_by_level(paper())
    assert [eps / scales.eps2 for eps, _ in laws] == [1, 1 / 2, 1 / 4, 1 / 8]
    assert all(law.exponent == pytest.approx(-1, abs=0.05) for _, law in laws)
    fallen = midpoint(paper()[0], "train/rnc1.max")
    assert 2333 < fallen < 100_000


def test_families_and_bands():
    found = run_groups([*paper(), run(0.1, 7)])
    assert [family.label for family in found] == ["λ = 0.3", "λ = 0.1", "λ = 0.03"]
    assert [len(family.runs) for family in found] == [2, 3, 2]
    shown = band(found[0], "test/accuracy")
    assert (shown.low <= shown.mean).all()
    assert (shown.mean <= shown.high).all()
    assert shown.low.min() == pytest.approx(0.1)
    assert band(found[0], "no/such") is None
    assert not math.isnan(shown.mean.sum())
