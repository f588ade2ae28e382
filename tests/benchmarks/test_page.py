"""Tests the performance page: it shows losses and errors, and the committed page is up to date."""

import copy
import re

import pytest

from ncfast.benchmarks import page, projection, roofline


def result(contestant, kind, seconds, error=1e-8, ok=True, ratio=None):
    return {
        "contestant": contestant,
        "kind": kind,
        "backend": "",
        "budget": 1e-6,
        "error": error,
        "ok": ok,
        "rounds": 5,
        "median_s": seconds,
        "quartiles_s": [0.9 * seconds, 1.1 * seconds],
        "ratio_to_ncfast": ratio and {"median": ratio, "quartiles": [0.9 * ratio, 1.05 * ratio]},
        "share_of_ceiling": 0.5,
    }


def entry(*results, flops=4000):
    case = {"N": 1000, "D": 16, "dtype": "float32", "spread": 1e-5, "caches": "cold"}
    return {"case": case, "bytes": 2000, "flops": flops, "results": list(results)}


@pytest.fixture
def report():
    best = {
        "read_bytes_per_s": 3e10,
        "copy_bytes_per_s": 3e10,
        "gather_bytes_per_s": 2e10,
        "gemm_flops_per_s": 2e11,
    }
    mine = result("ours", "ncfast", 1e-3, ratio=1.0)
    slow = result("slow one", "torch", 2e-3, ratio=2.0)
    quick = result("quick one", "library", 8e-4, ratio=0.8)
    bad = result("bad one", "public", 1e-4, error=0.5, ok=False)
    missing = {"contestant": "no one", "kind": "ncfast", "budget": 1, "reason": "no such device"}
    return {
        "schema": 1,
        "environment": {"processor": "P", "threads": 2, "gpu": None, "load": {"before": 0.5}},
        "ceilings": {"threads": 2, "by_threads": {"2": best}},
        "operations": {"sums": [entry(mine, slow, quick, bad, missing)], "more": [entry(mine)]},
    }


def section(text, title):
    return text.split(f"## {title}\n")[1].split("\n## ")[0]


def test_losses_errors_and_gaps_are_told(report):
    text = page.render({"one.json": report})
    losses = section(text, "Where ncfast is slower")
    assert "quick one" in losses
    assert "0.80 [0.72, 0.84]" in losses
    assert "clearly" in losses
    assert "slow one" not in losses
    wrong = section(text, "Wrong results")
    assert "| sums | 0 of 1 | 1 of 3 |" in wrong
    assert "bad one" in wrong
    assert "5e-01" in wrong
    assert "0.10" in wrong, "its time over that of ncfast"
    assert "quick one" not in wrong
    missing = section(text, "Not measured")
    assert "no such device" in missing
    assert "GPUs: no file comes from a machine with a GPU" in missing
    assert "**0.80 [0.72, 0.84]**" in text, "the overview marks a loss"


def test_the_glance_counts_cases_by_their_fastest_right_contestant(report):
    glance = section(page.render({"one.json": report}), "At a glance")
    assert "| sums | `one.json` | 1 | 0 | 0.80 | 0.80 | 0.80 |" in glance
    assert "| more |" not in glance, "nobody else ran"


def test_a_win_in_all_cases_leaves_no_loss(report):
    report["operations"].pop("sums")
    text = page.render({"one.json": report})
    assert "None in these files." in section(text, "Where ncfast is slower")


def test_a_gpu_file_is_no_gap(report):
    report["environment"]["gpu"] = "a card"
    assert "GPUs: no file" not in page.render({"one.json": report})


def test_nobody_right(report):
    lost = copy.deepcopy(report)
    lost["operations"] = {"sums": [entry(result("ours", "ncfast", 1.0, error=None, ok=False))]}
    text = page.render({"one.json": lost})
    assert "none was right" in text
    assert "NaN" in section(text, "Wrong results")


def test_only_files_of_the_schema_count(tmp_path, report):
    (tmp_path / "other.json").write_text('{"rows": []}')
    (tmp_path / "list.json").write_text("[]")
    projection.main(["--out", str(tmp_path / "projection.json")])
    reports = page.load(tmp_path)
    assert list(reports) == ["projection.json"]
    assert "Computed, not measured" in page.render(reports)


def test_points_of_the_roofline(report):
    found = roofline.points(report)
    assert {(p.operation, p.who) for p in found} == {
        ("sums", "ncfast"),
        ("sums", "other"),
        ("more", "ncfast"),
    }
    by_who = {(p.operation, p.who): p for p in found}
    assert by_who["sums", "other"].speed == 4000 / 8e-4
    assert by_who["sums", "ncfast"].intensity == 2
    report["operations"]["sums"][0]["case"]["caches"] = "warm"
    report["operations"]["more"][0]["flops"] = 0
    assert roofline.points(report) == []


def test_the_roofline_is_drawn(report, tmp_path):
    path = tmp_path / "roofline.png"
    assert roofline.figure(report, path)
    assert path.read_bytes()[:4] == b"\x89PNG"
    report["operations"].clear()
    assert not roofline.figure(report, tmp_path / "none.png")


def test_the_committed_page_is_what_its_files_say():
    text = page.PAGE.read_text()
    assert text == page.render(page.load(page.RESULTS)), "run python -m ncfast.benchmarks.page"
    for name in re.findall(r"!\[[^]]*\]\(([^)]+)\)", text):
        assert (page.PAGE.parent / name).stat().st_size > 10_000
