"""Tests class moments against the float64 oracle, for every dtype and unusual shapes."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from oracle import two_pass
from samples import BACKENDS, budget, classes
from torch._subclasses.fake_tensor import FakeTensorMode

import ncfast
from ncfast._validate import FEATURE_DTYPES, LABEL_DTYPES

# (N, D, K): one of each, a prime width, more classes than rows or columns, more than a block
SHAPES = [(1, 1, 1), (7, 3, 2), (50, 17, 5), (30, 4, 40), (64, 200, 10), (2048, 384, 3)]


def check(moments, feats, labels, num_classes, rtol=1e-12):
    expected = two_pass(feats, labels, num_classes)
    assert moments.counts.tolist() == expected["counts"].tolist()
    scale = expected["norm_max"] or 1.0
    for name in ("means", "within_ss", "norm_sum", "norm_max"):
        found = getattr(moments, name)
        assert found.dtype == torch.float64
        np.testing.assert_allclose(
            found.numpy(), expected[name], rtol=rtol, atol=1e-3 * rtol * scale, err_msg=name
        )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", FEATURE_DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_the_oracle(shape, dtype, backend):
    count, dim, num_classes = shape
    generator = torch.Generator().manual_seed(count)
    feats = torch.randn(count, dim, generator=generator).add(3).to(dtype)
    labels = torch.randint(num_classes, (count,), generator=generator)
    moments = ncfast.class_moments(feats, labels, num_classes=num_classes, backend=backend)
    check(moments, feats, labels, num_classes, budget(backend, dtype))


@pytest.mark.parametrize("dtype", LABEL_DTYPES)
def test_any_integer_labels(dtype):
    feats, labels = classes()
    moments = ncfast.class_moments(feats, labels.to(dtype), num_classes=6)
    check(moments, feats, labels, 6)


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x[::3],
        lambda x: x[:, ::2],
        lambda x: x[5:, 3:],
        lambda x: x.T.contiguous().T,
        lambda x: x[:1].expand(50, -1),
        lambda x: x.flip(0),
    ],
    ids=["rows", "columns", "offset", "transposed", "expanded", "flipped"],
)
def test_strided_input(view):
    feats = view(classes()[0])
    labels = torch.arange(len(feats)) % 3
    check(ncfast.class_moments(feats, labels, num_classes=3), feats, labels, 3)


def test_input_is_left_alone():
    for dtype in FEATURE_DTYPES:
        feats, labels = classes(dtype=dtype)
        before = feats.clone()
        ncfast.class_moments(feats, labels, num_classes=5)
        assert torch.equal(feats, before)


def test_num_classes_from_labels():
    feats, labels = classes(num_classes=4)
    assert ncfast.class_moments(feats, labels).num_classes == 4


def test_absent_classes_are_zero_and_counted():
    feats, labels = classes(num_classes=3)
    moments = ncfast.class_moments(feats, 2 * labels, num_classes=6)
    absent = ~moments.present
    assert absent.tolist() == [False, True, False, True, False, True]
    assert moments.means[absent].abs().sum() == 0
    assert moments.within_ss[absent].sum() == 0
    check(moments, feats, 2 * labels, 6)


def test_derived_quantities():
    feats, labels = classes(num_classes=3)
    moments = ncfast.class_moments(feats, labels, num_classes=4)
    x = feats.numpy()
    assert moments.total == 200
    np.testing.assert_allclose(moments.global_mean, x.mean(0), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(moments.norm_mean, np.linalg.norm(x, axis=1).mean(), rtol=1e-12)
    per_class = np.stack([x[labels.numpy() == c].mean(0) for c in range(3)])
    np.testing.assert_allclose(moments.mean_of_means, per_class.mean(0), rtol=1e-12, atol=1e-14)
    variances = [((x[labels.numpy() == c] - per_class[c]) ** 2).sum(1).mean() for c in range(3)]
    np.testing.assert_allclose(moments.class_variances, [*variances, 0.0], rtol=1e-12)


def test_nan_stays_in_its_class():
    feats, labels = classes(num_classes=3)
    feats[10, 2] = torch.nan
    moments = ncfast.class_moments(feats, labels, num_classes=3)
    hit = int(labels[10])
    assert moments.within_ss.isnan().tolist() == [c == hit for c in range(3)]
    assert moments.norm_max.isnan()
    assert moments.norm_sum.isnan()


def test_an_unused_nan_row_does_not_leak_into_an_absent_class():
    feats, labels = classes(num_classes=2)
    feats[-1] = torch.nan
    labels[-1] = 0
    moments = ncfast.class_moments(feats, labels, num_classes=3)
    assert moments.means[2].eq(0).all()
    assert moments.within_ss[2] == 0
    assert moments.within_ss[1].isfinite()


def test_labels_out_of_range_poison_everything_where_they_cannot_be_read():
    """On an accelerator the labels are not read; the backend returns NaN for invalid ones."""

    from ncfast.ops import moments as passes

    feats, labels = classes(num_classes=3)
    for bad in (-1, 3, 2**40):
        labels[7] = bad
        raw = passes.reference(feats, labels, 3)
        for name in ("means", "within_ss", "norm_sum", "norm_max"):
            assert getattr(raw, name).isnan().all(), (bad, name)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_no_host_synchronisation(device):
    """Fake tensors raise on any read of a value; fake CUDA tensors need no GPU."""
    with FakeTensorMode():
        feats = torch.empty(5000, 64, device=device)
        labels = torch.empty(5000, dtype=torch.int64, device=device)
        moments = ncfast.class_moments(feats, labels, num_classes=10)
        merged = moments.merge(moments)
        assert merged.means.shape == (10, 64)
        assert merged.global_mean.device.type == device
        with pytest.raises(Exception, match=r"_local_scalar_dense|item|data-dependent"):
            ncfast.class_moments(feats, labels)


def test_more_than_2_to_31_elements():
    """Rows behind element 2^31, in memory that is only reserved."""
    wide = np.zeros((2**31 // 4096 + 3, 4096), np.float16)
    wide[-1], wide[-2] = 2.0, 4.0
    labels = np.zeros(len(wide), np.int64)
    labels[-2:] = 1
    moments = ncfast.class_moments(torch.from_numpy(wide), torch.from_numpy(labels), num_classes=2)
    assert moments.counts.tolist() == [len(wide) - 2, 2]
    assert moments.within_ss.tolist() == [0.0, 2.0 * 4096]
    assert moments.means[1].eq(3.0).all()


def test_memory_stays_far_below_a_copy():
    """Peak memory of a process of its own, on a column-major matrix of 128 MiB."""
    code = (
        "import resource, numpy as np, torch, ncfast\n"
        "def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10\n"
        "x = torch.from_numpy(np.ones((256, 1 << 17), np.float32)).t()\n"
        "y = torch.arange(len(x)) % 10\n"
        "ncfast.class_moments(x[:5000], y[:5000], num_classes=10)\n"
        "before = peak(); ncfast.class_moments(x, y, num_classes=10); print(peak() - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 24, "MiB"


def test_state_dict_round_trip():
    moments = ncfast.class_moments(*classes(), num_classes=5)
    state = moments.state_dict()
    again = ncfast.ClassMoments.empty(5, 12).load_state_dict(state)
    for name, value in state.items():
        assert torch.equal(getattr(again, name), value)
    state["means"].zero_()
    assert again.means.abs().sum() > 0, "the state is a copy"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("counts"), "keys"),
        (lambda s: s.update(means=torch.zeros(5, 3, dtype=torch.float64)), r"\(5, 12\)"),
        (lambda s: s.update(within_ss=torch.zeros(5)), "float64"),
        (lambda s: s.update(means=[[0.0] * 12] * 5), "'means' .* to be a tensor but got list"),
        (lambda s: s.update(counts=s["counts"].double()), "int64"),
        (lambda s: s["counts"][1].fill_(-5), "'counts' of `state` to be at least 0 but got -5"),
        (lambda s: s["within_ss"][2].neg_(), "'within_ss' .* at least 0"),
        (lambda s: s["norm_max"].neg_(), "'norm_max' .* at least 0"),
        (lambda s: s["means"][3, 4].fill_(torch.nan), "'means' .* finite but got nan"),
        (lambda s: s["means"][3, 4].fill_(-torch.inf), "'means' .* finite but got -inf"),
        (lambda s: s["within_ss"][0].fill_(torch.nan), "'within_ss' .* finite"),
        (lambda s: s["counts"][0].zero_(), "'within_ss' .* 0 for a class without rows"),
    ],
)
def test_load_state_dict_refuses_and_loads_nothing(change, message):
    moments = ncfast.class_moments(*classes(), num_classes=5)
    state = moments.state_dict()
    change(state)
    empty = ncfast.ClassMoments.empty(5, 12)
    with pytest.raises(ValueError, match=message):
        empty.load_state_dict(state)
    assert empty.total == 0


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_moments_of_features_that_are_not_finite_are_saved_and_loaded(value):
    """A training that went wrong can still be resumed from its checkpoint."""
    feats, labels = classes()
    feats[7, 3] = value
    state = ncfast.class_moments(feats, labels, num_classes=5).state_dict()
    loaded = ncfast.ClassMoments.empty(5, 12).load_state_dict(state)
    assert not loaded.means.isfinite().all()
    assert loaded.counts.sum() == len(feats)


def test_to_moves_every_entry():
    moved = ncfast.class_moments(*classes(), num_classes=5).to("meta")
    assert {value.device.type for value in moved.state_dict().values()} == {"meta"}


def test_deterministic():
    feats, labels = classes(3000, 64, 7, dtype=torch.float32)
    first = ncfast.class_moments(feats, labels, num_classes=7)
    for _ in range(3):
        again = ncfast.class_moments(feats, labels, num_classes=7)
        assert torch.equal(first.means, again.means)
        assert torch.equal(first.within_ss, again.within_ss)


def test_gradients_do_not_flow():
    feats, labels = classes()
    assert not ncfast.rnc1(feats.requires_grad_(), labels, num_classes=5).requires_grad
