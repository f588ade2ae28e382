"""Tests when backend "auto" takes the kernels: eager calls, captures, tracing."""

from dataclasses import replace

import pytest
import torch
from stand_in_gpu import StandIn
from torch.fx.experimental.proxy_tensor import make_fx

import ncfast
from ncfast.ops import _auto
from ncfast.ops import moments as passes
from ncfast.ops.decisions import STACKED_DECISIONS, Rule, decisions
from ncfast.ops.scatter import SCATTER
from ncfast.ops.update import UPDATE, WITH_SCATTER

OK = ("ok",)


@pytest.fixture
def gpu(monkeypatch, tmp_path):
    return StandIn(monkeypatch, tmp_path)


@pytest.fixture
def launched(monkeypatch):
    """The paths of class moments that the kernels ran, which are the reference here."""
    paths = []

    def compute(feats, labels, num_classes, plan, tiny):
        paths.append(passes.ONE_LAUNCH if tiny is not None else passes.SORTED_ROWS)
        return passes.reference(feats, labels, num_classes)

    monkeypatch.setattr(passes, "_compute", compute)
    return paths


def moments(rows, dtype=torch.float32, **options):
    feats = torch.ones(rows, 3, dtype=dtype)
    return ncfast.class_moments(feats, torch.arange(rows) % 2, num_classes=2, **options)


def test_each_path_and_dtype_for_itself(gpu, launched):
    gpu.judge(("class moments", "one launch", "float32", OK))
    moments(100)
    assert launched == ["one launch"]
    moments(5000)  # sorted rows
    moments(100, torch.float64)
    assert launched == ["one launch"]
    gpu.judge(
        ("class moments", "one launch", "float32", ("failed", "wrong")),
        ("class moments", "sorted rows", "float32", OK),
    )
    moments(100)
    moments(5000)
    assert launched == ["one launch", "sorted rows"]


def test_asked_for_by_name_no_verdict_is_needed(gpu, launched):
    moments(100, backend="triton")
    moments(100, backend="reference")
    assert launched == ["one launch"]


def test_a_plan_reaches_the_kernels(gpu, monkeypatch):
    gpu.judge(("class moments", "one launch", "float32", OK))
    plans = []

    def compute(feats, labels, num_classes, plan, tiny):
        plans.append(plan)
        return passes.reference(feats, labels, num_classes)

    monkeypatch.setattr(passes, "_compute", compute)
    plan = ncfast.plan(torch.arange(100) % 2, 2)
    ncfast.class_moments(torch.ones(100, 3), plan)
    assert plans == [plan]


@pytest.mark.parametrize(
    ("operation", "path", "dtype", "takes"),
    [
        (SCATTER, "", "float32", True),
        (SCATTER, "", "float64", False),  # which its kernels do not take
        (STACKED_DECISIONS, "", "float64", True),
        (UPDATE, "", "bfloat16", True),
        (UPDATE, WITH_SCATTER, "float32", True),
    ],
)
def test_every_operation_is_offered(gpu, operation, path, dtype, takes):
    feats = torch.ones(8, 3, dtype=getattr(torch, dtype))
    assert operation.select("auto", feats) is operation.reference
    gpu.judge((operation.name, path, dtype, OK))
    assert (operation.select("auto", feats) == operation.if_proven) is takes
    assert operation.select("reference", feats) is operation.reference


@pytest.mark.parametrize("path", ["", WITH_SCATTER])
def test_an_update_with_a_scatter_matrix_is_a_path_of_its_own(gpu, path):
    gpu.judge((UPDATE.name, path, "float32", OK))
    ran = []
    update = replace(UPDATE, triton=lambda *given, **options: ran.append(options))
    state = ncfast.ClassMoments.empty(2, 3)
    feats, labels = torch.ones(4, 3), torch.tensor([0, 1, 0, 1])
    for scatter in (None, torch.zeros(3, 3, dtype=torch.float64)):
        update.select("auto", feats)(feats, labels, state, scatter=scatter)
    assert [options["scatter"] is not None for options in ran] == [path == WITH_SCATTER]
    assert state.counts.sum() == 4, "the reference did the other"


def test_unproven_decisions_need_no_stacked_rules(gpu):
    feats, rows = torch.ones(4, 3), torch.eye(3, dtype=torch.float64)
    rules = [Rule(torch.zeros(3).double(), rows[:k], torch.zeros(k).double()) for k in (2, 3)]
    assert STACKED_DECISIONS.select("auto", feats) is STACKED_DECISIONS.reference
    assert [found.tolist() for found in decisions("auto", feats, rules)] == [[0] * 4, [0] * 4]


def test_a_capture_takes_kernels_that_ran_with_such_arguments(gpu, launched):
    """Any others would be compiled or loaded, which ends the capture."""
    gpu.judge(("class moments", "one launch", "float32", OK))
    gpu.capturing = True
    moments(100)
    assert not launched
    gpu.capturing = False
    moments(100)
    gpu.capturing = True
    moments(100)
    assert len(launched) == 2
    moments(104)
    assert len(launched) == 2, "another number of rows may be another kernel"


def test_a_capture_tells_arguments_apart():
    base = torch.zeros(64)
    tensors = [base[:16], base[1:17], base[:32:2], base[:16].double(), base[:8]]
    values = [*tensors, *([each, 3] for each in tensors), 3, None, "x"]
    assert len({_auto._signature("o", "p", [value]) for value in values}) == len(values)
    state = ncfast.ClassMoments.empty(2, 3)
    assert _auto._signature("o", "p", [state]) == _auto._signature("o", "p", [state])
    other = ncfast.ClassMoments.empty(3, 3)
    assert _auto._signature("o", "p", [state]) != _auto._signature("o", "p", [other])


def test_tensors_that_are_not_plain_take_the_reference(gpu, launched):
    class Wrapped(torch.Tensor):
        pass

    gpu.judge(("class moments", "one launch", "float32", OK))
    feats = torch.ones(100, 3).as_subclass(Wrapped)
    ncfast.class_moments(feats, torch.arange(100) % 2, num_classes=2)
    assert not launched


def metric(feats, labels):
    return ncfast.rnc1(feats * 2, labels, num_classes=7)


def graph_of(feats, labels):
    """The graph that torch.compile makes, in one piece."""
    graphs = []

    def backend(module, inputs):
        graphs.append(str(module.graph))
        return module.forward

    found = torch.compile(metric, fullgraph=True, backend=backend)(feats, labels)
    return graphs[0], found


@pytest.mark.parametrize("proven", [True, False])
def test_compiled_code_holds_what_was_known(gpu, proven):
    if proven:
        gpu.judge(*[("class moments", path, "float32", OK) for path in passes.PATHS])
    feats, labels = torch.randn(90_000, 6), torch.arange(90_000) % 7
    graph, found = graph_of(feats, labels)
    assert graph.count("ncfast.triton_moments") == int(proven)
    torch.testing.assert_close(found, ncfast.rnc1(feats * 2, labels, backend="reference"))
    assert not gpu.started, "tracing only looks up"


@pytest.mark.parametrize("proven", [True, False])
def test_traced_graphs_hold_what_was_known(gpu, proven):
    if proven:
        gpu.judge(*[("class moments", path, "float32", OK) for path in passes.PATHS])
    feats, labels = torch.randn(90_000, 6), torch.arange(90_000) % 7
    graph = make_fx(metric)(feats, labels)
    assert str(graph.graph).count("ncfast.triton_moments") == int(proven)
    assert not gpu.started


def test_transformed_functions_take_the_reference(gpu, launched):
    gpu.judge(*[("class moments", path, "float32", OK) for path in passes.PATHS])
    feats, labels = torch.randn(2, 40, 6), torch.arange(40) % 7
    found = torch.vmap(metric, (0, None))(feats, labels)
    assert found.shape == (2,)
    assert not launched
