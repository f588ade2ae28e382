"""The update of class moments by the kernels, against the float64 oracle and the reference."""

import numpy as np
import pytest
import torch
import twins
from oracle import two_pass
from samples import classes, collapsed, nearly_constant, one_outlier

from ncfast import ClassMoments
from ncfast.kernels import update as launches
from ncfast.ops import _fallback
from ncfast.ops.update import UPDATE

# of the first row of a class and of the others
MAGNITUDES = [(0, 1e-25), (0, 1e18), (1e-25, 1), (1e-19, 1), (1e-19, 1e18), (1e9, 1e-30)]
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
FIELDS = ("counts", "means", "within_ss", "norm_sum", "norm_max")


def stream(feats, labels, num_classes, sizes, run=UPDATE.on_device, **options):
    """Moments, scatter matrix and number of ignored rows after uneven batches."""
    dim = feats.shape[1]
    state = ClassMoments.empty(num_classes, dim)
    scatter = torch.zeros(dim, dim).double() if options.pop("with_scatter", False) else None
    ignored = torch.zeros((), dtype=torch.int64)
    mask = options.pop("mask", None)
    masks = (None,) * len(sizes) if mask is None else mask.split(sizes)
    for x, y, keep in zip(feats.split(sizes), labels.split(sizes), masks, strict=True):
        run(x, y, state, mask=keep, ignored=ignored, scatter=scatter, **options)
    return state, scatter, ignored


def check(state, feats, labels, rtol=2e-6, scatter=None):
    """Every class, every norm and the scatter matrix, if there is one."""
    expected = two_pass(feats, labels, state.num_classes)
    assert state.counts.tolist() == expected["counts"].tolist()
    for name in ("within_ss", "norm_sum", "norm_max"):
        np.testing.assert_allclose(getattr(state, name), expected[name], rtol=rtol, err_msg=name)
    spread = np.sqrt(expected["within_ss"] / expected["counts"].clip(1))[:, None]
    away = np.abs(state.means.numpy() - expected["means"])
    assert (away <= rtol * spread + 1e-14 * np.abs(expected["means"])).all()
    if scatter is not None:
        whole = twins.scatter(feats, labels, torch.from_numpy(expected["means"]))
        unit = whole.abs().amax().clamp(min=1e-300)  # entries of 1e-170 have squares that vanish
        assert ((scatter - whole) / unit).norm() <= 1e-6 * (whole / unit).norm()


def same_bits(one, other):
    pairs = [(getattr(one, name), getattr(other, name)) for name in FIELDS]
    return all(torch.equal(a.nan_to_num(-7.0), b.nan_to_num(-7.0)) for a, b in pairs)


def sparse(count, dim, num_classes, dtype=torch.float32):
    """Features and labels, a mask, and -100 among the labels; rows left out hold NaN."""
    feats, labels = classes(count, dim, num_classes, dtype=dtype)
    mask = torch.arange(count) % 5 > 0
    labels[torch.arange(count) % 7 == 2] = -100
    kept = mask & (labels >= 0)
    feats[~kept] = torch.nan
    return feats, labels, mask, kept


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(7, 1, 1), (90, 17, 5), (75, 6, 70), (400, 33, 2)])
def test_a_stream_equals_the_oracle(shape, dtype):
    """Classes of several segments, of one and of none; some classes are in one batch only."""
    count, dim, num_classes = shape
    feats, labels = classes(count, dim, num_classes, dtype=dtype)
    sizes = [count // 2, count // 3, 1, count - count // 2 - count // 3 - 1]
    state, scatter, _ = stream(feats, labels, num_classes, sizes, with_scatter=True)
    check(state, feats, labels, 1e-11 if dtype == torch.float64 else 2e-6, scatter)
    assert torch.equal(scatter, scatter.T)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("level", [1e-1, 1e-4, 1e-7])
def test_every_collapse_level(level, dtype):
    feats, labels = collapsed(level, count=260, dim=20, num_classes=3, dtype=dtype)
    state, scatter, _ = stream(feats, labels, 3, [150, 100, 10], with_scatter=True)
    check(state, feats, labels, scatter=scatter)


def test_a_mean_that_moves_far():
    """One row first, then a thousand elsewhere: what cancels is small beside what is left."""
    feats, labels = collapsed(1e-4, count=151, dim=12, num_classes=1)
    feats[0] *= -3
    state, scatter, _ = stream(feats, labels, 1, [1, 150], with_scatter=True)
    check(state, feats, labels, scatter=scatter)


@pytest.mark.parametrize("row", [0, 250])
@pytest.mark.parametrize("big", [1e3, 1e6, 1e12])
def test_one_outlier_in_a_class(big, row):
    """In the first batch, which holds several segments of each class, or in a later one."""
    feats, labels = one_outlier(260, big, row, num_classes=2, base=0.03)
    state, _, _ = stream(feats, labels, 2, [200, 150, 50])
    check(state, feats, labels, 3e-7)


def test_the_scatter_matrix_beside_an_outlier():
    feats, labels = one_outlier(20, 1e6, 0, num_classes=2, base=0.03)
    state, scatter, _ = stream(feats, labels, 2, [300, 100], with_scatter=True)
    check(state, feats, labels, 1e-6, scatter)


@pytest.mark.parametrize("share", [0.5, 0.99])
def test_columns_that_are_nearly_constant(share):
    feats, labels = nearly_constant(share, 0.123)
    state, scatter, _ = stream(feats, labels, 4, [300, 99, 1], with_scatter=True)
    check(state, feats, labels, 1e-6, scatter)


def test_identical_rows_give_exactly_zero():
    rows = torch.tensor([[0.1, -3.7, 1e-3], [1 / 3, 2e4, 7.0]]).repeat(1, 5)
    labels = torch.arange(150) % 2
    state, scatter, _ = stream(rows[labels], labels, 2, [100, 49, 1], with_scatter=True)
    assert state.within_ss.tolist() == [0.0, 0.0]
    assert torch.equal(state.means, rows.double())
    assert scatter.eq(0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_squares_neither_vanish_nor_overflow(scale, dtype):
    feats, labels = classes(100, 12, 3)
    feats = (feats * scale).to(dtype)
    state, scatter, _ = stream(feats, labels, 3, [60, 40], with_scatter=True)
    check(state, feats, labels, scatter=scatter)


# the interpreter is numpy, which remarks on overflow and on inf - inf
@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize(("first", "others"), MAGNITUDES)
def test_a_first_row_of_another_magnitude(first, others):
    feats, labels = classes(90, 12, 2, dtype=torch.float32)
    feats *= others
    for c in range(2):
        feats[int((labels == c).nonzero()[0])] = first
    check(stream(feats, labels, 2, [90])[0], feats, labels)


def test_rows_left_out_change_nothing():
    feats, labels, mask, kept = sparse(200, 20, 9)
    options = {"ignore_index": -100, "with_scatter": True}
    state, scatter, ignored = stream(feats, labels, 9, [120, 80], mask=mask, **options)
    assert ignored == (~kept).sum()
    sizes = [int(part.sum()) for part in kept.split([120, 80])]
    dropped, expected, _ = stream(feats[kept], labels[kept], 9, sizes, with_scatter=True)
    assert same_bits(state, dropped)
    assert (scatter - expected).norm() <= 1e-6 * expected.norm()


@pytest.mark.parametrize("count", [0, 70])
def test_a_batch_without_a_row_that_counts(count):
    feats, labels = classes(90, 8, 4, dtype=torch.float32)
    state, scatter, ignored = stream(feats, labels, 4, [90], with_scatter=True)
    before, sum_before = ClassMoments(**state.state_dict()), scatter.clone()
    mask = torch.zeros(count, dtype=torch.bool)
    batch = torch.full((count, 8), torch.nan), labels[:count]
    UPDATE.on_device(*batch, state, mask=mask, ignored=ignored, scatter=scatter)
    assert same_bits(state, before)
    assert torch.equal(scatter, sum_before)
    assert ignored == count


def test_rows_of_absent_classes_are_not_touched():
    feats, labels = classes(60, 8, 3, dtype=torch.float32)
    state = ClassMoments.empty(100_000, 8)
    state.means[3:] = torch.nan
    state.within_ss[3:] = torch.nan
    state.counts[3:] = 11
    UPDATE.on_device(feats, labels, state)
    check(
        ClassMoments(
            state.counts[:3],
            state.means[:3],
            state.within_ss[:3],
            *(getattr(state, name) for name in ("norm_sum", "norm_max")),
        ),
        feats,
        labels,
    )
    assert state.means[3:].isnan().all()
    assert state.counts[3:].eq(11).all()


@pytest.mark.parametrize("bad", [-1, 5, 2**40])
def test_a_label_out_of_range_makes_the_norms_nan(bad):
    feats, labels = classes(100, 6, 5, dtype=torch.float32)
    rest = torch.arange(100) != 17
    labels[17] = bad
    state, _, ignored = stream(feats, labels, 5, [100])
    dropped, _, _ = stream(feats[rest], labels[rest], 5, [99])
    for name in ("counts", "means", "within_ss"):
        assert torch.equal(getattr(state, name), getattr(dropped, name))
    assert state.norm_sum.isnan()
    assert state.norm_max.isnan()
    assert ignored == 0


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("row", [0, 99])
def test_a_bad_feature_stays_in_its_class(value, row):
    feats, labels = classes(200, 10, 2, dtype=torch.float32)
    feats[row, 3] = value
    state, _, _ = stream(feats, labels, 2, [100, 100])
    hit = int(labels[row])
    assert state.within_ss.isfinite().tolist() == [c != hit for c in range(2)]
    assert state.means[1 - hit].isfinite().all()
    assert not state.norm_sum.isfinite()
    assert not state.norm_max.isfinite()


@pytest.mark.parametrize(
    "view",
    [lambda x: x[::3], lambda x: x[:, ::2], lambda x: x[5:, 3:], lambda x: x.T.contiguous().T],
    ids=["rows", "columns", "offset", "transposed"],
)
def test_strides(view):
    feats = view(classes(200, 24, 3, dtype=torch.float32)[0])
    labels = (torch.arange(2 * len(feats)) % 3).int()[::2]
    state, scatter, _ = stream(feats, labels, 3, [len(feats)], with_scatter=True)
    check(state, feats, labels, scatter=scatter)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_wider_than_a_tile(dtype):
    feats, labels = collapsed(1e-2, count=80, dim=2050, num_classes=2, dtype=dtype)
    feats[0] = 0.0  # the second launch computes its segment again
    state, _, _ = stream(feats, labels, 2, [70, 10])
    check(state, feats, labels)


def test_every_run_gives_the_same_bits():
    feats, labels, mask, _ = sparse(300, 24, 3)
    runs = [
        stream(feats, labels, 3, [200, 100], mask=mask, ignore_index=-100, with_scatter=True)
        for _ in range(2)
    ]
    assert same_bits(runs[0][0], runs[1][0])
    assert torch.equal(runs[0][1], runs[1][1])


@pytest.mark.parametrize("broken", ["launch_segments", "scaled_scatter", "merge_batch"])
def test_after_a_failure_the_reference_updates_once(monkeypatch, broken):
    """What had run before the failure must have left no trace in the state."""

    class Broken:
        def __call__(self, *args, **options):
            raise RuntimeError("no kernel image for this device")

        __getitem__ = __call__

    feats, labels, mask, _ = sparse(90, 12, 4)
    options = {"mask": mask, "ignore_index": -100, "with_scatter": True}
    expected = stream(feats, labels, 4, [60, 30], UPDATE.reference, **options)
    monkeypatch.setattr(launches, broken, Broken())
    monkeypatch.setattr(_fallback, "failures", {})
    with pytest.warns(RuntimeWarning, match="update of class moments.*no kernel image"):
        found = stream(feats, labels, 4, [60, 30], **options)
    assert same_bits(found[0], expected[0])
    assert torch.equal(found[1], expected[1])
    assert torch.equal(found[2], expected[2])
