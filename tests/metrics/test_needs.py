"""What a stream keeps for metrics, and what it leaves out."""

import pytest

from ncfast.metrics.catalogue import CATALOGUE
from ncfast.metrics.needs import LOOKS, as_bytes, select

ALL = frozenset({"classifier", "bias", "ood", "revisit", "scores"})


def test_every_metric_that_reads_the_rows_again_says_what_for():
    for name, metric in CATALOGUE.items():
        assert bool(metric.uses & LOOKS) == ("revisit" in metric.needs), name


@pytest.mark.parametrize(
    ("metrics", "looks"),
    [("default", set()), ("nc4", {"decisions"}), ("bound", {"spread"}), ("all", LOOKS)],
)
def test_looks_follow_from_the_metrics(metrics, looks):
    assert select(metrics, 10).looks(64, ALL) == looks


def test_a_look_that_lacks_another_input_is_not_taken():
    assert select("all", 10).looks(64, frozenset()) == {"decisions"}
    assert select("nc4.agreement", 10).looks(64, frozenset()) == set()


def test_matrices_that_nobody_asked_for_by_name_stay_below_two_gibibytes():
    vocabulary = select("all", 50_257)
    assert set(vocabulary.missing(768, ALL)) == {"bound.generalization"}
    assert set(vocabulary.missing(20_000, ALL)) > {"nc1.pinv", "rank.stable", "nc5.neco_auroc"}
    assert not vocabulary.keeps_scatter(20_000)
    assert select(["bound.generalization", "nc1.pinv"], 50_257).missing(20_000, ALL) == {}


@pytest.mark.parametrize(
    ("text", "number"), [(None, None), (5, 5), ("2GiB", 2**31), ("1.5 kB", 1500), ("3M", 3 * 10**6)]
)
def test_sizes_are_numbers_or_text(text, number):
    assert as_bytes(text) == number


@pytest.mark.parametrize("text", ["much", "-1", "2 PiB", ""])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ValueError, match="memory_limit"):
        as_bytes(text)
