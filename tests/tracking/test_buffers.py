import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ncfast
from ncfast.metrics.catalogue import OF_MOMENTS
from ncfast.metrics.inputs import MetricInputs
from ncfast.metrics.metric import Metric, evaluate
from ncfast.ops import _raw, pairs
from ncfast.ops.states import Layout, pack
from ncfast.tracking.buffers import evaluate_states

needs_extension = pytest.mark.skipif(_raw.extension is None, reason=f"{_raw.import_error}")
IDS = tuple(OF_MOMENTS)


def moments(k, d, n, spread=1.0, seed=0, present=None):
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(k, d, generator=generator, dtype=torch.float64)
    labels = torch.randint(present or k, (n,), generator=generator)
    noise = torch.randn(n, d, generator=generator, dtype=torch.float64)
    return ncfast.class_moments(means[labels] + spread * noise, labels, num_classes=k)


def agree(found, expected):
    """Distances from an ideal that are reached come out as rounding, in either."""
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-13, equal_nan=True)


def reference(states, layout, ids=IDS):
    chosen = {id_: OF_MOMENTS[id_] for id_ in ids}
    rows = (
        MetricInputs(ncfast.ClassMoments(*layout.split(state)), backend="reference")
        for state in states
    )
    return torch.stack([torch.stack(list(evaluate(chosen, row).values())) for row in rows])


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 12),
    st.integers(1, 40),
    st.integers(1, 60),
    st.sampled_from([1.0, 1e-3, 1e-7, 0.0]),
    st.integers(0, 999),
)
def test_against_the_reference(k, d, n, spread, seed):
    layout, states = Layout(k, d), pack(moments(k, d, n, spread, seed)).unsqueeze(0)
    agree(evaluate_states(states, layout, IDS), reference(states, layout))


@pytest.mark.parametrize("case", ["one class", "same means", "nan", "simplex", "empty"])
def test_where_metrics_are_undefined(case):
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
    states = state.unsqueeze(0)
    found, expected = evaluate_states(states, layout, IDS), reference(states, layout)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-7, equal_nan=True)


@pytest.mark.parametrize(("k", "d"), [(5, 12), (7, 3), (130, 140)])
def test_blocks_against_single_states(k, d):
    layout = Layout(k, d)
    states = torch.stack([pack(moments(k, d, 30, seed=seed)) for seed in range(6)])
    expected = reference(states, layout)
    agree(evaluate_states(states, layout, IDS), expected)
    # the order of the ids is that of the columns
    two = ("nc2.condition", "rnc1.max")
    agree(evaluate_states(states, layout, two), expected[:, [IDS.index(id_) for id_ in two]])


@needs_extension
def test_a_value_does_not_depend_on_the_size_of_its_block():
    layout = Layout(5, 12)
    states = torch.stack([pack(moments(5, 12, 30, seed=seed)) for seed in range(128)])
    found = evaluate_states(states, layout, IDS)
    for row in (0, 2, 127):
        assert torch.equal(evaluate_states(states[row : row + 1], layout, IDS)[0], found[row])


def test_a_metric_from_outside_is_evaluated_with_the_others():
    """To add a metric takes a function of the moments that allows leading axes."""
    layout = Layout(5, 12)
    states = torch.stack([pack(moments(5, 12, 40, seed=seed)) for seed in range(6)])
    added = Metric(lambda i: i.moments.class_variances.amax(-1), "max_c V_c", "", "[0, inf)", "")
    chosen = {"nc1.largest": added, "nc1.quotient": OF_MOMENTS["nc1.quotient"]}
    found = evaluate(chosen, MetricInputs(ncfast.ClassMoments(*layout.split(states))))
    for i, state in enumerate(states):
        alone = evaluate(chosen, MetricInputs(ncfast.ClassMoments(*layout.split(state))))
        assert {id_: value[i] for id_, value in found.items()} == alone


def test_the_pairs_of_an_accelerator(monkeypatch):
    monkeypatch.setattr(pairs, "is_on_host", lambda tensor: False)
    monkeypatch.setattr(_raw, "extension", None)
    layout = Layout(5, 12)
    states = torch.stack([pack(moments(5, 12, 30, seed=seed)) for seed in range(4)])
    expected = reference(states, layout)
    agree(evaluate_states(states, layout, IDS), expected)
