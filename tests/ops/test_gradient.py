"""Tests the gradient through class moments against float64 autograd of the plain formulas."""

import pytest
import torch
from samples import classes, collapsed

from ncfast.ops import _raw
from ncfast.ops import gradient as ops
from ncfast.ops import moments as forward

NAMES = ("means", "within_ss", "norm_sum", "norm_max")


def given(num_classes, dim, names=NAMES, seed=3):
    """A gradient with respect to each of the named moments, None for the others."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"means": (num_classes, dim), "within_ss": (num_classes,)}
    return [
        torch.randn(shapes.get(name, ()), generator=generator, dtype=torch.float64)
        if name in names
        else None
        for name in NAMES
    ]


def oracle(feats, labels, num_classes, gradients):
    """Loops over the classes in float64, differentiated by torch."""
    x = feats.detach().to(torch.float64).clone().requires_grad_()
    total = x.sum() * 0
    of_means, of_within, of_sum, of_max = gradients
    for c in labels.unique().tolist():
        rows = x[labels == c]
        mean = rows.mean(0)
        if of_means is not None:
            total = total + (of_means[c] * mean).sum()
        if of_within is not None:
            total = total + of_within[c] * (rows - mean).square().sum()
    norms = x.square().sum(1).clamp(min=1e-300).sqrt()  # zero rows: zero
    if of_sum is not None:
        total = total + of_sum * norms.sum()
    if of_max is not None:
        total = total + of_max * norms[norms.detach().argmax()]
    return torch.autograd.grad(total, x)[0]


def run(form, feats, labels, num_classes, gradients):
    raw = forward.reference(feats, labels, num_classes)
    return form(feats, labels, raw.counts, raw.means, *gradients)


def forms():
    yield pytest.param(ops.reference, id="reference")
    if _raw.extension is not None:
        yield pytest.param(ops._cpu, id="cpu")


every_form = pytest.mark.parametrize("form", list(forms()))


def error(found, expected):
    return ((found.double() - expected).norm() / expected.norm()).item()


BUDGET = {torch.float64: 1e-12, torch.float32: 1e-7, torch.bfloat16: 4e-3, torch.float16: 5e-4}


@every_form
@pytest.mark.parametrize("dtype", BUDGET)
@pytest.mark.parametrize("shape", [(1, 1, 1), (7, 3, 9), (300, 37, 5), (64, 200, 3), (50, 4096, 2)])
def test_equals_autograd(form, shape, dtype, instruction_set):
    count, dim, num_classes = shape
    feats, labels = classes(count, dim, min(count, num_classes), dtype=dtype)
    gradients = given(num_classes, dim)
    expected = oracle(feats, labels, num_classes, gradients)
    found = run(form, feats, labels, num_classes, gradients)
    assert found.dtype == dtype
    assert found.is_contiguous()
    assert error(found, expected) < BUDGET[dtype]


@every_form
@pytest.mark.parametrize("names", [("means",), ("within_ss",), ("norm_sum",), ("norm_max",), ()])
def test_each_moment_alone(form, names):
    feats, labels = classes(120, 19, 4, dtype=torch.float32)
    gradients = given(4, 19, names)
    expected = oracle(feats, labels, 4, gradients)
    found = run(form, feats, labels, 4, gradients)
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-7)


@every_form
@pytest.mark.parametrize("level", [1e-3, 1e-5, 1e-7])
def test_collapsed_features(form, level):
    """The deviations of float32 rows are exact in float64, however small beside the means."""
    feats, labels = collapsed(level, count=400, dim=64, num_classes=5)
    gradients = given(5, 64, ("within_ss",))
    expected = oracle(feats, labels, 5, gradients)
    assert error(run(form, feats, labels, 5, gradients), expected) < 1e-6


@every_form
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_collapsed_half_features(form, dtype, instruction_set):
    """One row of a thousand is off by a bit: the others are a thousandth of that from the mean."""
    feats = torch.full((2000, 37), 1.5, dtype=dtype)
    feats[:1000] *= -2
    feats[7] = feats[7] * (1 + torch.finfo(dtype).eps)
    feats[1500, 3] = 1.5 * (1 + torch.finfo(dtype).eps)
    labels = torch.arange(2000) // 1000
    gradients = given(2, 37, ("within_ss",))
    expected = oracle(feats, labels, 2, gradients)
    found = run(form, feats, labels, 2, gradients)
    last = max(1e-15, torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps)  # a bit of it
    torch.testing.assert_close(found.double(), expected, rtol=BUDGET[dtype], atol=last)


@every_form
@pytest.mark.parametrize(
    ("scale", "of_within_ss", "of_norm_sum"),
    [
        (1e30, 1e-42, 0.0),
        (1e-30, 1e40, 0.0),
        (1e-39, 1.0, 2.0),
        (1e38, 1e-30, 1.0),
        (1e25, 1.0, 1e30),
    ],
)
def test_half_features_beyond_float(form, scale, of_within_ss, of_norm_sum, instruction_set):
    """Factors and squares that no float holds, of features and gradients that bfloat16 does."""
    feats, labels = classes(60, 21, 3, dtype=torch.float32)
    feats = (feats / feats.abs().max() * scale).to(torch.bfloat16)
    of_within = torch.full((3,), of_within_ss, dtype=torch.float64)
    gradients = [None, of_within, torch.tensor(of_norm_sum, dtype=torch.float64), None]
    expected = oracle(feats, labels, 3, gradients)
    assert error(run(form, feats, labels, 3, gradients), expected) < 4e-3


@every_form
@pytest.mark.parametrize("label_dtype", [torch.int8, torch.uint8, torch.int16, torch.int32])
def test_labels_and_strides(form, label_dtype):
    feats, labels = classes(90, 40, 4, dtype=torch.float32)
    gradients = given(4, 20)
    plain = run(form, feats[:, :20].contiguous(), labels, 4, gradients)
    assert run(form, feats[:, :20], labels.to(label_dtype), 4, gradients).equal(plain)
    spread = torch.stack([labels.to(label_dtype)] * 2, 1)[:, 0]
    assert run(form, feats[:, :20], spread, 4, gradients).equal(plain)
    back = feats[:, :20].flip(0)
    torch.testing.assert_close(run(form, back, labels.flip(0), 4, gradients).flip(0), plain)
    columns = feats[:, :20].T.contiguous().T
    torch.testing.assert_close(run(form, columns, labels, 4, gradients), plain)


@every_form
@pytest.mark.parametrize("dtype", BUDGET)
def test_the_first_of_equal_norms(form, dtype):
    feats = torch.tensor([[0.0, 0.0], [3.0, 4.0], [5.0, 0.0], [-3.0, 4.0]], dtype=dtype)
    labels = torch.tensor([0, 0, 1, 1])
    gradients = [None, None, None, torch.tensor(2.0, dtype=torch.float64)]
    found = run(form, feats, labels, 2, gradients)
    expected = torch.tensor([[0, 0], [1.2, 1.6], [0, 0], [0, 0]], dtype=dtype)
    torch.testing.assert_close(found, expected, rtol=BUDGET[dtype], atol=0)


@every_form
@pytest.mark.parametrize("dtype", BUDGET)
def test_nearly_equal_norms(form, dtype):
    """Rows of nearly one norm, as after a normalisation: the largest in double has the gradient."""
    feats, labels = classes(500, 300, 2, dtype=torch.float64)
    feats = torch.nn.functional.normalize(feats)[:, :300].to(dtype)
    feats[100:] = feats[:100].repeat(4, 1)[:, torch.randperm(300)]  # the same norms in other orders
    largest = feats.double().square().sum(1)
    gradients = [None, None, None, torch.tensor(1.0, dtype=torch.float64)]
    row = run(form, feats, labels, 2, gradients).any(1).nonzero().item()
    assert largest[row] >= largest.max() * (1 - 1e-14)


@every_form
def test_zero_rows_have_no_direction(form):
    feats, labels = torch.zeros(4, 3), torch.tensor([0, 0, 1, 1])
    gradients = given(2, 3, ("norm_sum", "norm_max"))
    assert not run(form, feats, labels, 2, gradients).any()


@every_form
def test_a_label_out_of_range_makes_its_row_nan(form):
    feats, labels = classes(30, 5, 3, dtype=torch.float32)
    raw = forward.reference(feats, labels, 3)
    labels[4], labels[9] = 3, -1
    found = form(feats, labels, raw.counts, raw.means, *given(3, 5))
    bad = found.isnan().any(1)
    assert bad.nonzero().squeeze(1).tolist() == [4, 9]


@pytest.mark.skipif(_raw.extension is None, reason="needs the extension")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dim", [1, 31, 512])
def test_large_results_and_threads(dim, dtype):
    """Above the caches rows are written past them; the bits do not depend on the threads."""
    count = (20 << 20) // (dtype.itemsize * dim)
    feats = torch.randn(count, dim, generator=torch.Generator().manual_seed(2)).to(dtype)
    labels = torch.arange(count) % 7
    gradients = given(7, dim)
    raw = forward.reference(feats, labels, 7)
    expected = ops.reference(feats, labels, raw.counts, raw.means, *gradients)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(ops._cpu(feats, labels, raw.counts, raw.means, *gradients))
    finally:
        torch.set_num_threads(before)
    assert found[0].equal(found[1])
    assert found[0].equal(found[2])
    rtol = 2 * BUDGET[dtype] if dtype == torch.bfloat16 else 1e-6
    torch.testing.assert_close(found[0], expected, rtol=rtol, atol=1e-7)


@pytest.mark.skipif(_raw.extension is None, reason="needs the extension")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounding_to_half(dtype, instruction_set):
    """Every result is one of the two neighbours that torch rounds to, subnormal and huge too."""
    exponents = torch.linspace(-26, 16, 4000, dtype=torch.float64)
    wanted = (2**exponents) * torch.where(torch.arange(4000) % 2 == 0, 1.0, -1.0)
    feats, labels = torch.zeros(1, 4000, dtype=dtype), torch.zeros(1, dtype=torch.int64)
    counts, means = torch.ones(1, dtype=torch.int64), torch.zeros(1, 4000, dtype=torch.float64)
    found = ops._cpu(feats, labels, counts, means, wanted.unsqueeze(0), None, None, None)
    assert found.equal(wanted.to(torch.float32).to(dtype).unsqueeze(0))
