"""Decisions of the nearest mean and of a classifier, compared in C++, against loops in float64."""

import pytest
import torch

import ncfast
from ncfast.ops import _raw
from ncfast.ops.decisions import comparable, compared

pytestmark = pytest.mark.skipif(_raw.extension is None, reason=ncfast.backends()["cpu"].reason)
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def loops(feats, labels, moments, weight, bias):
    """Agreements and hits by class; the scores of a row are products in float64."""
    number = moments.num_classes
    present = [c for c in range(number) if moments.counts[c] > 0]
    agreements, hits = torch.zeros(2, number, dtype=torch.float64)
    for x, label in zip(feats.double(), labels.tolist(), strict=True):
        if not 0 <= label < number:
            continue
        distances = [float((x - moments.means[c]).square().sum()) for c in present]
        nearest = present[distances.index(min(distances))]
        hits[label] += nearest == label
        if weight is not None:
            logits = weight @ x + (0 if bias is None else bias)
            agreements[label] += nearest == int(logits.argmax())
    return torch.stack([agreements, hits])


def sample(count, dim, number, dtype, seed=0):
    """Features in rows of a wider matrix, labels and a classifier; the last class is absent."""
    draw = torch.Generator().manual_seed(seed)
    centres = torch.randn(number, dim, generator=draw, dtype=torch.float64) + 3
    labels = torch.randint(max(1, number - 1), (count,), generator=draw)
    wide = torch.empty(count, dim + 3, dtype=dtype)
    wide[:, :dim] = centres[labels] + torch.randn(count, dim, generator=draw, dtype=torch.float64)
    weight = torch.randn(number, dim, generator=draw, dtype=torch.float64)
    return wide[:, :dim], labels, weight, torch.randn(number, generator=draw, dtype=torch.float64)


@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("count", "dim", "number"),
    [(1, 1, 1), (9, 3, 2), (40, 17, 8), (300, 33, 9), (70, 5, 40), (65, 200, 17)],
)
def test_equals_loops(instruction_set, dtype, count, dim, number):
    feats, labels, weight, bias = sample(count, dim, number, dtype)
    moments = ncfast.class_moments(feats, labels, num_classes=number)
    assert comparable("auto", feats, labels, moments)
    for given in ((weight, bias), (weight, None), (None, None)):
        table, shares = compared(feats, labels, moments, *given, number)
        expected = loops(feats, labels, moments, *given)
        assert table.equal(expected)
        torch.testing.assert_close(shares, expected.sum(1) / count)


def test_ties_go_to_the_smaller_class(instruction_set):
    means = torch.tensor([[0.0, 4.0], [4.0, 0.0], [0.0, 4.0]])
    labels = torch.tensor([0, 1, 2])
    moments = ncfast.class_moments(means, labels, num_classes=3)
    rows = torch.tensor([[0.0, 4.0], [2.0, 2.0]])  # at two means; in the middle of all
    weight = torch.zeros(3, 2, dtype=torch.float64)
    table, _ = compared(rows, torch.tensor([0, 0]), moments, weight, None, 3)
    assert table[0].tolist() == [2, 0, 0]
    assert table[1].tolist() == [2, 0, 0]


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int16, torch.int32, torch.uint32])
def test_any_label_type_and_labels_out_of_range(dtype):
    feats, labels, weight, bias = sample(50, 7, 6, torch.float32)
    moments = ncfast.class_moments(feats, labels, num_classes=6)
    given = labels.clone()
    given[::7] = 100
    table, _ = compared(feats, given.to(dtype), moments, weight, bias, 8)
    assert table[:, :6].equal(loops(feats, given, moments, weight, bias))
    assert table[:, 6:].eq(0).all()


def test_features_that_are_not_finite_make_the_shares_nan():
    feats, labels, weight, bias = sample(50, 7, 6, torch.float32)
    feats[3, 2] = torch.nan
    moments = ncfast.class_moments(feats, labels, num_classes=6)
    _, shares = compared(feats, labels, moments, weight, bias, 6)
    assert shares.isnan().all()


def test_a_classifier_that_is_not_finite_decides_as_the_reference_does():
    feats, labels, weight, bias = sample(50, 7, 6, torch.float32)
    weight[4] = torch.nan
    found = [
        ncfast.nc4(feats, labels, weight, bias, variant="agreement_class", backend=backend)
        for backend in ("cpu", "reference")
    ]
    assert found[0] == found[1]


def test_the_bits_do_not_depend_on_threads():
    feats, labels, weight, bias = sample(3000, 200, 10, torch.float32)
    moments = ncfast.class_moments(feats, labels, num_classes=10)
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(compared(feats, labels, moments, weight, bias, 10)[0])
    finally:
        torch.set_num_threads(before)
    assert found[0].equal(found[1])


def test_only_plain_tensors_and_few_classes():
    feats, labels, *_ = sample(50, 7, 6, torch.float32)
    moments = ncfast.class_moments(feats, labels, num_classes=6)
    assert not comparable("reference", feats, labels, moments)
    assert not comparable("auto", feats.T.contiguous().T, labels, moments)
    assert not comparable("auto", feats, torch._neg_view(labels), moments)
    many = ncfast.ClassMoments.empty(1000, 7)
    assert not comparable("auto", feats, labels, many)


@pytest.mark.parametrize("number", [10, 60])
def test_the_metric_is_the_same_on_both_backends(number):
    feats, labels, weight, bias = sample(700, 20, number, torch.float32)
    given = {"weight": weight, "bias": bias, "metrics": "nc4", "num_classes": number}
    found = ncfast.collapse_metrics(feats, labels, **given, backend="cpu")
    expected = ncfast.collapse_metrics(feats, labels, **given, backend="reference")
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)
