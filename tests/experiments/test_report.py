"""Tests reports of runs: figures, tables and texts."""

import base64
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from ncfast.experiments.config import TrainConfig
from ncfast.experiments.report import build_report
from ncfast.experiments.report.figures import _MAX_POINTS, _thinned
from ncfast.experiments.report.runs import read_run
from ncfast.experiments.run_dir import RunDirectoryError
from ncfast.experiments.trainer import train

# Texts that come from the probes.
PROBED = {"bounds", "information", "plane", "margins", "components"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two short runs that differ in weight decay; the second measures the test split rarely."""
    folder = tmp_path_factory.mktemp("runs")
    common = {"steps": 3000, "widths": (50, 50), "init_scale": 1.0, "device": "cpu"}
    common |= {"probes": "log:4", "information": 300}
    train(TrainConfig(out=folder / "a", schedule="every:20", **common))
    train(
        TrainConfig(
            out=folder / "b",
            schedule="every:50",
            test_schedule="every:500",
            weight_decay=0.3,
            **common,
        )
    )
    return folder


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.seen, self.sources, self.text = [], [], ""

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data):
        self.text += data


def parsed(path):
    tags = Tags()
    tags.feed(path.read_text())
    return tags


def test_one_run(runs):
    report = build_report([runs / "a"])
    assert report.html == runs / "a" / "report.html"
    names = {path.stem for path in report.pictures}
    assert names == {"overview", "accuracy", "rnc1", "nc2", "nc1", "weights"} | PROBED
    assert {path.stem for path in report.tables} == names
    rows = (runs / "a" / "accuracy.csv").read_text().splitlines()
    assert rows[0] == "quantity,step,value"
    assert len(rows) == 1 + 2 * len(read_run(runs / "a").records), "both splits at every log point"
    for path in report.pictures:
        assert path.read_bytes().startswith(b"\x89PNG")
    tags = parsed(report.html)
    run = read_run(runs / "a")
    assert run.events.fit is not None
    for event in (run.events.fit, run.events.generalisation):
        assert f"{event:,}" in tags.text
    assert "lag: fit to collapse" in tags.text
    assert "RNC1, mean norm" in tags.text
    assert "Tr(Sigma_W) / (largest feature norm)^2" in tags.text, "conventions are stated"


@pytest.mark.parametrize("names", [["a"], ["a", "b"]])
def test_the_page_needs_no_network_and_no_script(runs, tmp_path, names):
    report = build_report([runs / name for name in names], tmp_path)
    tags = parsed(report.html)
    assert "script" not in tags.seen
    assert "link" not in tags.seen
    assert tags.sources
    for source in tags.sources:
        assert source.startswith("data:image/svg+xml;base64,")
        svg = base64.b64decode(source.split(",")[1])
        ElementTree.fromstring(svg)
        assert not re.search(rb'(href|src)="http', svg)


def test_several_runs(runs, tmp_path):
    report = build_report([runs / "a", runs / "b"], tmp_path / "new")
    assert {path.stem for path in report.pictures} == {"curves", "events", "weights"} | PROBED
    text = parsed(report.html).text
    assert "2 runs: MLP on digits" in text
    for claim in ("It groks", "tau_2, goes as 1 / λ", "Larger weight decay generalises earlier"):
        assert claim in text
    table = (tmp_path / "new" / "curves.csv").read_text()
    assert table.splitlines()[0] == "family,quantity,step,mean,low,high"
    assert "schedule = every:20" in table, "settings that differ tell the run_groups apart"


def test_a_run_that_was_killed_is_readable(runs, tmp_path):
    for name in ("config.json", "metrics.jsonl"):
        (tmp_path / name).write_bytes((runs / "a" / name).read_bytes())
    log = tmp_path / "metrics.jsonl"
    log.write_bytes(log.read_bytes()[:-20])
    build_report([tmp_path])
    assert len(read_run(tmp_path).records) == len(read_run(runs / "a").records) - 1


def test_a_run_with_one_record_and_nan(tmp_path, runs):
    (tmp_path / "config.json").write_bytes((runs / "a" / "config.json").read_bytes())
    (tmp_path / "metrics.jsonl").write_text(
        '{"step": 0, "train/accuracy": 0.1, "train/rnc1.max": NaN, "train/nc2.condition": '
        "Infinity}\n"
    )
    text = parsed(build_report([tmp_path]).html).text
    assert "were not fitted within 0 steps" in text


def test_long_logs_are_thinned_with_their_ends(runs):
    run = read_run(runs / "a")
    run.records[:] = [{"step": step, "x": float(step)} for step in range(20_000)]
    steps, values = _thinned(run, "x")
    assert len(steps) <= _MAX_POINTS
    assert steps[0] == 0
    assert steps[-1] == 19_999
    assert (steps == values).all()
    assert set(range(50)) <= set(steps.tolist()), "early steps are all there"
    run.records[:] = list(read_run(runs / "a").records)


def test_directories_without_a_run(tmp_path, runs):
    with pytest.raises(RunDirectoryError, match=r"holds no run: config\.json is missing"):
        build_report([tmp_path])
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(RunDirectoryError, match="is no JSON object"):
        build_report([tmp_path])
    (tmp_path / "config.json").write_bytes((runs / "a" / "config.json").read_bytes())
    with pytest.raises(RunDirectoryError, match="no record"):
        build_report([tmp_path])
    with pytest.raises(ValueError, match="at least one run"):
        build_report([])
