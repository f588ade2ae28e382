"""Tests comparisons of runs: regressions are flagged, noise and other machines are not."""

import copy

import pytest

from ncfast.benchmarks.compare import compare
from ncfast.cli import main

MACHINE = {"processor": "a", "cores": 2, "threads": 2}


def result(name, kind, median, spread=0.02, ok=True, share=0.5):
    quartiles = [median * (1 - spread), median * (1 + spread)]
    return {
        "contestant": name, "kind": kind, "ok": ok, "median_s": median, "quartiles_s": quartiles,
        "share_of_ceiling": share,
    }  # fmt: skip


def report(*results, **machine):
    entry = {"case": {"N": 8, "caches": "cold"}, "results": list(results)}
    absent = {"contestant": "triton", "kind": "ncfast", "reason": "no GPU"}
    entry["results"].append(absent)
    return {"schema": 1, "environment": MACHINE | machine, "operations": {"toy": [entry]}}


def verdict(old, new):
    (change,) = compare(old, new)
    return change.verdict


@pytest.mark.parametrize(
    ("median", "spread", "expected"),
    [
        (1.0, 0.02, "within the noise"),
        (1.2, 0.02, "slower"),
        (1.2, 0.15, "within the noise"),  # the quartiles overlap
        (1.041, 0.001, "within the noise"),  # below the least change
        (0.8, 0.02, "faster"),
    ],
)
def test_times_of_one_machine(median, spread, expected):
    old = report(result("ours", "ncfast", 1.0))
    assert verdict(old, report(result("ours", "ncfast", median, spread))) == expected


def test_another_machine_is_measured_by_its_own_torch():
    old = report(result("ours", "ncfast", 1.0), result("plain", "torch", 4.0))
    twice = report(result("ours", "ncfast", 2.0), result("plain", "torch", 8.0), processor="b")
    assert verdict(old, twice) == "within the noise"
    worse = report(result("ours", "ncfast", 3.0), result("plain", "torch", 8.0), processor="b")
    (change,) = compare(old, worse)
    assert change.verdict == "slower"
    assert change.factor == pytest.approx(1.5)
    assert "plain" in change.yardstick


def test_a_wrong_yardstick_is_none():
    old = report(result("ours", "ncfast", 1.0), result("plain", "torch", 4.0, ok=False))
    new = report(result("ours", "ncfast", 2.0, share=0.25), processor="b")
    (change,) = compare(old, new)
    assert change.yardstick == "in units of the ceiling"
    assert change.verdict == "slower"


def test_becoming_wrong_is_a_regression_however_fast():
    old = report(result("ours", "ncfast", 1.0))
    assert verdict(old, report(result("ours", "ncfast", 0.5, ok=False))) == "became wrong"


def test_the_command_line_says_so(tmp_path, capsys):
    import json

    old, new = report(result("ours", "ncfast", 1.0)), report(result("ours", "ncfast", 2.0))
    other = copy.deepcopy(old) | {"operations": {}}
    paths = [tmp_path / name for name in ("old.json", "new.json", "other.json")]
    for path, content in zip(paths, (old, new, other), strict=True):
        path.write_text(json.dumps(content))
    assert main(["bench", "--compare", str(paths[0]), str(paths[1])]) == 1
    assert "2.00 times the old time: slower" in capsys.readouterr().out
    assert main(["bench", "--compare", str(paths[1]), str(paths[0])]) == 0
    assert main(["bench", "--compare", str(paths[0]), str(paths[2])]) == 1
    assert "a case in common" in capsys.readouterr().err
