"""Tests the report of arms: groups by directory, effects with intervals, what it leaves out."""

import json
import math
import re
from pathlib import Path

import pytest

from ncfast.experiments.config import TrainConfig
from ncfast.experiments.report import build_report, grids
from ncfast.experiments.report.effects import EffectRow, draw_effects, effect_rows, effects_table
from ncfast.experiments.report.grids import CURVES, draw
from ncfast.experiments.report.runs import RunGroup, arms, read_run, run_groups
from ncfast.experiments.run_dir import prepare

LAST = 16_000
STEPS = range(2000, LAST + 1, 200)


def write(folder, cross, *, quantity=0.1, last=LAST, **settings):
    """A run from step 2,000 whose test loss is 1 at step ``cross``."""
    prepare(TrainConfig(out=folder, steps=LAST, start_from=Path("trunk"), **settings))
    with (folder / "metrics.jsonl").open("w") as file:
        for step in (step for step in STEPS if step <= last):
            record = {
                "step": step,
                "train/accuracy": 1.0,
                "test/loss": math.exp(8e-4 * (cross - step)),
                "test/accuracy": min(0.9, 0.9 * step / cross),
                "train/rnc1.max": quantity,
            }
            file.write(json.dumps(record) + "\n")


def write_arm(folder, crosses, **more):
    """An arm with a run for each seed, as a sweep lays them out."""
    for seed, cross in enumerate(crosses):
        write(folder / f"seed{seed}", cross, seed=seed, **more)
    names = [f"seed{seed}" for seed in range(len(crosses))]
    content = {"settings": {"seeds": len(crosses)}, "versions": {}, "replicas": names}
    (folder / "sweep.json").write_text(json.dumps(content))


NONE = (11_000, 11_400, 11_800)
PUSH = {"penalty": "rnc1", "penalty_mode": "servo:0.1"}


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    folder = tmp_path_factory.mktemp("arms")
    write_arm(folder / "none", NONE)
    write_arm(folder / "same", [c + 20 for c in NONE], quantity=0.01, **PUSH)
    write_arm(folder / "weak", [c * 0.8 for c in NONE], quantity=0.05, **PUSH)
    write_arm(folder / "earlier", [c * f for c, f in zip(NONE, (0.8, 0.82, 0.84), strict=True)])
    write_arm(folder / "never", [1e5] * 3)
    write_arm(folder / "unfinished", [c * 0.5 for c in NONE], last=12_000)
    return [folder / n for n in ("none", "same", "weak", "earlier", "never", "unfinished")]


def groups_of(directories):
    runs = [read_run(run) for d in directories for run in sorted(d.glob("seed*"))]
    return arms(runs, directories)


def test_arms_are_the_directories_in_their_order(experiment):
    groups = groups_of(experiment)
    assert [group.label for group in groups] == [path.name for path in experiment]
    assert [run.settings["seed"] for run in groups[0].runs] == [0, 1, 2]
    assert groups_of(experiment[:1]) == [], "one directory has no arms"


def test_runs_that_did_not_branch_are_no_arms(tmp_path):
    for name in ("a", "b"):
        prepare(TrainConfig(out=tmp_path / name, steps=LAST))
        (tmp_path / name / "metrics.jsonl").write_text('{"step": 0, "train/accuracy": 0.1}\n')
    paths = [tmp_path / "a", tmp_path / "b"]
    assert arms([read_run(path) for path in paths], paths) == []


def test_effects_are_ratios_within_a_seed(experiment):
    rows = {row.arm: row for row in effect_rows(groups_of(experiment), "loss")}
    assert list(rows) == ["same", "weak", "earlier", "never"], "a run that goes on has no number"
    earlier = rows["earlier"]
    assert earlier.ratio == pytest.approx((0.8 * 0.82 * 0.84) ** (1 / 3), rel=1e-6)
    assert earlier.low < 0.8 < 0.84 < earlier.high
    assert (earlier.pairs, earlier.verdict) == (3, "earlier")
    assert rows["same"].verdict == "no effect"
    assert rows["weak"].verdict == "did not take", "its RNC1 fell by half and not to a fifth"


def test_an_outcome_that_was_not_reached_is_a_lower_bound(experiment):
    never = effect_rows(groups_of(experiment), "loss")[-1]
    assert never.ratio == pytest.approx((LAST**3 / math.prod(NONE)) ** (1 / 3))
    assert math.isnan(never.low)
    assert never.high == math.inf
    shown = effects_table([never])
    assert f">at least {never.ratio:.4g}<" in shown
    assert "inf" not in shown
    assert "nan" not in shown


def test_a_control_that_did_not_get_there_gives_no_ratio(experiment):
    none, never = (groups_of(experiment)[i] for i in (0, 4))
    (row,) = effect_rows([never, none], "loss")
    assert math.isnan(row.ratio)
    assert row.verdict == "cannot tell"
    assert draw_effects([row], "step", "never") is None
    assert effect_rows(groups_of([experiment[5], experiment[0]]), "loss") == [], "control goes on"


def test_arms_without_a_common_seed_or_without_test_loss_are_left_out(experiment):
    none, same = groups_of(experiment[:2])
    other = RunGroup("other", same.runs[2:])
    assert effect_rows([RunGroup("none", none.runs[:2]), other], "loss") == []
    (row,) = effect_rows([none, other], "loss")
    assert row.pairs == 1
    assert math.isnan(row.low), "one pair has no interval"
    for run in same.runs:
        run.records[:] = [{"step": r["step"], "train/accuracy": 1.0} for r in run.records]
    assert effect_rows([none, same], "loss") == []


def test_the_figure_tells_points_bounds_and_arms_that_do_not_count():
    row = EffectRow("a", 0.8, 0.7, 0.9, 3, "earlier")
    plain = draw_effects([row], "step", "none")
    assert "triangle" not in plain.caption
    assert "open point" not in plain.caption
    assert plain.tiles[0].tiles[0].alt == "step, over that of none. a: 0.8 (0.7 to 0.9), earlier."
    rows = [
        row._replace(arm="b", low=math.nan, high=math.inf),
        row._replace(arm="c", verdict="did not take"),
    ]
    both = draw_effects(rows, "step", "none")
    assert "triangle" in both.caption
    assert "open point" in both.caption
    assert "b: at least 0.8, earlier." in both.tiles[0].tiles[0].alt
    assert both.csv().decode().splitlines()[0] == "arm,ratio,low,high,pairs,verdict"


def test_the_page_of_arms(experiment, tmp_path):
    report = build_report(experiment, tmp_path)
    page = report.html.read_text()
    assert {"effects", "curves"} <= {path.stem for path in report.pictures}
    assert "events" not in {path.stem for path in report.pictures}
    text = re.sub(r"<[^>]+>", " ", page)
    assert "Not ended, and without numbers: unfinished." in text
    assert "Effects on the step at which the test loss is 1" in text
    assert "Larger weight decay" not in text, "the paper's claims are not about arms"
    assert "none/seed0" in text, "equal names have their parents'"
    accuracy = re.findall(r'aria-label="accuracy, (\w+) \(3 seeds\)', page)
    assert accuracy == [path.name for path in experiment], "arms beside each other"
    assert "to the largest" in text


def test_an_arm_that_was_there_at_step_0_has_no_ratio(tmp_path):
    write_arm(tmp_path / "none", NONE)
    for seed in range(3):
        prepare(TrainConfig(out=tmp_path / "zero" / f"seed{seed}", steps=LAST, seed=seed))
        records = [
            {
                "step": step,
                "train/accuracy": float(step > 0),
                "test/loss": 0.9,
                "test/accuracy": 0.5,
            }
            for step in (0, 200, LAST)
        ]
        log = tmp_path / "zero" / f"seed{seed}" / "metrics.jsonl"
        log.write_text("".join(json.dumps(record) + "\n" for record in records))
    (row,) = effect_rows(groups_of([tmp_path / "none", tmp_path / "zero"]), "loss")
    assert row.ratio == 0
    assert ">reached at step 0<" in effects_table([row])
    drawn = draw_effects([row, EffectRow("a", 0.8, 0.7, 0.9, 3, "earlier")], "step", "none")
    assert "reached it at step 0" in drawn.caption


def test_steps_of_runs_that_branched_are_on_a_linear_axis(experiment, runs_from_0):
    for groups, scale in ((groups_of(experiment[:2]), "linear"), (runs_from_0, "symlog")):
        drawing = draw(CURVES, groups)
        for row in drawing.tiles:
            assert {tile.axis.get_xscale() for tile in row.tiles} == {scale}


@pytest.fixture
def runs_from_0(tmp_path):
    for seed in (0, 1):
        prepare(TrainConfig(out=tmp_path / str(seed), steps=10, seed=seed))
        (tmp_path / str(seed) / "metrics.jsonl").write_text(
            '{"step": 0, "train/accuracy": 0.1}\n{"step": 10, "train/accuracy": 0.2}\n'
        )
    return run_groups([read_run(tmp_path / str(seed)) for seed in (0, 1)])


def test_groups_that_are_not_drawn_are_counted(runs_from_0, monkeypatch):
    monkeypatch.setattr(grids, "MAX_COLUMNS", 2)
    (group,) = runs_from_0
    assert "groups of runs are drawn" not in draw(CURVES, [group, group]).caption
    assert "2 of 3 groups of runs are drawn." in draw(CURVES, [group, group, group]).caption
