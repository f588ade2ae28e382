"""Tests single cases by number, for machines that are idle only for short times."""

import json

import pytest

from ncfast.benchmarks import bench, results_file
from ncfast.benchmarks.config import BenchConfig
from ncfast.benchmarks.operations import knn


@pytest.fixture
def fast(monkeypatch):
    monkeypatch.setattr(
        bench.ceilings, "measure", lambda *_: {"by_threads": {"1": CEILING}, "threads": 1}
    )
    monkeypatch.setattr(bench.environment, "describe", lambda *_: dict(ABOUT))
    monkeypatch.setattr(knn, "QUICK", [{"N": n, "D": 2, "k": 3} for n in (50, 60, 70)])


CEILING = {"read_bytes_per_s": 1e9, "gemm_flops_per_s": 1e9}
ABOUT = {"processor": "P", "last_cache_bytes": 1 << 20, "clocks_mhz": {}, "load": {}}


def test_cases_in_several_calls_fill_one_operation(fast, tmp_path):
    path = tmp_path / "some.json"
    for cases in ((2,), (0, 1), (2,)):
        config = BenchConfig(
            quick=True, ops=("knn",), cases=cases, seconds=0.01, threads=1, out=path
        )
        bench.bench(config)
    report = json.loads(path.read_text())
    assert sorted(e["case"]["N"] for e in report["operations"]["knn"]) == [50, 60, 70]
    assert report["commands"] == {"knn": "ncfast bench --quick --threads 1 --seconds 0.01"}


def test_a_whole_run_leaves_no_old_case(tmp_path):
    path = tmp_path / "some.json"
    for case, partly, expected in ((1, False, [1]), (2, True, [1, 2]), (3, False, [3])):
        report = results_file.new(dict(ABOUT), {})
        report["operations"]["sums"] = [{"case": {"N": case}, "results": []}]
        results_file.merge_into(path, report, single_cases=partly)
        entries = results_file.load(path)["operations"]["sums"]
        assert [entry["case"]["N"] for entry in entries] == expected
