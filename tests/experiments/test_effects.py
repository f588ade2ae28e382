"""Tests the effects of arms on synthetic logs with known steps."""

import json
import math
from pathlib import Path

import pytest

from ncfast.experiments import run_dir
from ncfast.experiments.config import TrainConfig
from ncfast.experiments.effects import (
    Arm,
    Push,
    accuracy_step,
    decay_sum,
    drives,
    effect,
    fitted_share,
    is_within,
    leftover_step,
    loss_step,
    moved_by,
    read_arm,
)
from ncfast.experiments.sweep import sweep
from ncfast.experiments.sweep_config import SweepConfig
from ncfast.experiments.training.optimizers import decay_factors

LR, DECAY = 1e-3, 0.4
KEY = "train/rnc1.max"
SETTINGS = {"weight_decay": 0.1, "weight_decay_layers": "all", "widths": [200, 200, 200]}


def log(cross, *, quantity=0.1, last=16_000, start=2000, every=200, unfitted=0):
    """A run whose test loss decays exponentially and is 1 at step ``cross``."""
    records = []
    for step in range(start, last + 1, every):
        number = (step - start) // every
        records.append(
            {
                "step": step,
                "train/accuracy": 0.5 if 0 < number <= unfitted else 1.0,
                "test/loss": math.exp(2 * LR * DECAY * (cross - step)),
                "test/accuracy": min(1.0, step / cross),
                KEY: quantity,
            }
        )
    return records


def arm(name, crosses, **changes):
    return Arm(name, {s: log(c, **changes) for s, c in enumerate(crosses)}, SETTINGS)


NONE = arm("none", [11_000, 11_500, 12_000, 11_250, 11_750])


def scaled(name, factors, **changes):
    crosses = (11_000, 11_500, 12_000, 11_250, 11_750)
    return arm(name, [c * f for c, f in zip(crosses, factors, strict=True)], **changes)


def test_a_crossing_between_log_points_is_exact_for_an_exponential():
    assert loss_step(log(11_317.3)).step == pytest.approx(11_317.3, abs=1e-6)
    assert loss_step(log(11_400)).step == pytest.approx(11_400, abs=1e-6)
    assert not loss_step(log(17_000)).reached
    assert loss_step(log(17_000)).step == 16_000
    assert loss_step(log(1_500)) == (2000, True)


def test_a_dip_of_the_loss_is_no_crossing():
    records = log(11_000)
    records[5]["test/loss"] = 0.5
    assert loss_step(records).step == pytest.approx(11_000, abs=1e-6)


def test_a_log_that_is_not_finite():
    records = log(11_000)
    records[0]["test/loss"] = math.inf
    assert loss_step(records).step == pytest.approx(11_000, abs=1e-6)
    with pytest.raises(ValueError, match="test split"):
        loss_step([{"step": 1, "train/accuracy": 1.0}])


def test_the_step_of_the_accuracy_is_interpolated():
    assert accuracy_step(log(10_500)).step == pytest.approx(0.9 * 10_500)
    flat = [record | {"test/accuracy": 0.1 + record["step"] / 1e6} for record in log(10_500)]
    assert accuracy_step(flat) == (16_000, False)


@pytest.mark.parametrize(
    ("factors", "verdict"),
    [
        ((1.0, 1.01, 0.99, 1.0, 1.005), "no effect"),
        ((0.88, 0.8, 0.7, 0.89, 0.85), "earlier"),
        ((0.88, 0.8, 0.7, 0.93, 0.85), "cannot tell"),
        ((1.12, 1.2, 1.11, 1.3, 1.15), "later"),
        ((1.12, 1.2, 1.09, 1.3, 1.15), "cannot tell"),
        ((1.03, 1.06, 1.05, 1.07, 1.04), "cannot tell"),
    ],
)
def test_verdicts(factors, verdict):
    found = effect(scaled("a", factors), NONE, branch=2000)
    assert found.verdict == verdict
    ratios = [math.exp(pair.log_ratio()) for pair in found.pairs]
    assert ratios == pytest.approx(list(factors), rel=1e-6)
    mean, low, high = found.ratio
    assert mean == pytest.approx(math.prod(factors) ** 0.2, rel=1e-6)
    assert low < mean < high


def test_the_interval_is_students():
    factors = (1.0, 1.02, 0.98, 1.01, 1.0)
    found = effect(scaled("a", factors), NONE, branch=2000).log_ratio
    logs = [math.log(f) for f in factors]
    mean = sum(logs) / 5
    deviation = math.sqrt(sum((x - mean) ** 2 for x in logs) / 4)
    assert found.high - mean == pytest.approx(2.776445 * deviation / math.sqrt(5), rel=1e-5)


def test_ratios_from_the_branch():
    pair = effect(scaled("a", (1.1,) * 5), NONE, branch=2000).pairs[0]
    assert pair.log_ratio(2000) == pytest.approx(math.log((12_100 - 2000) / (11_000 - 2000)))
    assert math.isnan(pair.log_ratio(13_000))


def test_an_outcome_that_is_not_reached_is_a_lower_bound():
    late = effect(scaled("a", (1.6,) * 5), NONE, branch=2000)
    assert not late.pairs[0].arm.reached
    assert late.verdict == "later"
    near = arm("none", [15_500] * 5)
    assert effect(scaled("a", (2.0,) * 5), near, branch=2000).verdict == "cannot tell"
    never = arm("none", [20_000] * 5)
    assert effect(NONE, never, branch=2000).verdict == "cannot tell"


def test_an_arm_that_generalises_at_once():
    at_once = Arm("zero", {s: log(-100, start=0) for s in range(5)}, SETTINGS)
    found = effect(at_once, NONE, branch=0)
    assert found.pairs[0].log_ratio() == -math.inf
    assert math.isnan(found.log_ratio.mean)
    assert found.verdict == "earlier"


@pytest.mark.parametrize(
    ("push", "quantity", "took"),
    [
        (Push(KEY, "down"), 0.02, True),
        (Push(KEY, "down"), 0.03, False),
        (Push(KEY, "up"), 0.3001, True),
        (Push(KEY, "up"), 0.2, False),
        (Push("train/absent", "up"), 0.3, False),
        (None, 0.1, True),
    ],
)
def test_a_push_must_take(push, quantity, took):
    found = effect(scaled("a", (1.0,) * 5, quantity=quantity), NONE, branch=2000, push=push)
    assert (found.verdict == "no effect") is took
    assert found.verdict in ("no effect", "did not take")
    if push is not None and push.key == KEY:
        assert found.pairs[0].moved == pytest.approx(quantity / 0.1)


def test_the_push_is_measured_where_the_plan_says():
    ours, theirs = log(11_000, quantity=0.1), log(11_000)
    for record in ours:
        if 8000 <= record["step"] <= 11_000:
            record[KEY] = 0.01
    assert moved_by(ours, theirs, KEY, 8000, 11_000) == pytest.approx(0.1)
    pair = effect(
        Arm("a", {0: ours}, SETTINGS), arm("none", [11_000]), branch=2000, push=Push(KEY, "down")
    )
    assert pair.pairs[0].moved == pytest.approx(0.1)


def test_an_arm_must_stay_fitted():
    assert fitted_share(log(11_000, unfitted=7), 2000) == pytest.approx(63 / 70)
    assert effect(scaled("a", (1.0,) * 5, unfitted=3), NONE, branch=2000).verdict == "no effect"
    assert effect(scaled("a", (1.0,) * 5, unfitted=4), NONE, branch=2000).verdict == "did not take"


def test_what_drives():
    none, early, late, other, failed = (
        effect(scaled("a", (f,) * 5, quantity=q), NONE, branch=2000, push=Push(KEY, "up"))
        for f, q in ((1.0, 1), (0.8, 1), (1.2, 1), (1.07, 1), (1.0, 0.1))
    )
    assert [e.verdict for e in (none, early, late, other, failed)] == [
        *("no effect", "earlier", "later", "cannot tell", "did not take")
    ]
    assert drives(early, late) == "drives"
    assert drives(none, none) == drives(none, failed) == drives(none, None) == "does not drive"
    for pair in ((early, none), (late, early), (none, late), (failed, none), (None, late)):
        assert drives(*pair) == "cannot tell"


def test_arms_without_a_seed_in_common():
    other = Arm("b", {17: log(11_000)}, SETTINGS)
    with pytest.raises(ValueError, match=r"'b' has \[17\]"):
        effect(other, NONE, branch=2000)


def test_the_law_of_the_leftover():
    assert leftover_step(log(11_317.3), 2000, LR, DECAY) == pytest.approx(11_317.3)
    assert leftover_step(log(11_000), 2000, LR, 0.0) == math.inf
    assert leftover_step(log(1_000), 2000, LR, DECAY) == 2000
    with pytest.raises(ValueError, match="step 2100"):
        leftover_step(log(11_000), 2100, LR, DECAY)


@pytest.mark.parametrize("text", ["all", "classifier", "hidden", "1,0,0.5,4"])
def test_the_sum_of_the_decays_is_that_of_the_optimizer(text):
    names = [f"{n}.{p}" for n in ("a", "b", "c", "classifier") for p in ("weight", "bias")]
    expected = 0.1 * sum(decay_factors(text, names)) / 2
    found = decay_sum({**SETTINGS, "weight_decay_layers": text})
    assert found == pytest.approx(expected)


def test_an_interval_inside_a_band():
    found = effect(scaled("a", (1.0, 1.01, 0.99, 1.0, 1.005)), NONE, branch=2000).log_ratio
    assert is_within(found, 0.05)
    assert not is_within(found, 0.005)


def test_arms_are_read_from_sweeps(tmp_path):
    shared = {"widths": (8, 8), "schedule": "every:10", "probes": "every:40", "information": 0}
    sweep(SweepConfig(out=tmp_path / "a", steps=20, seeds=2, device="cpu", **shared))
    found = read_arm("a", tmp_path / "a")
    assert list(found.logs) == [42, 43]
    assert [record["step"] for record in found.logs[42]] == [0, 10, 20]
    assert found.settings["widths"] == [8, 8]
    one = read_arm("one", tmp_path / "a" / "wd0.01-seed43")
    assert one.logs[43] == found.logs[43]
    config = tmp_path / "a" / "wd0.01-seed43" / run_dir.CONFIG
    content = json.loads(config.read_text())
    content["settings"]["seed"] = 42
    config.write_text(json.dumps(content))
    with pytest.raises(run_dir.RunDirectoryError, match="seed 42 is there twice"):
        read_arm("a", tmp_path / "a")


def test_an_arm_without_records(tmp_path):
    run_dir.prepare(TrainConfig(out=tmp_path / "a", device="cpu"))
    with pytest.raises(run_dir.RunDirectoryError, match="no record"):
        read_arm("a", tmp_path / "a")
    assert not Path(tmp_path / "a" / run_dir.METRICS_FILE).exists()
