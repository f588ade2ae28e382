"""Tests `ncfast bench` on one small operation: the file, its schema, and merging."""

import json
import math
import re

import pytest

from ncfast.benchmarks import bench, ceilings, environment, results_file
from ncfast.benchmarks.operations import OPERATIONS, rnc1
from ncfast.cli import main

CEILINGS = {"read_bytes_per_s", "copy_bytes_per_s", "gather_bytes_per_s", "gemm_flops_per_s"}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("bench") / "out.json"
    arguments = ["--quick", "--ops", "rnc1", "--threads", "1", "--seconds", "0.05"]
    small = [{**sizes, "N": 500, "D": 32} for sizes in rnc1.QUICK]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rnc1, "QUICK", small)
        patch.setattr(ceilings, "SMALLEST", 1 << 20)
        patch.setattr(ceilings, "SECONDS", 0.0)
        patch.setattr(ceilings, "GEMM_SIZE", {"cpu": 64})
        patch.setattr(environment, "last_cache_bytes", lambda: 1 << 20)
        assert main(["bench", *arguments, "--out", str(path)]) == 0
    return path


def test_the_file_is_as_its_schema_says(written):
    report = results_file.load(written)
    assert set(report) == {"schema", "environment", "ceilings", "commands", "operations"}
    assert report["environment"]["threads"] == 1
    assert set(report["environment"]["clocks_mhz"]) == {"before", "after"}
    assert set(report["ceilings"]["by_threads"]["1"]) == CEILINGS
    assert all(v > 0 for v in report["ceilings"]["by_threads"]["1"].values())
    (name,) = report["operations"]
    assert len(report["operations"][name]) == len(rnc1.QUICK)
    for sizes, entry in zip(rnc1.QUICK, report["operations"][name], strict=True):
        assert entry["case"].items() >= (sizes | {"N": 500, "D": 32}).items()
        names = {result["contestant"] for result in entry["results"]}
        assert names == {each.name for each in OPERATIONS[name].contestants}
        for result in results_file.ran(entry):
            assert result["ok"] == (
                result["error"] is not None and result["error"] <= result["budget"]
            )
            low, high = result["quartiles_s"]
            assert 0 < low <= result["median_s"] <= high
            assert (result["ratio_to_ncfast"] is not None) == result["ok"]


def test_collapsed_features_part_right_from_wrong(written):
    (collapsed,) = [
        entry
        for entry in results_file.load(written)["operations"]["rnc1"]
        if entry["case"].get("spread") == 1e-5
    ]
    ok = {result["contestant"]: result["ok"] for result in results_file.ran(collapsed)}
    assert ok["ncfast reference"]
    assert ok["two passes, float64, whole"]
    assert not ok["published, E[x^2] - E[x]^2, float32, whole"]


def test_other_operations_stay_if_the_environment_is_the_same(written, tmp_path):
    path = tmp_path / "merged.json"
    path.write_bytes(written.read_bytes())
    report = results_file.load(path)
    new = report | {"operations": {"another": []}}
    assert results_file.merge_into(path, new) == []
    assert set(results_file.load(path)["operations"]) == {"another", "rnc1"}
    elsewhere = new | {"environment": report["environment"] | {"threads": 7}}
    assert results_file.merge_into(path, elsewhere) == ["rnc1"]
    assert set(results_file.load(path)["operations"]) == {"another"}


def test_single_cases_replace_themselves_alone(written, tmp_path):
    path = tmp_path / "merged.json"
    path.write_bytes(written.read_bytes())
    report = results_file.load(path)
    first, second = report["operations"]["rnc1"]
    again = second | {"flops": 7}
    new = report | {"operations": {"rnc1": [again]}}
    results_file.merge_into(path, new, single_cases=True)
    assert results_file.load(path)["operations"]["rnc1"] == [first, again]
    results_file.merge_into(path, new)
    assert results_file.load(path)["operations"]["rnc1"] == [again]


def test_what_is_no_result_is_refused(tmp_path, capsys):
    path = tmp_path / "x.json"
    path.write_text("[]")
    with pytest.raises(ValueError, match="to be a file of `ncfast bench`"):
        results_file.load(path)
    path.write_text(json.dumps({"schema": 99}))
    with pytest.raises(ValueError, match="to have schema 1 but got 99"):
        results_file.load(path)
    assert main(["bench", "--ops", "nothing", "--out", str(path)]) == 1
    assert "Expected `ops` to name operations but got 'nothing'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["bench"])
    assert "--out" in capsys.readouterr().err


def test_a_number_that_is_not_finite_becomes_null():
    found = {"a": [math.inf, 1.23456789], "b": {"c": math.nan, "d": 7, "e": "x"}}
    assert results_file.rounded(found) == {"a": [None, 1.23457], "b": {"c": None, "d": 7, "e": "x"}}


def test_the_help_names_every_operation(capsys):
    with pytest.raises(SystemExit):
        main(["bench", "--help"])
    words = set(re.findall(r"[\w.]+\w", capsys.readouterr().out))
    assert set(OPERATIONS) <= words


def test_every_operation_has_small_cases_and_its_own_names():
    assert bench.choose(()) == [each for each in OPERATIONS.values() if not each.when_named]
    assert bench.choose(("metrics.suite",)) == [OPERATIONS["metrics.suite"]]
    for operation in OPERATIONS.values():
        names = [each.name for each in operation.contestants]
        assert len(names) == len(set(names))
        assert "ncfast" in {each.kind for each in operation.contestants}
        assert len(names) > 1
        for quick in (True, False):
            for case in operation.cases(quick):
                assert case.quick == quick
                assert case.bytes >= 0  # zero: not counted
                assert case.flops >= 0
