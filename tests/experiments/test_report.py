"""Tests reports of runs: figures, tables and texts."""

import json
import re
from html.parser import HTMLParser
from itertools import pairwise
from xml.etree import ElementTree

import numpy as np
import pytest

from ncfast.experiments.config import TrainConfig
from ncfast.experiments.report import build_report
from ncfast.experiments.report.figures import _MAX_POINTS, thinned
from ncfast.experiments.report.runs import read_run
from ncfast.experiments.report.theme import EVENT_DASHES
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
        self.seen, self.sources, self.ids, self.text = [], [], [], ""

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        self.sources += [v for name, v in attrs if name.split(":")[-1] in ("src", "href")]
        self.ids += [value for name, value in attrs if name == "id"]

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
    page = report.html.read_text()
    for tag in ("script", "link", "img", "image", "iframe", "object", "embed"):
        assert tag not in tags.seen
    assert tags.sources
    for source in (*tags.sources, *re.findall(r"url\((.*?)\)", page)):
        assert source.startswith("#"), "a place in the page itself"
        assert tags.ids.count(source[1:]) == 1
    assert len(set(tags.ids)) == len(tags.ids)
    assert "@import" not in page
    assert not re.search(r'="\s*(https?:)?//', page)
    assert 'http-equiv="refresh"' not in page
    for svg in pictures_of(page):
        ElementTree.fromstring(svg)


def pictures_of(page):
    return re.findall(r'<svg class="plot".*?</svg>', page, re.DOTALL)


@pytest.fixture(scope="module")
def page(runs, tmp_path_factory):
    """The page of the first run."""
    return build_report([runs / "a"], tmp_path_factory.mktemp("page")).html.read_text()


def test_figures_are_text_that_can_be_selected_and_read_aloud(runs, page):
    run = read_run(runs / "a")
    pictures = [ElementTree.fromstring(svg) for svg in pictures_of(page)]
    accuracy = pictures[0]
    written = {"".join(text.itertext()) for text in accuracy.iter("text")}
    assert {"step", "0.2", "1k", f"fit {run.events.fit:,}"} <= written
    assert accuracy.get("role") == "img"
    told = accuracy.get("aria-label")
    assert f"Fit at step {run.events.fit:,}." in told
    assert f"{run.records[-1]['test/accuracy']:.3g} at step 3,000" in told
    for picture in pictures:
        assert re.search(r"\d", picture.get("aria-label")), "alternative texts have values"


def test_the_read_out_shows_the_logged_values_without_a_script(runs, page):
    records = {record["step"]: record for record in read_run(runs / "a").records}
    strips = ElementTree.fromstring(pictures_of(page)[0]).findall("g[@class='at']")
    assert len(strips) > 20
    for strip in strips:
        step, *values = ("".join(span.itertext()) for span in strip.iter("tspan"))
        record = records[int(step.removeprefix("step ").replace(",", ""))]
        assert values == [f"{name} {record[f'{name}/accuracy']:.3g}" for name in ("train", "test")]
    ends = [re.match(r"M(\S+) \S+H(\S+)V", strip[0].get("d")).groups() for strip in strips]
    assert all(one[1] == two[0] for one, two in pairwise(ends)), "no gap between the strips"


def test_each_panel_is_a_picture_that_a_phone_need_not_scale_down(page):
    for svg in pictures_of(page):
        width, height = map(float, re.search(r'viewBox="0 0 (\S+) (\S+)"', svg).groups())
        assert width <= 400
        assert height <= 500


def test_colours_are_those_of_the_scheme(page):
    dark = re.search(r"prefers-color-scheme: dark\) \{ :root \{(.*?)\}", page)[1]
    used = set(re.findall(r"var\((--[\w-]+)\)", page))
    assert {"--train", "--test", "--ink", "--paper", "--grid"} <= used
    assert all(f"{name}:" in dark for name in used)
    for svg in pictures_of(page)[:4]:
        assert not re.search(r"#[0-9a-f]{6}\b", svg), "every colour is a variable"


def test_events_differ_in_their_dashes(runs, page):
    run = read_run(runs / "a")
    found = [name for name in EVENT_DASHES if getattr(run.events, name) is not None]
    assert len(found) >= 2
    dashes = set(re.findall(r"stroke-dasharray: ([^;\"]*)", pictures_of(page)[0]))
    assert len(dashes) == len(found)


def test_captions_tell_only_what_is_drawn(runs, page, tmp_path):
    assert "over the seeds" not in page
    assert "one for each seed" not in page
    (tmp_path / "config.json").write_bytes((runs / "a" / "config.json").read_bytes())
    records = [{"step": s, "train/accuracy": 0.1, "train/rnc1.max": 0.2} for s in (0, 1, 2)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    text = parsed(build_report([tmp_path]).html).text.split("Settings")[0]
    assert "Against the step: accuracy, RNC1." in text
    for absent in ("Vertical lines", "bound", "nformation", "Bars", "log-det", "Collapsed"):
        assert absent not in text


def test_a_run_shows_itself_in_a_notebook(runs):
    one, two = (read_run(runs / name)._repr_html_() for name in "ab")
    assert "weight decay 0.3" in two
    for shown in (one, two):
        assert len(pictures_of(shown)) == 4
        assert ".png" not in shown
        assert ":root" not in shown, "the style is that of the output alone"
    ids = [set(re.findall(r' id="([^"]+)"', shown)) for shown in (one, two)]
    assert not ids[0] & ids[1]


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


def test_long_logs_are_thinned_with_their_ends():
    index = thinned(np.arange(20_000))
    assert len(index) <= _MAX_POINTS
    assert index[0] == 0
    assert index[-1] == 19_999
    assert set(range(50)) <= set(index.tolist()), "early steps are all there"


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
