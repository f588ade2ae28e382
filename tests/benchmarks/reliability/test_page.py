"""Tests the page on reliability: it shows every loss, and the committed page is up to date."""

import copy
import json

import pytest

from ncfast.benchmarks.reliability import page

REPORT = json.loads(page.RESULTS.read_text())


def test_the_page_is_that_of_the_results():
    assert page.PAGE.read_text() == page.page(REPORT)


def test_the_results_are_those_of_the_full_form():
    assert all(part["kills"] == 50 for part in REPORT["results"]["kills"].values())
    assert all(part["calls"] >= 10_000 for part in REPORT["results"]["calls"].values())
    assert REPORT["results"]["soak"]["tracker"]["steps"] == 1_000_000


@pytest.mark.parametrize(
    ("place", "lost"),
    [
        (("kills", "train", "differ"), "123 runs"),
        (("kills", "sweep", "not_resumed"), "123 runs"),
        (("disk", "full", "silent"), "123 runs"),
        (("calls", "streams", "wrong"), "123 numbers"),
        (("calls", "wrong arguments", "wrong"), "123 calls"),
        (("ranks", "gloo", "hung"), "123 ranks"),
        (("soak", "tracker", "missing"), "123 records"),
    ],
)
def test_a_loss_is_in_the_first_table(place, lost):
    report = copy.deepcopy(REPORT)
    stage, name, key = place
    for part in report["results"]["calls"].values():
        part["wrong"] = 0
    report["results"][stage][name][key] = 123
    first = page.page(report).split("\n## ")[1]
    assert lost in first
    assert lost not in page.page(REPORT)


def test_stages_that_were_not_run_are_left_out():
    report = copy.deepcopy(REPORT)
    for stage in ("disk", "soak", "ranks"):
        del report["results"][stage]
    text = page.page(report)
    assert "## Full disks" not in text
    assert "## Kills" in text
