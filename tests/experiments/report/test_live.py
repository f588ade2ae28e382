"""Tests the page that is rewritten while runs are training. Here `time.sleep` is the training."""

import json

import pytest

from ncfast.experiments.config import TrainConfig
from ncfast.experiments.report import live, watch
from ncfast.experiments.run_dir import RunDirectoryError, prepare

REFRESH = 'http-equiv="refresh"'


def begin(folder, steps=40):
    prepare(TrainConfig(out=folder, steps=steps, information=0))


def log(folder, *steps):
    with (folder / "metrics.jsonl").open("a") as file:
        for step in steps:
            record = {"step": step, "train/accuracy": 0.5, "train/rnc1.max": 0.1 / (1 + step)}
            file.write(json.dumps(record) + "\n")


@pytest.fixture
def during(monkeypatch):
    """Makes each pause one of the given actions; a pause after the last one fails the test."""

    def set_actions(*actions):
        left = list(actions)
        monkeypatch.setattr(
            live.time, "sleep", lambda _: left.pop(0)() if left else pytest.fail("waits")
        )
        return left

    return set_actions


def test_the_page_follows_the_run_and_ends_with_it(tmp_path, during):
    begin(tmp_path)
    log(tmp_path, 0)
    page = tmp_path / "report.html"
    seen = []

    def look_and_go_on(*steps):
        seen.append(page.read_text())
        log(tmp_path, *steps)

    left = during(lambda: look_and_go_on(10), lambda: look_and_go_on(), lambda: look_and_go_on(40))
    told = []
    report = watch([tmp_path], told=told.append)
    assert not left
    assert told == [str(page)], "the path is told once"
    assert all(REFRESH in text for text in seen)
    assert "within 0 steps" in seen[0]
    assert "within 10 steps" in seen[1]
    assert seen[2] == seen[1], "nothing new, nothing written"
    assert "overview.png" not in seen[1], "that file is not there yet"
    assert report.html == page
    assert REFRESH not in page.read_text()
    assert "within 40 steps" in page.read_text()
    assert all(path.exists() for path in (*report.pictures, *report.tables, report.summary))


def test_a_line_that_is_being_written_is_left_for_later(tmp_path, during):
    begin(tmp_path)
    log(tmp_path, 0)

    def half():
        with (tmp_path / "metrics.jsonl").open("a") as file:
            file.write('{"step": 40, "train/acc')

    def rest():
        assert "within 0 steps" in (tmp_path / "report.html").read_text()
        with (tmp_path / "metrics.jsonl").open("a") as file:
            file.write('uracy": 0.5}\n')

    during(half, rest)
    watch([tmp_path], told=lambda _: None)
    assert "within 40 steps" in (tmp_path / "report.html").read_text()


def test_the_first_record_is_waited_for(tmp_path, during):
    begin(tmp_path / "run")
    told = []
    during(lambda: log(tmp_path / "run", 0), lambda: log(tmp_path / "run", 40))
    watch([tmp_path / "run"], tmp_path / "new", told=told.append)
    assert told == ["Waiting for the first record.", str(tmp_path / "new" / "report.html")]
    assert not (tmp_path / "run" / "report.html").exists()


def test_several_runs_are_followed_to_the_last(tmp_path, during):
    for name in ("a", "b"):
        begin(tmp_path / name)
        log(tmp_path / name, 0)

    def first_ends():
        log(tmp_path / "a", 40)

    left = during(first_ends, lambda: log(tmp_path / "b", 40))
    watch([tmp_path / "a", tmp_path / "b"], told=lambda _: None)
    assert not left


def test_ctrl_c_leaves_a_page_that_does_not_reload(tmp_path, during):
    begin(tmp_path)
    log(tmp_path, 0, 10)

    def interrupt():
        raise KeyboardInterrupt

    during(interrupt)
    with pytest.raises(KeyboardInterrupt):
        watch([tmp_path], told=lambda _: None)
    page = (tmp_path / "report.html").read_text()
    assert REFRESH not in page
    assert "within 10 steps" in page


def test_a_page_that_costs_much_is_written_seldom(tmp_path, monkeypatch):
    begin(tmp_path)
    log(tmp_path, 0)
    clock = iter(range(0, 1000, 2))  # each page costs two seconds
    monkeypatch.setattr(live.time, "process_time", lambda: next(clock))
    pauses = []

    def pause(seconds):
        pauses.append(seconds)
        log(tmp_path, 40)

    monkeypatch.setattr(live.time, "sleep", pause)
    watch([tmp_path], told=lambda _: None)
    assert pauses == [18], "the page takes a tenth of the time"


def test_mistakes_are_not_waited_for(tmp_path, during):
    during()
    with pytest.raises(RunDirectoryError, match="holds no run"):
        watch([tmp_path], told=lambda _: None)
    with pytest.raises(ValueError, match="at least one run"):
        watch([], told=lambda _: None)
