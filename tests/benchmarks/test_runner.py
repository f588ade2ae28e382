"""Tests the runner: who is timed, who takes part in ratios, and that rounds are paired."""

import json
import time
from types import SimpleNamespace

import pytest
import torch

from ncfast.benchmarks import timing
from ncfast.benchmarks.registry import Case, Contestant, Operation
from ncfast.benchmarks.runner import Conditions, quartiles, run, run_case, share_of_ceiling
from ncfast.benchmarks.samples import classes, relative_error

CPU = torch.device("cpu")
CASE = Case({"N": 4}, bytes=32, flops=8)
CONDITIONS = Conditions(CPU, 0.05, cache_bytes=1 << 20, read=1e9, gemm=1e9)


def contestant(name, kind="torch", off=0.0, slow=0.0, **more):
    def prepare(inputs):
        def call():
            time.sleep(slow)
            return {"sum": inputs["x"].sum() * (1 + off)}

        return call

    return Contestant(name, kind, prepare, **more)


def operation(*contestants):
    return Operation(
        "toy",
        lambda quick: [CASE],
        lambda case, seed, device: {"x": torch.arange(1.0, 5.0, device=device) + seed},
        lambda inputs: {"sum": inputs["x"].double().sum()},
        relative_error,
        contestants,
    )


def results(*contestants):
    entry = run_case(operation(*contestants), CASE, CONDITIONS)
    return {result["contestant"]: result for result in entry["results"]}


def test_who_is_wrong_is_timed_and_marked_but_in_no_ratio():
    found = results(contestant("ours", "ncfast"), contestant("right"), contestant("off", off=0.01))
    assert found["right"]["ok"]
    assert found["right"]["ratio_to_ncfast"]["median"] > 0
    assert not found["off"]["ok"]
    assert found["off"]["error"] == pytest.approx(0.01, rel=1e-4)
    assert found["off"]["median_s"] > 0
    assert found["off"]["ratio_to_ncfast"] is None


def test_ncfast_is_held_to_less():
    found = results(contestant("ours", "ncfast", off=1e-5), contestant("theirs", off=1e-5))
    assert not found["ours"]["ok"]
    assert found["theirs"]["ok"]
    assert found["theirs"]["ratio_to_ncfast"] is None  # no right result to compare with


def test_a_wrong_ncfast_backend_is_not_the_baseline():
    found = results(
        contestant("fast", "ncfast", off=0.1), contestant("slow", "ncfast", slow=2e-3),
        contestant("torch", slow=4e-3),
    )  # fmt: skip
    assert found["fast"]["ratio_to_ncfast"] is None
    assert found["slow"]["ratio_to_ncfast"] == {"median": 1.0, "quartiles": [1.0, 1.0]}
    assert found["torch"]["ratio_to_ncfast"]["median"] > 0


def test_nan_is_wrong_and_null_in_the_file():
    found = results(contestant("ours", "ncfast"), contestant("nan", off=float("nan")))
    assert not found["nan"]["ok"]
    assert found["nan"]["error"] is None
    json.dumps(found, allow_nan=False)


def test_why_somebody_did_not_run():
    def fails(inputs):
        raise ImportError("no such library\nat all")

    found = results(
        contestant("ours", "ncfast"),
        contestant("absent", available=lambda case: f"not with N = {case.sizes['N']}"),
        Contestant("broken", "library", fails),
    )
    assert found["absent"]["reason"] == "not with N = 4"
    assert found["broken"]["reason"] == "ImportError: no such library"
    assert "median_s" not in found["broken"]


def test_what_fits_in_no_cache_rotates():
    seen = []

    def prepare(inputs):
        return lambda: seen.append(float(inputs["x"][0])) or {"sum": inputs["x"].sum()}

    wide = Case({"N": 4}, bytes=1 << 20, flops=8)
    toy = operation(Contestant("ours", "ncfast", prepare))
    entry = run_case(toy, wide, CONDITIONS)
    assert entry["case"]["caches"] == "cold"
    assert set(seen) == {1.0, 2.0, 3.0}  # 1 + 2 x cache / bytes copies
    assert run_case(toy, CASE, CONDITIONS)["case"]["caches"] == "warm"


@pytest.fixture
def _stopped_clock(monkeypatch):
    """A clock on which a call takes the seconds that it returns."""
    still = SimpleNamespace(perf_counter=lambda: 0.0, sleep=lambda seconds: None)
    monkeypatch.setattr(timing, "time", still)
    monkeypatch.setattr(timing, "_clock", lambda device: lambda call, repeats: call())


@pytest.mark.usefixtures("_stopped_clock")
def test_rounds_are_paired_and_the_first_is_in_each():
    seconds = {"ours": 0.01, "quick": 0.01, "slow": 0.1}
    calls = {name: [lambda s=s: s] for name, s in seconds.items()}
    times = timing.measure(calls, seconds, CPU, 1.0)
    assert set(times["slow"]) < set(times["quick"]) <= set(times["ours"])
    assert set(times["slow"].values()) == {0.1}
    assert len(times["ours"]) <= timing.MOST_ROUNDS


def test_a_slow_contestant_takes_no_rounds_from_the_others(monkeypatch):
    passed = [0.0]

    def run(call, repeats):
        passed[0] += call()
        return call()

    running = SimpleNamespace(perf_counter=lambda: passed[0], sleep=lambda seconds: None)
    monkeypatch.setattr(timing, "time", running)
    monkeypatch.setattr(timing, "_clock", lambda device: run)
    seconds = {"ours": 0.01, "quick": 0.02, "slow": 60.0}
    calls = {name: [lambda s=s: s] for name, s in seconds.items()}
    times = timing.measure(calls, seconds, CPU, 1.0)
    assert len(times["slow"]) == 1, "it was over the limit in the first round"
    assert len(times["ours"]) >= len(times["quick"]) > 10


@pytest.mark.usefixtures("_stopped_clock")
def test_everyone_follows_everyone():
    order = []
    calls = {name: [lambda n=name: order.append(n) or 0.1] for name in "abc"}
    timing.measure(calls, dict.fromkeys(calls, 10.0), CPU, 100.0)
    rounds = ["".join(order[at : at + 3]) for at in range(3, len(order), 3)]  # after the warm-up
    assert all(sorted(each) == ["a", "b", "c"] for each in rounds)
    followed = {pair for each in rounds for pair in (each[:2], each[1:])}
    assert followed == {"ab", "ac", "ba", "bc", "ca", "cb"}


def test_shares_of_the_time():
    assert timing.shares({"a": 0.125, "b": 0.25}, 1.5) == {"a": 6, "b": 3}
    assert timing.shares({"a": 0.0001, "b": 0.2}, 1.0)["b"] == 4  # fast contestants leave time
    assert timing.shares({"a": 0.1, "b": 100.0}, 1.0)["b"] == 1


def test_share_of_the_roofline():
    case = Case({}, bytes=10**9, flops=10**6)
    assert share_of_ceiling(case, 2.0, CONDITIONS) == pytest.approx(0.5)
    case = Case({}, bytes=10**6, flops=10**9)
    assert share_of_ceiling(case, 4.0, CONDITIONS) == pytest.approx(0.25)
    assert share_of_ceiling(case, 4.0, None) is None


def test_quartiles():
    assert quartiles([3.0]) == [3.0, 3.0]
    assert quartiles([1.0, 2.0, 3.0, 4.0, 5.0]) == [2.0, 4.0]


def test_every_case_of_an_operation_yields_an_entry():
    (entry,) = run(operation(contestant("ours", "ncfast")), True, CONDITIONS)
    assert entry["bytes"] == 32
    assert entry["flops"] == 8


def test_samples_have_the_asked_spread():
    case = Case({"N": 2000, "D": 64, "K": 3, "dtype": "float64", "spread": 1e-3}, 0, 0)
    found = classes(case, 0, CPU)
    gaps = (found["feats"] - found["centres"][found["labels"]]).norm(dim=1)
    spread = gaps / found["centres"].norm(dim=1)[found["labels"]]
    assert float(spread.square().mean().sqrt()) == pytest.approx(1e-3, rel=0.02)
