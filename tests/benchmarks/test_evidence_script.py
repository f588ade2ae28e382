"""Tests the script that repeats every measurement: its stages, and that no tracked file changes."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ncfast.benchmarks.operations import OPERATIONS

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "evidence.sh"


def evidence(*stages, results, python=sys.executable):
    variables = {"PYTHON": str(python), "NCFAST_RESULTS": str(results)}
    return subprocess.run(
        ["bash", SCRIPT, "--quick", *stages],
        env=os.environ | variables,
        capture_output=True,
        text=True,
    )


def test_results_go_where_they_are_asked_for(tmp_path):
    before = {path: path.stat().st_mtime for path in (ROOT / "benchmarks/results").iterdir()}
    done = evidence("projection", "moments", results=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"projection.json", "bench.json"}
    assert before == {p: p.stat().st_mtime for p in (ROOT / "benchmarks/results").iterdir()}


def test_a_stage_that_does_not_exist_ends_it(tmp_path):
    done = evidence("projection", "no-such-stage", results=tmp_path)
    assert done.returncode != 0
    assert "got 'no-such-stage'" in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_failing_stage_is_listed_and_the_others_run(tmp_path):
    python, results = tmp_path / "python", tmp_path / "results"
    python.write_text(
        "#!/bin/sh\n"
        'case "$*" in *accuracy*) exit 7 ;; *--ops*) echo "$*" >>"$NCFAST_RESULTS/ran" ;; esac\n'
    )
    python.chmod(0o755)
    done = evidence("metrics", "accuracy", "collectives", results=results, python=python)
    assert done.returncode == 1
    assert "Not finished: accuracy\n" in done.stderr
    assert re.search(r"accuracy: \d+ s, failed with status 7\n", done.stdout)
    assert re.search(r"\ncollectives: \d+ s\n", done.stdout)
    ran = (results / "ran").read_text().splitlines()
    assert [line.split("--ops ")[1].split()[0] for line in ran] == ["metrics.suite", "all_reduce"]


def test_a_stage_ends_at_its_first_failure(tmp_path):
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$*" >>"$NCFAST_RESULTS/ran"\nexit 3\n')
    python.chmod(0o755)
    done = evidence("information", results=tmp_path, python=python)
    assert done.returncode == 1
    assert len((tmp_path / "ran").read_text().splitlines()) == 1


def test_every_stage_runs_when_none_is_named():
    text = SCRIPT.read_text()
    named = text.split("if [ $# -eq 0 ]")[1].split("set -- ")[1].split("\nfi")[0]
    stages = re.findall(r"^(\w+)\(\) ", text, re.MULTILINE)
    assert named.replace("\\\n", " ").split() == [
        s for s in stages if s not in ("run", "study", "ops")
    ]
    explained = re.findall(r"^#   (\w+)  +", text, re.MULTILINE)
    assert explained == named.replace("\\\n", " ").split()
    for names in re.findall(r"\bops ([a-z][\w. ]+)", text):
        assert set(names.split()) <= set(OPERATIONS)
    scripts = re.findall(r"(?:study |benchmarks/)(\w+)(?:\.py)?\b", text)
    folders = (ROOT / "benchmarks", ROOT / "benchmarks/studies")
    for name in {s for s in scripts if s not in ("evidence", "studies")}:
        assert any((folder / f"{name}.py").exists() for folder in folders), name


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda path: path.stem)
def test_pages_name_operations_that_exist(page):
    for names in re.findall(r"--ops ((?:[a-z][\w.]*\s*)+)", page.read_text()):
        assert set(names.split()) <= set(OPERATIONS)
    for script in re.findall(r"benchmarks/[\w/]+\.(?:py|sh)\b", page.read_text()):
        assert (ROOT / script).exists(), script
