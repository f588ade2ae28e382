"""Tests scaling: slopes of known lines, and a small run from measurement to file."""

import json

import pytest
import torch

from ncfast.benchmarks import scaling


@pytest.mark.parametrize("power", [0.0, 1.0, 2.5])
def test_the_slope_of_a_power(power):
    points = [(size, 3 * size**power) for size in (2.0, 8.0, 50.0, 900.0)]
    assert scaling.slope(points) == pytest.approx(power)


def test_a_constant_cost_fades_in_the_larger_half():
    points = [(10.0**i, 1e3 + 10.0**i) for i in range(9)]
    assert scaling.slope(points) == pytest.approx(1.0, abs=0.02)


def test_every_contestant_is_right():
    case = scaling.class_moments.describe({"N": 500, "D": 8, "K": 5, "dtype": "float32"}, True)
    inputs = scaling.OPERATION.make(case, 0, torch.device("cpu"))
    truth = scaling.truth(inputs)
    for contestant in scaling.OPERATION.contestants:
        if contestant.available(case) is None:
            error = scaling.OPERATION.error(contestant.prepare(inputs)(), truth)
            assert error <= contestant.allowed(case), contestant.name


def test_many_rows_are_the_first_ones_again(monkeypatch):
    monkeypatch.setattr(scaling, "DRAWN_ROWS", 40)
    case = scaling.class_moments.describe({"N": 100, "D": 3, "K": 5, "dtype": "float32"}, True)
    inputs = scaling.OPERATION.make(case, 0, torch.device("cpu"))
    assert inputs["feats"].shape == (100, 3)
    assert torch.equal(inputs["feats"][40:80], inputs["feats"][:40])
    assert torch.equal(inputs["labels"][80:], inputs["labels"][:20])


def test_calls_fill_one_file(tmp_path, monkeypatch):
    fixed = {"by_threads": {"1": {}}, "threads": 1}
    monkeypatch.setattr(scaling.ceilings, "measure", lambda *_: fixed)
    path = tmp_path / "scaling.json"
    for axis in ("D", "N", "N"):
        options = ["--quick", "--seconds", "0.02", "--threads", "1", "--out", str(path)]
        assert scaling.main(["--axes", axis, *options]) == 0
    report = json.loads(path.read_text())
    assert [(s["axis"], s["threads"]) for s in report["scaling"]] == [("D", 1), ("N", 1)]
    for series in report["scaling"]:
        assert len(series["points"]) == len(scaling.QUICK[series["axis"]])
        assert scaling.READ in series["exponents"]
