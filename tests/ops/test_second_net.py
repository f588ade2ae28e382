"""Tests the comparison of kernels with the reference at their first use."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from samples import classes
from stand_in_gpu import StandIn

import ncfast
from ncfast.ops import _registry, _second_net
from ncfast.ops import moments as passes
from ncfast.ops.decisions import STACKED_DECISIONS
from ncfast.ops.projection import PROJECTION
from ncfast.ops.scatter import SCATTER
from ncfast.ops.update import UPDATE

OK = ("ok",)


@pytest.fixture
def gpu(monkeypatch, tmp_path):
    made = StandIn(monkeypatch, tmp_path)
    made.compare()
    return made


def arguments(operation, rows=200):
    feats, labels = classes(rows, 8, 4, dtype=torch.float32)
    means = passes.reference(feats, labels, 4).means
    if operation is STACKED_DECISIONS:
        return feats, means[:1], means[None], torch.zeros(1, 4).double()
    if operation is PROJECTION:
        return feats, labels, means, means[:2]
    return feats, labels, means


def spoilt(operation, factor):
    """The operation with kernels that are off by a factor; and the numbers of rows they got."""
    rows = []

    def kernels(feats, *rest):
        rows.append(len(feats))
        return operation.reference(feats, *rest) * factor

    return replace(operation, triton=kernels), rows


@pytest.mark.parametrize("operation", [SCATTER, PROJECTION])
def test_right_kernels_are_compared_once(gpu, operation):
    right, rows = spoilt(operation, 1 + 1e-7)
    given = arguments(operation, 6000)
    for _ in range(3):
        right.eagerly(*given)
    assert rows == [4096, 6000, 6000, 6000]


@pytest.mark.parametrize("operation", [SCATTER, PROJECTION])
def test_wrong_kernels_are_replaced_with_a_loud_warning(gpu, operation):
    wrong, rows = spoilt(operation, 1.01)
    given = arguments(operation)
    wrong.eagerly(*given)  # the answer has not been read
    with pytest.warns(RuntimeWarning, match="WRONG RESULTS.*Discard what this process computed"):
        found = wrong.eagerly(*given)
    assert torch.equal(found, operation.reference(*given))
    wrong.eagerly(*given)
    assert len(rows) == 2, "the comparison and one call"
    assert "times what is allowed" in ncfast.backends()["triton"].reason


def test_other_variants_keep_their_kernels(gpu):
    wrong, rows = spoilt(SCATTER, 1.01)
    given = arguments(SCATTER)
    wrong.eagerly(*given)
    with pytest.warns(RuntimeWarning, match="float32"):
        wrong.eagerly(given[0].bfloat16(), *given[1:])
    assert len(rows) == 4, "a comparison and a call of each dtype"


@pytest.mark.skipif(
    _registry.why_not_compiled("decisions") is not None, reason="needs Triton 3.5 or none"
)
@pytest.mark.parametrize("wrong", [1, 99, -5])
def test_decisions(gpu, wrong):
    """A class that is no class is noticed, too, and read from no memory."""
    given = arguments(STACKED_DECISIONS)
    kernels = replace(
        STACKED_DECISIONS, triton=lambda *given: STACKED_DECISIONS.reference(*given) + wrong
    )
    kernels.eagerly(*given)
    with pytest.warns(RuntimeWarning, match="WRONG RESULTS: the Triton kernels for decisions"):
        assert torch.equal(kernels.eagerly(*given), STACKED_DECISIONS.reference(*given))


def test_rows_with_equal_scores_may_differ(gpu):
    feats, centres, weights, offsets = arguments(STACKED_DECISIONS)
    weights = weights[:, :1].expand(1, 4, 8)
    kernels = replace(
        STACKED_DECISIONS, triton=lambda *given: STACKED_DECISIONS.reference(*given) + 1
    )
    for _ in range(2):
        kernels.eagerly(feats, centres, weights, offsets)


@pytest.mark.parametrize("right", [True, False])
@pytest.mark.parametrize("scatter", [True, False])
def test_an_update_is_compared_on_a_copy(gpu, scatter, right):
    """Of a state with few classes; the state itself is updated once."""
    sizes = []

    def kernels(feats, labels, state, **options):
        sizes.append((len(feats), len(state.counts)))
        UPDATE.reference(feats, labels, state, **options)
        if not right:
            (state.within_ss if options.get("scatter") is None else options["scatter"]).mul_(1.01)

    update = replace(UPDATE, triton=kernels)
    state = ncfast.ClassMoments.empty(1000, 8)
    feats, labels = torch.randn(200, 8), 37 * torch.arange(200) % 900
    options = {"mask": torch.arange(200) % 3 > 0, "ignored": torch.zeros((), dtype=torch.int64)}
    if scatter:
        options["scatter"] = torch.zeros(8, 8, dtype=torch.float64)
    update.eagerly(feats, labels, state, **options)
    assert sizes == [(96, 64), (104, 64), (200, 1000)]
    assert options["ignored"] == (~options["mask"]).sum()
    assert state.counts.sum() == options["mask"].sum()
    if right:
        update.eagerly(feats, labels, state, **options)
    else:
        with pytest.warns(RuntimeWarning, match="WRONG RESULTS"):
            update.eagerly(feats, labels, state, **options)
    assert state.counts.sum() == 2 * options["mask"].sum()


@pytest.mark.parametrize("count", [500, 5000])
def test_class_moments(gpu, monkeypatch, count):
    """By the path that the whole takes."""
    seen = []

    def compute(feats, labels, num_classes, plan, tiny):
        seen.append((len(feats), tiny is not None))
        raw = passes.reference(feats, labels, num_classes)
        return raw._replace(within_ss=raw.within_ss * 1.01)

    monkeypatch.setattr(passes, "_compute", compute)
    feats, labels = classes(count, 8, 4, dtype=torch.float32)
    passes.triton(feats, labels, 4)
    assert seen == [(min(count, 4096), count == 500), (count, count == 500)]
    path = "one launch" if count == 500 else "sorted rows"
    with pytest.warns(RuntimeWarning, match=f"WRONG RESULTS.*class moments .{path}, float32"):
        passes.triton(feats, labels, 4)


def test_features_that_are_not_finite_prove_nothing(gpu):
    given = arguments(SCATTER)
    given[0][3, 3] = torch.nan
    wrong, _ = spoilt(SCATTER, 1.01)
    for _ in range(2):
        wrong.eagerly(*given)


def test_results_that_are_not_finite_alone_are_wrong(gpu):
    given = arguments(SCATTER)
    wrong, _ = spoilt(SCATTER, torch.inf)
    wrong.eagerly(*given)
    with pytest.warns(RuntimeWarning, match="WRONG RESULTS.*inf times"):
        wrong.eagerly(*given)


def test_no_comparison_in_a_capture(gpu):
    right, rows = spoilt(SCATTER, 1)
    gpu.capturing = True
    right.eagerly(*arguments(SCATTER))
    assert rows == [200]


def test_a_comparison_that_lacks_memory_is_left_out(gpu):
    def reference(*given):
        raise torch.OutOfMemoryError("full")

    kernels = replace(SCATTER, triton=SCATTER.reference, reference=reference)
    given = arguments(SCATTER)
    assert torch.equal(kernels.eagerly(*given), SCATTER.reference(*given))


class Event:
    """Of a device that has not come so far, until it has."""

    passed = False

    def query(self):
        return self.passed

    def synchronize(self):
        self.passed = True


def test_nothing_waits_for_an_answer(gpu):
    """At the exit alone."""
    told = []
    event = Event()
    _second_net._answers.append(_second_net._Answer(torch.tensor(1e3).double(), event, told.append))
    _second_net.read_answers()
    assert not told
    _second_net._tell_at_exit()
    assert told == [1e3]
    assert not _second_net._answers


def test_the_exit_tells_of_wrong_results():
    code = (
        "import torch\nfrom ncfast.ops import _second_net\n"
        "tell = lambda ratio: print('told', ratio)\n"
        "_second_net.start(lambda: torch.tensor(1e3), tell)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "told 1000.0\n"
