"""Tests the attempts to break ncfast: each finds a fault that is planted."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from oracle import two_pass

import ncfast
from ncfast.benchmarks.reliability import fuzz, inputs, kills, ranks, runs, soak, truth
from ncfast.benchmarks.reliability.processes import Process, must, run
from ncfast.tracking import Tracker

ROOT = Path(__file__).parents[3]
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks and /proc of Linux")


def spin():
    while True:
        pass


@linux
def test_a_process_is_killed_at_its_cpu_time():
    process = Process(spin)
    process.kill_at(0.2)
    ended = process.wait()
    assert ended.status == -signal.SIGKILL
    assert 0.1 < ended.cpu < 60


@linux
def test_a_process_returns_raises_and_is_ended():
    assert must(lambda: {"a": 1}) == {"a": 1}
    ended = run(lambda: 1 // 0)
    assert ended.status == 1
    assert "ZeroDivisionError" in ended.error
    assert run(lambda: os.write(2, b"said")).output == "said"
    with pytest.raises(TimeoutError):
        run(lambda: time.sleep(60), seconds=0.2)
    with pytest.raises(RuntimeError, match="ended with -15"):
        must(lambda: os.kill(os.getpid(), signal.SIGTERM))


def test_moments_in_long_double_equal_those_of_the_oracle():
    one = inputs.sample(np.random.default_rng(1))
    expected = two_pass(one.x, one.y, one.classes)
    for name, value in truth.moments(one.x, one.y, one.classes).items():
        np.testing.assert_allclose(value.astype(np.float64), expected[name], rtol=1e-12)


def test_samples_hold_the_same_numbers_in_every_layout():
    for number in range(300):
        one = inputs.sample(np.random.default_rng(number))
        feats = torch.as_tensor(
            np.array(one.feats) if isinstance(one.feats, np.ndarray) else one.feats
        )
        assert torch.equal(feats.to(torch.float64), one.x)


@pytest.mark.parametrize("family", fuzz.FAMILIES)
def test_every_family_passes(family):
    found = fuzz.fuzz(family, 150, seed=1)
    assert found["calls"] >= 150
    assert found["undefined"] < 75
    assert not found["problems"]


def off_by(share, original):
    """A function whose moments have a sum of squares that is off."""

    def call(*args, **options):
        moments = original(*args, **options)
        moments.within_ss *= 1 + share
        return moments

    return call


def test_a_wrong_number_is_found(monkeypatch):
    monkeypatch.setattr(ncfast, "class_moments", off_by(1e-5, ncfast.class_moments))
    assert fuzz.fuzz("class moments", 60)["wrong"] > 10


@pytest.mark.parametrize("family", ["metrics of one call", "streams"])
@pytest.mark.parametrize("id_", ["rnc1.max", "nc2.equinorm", "nc4.agreement"])
def test_a_wrong_metric_is_found(monkeypatch, family, id_):
    target, name = {
        "metrics of one call": (ncfast, "collapse_metrics"),
        "streams": (ncfast.Accumulator, "compute"),
    }[family]
    original = getattr(target, name)

    def changed(*args, **options):
        found = original(*args, **options)
        return found | {id_: found[id_] * (1 + 1e-4) + 1e-4}

    monkeypatch.setattr(target, name, changed)
    found = fuzz.fuzz(family, 40)
    assert found["wrong"] > 5
    assert f"{id_} is" in found["problems"][0]


def test_an_unnamed_error_is_found(monkeypatch):
    def careless(x, k):
        return float(x) / k

    monkeypatch.setitem(fuzz.FAMILIES, "wrong arguments", only("entropy", careless))
    assert fuzz.fuzz("wrong arguments", 40)["wrong"] > 10


def only(name, function):
    from ncfast.benchmarks.reliability import misuse

    def family(rng):
        right = misuse.CALLS[name][1]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(misuse, "CALLS", {name: (function, right)})
            yield from misuse.misuse(rng)

    return family


def forgetful(folder):
    """A loop that does not go on where it was."""
    folder.mkdir(exist_ok=True)
    path = folder / "count"
    count = int(path.read_text()) if path.exists() else 0
    for number in range(count, 40):
        part = folder / "part"
        part.write_text(str(number))
        os.replace(part, path)  # a kill never leaves half a file
        end = time.process_time() + 0.01
        while time.process_time() < end:
            pass
    (folder / "started at").write_text(str(count))


@linux
def test_a_run_that_goes_on_wrongly_is_found(tmp_path, monkeypatch):
    def outcome(folder):
        return {name: (folder / name).read_text() for name in ("count", "started at")}

    subject = kills.Subject(forgetful, outcome, lambda folder: ["checked"])
    monkeypatch.setitem(kills.SUBJECTS, "forgetful", subject)
    found = kills.kill("forgetful", 3, tmp_path)
    assert found["kills"] == 3
    assert found["differ"] >= 2
    assert any("differs: started at" in line for line in found["problems"])
    assert any("checked" in line for line in found["problems"])


@linux
def test_lost_records_of_a_killed_tracker_are_found(tmp_path):
    must(lambda: runs.run_tracker(tmp_path))
    assert kills.check_tracker(tmp_path) == []
    path = tmp_path / runs.LOG
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:300] + lines[301:]))
    assert len(kills.check_tracker(tmp_path)) == 2


@linux
def test_the_long_run_counts_what_is_missing(tmp_path):
    found = soak.soak(400, tmp_path)
    assert (found["missing"], found["differ"]) == (0, 0)
    assert [point["step"] for point in found["points"]][-1] == 400
    path = tmp_path / "log.jsonl"
    with Tracker(num_classes=3, sinks=[path], log_cost=False, metrics="rnc1") as tracker:
        for step in range(20):
            if step == 5:
                tracker.advance()
            x = torch.randn(6, 2, generator=torch.Generator().manual_seed(step % 8))
            tracker.step(feats=x, labels=torch.arange(6) % 3)
    assert soak._wrong(path, 20)["missing"] > 0
    assert soak._wrong(path, 21)["missing"] > 0


def silent(rank, world, path):
    return ["a fault"] if rank == 1 else []


def aborting(rank, world, path):
    os.abort()


@linux
def test_faults_of_ranks_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(ranks, "CASES", {"silent": silent, "aborting": aborting})
    silent.__doc__ = aborting.__doc__ = "Planted."
    found = ranks.part((2,), 1, tmp_path)
    assert (found["runs"], found["faulty"], found["aborted"], found["hung"]) == (2, 1, 2, 0)


@linux
def test_the_script_writes_results_and_refuses_unknown_stages(tmp_path):
    script = ["bash", ROOT / "benchmarks" / "reliability.sh", "--quick"]
    variables = os.environ | {"PYTHON": sys.executable, "NCFAST_RESULTS": str(tmp_path)}
    done = subprocess.run([*script, "x"], env=variables, capture_output=True, text=True)
    assert done.returncode == 2
    assert "unknown stages: x" in done.stderr
    done = subprocess.run([*script, "soak"], env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "reliability.json").exists()
