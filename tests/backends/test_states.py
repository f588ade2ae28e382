"""Metrics of packed moments in C++ against their definitions."""

import pytest
import torch

import ncfast
from ncfast.backends import cpu
from ncfast.backends.states import GRAM_METRICS, Layout, covered, gram_metrics, pack
from ncfast.metrics._collect import define
from ncfast.metrics._evidence import Evidence
from ncfast.metrics.registry import CATALOGUE

pytestmark = [
    pytest.mark.skipif(cpu.extension is None, reason=ncfast.backends()["cpu"].reason),
    pytest.mark.usefixtures("poison"),
]
SHAPES = [(1, 1), (2, 1), (3, 2), (7, 6), (9, 33), (10, 200), (32, 31), (32, 40), (50, 70)]


def of_means(means, counts=None):
    """Moments with these means (K, D), three samples a class unless told otherwise."""
    moments = ncfast.ClassMoments.empty(*means.shape)
    moments.counts += 3 if counts is None else counts
    moments.means += means
    moments.within_ss += 0.5 * (moments.counts > 0)
    moments.norm_sum += (moments.counts * torch.linalg.vector_norm(means, dim=1)).sum()
    moments.norm_max += 2.0
    return moments


def quick(moments, ids):
    layout = Layout(moments.num_classes, moments.dim)
    return gram_metrics(pack(moments).unsqueeze(0), layout, ids)[0]


@pytest.mark.parametrize("shape", SHAPES)
def test_each_instruction_set_against_the_definitions(instruction_set, shape):
    generator = torch.Generator().manual_seed(shape[0])
    means = torch.randn(shape, generator=generator, dtype=torch.float64)
    counts = torch.randint(1, 9, shape[:1], generator=generator)
    if shape[0] > 5:  # an absent class
        counts[3], means[3] = 0, 0
    moments = of_means(means, counts)
    ids = covered(Layout(*shape), GRAM_METRICS)
    assert len(ids) == (22 if shape[0] > 32 else 26)
    expected = define({id_: CATALOGUE[id_] for id_ in ids}, Evidence(moments, backend="reference"))
    torch.testing.assert_close(
        quick(moments, ids),
        torch.stack(list(expected.values())),
        rtol=1e-9,
        atol=1e-12,
        equal_nan=True,
    )


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
    values = torch.logspace(0, -1, rank, base=condition, dtype=torch.float64)
    found = quick(of_means(scale * (left * values) @ right.T), ["nc2.condition"])
    # a rounding of the largest value is this share of the smallest
    assert found.item() == pytest.approx(condition, rel=4e-16 * rank * condition)


def test_what_was_not_asked_for_is_not_computed():
    layout, states = Layout(3, 4), pack(of_means(torch.randn(3, 4).double())).unsqueeze(0)
    out = torch.full((1, len(GRAM_METRICS)), 7.0, dtype=torch.float64)
    arguments = (states.data_ptr(), 1, layout.size, 3, 4, True)
    cpu.extension.gram_metrics(*arguments, False, True, False, out.data_ptr())
    known = {id_ for id_, value in zip(GRAM_METRICS, out[0], strict=True) if value.isfinite()}
    assert known == {"rnc1.max", "rnc1.mean", "nc2.condition"}


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_stays_so(bad):
    means = torch.randn(4, 6).double()
    means[1, 2] = bad
    found = quick(of_means(means), GRAM_METRICS)
    spectral = [i for i, id_ in enumerate(GRAM_METRICS) if "condition" in id_ or "_means" in id_]
    assert found[spectral].isnan().all()


@pytest.mark.parametrize("which", ["lite", "full", "nc2.condition"])
def test_a_call_with_the_extension_and_without(which, monkeypatch):
    feats = torch.randn(60, 9)
    labels = torch.arange(60) % 5
    found = ncfast.collapse_metrics(feats, labels, which=which)
    plain = ncfast.collapse_metrics(feats, labels, which=which, backend="reference")
    monkeypatch.setattr(cpu, "extension", None)
    without = ncfast.collapse_metrics(feats, labels, which=which)
    assert list(found) == list(plain) == list(without)
    for other in (plain, without):
        torch.testing.assert_close(found, other, rtol=1e-6, atol=1e-7)


def test_a_default_device_is_not_that_of_the_results():
    feats, labels = torch.randn(60, 9), torch.arange(60) % 5
    given = {"weight": torch.randn(5, 9), "bias": torch.randn(5), "ood_feats": torch.randn(8, 9)}
    expected = ncfast.collapse_metrics(feats, labels, which="standard", **given)
    with torch.device("meta"):
        found = ncfast.collapse_metrics(feats, labels, which="standard", **given)
    assert found == expected


def test_transforms_and_traces_take_the_definitions():
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
