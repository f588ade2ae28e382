import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ncfast
from ncfast.backends import cpu, tiles
from ncfast.backends.states import GRAM_METRICS, Layout, gram_metrics, pack, why_not_gram
from ncfast.metrics.registry import OF_MOMENTS
from ncfast.tracking.evaluation import _vectorised, evaluate_states, one_state
from ncfast.tracking.ring import MomentsRing
from ncfast.tracking.stream import Stream

needs_extension = pytest.mark.skipif(cpu.extension is None, reason=f"{cpu.import_error}")
IDS = tuple(OF_MOMENTS)


def moments(k, d, n, spread=1.0, seed=0, present=None):
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(k, d, generator=generator, dtype=torch.float64)
    labels = torch.randint(present or k, (n,), generator=generator)
    noise = torch.randn(n, d, generator=generator, dtype=torch.float64)
    return ncfast.class_moments(means[labels] + spread * noise, labels, num_classes=k)


def agree(found, reference):
    """Distances from an ideal that are reached come out as rounding, in either."""
    torch.testing.assert_close(found, reference, rtol=1e-9, atol=1e-13, equal_nan=True)


@needs_extension
@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 12),
    st.integers(1, 40),
    st.integers(1, 60),
    st.sampled_from([1.0, 1e-3, 1e-7, 0.0]),
    st.integers(0, 999),
)
def test_the_extension_against_the_definitions(k, d, n, spread, seed):
    k = min(k, d + 1)
    layout, state = Layout(k, d), pack(moments(k, d, n, spread, seed))
    found = gram_metrics(state.unsqueeze(0), layout, GRAM_METRICS)[0]
    agree(found, one_state(layout.unpack(state), GRAM_METRICS))


@needs_extension
@pytest.mark.parametrize("case", ["one class", "same means", "nan", "simplex", "empty"])
def test_the_extension_where_metrics_are_undefined(case):
    k, d = 4, 6
    layout, state = Layout(k, d), pack(moments(k, d, 20, present=1 if case == "one class" else k))
    if case == "same means":
        x = torch.ones(8, d, dtype=torch.float64)
        state = pack(ncfast.class_moments(x, torch.arange(8) % k, num_classes=k))
    elif case == "nan":
        state[k + 2] = torch.nan
    elif case == "simplex":
        x = torch.eye(k, d, dtype=torch.float64)
        state = pack(ncfast.class_moments(x, torch.arange(k), num_classes=k))
    elif case == "empty":
        state = pack(ncfast.ClassMoments.empty(k, d))
    found = gram_metrics(state.unsqueeze(0), layout, GRAM_METRICS)[0]
    reference = one_state(layout.unpack(state), GRAM_METRICS)
    torch.testing.assert_close(found, reference, rtol=1e-9, atol=1e-7, equal_nan=True)


@pytest.mark.parametrize(("k", "d"), [(5, 12), (7, 3)])
def test_blocks_against_single_states(k, d):
    layout = Layout(k, d)
    states = torch.stack([pack(moments(k, d, 30, seed=seed)) for seed in range(6)])
    reference = torch.stack([one_state(layout.unpack(state), IDS) for state in states])
    agree(evaluate_states(states, layout, IDS), reference)
    # the order of the ids is that of the columns
    two = ("nc2.condition", "rnc1.max")
    found = evaluate_states(states, layout, two)
    agree(found, reference[:, [IDS.index(id_) for id_ in two]])
    # the value of a row does not depend on the size of its block
    assert torch.equal(evaluate_states(states[2:3], layout, two)[0], found[2])


def test_the_sweep_of_an_accelerator(monkeypatch):
    monkeypatch.setattr(tiles, "labels_are_on_host", lambda tensor: False)
    layout = Layout(5, 12)
    states = torch.stack([pack(moments(5, 12, 30, seed=seed)) for seed in range(4)])
    reference = torch.stack([one_state(layout.unpack(state), IDS) for state in states])
    agree(_vectorised(states, layout, IDS), reference)


def test_who_refuses_what():
    states = torch.zeros(1, Layout(9, 3).size, dtype=torch.float64)
    if cpu.extension is not None:
        assert "9 classes are more than 4" in why_not_gram(states, Layout(9, 3))
        assert "on meta" in why_not_gram(states.to("meta"), Layout(3, 3))


def ring(monkeypatch=None):
    if monkeypatch is not None:  # the way of an accelerator
        monkeypatch.setattr(cpu, "extension", None)
    return MomentsRing("a", ["rnc1.max"], Layout(3, 4), torch.device("cpu"), Stream("batch"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_row_of_the_ring_is_what_class_moments_gives(dtype, monkeypatch):
    feats, labels = torch.randn(20, 8).to(dtype), torch.arange(20) % 3
    expected = ncfast.class_moments(feats[:, ::2].contiguous(), labels, num_classes=3)
    for other in (None, monkeypatch):
        rows = ring(other)
        for wide in (labels, labels.to(torch.uint16), labels.to(torch.int16)):
            rows.push(7, feats[:, ::2].contiguous(), wide)
        rows.push(8, feats[:, ::2], labels)  # columns that are not adjacent
        steps, states = rows.rows()
        assert steps == [7, 7, 7, 8]
        rows.clear()
        assert rows.number == 0
        for state in states:
            found = rows.layout.unpack(state)
            assert torch.equal(found.counts, expected.counts)
            torch.testing.assert_close(found.means, expected.means, rtol=1e-6, atol=1e-6)
            torch.testing.assert_close(found.within_ss, expected.within_ss, rtol=1e-6, atol=0)


def test_what_a_graph_records_fills_row_after_row(monkeypatch):
    """A captured push holds the operations of one row; each replay must find the next one."""
    from torch.fx.experimental.proxy_tensor import make_fx

    rows = ring(monkeypatch)
    labels = torch.arange(20) % 3
    warm = torch.randn(20, 4)
    rows.push(0, warm, labels)
    rows.clear()

    monkeypatch.setattr("ncfast.tracking.ring._capturing", lambda device: True)
    # labels on the host would be looked at, which those of an accelerator are not
    monkeypatch.setattr("ncfast._validate.labels_are_on_host", lambda labels: False)
    graph = make_fx(lambda feats: rows.push(0, feats, labels), tracing_mode="real")(warm)
    rows.states.zero_()
    rows._position.zero_()
    assert rows.number == 0
    inputs = [torch.randn(20, 4) for _ in range(3)]
    for step, feats in enumerate(inputs):
        graph(feats)
        rows.replayed(step)
    steps, states = rows.rows()
    assert steps == [0, 1, 2]
    for feats, state in zip(inputs, states, strict=True):
        expected = ncfast.class_moments(feats, labels, num_classes=3)
        torch.testing.assert_close(rows.layout.unpack(state).means, expected.means)
    first = states[0].clone()
    rows.clear()
    graph(inputs[0])
    rows.replayed(3)
    assert torch.equal(rows.rows()[1][0], first)
