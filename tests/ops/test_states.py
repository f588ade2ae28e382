"""Primitives of class moments in C++ against the reference, and the metrics made of them."""

import pytest
import torch

import ncfast
from ncfast.metrics.catalogue import OF_MOMENTS
from ncfast.metrics.inputs import MetricInputs
from ncfast.metrics.metric import evaluate
from ncfast.ops import _raw
from ncfast.ops.few_classes import few_classes, why_not
from ncfast.ops.states import Layout, pack

pytestmark = [
    pytest.mark.skipif(_raw.extension is None, reason=ncfast.backends()["cpu"].reason),
    pytest.mark.usefixtures("poison"),
]
SHAPES = [(1, 1), (2, 1), (3, 2), (7, 6), (9, 33), (10, 200), (32, 31), (32, 40), (50, 70)]


def of_means(means, counts=None):
    """Moments with these means (K, D); three samples a class and more of the last, unless told."""
    moments = ncfast.ClassMoments.empty(*means.shape)
    moments.counts += 3 if counts is None else counts
    moments.counts[-1] += 6 if counts is None else 0
    moments.means += means
    moments.within_ss += 0.5 * (moments.counts > 0)
    moments.norm_sum += (moments.counts * torch.linalg.vector_norm(means, dim=1)).sum()
    moments.norm_max += 2.0
    return moments


def values(moments, ids=tuple(OF_MOMENTS), backend="auto"):
    found = evaluate({id_: OF_MOMENTS[id_] for id_ in ids}, MetricInputs(moments, backend=backend))
    return torch.stack(list(found.values()))


@pytest.mark.parametrize("shape", SHAPES)
def test_each_instruction_set_against_the_reference(instruction_set, shape):
    generator = torch.Generator().manual_seed(shape[0])
    means = torch.randn(shape, generator=generator, dtype=torch.float64)
    counts = torch.randint(1, 9, shape[:1], generator=generator)
    if shape[0] > 5:  # an absent class
        counts[3], means[3] = 0, 0
    moments = of_means(means, counts)
    assert why_not(moments) is None
    expected = values(moments, backend="reference")
    torch.testing.assert_close(values(moments), expected, rtol=1e-9, atol=1e-12, equal_nan=True)


@pytest.mark.parametrize("shape", [(10, 200), (5, 4), (32, 40)])
@pytest.mark.parametrize("condition", [1.0, 1e4, 1e8, 1e12])
@pytest.mark.parametrize("scale", [1.0, 1e-150, 1e150])
def test_condition_numbers_that_are_known(instruction_set, shape, condition, scale):
    rank = min(shape)
    generator = torch.Generator().manual_seed(1)
    left, right = (
        torch.linalg.qr(torch.randn(n, rank, generator=generator, dtype=torch.float64)).Q
        for n in shape
    )
    singular = torch.logspace(0, -1, rank, base=condition, dtype=torch.float64)
    moments = of_means(scale * (left * singular) @ right.T)
    moments.norm_sum.fill_(scale)
    found = values(moments, ["nc2.condition"])
    # a rounding of the largest value is this share of the smallest
    assert found.item() == pytest.approx(condition, rel=4e-16 * rank * condition)


@pytest.mark.parametrize("id_", OF_MOMENTS)
def test_one_pass_over_the_states_gives_what_a_metric_plans(id_, monkeypatch):
    """A result that `Metric.uses` does not list costs another pass, and has the same value."""
    passes = []
    summarise = _raw.extension.States.summarise
    monkeypatch.setattr(
        _raw.extension.States, "summarise", lambda *given: passes.append(given) or summarise(*given)
    )
    moments = of_means(torch.randn(3, 4).double())
    planned = values(moments, [id_])
    assert len(passes) == 1
    unplanned = OF_MOMENTS[id_](MetricInputs(moments))
    assert torch.equal(planned[0], unplanned)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_stays_so(bad):
    means = torch.randn(4, 6).double()
    means[1, 2] = bad
    spectral = [id_ for id_ in OF_MOMENTS if "condition" in id_ or "_means" in id_]
    assert values(of_means(means), spectral).isnan().all()


@pytest.mark.parametrize("which", ["lite", "full", "nc2.condition"])
def test_a_call_with_the_extension_and_without(which, monkeypatch):
    feats = torch.randn(60, 9)
    labels = torch.arange(60) % 5 * (torch.arange(60) < 40)
    found = ncfast.collapse_metrics(feats, labels, metrics=which)
    plain = ncfast.collapse_metrics(feats, labels, metrics=which, backend="reference")
    monkeypatch.setattr(_raw, "extension", None)
    without = ncfast.collapse_metrics(feats, labels, metrics=which)
    assert list(found) == list(plain) == list(without)
    for other in (plain, without):
        torch.testing.assert_close(found, other, rtol=1e-6, atol=1e-7)


def test_a_default_device_is_not_that_of_the_results():
    feats, labels = torch.randn(60, 9), torch.arange(60) % 5 * (torch.arange(60) < 40)
    given = {"weight": torch.randn(5, 9), "bias": torch.randn(5), "ood_feats": torch.randn(8, 9)}
    expected = ncfast.collapse_metrics(feats, labels, metrics="standard", **given)
    with torch.device("meta"):
        found = ncfast.collapse_metrics(feats, labels, metrics="standard", **given)
    assert found == expected


def test_transforms_and_traces_take_the_reference():
    means = torch.randn(3, 4, 6).double()
    moments = [of_means(part) for part in means]
    expected = [ncfast.nc2(one, variant="equinorm") for one in moments]

    def of(part):
        return ncfast.nc2(
            ncfast.ClassMoments(
                moments[0].counts, part, *list(moments[0].state_dict().values())[2:]
            ),
            variant="equinorm",
        )

    torch.testing.assert_close(torch.func.vmap(of)(means), torch.stack(expected))


@pytest.mark.parametrize("shape", [(5, 12), (7, 3), (40, 50)], ids=str)
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_many_states_are_each_state(shape, backend):
    moments = [of_means(torch.randn(*shape).double()) for _ in range(5)]
    moments[1].counts[2] = 0
    moments[1].means[2] = 0
    moments[1].within_ss[2] = 0
    one_by_one = torch.stack([values(each, backend=backend) for each in moments])
    stacked = ncfast.ClassMoments(
        *Layout(*shape).split(torch.stack([pack(each) for each in moments]))
    )
    columns = values(stacked, backend=backend).T
    torch.testing.assert_close(columns, one_by_one, rtol=1e-11, atol=1e-13, equal_nan=True)
    two_axes = ncfast.ClassMoments(
        *(
            part.unsqueeze(1)
            for part in (getattr(stacked, name) for name in moments[0].state_dict())
        )
    )
    assert values(two_axes, backend=backend).shape == (len(OF_MOMENTS), 5, 1)


def test_memory_that_does_not_lie_as_it_should_is_copied():
    means = torch.randn(6, 4).double().T
    moments, expected = of_means(means), values(of_means(means.contiguous()))
    for name, value in (("means", means), ("within_ss", torch.arange(1, 9).double()[::2])):
        setattr(moments, name, value)
    assert few_classes(moments, frozenset(), "auto") is not None
    moments.within_ss = torch.full((8,), 0.5, dtype=torch.float64)[::2]
    found = values(moments)
    # products of torch round as the memory is aligned
    rounded = list(OF_MOMENTS).index("imbalance.minority_cosine_means")
    torch.testing.assert_close(found[rounded], expected[rounded], rtol=1e-14, atol=1e-16)
    found[rounded] = expected[rounded]
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


def test_why_not():
    assert "9 classes are more than 4" in why_not(of_means(torch.zeros(9, 3).double()))
    assert "on meta" in why_not(ncfast.ClassMoments.empty(3, 3, "meta"))
    assert "backend is reference" in why_not(of_means(torch.zeros(3, 3).double()), "reference")
