import itertools

import pytest

from ncfast.tracking import schedule


def steps(marks, last):
    return [step for step in range(last + 1) if marks(step)]


def test_every():
    assert steps(schedule.every(1), 3) == [0, 1, 2, 3]
    assert steps(schedule.every(4), 9) == [0, 4, 8]


def test_log_spaced():
    found = steps(schedule.log_spaced(50, 10_000), 10_000)
    assert found[:4] == [0, 1, 2, 3]
    assert found[-1] == 10_000
    ratios = [b / a for a, b in itertools.pairwise(found[20:])]
    assert max(ratios) / min(ratios) < 1.1


def test_the_papers_schedule():
    found = steps(schedule.paper(100_000), 100_000)
    assert found[:30] == list(range(30))
    assert found[30:42] == list(range(30, 141, 10))
    assert found[42:44] == [666, 1332]
    assert found[-1] == 100_000
    assert steps(schedule.paper(10), 10) == list(range(11))


@pytest.mark.parametrize("text", ["paper", "every", "every:1", "every:7", "log:5"])
def test_parse_understands(text):
    marks = schedule.parse(text, 100)
    assert marks(0)
    assert steps(marks, 100)


@pytest.mark.parametrize(
    "text",
    ["", "papers", "every:x", "every:-1", "log", "log:", "paper:3", "every:²", "log:" + "9" * 5000],
)
def test_parse_refuses(text):
    with pytest.raises(ValueError, match="Expected a schedule"):
        schedule.parse(text, 100)


@pytest.mark.parametrize("make", [lambda: schedule.every(0), lambda: schedule.log_spaced(1, 10)])
def test_bad_numbers(make):
    with pytest.raises(ValueError, match="Expected"):
        make()


def test_a_callable_is_a_schedule():
    assert schedule.as_schedule(lambda step: step == 2)(2)
    assert schedule.as_schedule(3)(6)
