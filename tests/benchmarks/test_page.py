"""Tests the performance pages: they show losses and errors, and are what the results say."""

import copy
import re

import pytest

from ncfast.benchmarks import aims, first_screen, page, projection, roofline
from ncfast.benchmarks.operations import OPERATIONS
from ncfast.benchmarks.report import topics


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
        "operations": {"knn": [entry(mine, slow, quick, bad, missing)], "plane": [entry(mine)]},
    }


def section(text, title):
    return text.split(f"## {title}\n")[1].split("\n## ")[0]


def front_of(reports):
    return page.render(reports)["performance.md"]


def test_losses_errors_and_gaps_are_told(report):
    pages = page.render({"one.json": report})
    front, below = pages["performance.md"], pages["performance-wrong.md"]
    losses = section(front, "Where ncfast is slower")
    assert "quick one" in losses
    assert "| **0.80 [0.72, 0.84]**; 1e-08 |" in losses
    assert "slow one" not in losses
    assert "| knn | 0 of 1 | 1 of 3 |" in section(front, "Wrong results")
    wrong, missing = below.split("\n## Contestants that did not run, and why\n")
    assert "bad one | 1e-06 | 5e-01; 0.10 |" in wrong, "error, and its time over that of ncfast"
    assert "quick one" not in wrong
    assert "no such device" in missing
    assert "GPUs: no file comes from a machine with a GPU" in section(front, "Not measured")
    neighbors = pages["performance-neighbors.md"]
    assert "**0.80 [0.72, 0.84]**" in neighbors, "the overview marks a loss"
    assert "| bad one (wrong) | 5e-01 | 100 us | *0.10* |" in neighbors


def test_the_glance_counts_cases_by_their_fastest_right_contestant(report):
    glance = page.render({"one.json": report})["performance-operations.md"]
    assert "| knn | 0 of 1: 0.80, 0.80, 0.80 |" in glance
    assert "| plane |" not in glance, "nobody else ran"
    assert "- knn, plane: not recorded" in glance, "the command"


def test_a_rival_that_is_faster_in_one_file_has_its_ratio_in_all(report):
    other = copy.deepcopy(report)
    ran = other["operations"]["knn"][0]["results"]
    ran[2] = result("quick one", "library", 1.1e-3, error=3e-8, ratio=1.1)
    ran[1]["rounds"], ran[1]["ratio_to_ncfast"] = 2, {"median": 0.9, "quartiles": [0.8, 0.95]}
    front = front_of({"one.json": report, "two.json": other})
    losses = section(front, "Where ncfast is slower").split("| operation |")[1].splitlines()
    assert losses[0] == " case | faster | `one` | `two` |"
    cells = "**0.80 [0.72, 0.84]**; 1e-08 | 1.10 [0.99, 1.16]; 3e-08"
    assert losses[2].endswith(f"| quick one | {cells} |")
    assert losses[3].endswith("| slow one | 2.00 [1.80, 2.10]; 1e-08 | 0.90 (2 rounds); 1e-08 |")


def test_a_page_lists_the_contestants_of_the_latest_file(report):
    later = copy.deepcopy(report)
    report["operations"]["knn"][0]["day"] = "2030-01-01"
    later["operations"]["knn"][0]["day"] = "2030-01-02"
    for files in ({"a.json": report, "b.json": later}, {"b.json": later, "a.json": report}):
        text = page.render(files)["performance-neighbors.md"]
        assert text.count("fastest other that is right") == 2
        assert text.count("bad one (wrong)") == 1
        assert "case by case, in `b.json`" in text


def test_a_win_in_all_cases_leaves_no_loss(report):
    report["operations"].pop("knn")
    text = front_of({"one.json": report})
    assert "None in these files." in section(text, "Where ncfast is slower")


def test_a_gpu_file_is_no_gap(report):
    report["environment"]["gpu"] = "a card"
    assert "GPUs: no file" not in front_of({"one.json": report})


def test_nobody_right(report):
    lost = copy.deepcopy(report)
    lost["operations"] = {"knn": [entry(result("ours", "ncfast", 1.0, error=None, ok=False))]}
    pages = page.render({"one.json": lost})
    assert "none was right" in pages["performance-neighbors.md"]
    assert "NaN" in pages["performance-wrong.md"]


def test_only_files_of_the_schema_count(tmp_path, report):
    (tmp_path / "other.json").write_text('{"rows": []}')
    (tmp_path / "list.json").write_text("[]")
    projection.main(["--out", str(tmp_path / "projection.json")])
    reports = page.load(tmp_path)
    assert list(reports) == ["projection.json"]
    assert "Computed, not measured" in page.render(reports)["performance-scaling.md"]


def test_points_of_the_roofline(report):
    found = roofline.points(report)
    assert {(p.operation, p.who) for p in found} == {
        ("knn", "ncfast"),
        ("knn", "other"),
        ("plane", "ncfast"),
    }
    by_who = {(p.operation, p.who): p for p in found}
    assert by_who["knn", "other"].speed == 4000 / 8e-4
    assert by_who["knn", "ncfast"].intensity == 2
    report["operations"]["knn"][0]["case"]["caches"] = "warm"
    report["operations"]["plane"][0]["flops"] = 0
    assert roofline.points(report) == []


def test_the_roofline_is_drawn(report, tmp_path):
    path = tmp_path / "roofline.png"
    assert roofline.figure(report, path)
    assert path.read_bytes()[:4] == b"\x89PNG"
    report["operations"].clear()
    assert not roofline.figure(report, tmp_path / "none.png")


def test_a_measure_of_scale_is_no_rival(report):
    scale = result("less work", "baseline", 1e-6, ratio=0.001)
    report["operations"] = {"tracker_step": [entry(result("ours", "ncfast", 1e-3, ratio=1), scale)]}
    pages = page.render({"one.json": report})
    assert "less work" not in pages["performance.md"]
    assert "less work" in pages["performance-training.md"]


def test_a_measure_of_scale_is_no_wrong_result(report):
    read = result("plain read", "baseline", 1e-6, ok=False, ratio=0.001)
    report["operations"] = {"class_moments": [entry(result("ours", "ncfast", 1e-3, ratio=1), read)]}
    pages = page.render({"one.json": report})
    assert "| class_moments | 0 of 1 | 0 of 0 |" in section(
        pages["performance.md"], "Wrong results"
    )
    assert "plain read" not in pages["performance-wrong.md"]


def row_report(number, *results, threads=1, **more):
    row = first_screen.ROWS[number]
    sizes = OPERATIONS[row.operation].cases(False)[row.case].sizes
    found = entry(*results) | {"case": {**sizes, "caches": "cold"}, "day": "2030-01-02", **more}
    about = {"processor": "P", "threads": threads}
    return {"environment": about, "operations": {row.operation: [found]}}


def test_a_row_names_times_errors_wrong_numbers_day_and_command():
    (number,) = (i for i, row in enumerate(first_screen.ROWS) if "ReLU" in row.what)
    mine = result("ncfast", "ncfast", 1e-3, error=0.02, ratio=1.0)
    slow = result("a package", "library", 3e-3, error=0.03, ratio=3.0)
    scale = result("nothing done", "baseline", 1e-5, ratio=0.01)
    bad = result("another", "library", 1e-4, error=1.1, ok=False) | {"values": {"nats": 0.327}}
    load = {"before": 0.2, "after": 0.5}
    report = row_report(number, mine, slow, scale, bad, truth={"nats": 0.15}, load=load)
    line = first_screen.table({"one.json": report}).splitlines()[-1]
    row = first_screen.ROWS[number]
    expected = [row.what, "1 ms", "a package", "3 ms", "3.00 [2.70, 3.15]", "2e-02, 3e-02"]
    expected += ["another 0.327; truth 0.150", "P, 2030-01-02, load 0.2 to 0.5"]
    assert line == "| " + " | ".join([*expected, f"`{row.command}`"]) + " |"
    two = row_report(number, mine, slow, threads=2)
    assert first_screen.table({"one.json": two}) == "Not measured in these files."
    both = first_screen.table({"one.json": report, "two.json": report})
    assert both.split("\n\n") == 2 * [first_screen.table({"one.json": report})]


def test_the_numbers_of_a_record_are_counted():
    mine = result("ncfast", "ncfast", 1e-3, ratio=1.0) | {"values": {"numbers a record": 23.0}}
    some = result("a", "library", 3e-3, ratio=3.0) | {"values": {"numbers a record": 3.0}}
    more = result("b", "public", 3e-3, ratio=3.0) | {"values": {"numbers a record": 7.0}}
    (words,) = first_screen.below({"one.json": row_report(0, mine, some, more)})
    assert "logs 23 numbers a record" in words
    assert "3 to 7" in words.replace("\n", " ")
    assert first_screen.below({"one.json": row_report(0, mine)}) == []


def test_a_row_that_ncfast_loses_or_gets_wrong_says_so():
    quick = result("a package", "library", 5e-4, ratio=0.5)
    report = row_report(0, result("ncfast", "ncfast", 1e-3, ratio=1.0), quick)
    assert "| **0.50 [0.45, 0.53]** |" in first_screen.table({"one.json": report})
    quick["ratio_to_ncfast"] = None
    report = row_report(0, result("ncfast", "ncfast", 1e-3, ok=False), quick)
    assert "| wrong | none was right |" in first_screen.table({"one.json": report})


def test_the_ten_rows_are_cases_that_their_commands_measure():
    assert len(first_screen.ROWS) == 10
    for row in first_screen.ROWS:
        assert 0 <= row.case < len(OPERATIONS[row.operation].cases(False))
        assert f"--ops {row.operation} --cases {row.case} --threads 1" in row.command


def test_one_command_measures_every_row(monkeypatch, tmp_path):
    ran = []
    monkeypatch.setattr(first_screen, "bench", ran.append)
    assert first_screen.main(["--out", str(tmp_path / "rows.json"), "--seconds", "1"]) == 0
    measured = [(config.ops[0], case) for config in ran for case in config.cases]
    assert measured == [(row.operation, row.case) for row in first_screen.ROWS]
    assert {config.threads for config in ran} == {1}
    assert {config.out for config in ran} == {tmp_path / "rows.json"}


def test_the_rows_are_drawn(tmp_path):
    mine, slow = result("a", "ncfast", 1e-3, ratio=1.0), result("b", "library", 3e-3, ratio=3.0)
    path = tmp_path / "rows.png"
    assert first_screen.figure({"one.json": row_report(0, mine, slow)}, path)
    assert path.read_bytes()[:4] == b"\x89PNG"
    assert not first_screen.figure({}, tmp_path / "none.png")


def aim_report(number, *results):
    row = aims.AIMS[number].row
    sizes = OPERATIONS[row.operation].cases(False)[row.case].sizes
    found = entry(*results) | {"case": {**sizes, "caches": "cold"}}
    about = {"processor": "P", "threads": 2}
    return {"environment": about, "operations": {row.operation: [found]}}


@pytest.mark.parametrize(
    ("unit", "seconds", "value", "verdict"),
    [
        ("its time over ncfast's", 0.5e-3, "0.50", "missed"),
        ("its time over ncfast's", 2e-3, "2.00", "reached"),
        ("ncfast's time over it", 0.5e-3, "2.00", "missed"),
        ("ncfast's time over it", 0.9e-3, "1.11", "reached"),
        ("us more than it", 0.9e-3, "100.00", "missed"),
        ("us more than it", 0.98e-3, "20.00", "reached"),
    ],
)
def test_an_aim_is_reached_or_missed(unit, seconds, value, verdict):
    number, aim = next((i, each) for i, each in enumerate(aims.AIMS) if each.unit == unit)
    mine = result("ncfast", "ncfast", 1e-3, ratio=1.0)
    other = result(aim.against or "a package", "library", seconds, ratio=seconds / 1e-3)
    table = aims.table({"one.json": aim_report(number, mine, other)})
    line = [each for each in table.splitlines() if each.startswith("| ")][-1]
    told = f"- **{aim.row.what}.** {aim.limit}"
    assert (told in table) == (verdict == "missed" and bool(aim.limit))
    cell = f"**{value}**, missed" if verdict == "missed" else value
    cell += "" if aim.against else " (a package)"
    assert f"| {unit} | {aim.aim:g} | `{aim.row.command}` | {cell} |" in line


def test_an_aim_without_its_case_is_left_out():
    mine = result("ncfast", "ncfast", 1e-3, ratio=1.0)
    assert aims.table({"one.json": aim_report(0, mine)}) == "Not measured in these files."
    assert {each.row.operation for each in aims.AIMS} <= set(OPERATIONS)


def test_every_operation_has_a_page():
    assert {topics.topic_of(name) for name in OPERATIONS} == set(topics.TOPICS)
    with pytest.raises(LookupError, match="topic of 'new'"):
        topics.topic_of("new")


COMMITTED = page.render(page.load(page.RESULTS))


@pytest.mark.parametrize("name", COMMITTED)
def test_the_committed_pages_are_what_their_files_say(name):
    text = (page.PAGE.parent / name).read_text()
    assert text == COMMITTED[name], "run python -m ncfast.benchmarks.page"
    assert len(text.split()) < 5000
    for image in re.findall(r"!\[[^]]*\]\(([^)]+)\)", text):
        assert (page.PAGE.parent / image).stat().st_size > 10_000


def test_no_page_is_left_over():
    found = {path.name for path in page.PAGE.parent.glob("performance*.md")}
    assert found == set(COMMITTED)
